//! When a service's entries are tried, after the key scheme failed on some.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// So much failing within [`WINDOW`] opens the breaker. A call that overran its deadline weighs
/// [`OVERRUN`], for it took that long; one that trapped weighs 1.
const LIMIT: u32 = 9;
const OVERRUN: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);

/// How long entries wait after the first time; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// ```text
///            too much failed               the pause is over
///   Closed ─────────────────▶ Open ─────────────────────────▶ half-open ──a turn without failure──▶ Closed
///                              ▲                                  │
///                              └──────── too much failed ─────────┘ twice the pause
/// ```
#[derive(Default)]
pub(super) struct Breaker {
    failures: VecDeque<(Instant, u32)>,
    /// Until when nothing is tried. It stays set while it is half-open.
    open_until: Option<Instant>,
    pause: Duration,
    /// When it was closed last, after having been open.
    closed_at: Option<Instant>,
}

impl Breaker {
    /// Whether an entry may be tried.
    pub(super) fn lets_through(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| until <= now)
    }

    /// Whether it is open or half-open.
    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// When entries may be tried again, unless they may now.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.open_until
    }

    /// How long entries wait, or waited last.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// The scheme failed on an entry. Whether that is news: the breaker was closed, and is open.
    pub(super) fn failed(&mut self, overran: bool, now: Instant) -> bool {
        self.failures.push_back((now, if overran { OVERRUN } else { 1 }));
        while self.failures.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.failures.pop_front();
        }
        if self.failures.iter().map(|(_, weight)| weight).sum::<u32>() < LIMIT {
            return false;
        }
        self.failures.clear();
        // One that opens again soon has not been well meanwhile.
        let relapsed = self.is_open() || self.closed_at.is_some_and(|at| now.duration_since(at) <= LONGEST_PAUSE);
        self.pause = if relapsed { (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { FIRST_PAUSE };
        self.open_until = Some(now + self.pause);
        !relapsed
    }

    /// A turn went without a failure. Whether that is news: the breaker was open.
    pub(super) fn succeeded(&mut self, now: Instant) -> bool {
        if self.open_until.is_none_or(|until| until > now) {
            return false;
        }
        self.open_until = None;
        self.closed_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_some_failures_and_tries_less_and_less_often() {
        let mut it = Breaker::default();
        let now = Instant::now();
        assert!(!it.failed(true, now) && !it.failed(true, now) && it.lets_through(now));
        assert!(it.failed(true, now), "the third is news");
        assert!(!it.lets_through(now));
        let mut at = now;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            at = it.next_try().unwrap_or(at);
            assert!(it.lets_through(at) && it.is_open());
            assert!(!it.failed(true, at) && !it.failed(true, at) && !it.failed(true, at));
            pauses.push(it.pause().as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        at = it.next_try().unwrap_or(at);
        assert!(!it.succeeded(now), "not before it was tried");
        assert!(it.succeeded(at) && !it.succeeded(at), "news once");
        assert!(it.lets_through(at) && !it.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_now_and_then_open_nothing() {
        let mut it = Breaker::default();
        let mut at = Instant::now();
        for _ in 0..50 {
            assert!(!it.failed(true, at));
            at += Duration::from_secs(6);
        }
        assert!(!it.is_open());
    }
}
