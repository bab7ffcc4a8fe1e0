//! User instructions a call in the proxy's process: a busy machine does not change them, and the
//! kernel's work is left out.
//!
//! The processor's own counter tells them where the system lets perf have it, which virtual
//! machines often do not. Elsewhere valgrind's callgrind does when it is asked for: a proxy runs
//! twice under it, the second time for more calls, and the difference is what the further calls
//! took.

use std::path::Path;

use super::{
    arena::Arena,
    harness::callgrind,
    perf,
    shapes::Shape,
    streams::{Load, Until},
    subjects::Subject,
};

/// perf's name of them.
const EVENT: &str = "instructions:u";

/// Whether the processor's counter can be had.
pub(crate) fn by_perf() -> bool {
    perf::counts(EVENT)
}

/// Instructions in these processes while `work` runs.
pub(crate) fn during<T>(
    processes: &[u32],
    folder: &Path,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, f64)> {
    let (done, counted) = perf::during(&[EVENT.to_owned()], processes, folder, work)?;
    Ok((done, counted.values().sum()))
}

/// Instructions a call by callgrind. `keep` is where its file of the longer run is left.
pub(crate) fn by_callgrind(
    arena: &mut Arena,
    subject: Subject,
    shape: Shape,
    quick: bool,
    keep: Option<&Path>,
) -> anyhow::Result<f64> {
    // As fast as answers come: callgrind knows no time.
    let load = |calls| Load { pace: None, ..shape.load(quick, Until::Calls(calls)) };
    let streams = u64::from(load(1).streams);
    let many = if quick { 3 } else { (4_000 / streams).clamp(3, 60) };
    let few = (many / 6).max(1);
    if subject.is_waymark() {
        // Compiles, for the processor that valgrind pretends to be. Later runs find that in the
        // cache.
        run(arena, subject, shape, load(1), quick, None)?;
    }
    let less = run(arena, subject, shape, load(few), quick, None)?;
    let more = run(arena, subject, shape, load(many), quick, keep)?;
    Ok((more - less) / ((many - few) * streams) as f64)
}

fn run(
    arena: &mut Arena,
    subject: Subject,
    shape: Shape,
    load: Load,
    quick: bool,
    keep: Option<&Path>,
) -> anyhow::Result<f64> {
    let folder = keep.unwrap_or(arena.folder.path());
    let out = folder.join(format!("callgrind.{}.{subject:?}", shape.name()));
    let proxy = arena.proxy(subject, shape.workers(), &callgrind::wrapper(&out))?;
    arena.call(&proxy, shape.connections(quick), load)?;
    arena.hang_up()?;
    proxy.end()?;
    callgrind::total(&out)
}
