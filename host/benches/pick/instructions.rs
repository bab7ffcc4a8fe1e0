//! How many instructions a pick takes, counted by valgrind's callgrind: exact where times are not,
//! however busy the machine is.
//!
//! This program runs itself twice for each way to pick, once with twice as many picks; the
//! difference is what the picks take. Only the thread that picks is counted.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::{
    harness::{
        Options, Samples, callgrind,
        report::{Table, Unit},
    },
    picks::Way,
};

/// What one of the runs is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Counted {
    /// Pick in this way: its place in the list.
    #[arg(long, hide = true, requires = "times")]
    way: Option<usize>,
    /// This often.
    #[arg(long, hide = true)]
    times: Option<u64>,
    /// Compiled components are kept here.
    #[arg(long, hide = true)]
    cache: Option<PathBuf>,
}

impl Counted {
    /// Picks, if this process was started to be counted.
    pub(super) async fn run(&self) -> anyhow::Result<bool> {
        let (Some(way), Some(times)) = (self.way, self.times) else { return Ok(false) };
        let ways = Way::all(self.cache.clone()).await?;
        let way = ways.get(way).context("there is no such way to pick")?;
        (way.run[0])(times);
        Ok(true)
    }
}

/// Instructions a pick, or none without valgrind.
pub(super) fn count(names: &[String], options: &Options) -> anyhow::Result<Option<Table>> {
    if !callgrind::is_there() {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let mut table =
        Table::new("User instructions a pick (callgrind)", [("1 thread", Unit::Count), ("beyond native", Unit::Count)]);
    let few = if options.quick { 50 } else { 20_000 };
    // The first run compiles, for the processor that valgrind pretends to be.
    run(0, 0, folder.path())?;
    let mut native = None;
    for (way, name) in names.iter().enumerate() {
        let [less, more] = [few, 2 * few].map(|times| run(way, times, folder.path()));
        let each = (more? - less?) / few as f64;
        let beyond = each - *native.get_or_insert(each);
        table.row(name.clone(), [each, beyond].map(Samples::one).into());
    }
    Ok(Some(table))
}

/// The instructions of a run's first thread.
fn run(way: usize, times: u64, folder: &Path) -> anyhow::Result<f64> {
    let out = folder.join("callgrind");
    let wrapper = callgrind::wrapper(&out);
    let run = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .arg("--separate-threads=yes")
        .arg(env::current_exe()?)
        .args(["--way", &way.to_string(), "--times", &times.to_string(), "--cache"])
        .arg(folder.join("cache"))
        .output()
        .context("cannot start valgrind")?;
    anyhow::ensure!(run.status.success(), "valgrind failed: {}", String::from_utf8_lossy(&run.stderr));
    callgrind::total(&folder.join("callgrind-01"))
}
