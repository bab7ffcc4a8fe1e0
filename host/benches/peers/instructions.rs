//! User instructions a call in the proxy's process, counted by valgrind's callgrind: a busy machine
//! does not change them, and the kernel's work is left out.
//!
//! A proxy runs twice under valgrind, the second time for more calls; the difference is what the
//! further calls took.

use std::path::Path;

use super::{
    Arena,
    harness::callgrind,
    proxies::{Contestant, Proxy},
    streams::{Load, Until},
};

/// Instructions a call of this kind. `keep` is where callgrind's file of the longer run is left.
pub(crate) fn count(
    arena: &mut Arena,
    contestant: Contestant,
    load: Load,
    quick: bool,
    keep: Option<&Path>,
) -> anyhow::Result<f64> {
    let (few, many) = if quick { (1, 3) } else { (10, 60) };
    if matches!(contestant, Contestant::Plan | Contestant::EachRequest) {
        // Compiles, for the processor that valgrind pretends to be. Later runs find that in the
        // cache.
        run(arena, contestant, Load { until: Until::Calls(1), ..load }, None)?;
    }
    let less = run(arena, contestant, Load { until: Until::Calls(few), ..load }, None)?;
    let more = run(arena, contestant, Load { until: Until::Calls(many), ..load }, keep)?;
    Ok((more - less) / ((many - few) as f64 * f64::from(load.streams)))
}

fn run(arena: &mut Arena, contestant: Contestant, load: Load, keep: Option<&Path>) -> anyhow::Result<f64> {
    let out = keep.unwrap_or(arena.folder.path()).join(format!("callgrind.{contestant:?}"));
    let proxy = Proxy::start(contestant, arena.setting(1, &callgrind::wrapper(&out)))?;
    arena.call(&proxy, load)?;
    proxy.end()?;
    callgrind::total(&out)
}
