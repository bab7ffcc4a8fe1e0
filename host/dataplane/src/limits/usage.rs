//! How much a connection is used: the calls that run on it, and whether any ran of late.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Counts the calls of one connection. Calls pay two atomic operations and read no clock: whoever
/// wants to know how long nothing ran looks from time to time whether anything changed.
#[derive(Debug, Default)]
pub(crate) struct ConnectionUsage {
    /// High half: calls begun, modulo 2^32. Low half: calls that run.
    calls: AtomicU64,
}

const BEGUN: u64 = 1 << 32;

fn running(calls: u64) -> u32 {
    calls as u32
}

impl ConnectionUsage {
    /// Begins a call.
    pub(crate) fn begin(&self) {
        self.calls.fetch_add(BEGUN + 1, Relaxed);
    }

    /// Begins a call if fewer than this many run.
    pub(crate) fn begin_under(&self, limit: u32) -> bool {
        let begun = |calls: u64| (running(calls) < limit).then(|| calls.wrapping_add(BEGUN + 1));
        self.calls.fetch_update(Relaxed, Relaxed, begun).is_ok()
    }

    /// Ends a call. How many ran until then.
    pub(crate) fn end(&self) -> u32 {
        running(self.calls.fetch_sub(1, Relaxed))
    }

    /// Calls begun, modulo 2^32, and those that run.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let calls = self.calls.load(Relaxed);
        ((calls >> 32) as u32, running(calls))
    }

    /// Completes when no call ran for `limit`, at the latest a quarter of it after that.
    pub(crate) async fn idle(&self, limit: Duration) {
        let mut idle = IdleTimer::new(self, limit, Instant::now());
        loop {
            sleep(idle.pause()).await;
            if idle.look(self, Instant::now()) {
                return;
            }
        }
    }
}

/// How long nothing ran, for whoever has a timer of its own. To be looked at every [`Self::pause`].
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Duration,
    last: u64,
    since: Instant,
}

impl IdleTimer {
    pub(crate) fn new(usage: &ConnectionUsage, limit: Duration, now: Instant) -> Self {
        Self { limit, last: usage.calls.load(Relaxed), since: now }
    }

    pub(crate) fn pause(&self) -> Duration {
        self.limit / 4
    }

    /// Whether nothing ran for the limit.
    pub(crate) fn look(&mut self, usage: &ConnectionUsage, now: Instant) -> bool {
        let calls = usage.calls.load(Relaxed);
        if calls != self.last || running(calls) > 0 {
            self.last = calls;
            self.since = now;
        }
        now.duration_since(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_calls_begin_than_the_limit() {
        let usage = ConnectionUsage::default();
        assert!(usage.begin_under(2) && usage.begin_under(2) && !usage.begin_under(2));
        assert_eq!((usage.counts(), usage.end(), usage.counts()), ((2, 2), 2, (2, 1)));
        assert!(usage.begin_under(2) && !usage.begin_under(0));
    }

    #[test]
    fn a_call_between_two_looks_counts_as_use() {
        let (usage, began, limit) = (ConnectionUsage::default(), Instant::now(), Duration::from_secs(4));
        let mut idle = IdleTimer::new(&usage, limit, began);
        assert!(!idle.look(&usage, began + limit / 2));
        usage.begin();
        usage.end();
        assert!(!idle.look(&usage, began + limit));
        assert!(!idle.look(&usage, began + limit * 2 - Duration::from_millis(1)));
        assert!(idle.look(&usage, began + limit * 2));
    }

    #[test]
    fn a_call_that_runs_is_use_for_as_long_as_it_runs() {
        let (usage, began, limit) = (ConnectionUsage::default(), Instant::now(), Duration::from_secs(4));
        usage.begin();
        let mut idle = IdleTimer::new(&usage, limit, began);
        assert!(!idle.look(&usage, began + limit * 10));
        usage.end();
        assert!(!idle.look(&usage, began + limit * 11), "it has run until just now");
        assert!(idle.look(&usage, began + limit * 12));
    }
}
