//! User instructions a call in the proxy's process, counted by valgrind's callgrind: a busy machine does not change them, and the kernel's
//! work is left out.
//!
//! A proxy runs twice under valgrind, the second time for more calls; the difference is what the further calls took.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

use super::{
    Arena,
    proxies::{Contestant, Proxy},
    streams::{Load, Until},
};

/// Whether there is valgrind.
pub(crate) fn can_count() -> bool {
    let here = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    here.is_ok_and(|status| status.success())
}

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
        // Compiles, for the processor that valgrind pretends to be. Later runs find that in the cache.
        run(arena, contestant, Load { until: Until::Calls(1), ..load }, None)?;
    }
    let less = run(arena, contestant, Load { until: Until::Calls(few), ..load }, None)?;
    let more = run(arena, contestant, Load { until: Until::Calls(many), ..load }, keep)?;
    Ok((more - less) / ((many - few) as f64 * f64::from(load.streams)))
}

fn run(arena: &mut Arena, contestant: Contestant, load: Load, keep: Option<&Path>) -> anyhow::Result<f64> {
    let out = keep.unwrap_or(arena.folder.path()).join(format!("callgrind.{contestant:?}"));
    let wrapper = ["valgrind", "--tool=callgrind", "--quiet", "--callgrind-out-file"].map(str::to_owned);
    let [valgrind, tool, quiet, file] = wrapper;
    let wrapper = [valgrind, tool, quiet, format!("{file}={}", out.display())];
    let proxy = Proxy::start(contestant, arena.setting(1, &wrapper))?;
    arena.call(&proxy, load)?;
    proxy.end()?;
    let text = fs::read_to_string(&out).context("valgrind left no counts")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(total.context("valgrind counted nothing")?.trim().parse()?)
}
