//! System calls a call, in a run of its own that is not timed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::Context as _;
use rustix::process::Signal;

use super::{perf, programs::Program};

/// What counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    /// The kernel's own counters: preferred, because they leave the timing as it is.
    Perf,
    /// Stops the process twice a system call. It is slower for that, and more calls come together
    /// in one read and write than otherwise.
    Strace,
}

impl Counter {
    /// The one that works here.
    pub(crate) fn find() -> Option<Self> {
        if perf::counts(ALL) && perf::counts(&event("write")) {
            return Some(Self::Perf);
        }
        let strace = Command::new("strace").args(["-c", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        strace.is_ok_and(|status| status.success()).then_some(Self::Strace)
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Perf => "perf stat (the kernel's own counters)",
            Self::Strace => "strace -c (which slows the proxy down: more comes together in a write than otherwise)",
        }
    }

    /// Counts in these processes while `work` runs.
    pub(crate) fn during<T>(
        self,
        processes: &[u32],
        folder: &Path,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Counts)> {
        match self {
            Self::Perf => perf_counts(processes, folder, work),
            Self::Strace => strace_counts(processes, folder, work),
        }
    }
}

/// How many of each kind there were.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) writes: f64,
    pub(crate) reads: f64,
    pub(crate) futex: f64,
    pub(crate) epoll_wait: f64,
    pub(crate) other: f64,
}

impl Counts {
    fn kind(&mut self, name: &str) -> &mut f64 {
        if WRITES.contains(&name) {
            &mut self.writes
        } else if READS.contains(&name) {
            &mut self.reads
        } else if FUTEX.contains(&name) {
            &mut self.futex
        } else if WAITS.contains(&name) {
            &mut self.epoll_wait
        } else {
            &mut self.other
        }
    }

    pub(crate) fn all(self) -> f64 {
        self.writes + self.reads + self.futex + self.epoll_wait + self.other
    }

    /// Each of them a call.
    pub(crate) fn over(self, calls: u64) -> Self {
        let each = |count| count / calls as f64;
        Self {
            writes: each(self.writes),
            reads: each(self.reads),
            futex: each(self.futex),
            epoll_wait: each(self.epoll_wait),
            other: each(self.other),
        }
    }
}

const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg", "sendmmsg"];
const READS: &[&str] = &["read", "readv", "recvfrom", "recvmsg", "recvmmsg"];
const FUTEX: &[&str] = &["futex"];
/// And what programs wait with that have no epoll.
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"];

/// perf's name of all of them together.
const ALL: &str = "raw_syscalls:sys_enter";

fn event(name: &str) -> String {
    format!("syscalls:sys_enter_{name}")
}

fn perf_counts<T>(
    processes: &[u32],
    folder: &Path,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Counts)> {
    // Some of them are not there on every processor.
    let named: Vec<&str> = [WRITES, READS, FUTEX, WAITS].concat().into_iter().filter(|name| is_known(name)).collect();
    let events: Vec<String> = [ALL.to_owned()].into_iter().chain(named.iter().map(|name| event(name))).collect();
    let (done, counted) = perf::during(&events, processes, folder, work)?;
    let of = |event: &str| counted.get(event).copied().unwrap_or(0.0);
    let mut counts = Counts::default();
    for name in named {
        *counts.kind(name) += of(&event(name));
    }
    counts.other = of(ALL) - counts.all();
    Ok((done, counts))
}

/// Whether the kernel counts this one by its name.
fn is_known(name: &str) -> bool {
    let folders = ["/sys/kernel/tracing/events/syscalls", "/sys/kernel/debug/tracing/events/syscalls"];
    folders.iter().any(|folder| Path::new(folder).join(format!("sys_enter_{name}")).exists())
}

fn strace_counts<T>(
    processes: &[u32],
    folder: &Path,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Counts)> {
    let out = folder.join("strace.out");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-o"]).arg(&out);
    for process in processes {
        command.args(["-p", &process.to_string()]);
    }
    let mut strace = Program::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
    let mut said = BufReader::new(strace.process().stderr.take().context("a piped standard error")?);
    for _ in processes {
        let mut line = String::new();
        said.read_line(&mut line)?;
        anyhow::ensure!(line.contains("attached"), "strace does not count: {}", line.trim_end());
    }
    // What it says of threads is read, so that it is never kept waiting.
    let rest = thread::spawn(move || said.read_to_string(&mut String::new()));
    let done = work()?;
    strace.end(Signal::INT)?;
    // Nobody wants to know what it said.
    let _ = rest.join();
    let mut counts = Counts::default();
    for line in fs::read_to_string(&out).context("strace left no counts")?.lines() {
        if let Some((name, count)) = figure(line) {
            *counts.kind(name) += count;
        }
    }
    Ok((done, counts))
}

/// A system call and its count in a line of strace's:
/// `% time, seconds, usecs/call, calls, [errors], syscall`.
fn figure(line: &str) -> Option<(&str, f64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, count, .., name] = fields.as_slice() else { return None };
    if *name == "total" { None } else { Some((name, count.parse().ok()?)) }
}
