//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Exponential back-off with jitter: gRPC's connection-backoff.md, whose factor and jitter it uses.
/// `ConnectOptions` says why base and cap are lower.
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    const FACTOR: f64 = 1.6;
    const JITTER: f64 = 0.2;

    pub(crate) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, current: base }
    }

    /// The wait that is due now, `random` being uniform in 0..1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let wait = self.current.min(self.max);
        self.current = wait.mul_f64(Self::FACTOR).min(self.max);
        wait.mul_f64(1.0 + Self::JITTER * (2.0 * random - 1.0))
    }

    /// The wait that would be due now, without jitter.
    pub(crate) fn current(&self) -> Duration {
        self.current
    }

    pub(crate) fn reset(&mut self) {
        self.current = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let waits: Vec<_> = (0..9).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(waits, [200, 320, 512, 819, 1310, 2097, 3355, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(0.5).as_millis(), 200);
    }

    #[test]
    fn jitter_spreads_a_wait_by_a_fifth_both_ways() {
        let wait = |random| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next(random).as_millis();
        assert_eq!((wait(0.0), wait(1.0)), (800, 1200));
    }
}
