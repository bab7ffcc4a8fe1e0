//! How much a plugin may take, and how often it may fail.

use std::time::Duration;

/// What one plugin instance may take. Every limit is there so that a bad plugin costs a fallback
/// and a log line, not the node. More may be added: build it with `..Limits::default()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest a pick may run. Default 10 ms: a healthy pick takes well under a microsecond,
    /// but on a busy machine its thread may not run for some milliseconds, and a deadline of 1 ms
    /// was measured to kill healthy picks.
    pub pick_deadline: Duration,
    /// The longest that `describe` and `build` may run. Default 1 s.
    pub build_deadline: Duration,
    /// The longest that `prefixes`, `encode` and `decode` of a key scheme may run, each for one
    /// service or entry. Default 100 ms: the bundled ones take microseconds, an interpreter some
    /// milliseconds, and all services wait in one line.
    pub key_scheme_deadline: Duration,
    /// The most linear memory of an instance, in bytes. Default 64 MiB: a thousand times what the
    /// bundled ones use, and several times what a guest with a big runtime needs.
    pub memory: usize,
    /// The most elements in a table of an instance. Default 20,000.
    pub table_elements: usize,
    /// The largest component, in bytes. Default 32 MiB: an interpreter with its standard library
    /// takes 18.
    pub component_size: usize,
    /// The longest plan, in entries. Default 1,048,576.
    pub plan_len: usize,
    /// How many bytes a plugin may hand over in one call: log messages, a plan. Default 16 MiB.
    pub transfer: usize,
    /// How many bytes a policy may hand over at once while it picks: its decision with a sentence,
    /// a header's name, a log message. Default 64 KiB: it is copied on a thread that serves
    /// requests, and what is cut to a sentence anyway need not be megabytes.
    pub pick_transfer: usize,
    /// The part of a worker thread's time, in percent, that a policy's picks for one service may
    /// use for long. A policy that has used what a second gives beyond it is told of, one that has
    /// used what three seconds give is taken out of service. Default 25: a call costs a node 30 µs,
    /// so that picks which are fit for the path of requests stay below, however many there are. 100
    /// is no bound.
    pub pick_share: u32,
    /// How many messages a plugin may log in 10 seconds; the rest are counted. Default 50.
    pub log_messages: u32,
    /// The longest log message, in bytes; the rest is cut. Default 1 KiB.
    pub log_message_len: usize,
    /// How many picks may fail within [`Self::quarantine_window`]: that many take a policy out of
    /// service. Default 10: a policy that always fails is gone after its tenth call, one that fails
    /// once in a while goes on and is counted.
    pub quarantine_failures: usize,
    /// See [`Self::quarantine_failures`]. Default 10 s.
    pub quarantine_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pick_deadline: Duration::from_millis(10),
            build_deadline: Duration::from_secs(1),
            key_scheme_deadline: Duration::from_millis(100),
            memory: 64 << 20,
            table_elements: 20_000,
            component_size: 32 << 20,
            plan_len: 1 << 20,
            transfer: 16 << 20,
            pick_transfer: 64 << 10,
            pick_share: 25,
            log_messages: 50,
            log_message_len: 1024,
            quarantine_failures: 10,
            quarantine_window: Duration::from_secs(10),
        }
    }
}
