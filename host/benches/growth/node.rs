//! A node's process, seen from the callers'.

use std::{collections::HashMap, ffi::OsString, fs, time::Duration};

use anyhow::Context as _;

use super::harness::child::Child;

/// One, and where it is reached.
pub(crate) struct Node {
    child: Child,
    pub(crate) proxy: String,
    pub(crate) admin: String,
}

impl Node {
    pub(crate) fn start(url: &str) -> anyhow::Result<Self> {
        let (child, ready) = Child::start(&["node", url])?;
        let (proxy, admin) = ready.split_once(' ').context("a node says where it is")?;
        Ok(Self { child, proxy: proxy.to_owned(), admin: admin.to_owned() })
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.child.cpu()
    }

    /// How often each of its threads has gone to sleep so far, and so was woken.
    pub(crate) fn wakes(&mut self) -> anyhow::Result<Wakes> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).context("only Linux tells wake-ups")?;
        let of = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            (task.file_name(), line.and_then(|count| count.trim().parse::<f64>().ok()).unwrap_or(0.0))
        };
        Ok(Wakes(tasks.filter_map(Result::ok).map(of).collect()))
    }
}

/// By thread.
pub(crate) struct Wakes(HashMap<OsString, f64>);

impl Wakes {
    /// How often threads were woken since an earlier look. One that has ended since takes its count
    /// with it, and is left out.
    pub(crate) fn since(&self, earlier: &Self) -> f64 {
        self.0.iter().map(|(thread, count)| count - earlier.0.get(thread).unwrap_or(&0.0)).sum()
    }
}
