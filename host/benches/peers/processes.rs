//! What the system knows about a process and its children: processor time and memory. Linux only;
//! elsewhere the figures stay out.

use std::{fs, time::Duration};

/// The process and all that it started.
pub(crate) fn tree(id: u32) -> Vec<u32> {
    let mut found = vec![id];
    let mut at = 0;
    while let Some(id) = found.get(at) {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    found
}

/// The processor time of all its threads, the kernel's on their behalf included. To the nanosecond,
/// where `/proc/ID/stat` counts in hundredths of a second.
pub(crate) fn cpu(id: u32) -> Option<Duration> {
    let mut nanos = 0;
    for id in tree(id) {
        for thread in fs::read_dir(format!("/proc/{id}/task")).ok()? {
            let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            nanos += stat.split_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_nanos(nanos))
}

/// Its resident memory in bytes.
pub(crate) fn resident(id: u32) -> Option<f64> {
    let mut bytes = 0.0;
    for id in tree(id) {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        bytes += rss.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0;
    }
    Some(bytes)
}
