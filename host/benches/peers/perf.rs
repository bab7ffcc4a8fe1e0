//! Counting events of a process by the kernel's own counters, which `perf stat` sets: they slow
//! nothing down that shows.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

use super::programs::Program;

/// Whether there is perf, and the system lets it count this event.
pub(crate) fn counts(event: &str) -> bool {
    let output = Command::new("perf").args(["stat", "-x,", "-e", event, "true"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| {
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success() && said.lines().filter_map(figure).count() > 0
    })
}

/// How often each of the events came in these processes while `work` ran.
pub(crate) fn during<T>(
    events: &[String],
    processes: &[u32],
    folder: &Path,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, HashMap<String, f64>)> {
    let out = folder.join("perf.out");
    let ids: Vec<String> = processes.iter().map(u32::to_string).collect();
    let mut command = Command::new("perf");
    command.args(["stat", "-x,", "-e", &events.join(","), "-p", &ids.join(",")]).arg("-o").arg(&out);
    // Counting begins before this program and ends with it.
    command.args(["sh", "-c", "echo counting; read -r end"]);
    let mut perf = Program::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
    let said = perf.process().stdout.take().context("a piped standard output")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    anyhow::ensure!(line.starts_with("counting"), "perf does not count {}", events.join(", "));
    let done = work()?;
    drop(perf.process().stdin.take());
    perf.process().wait()?;
    let counted = fs::read_to_string(&out).context("perf left no counts")?;
    Ok((done, counted.lines().filter_map(figure).map(|(event, count)| (event.to_owned(), count)).collect()))
}

/// An event and its count in a line of perf's: `COUNT,UNIT,EVENT,..`. An event that never came in
/// a thread that never ran is "not counted"; one that is not supported is not told.
fn figure(line: &str) -> Option<(&str, f64)> {
    let mut fields = line.split(',');
    let (count, _, event) = (fields.next()?, fields.next()?, fields.next()?);
    let count = if count == "<not counted>" { 0.0 } else { count.parse().ok()? };
    Some((event, count))
}
