//! How long to wait before the next attempt: exponential backoff with jitter. No clock and no
//! randomness here: both are the caller's.

use std::time::Duration;

/// Pauses that grow by a factor from one attempt to the next, end at a cap, and are random in part,
/// so that clients that failed at one moment do not come back at one.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    kind: Kind,
    /// The pause that is due next, without jitter.
    current: Duration,
    attempts: u32,
}

/// How pauses grow, and between which shares of itself a pause is.
#[derive(Debug, Clone, Copy)]
struct Kind {
    factor: f64,
    least: f64,
    most: f64,
}

impl Backoff {
    /// gRPC's connection-backoff.md: a pause is 1.6 times the one before, and off by a fifth at
    /// most either way. `base` is the first pause; none exceeds `cap` by more than its jitter.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self::of(base, cap, Kind { factor: 1.6, least: 0.8, most: 1.2 })
    }

    /// Doubling pauses with "equal jitter": half fixed, half random. A fleet that lost its server
    /// at one moment is spread over the pause when it comes back, yet nobody retries at once. (Marc
    /// Brooker, "Exponential Backoff And Jitter", 2015, compares the kinds.) A `cap` under `base`
    /// counts as `base`.
    pub fn equal_jitter(base: Duration, cap: Duration) -> Self {
        Self::of(base, cap.max(base), Kind { factor: 2.0, least: 0.5, most: 1.0 })
    }

    fn of(base: Duration, cap: Duration, kind: Kind) -> Self {
        Self { base, cap, kind, current: base, attempts: 0 }
    }

    /// The pause before the next attempt, `random` being uniform in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let Kind { factor, least, most } = self.kind;
        let pause = self.current.min(self.cap);
        self.current = times(pause, factor).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        times(pause, least + (most - least) * random)
    }

    /// The pause that would be due now, without jitter.
    pub fn current(&self) -> Duration {
        self.current
    }

    /// How many pauses there were since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// There was a success: the next failure is a first one again.
    pub fn reset(&mut self) {
        (self.current, self.attempts) = (self.base, 0);
    }
}

fn times(pause: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(pause.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let pauses: Vec<_> = (0..9).map(|_| backoff.next(0.5).as_secs_f64() * 1000.0).collect();
        let expected = [200.0, 320.0, 512.0, 819.2, 1310.72, 2097.152, 3355.4432, 5000.0, 5000.0];
        assert!(pauses.iter().zip(expected).all(|(pause, expected)| (pause - expected).abs() < 0.001), "{pauses:?}");
        assert_eq!((backoff.attempts(), backoff.current()), (9, Duration::from_secs(5)));
        backoff.reset();
        assert_eq!((backoff.attempts(), backoff.current()), (0, Duration::from_millis(200)));
    }

    #[test]
    fn jitter_is_a_fifth_both_ways_or_the_other_half() {
        let second = Duration::from_secs(1);
        let jittered = |backoff: fn(Duration, Duration) -> Backoff, random| backoff(second, second).next(random);
        let about = |pause: Duration, seconds: f64| (pause.as_secs_f64() - seconds).abs() < 1e-6;
        assert!(about(jittered(Backoff::new, 0.0), 0.8) && about(jittered(Backoff::new, 1.0), 1.2));
        assert!(about(jittered(Backoff::equal_jitter, 0.0), 0.5) && about(jittered(Backoff::equal_jitter, 1.0), 1.0));
    }

    #[test]
    fn doubling_pauses_end_at_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::equal_jitter(base, cap);
        for n in 0..40 {
            assert_eq!(backoff.current(), (base * 2u32.pow(n.min(10))).min(cap), "pause {n}");
            backoff.next(0.3);
        }
    }

    #[test]
    fn no_pause_is_too_long_to_count() {
        let mut backoff = Backoff::equal_jitter(Duration::MAX, Duration::ZERO);
        assert!(backoff.next(1.0) > Duration::from_hours(1) && backoff.next(1.0) > Duration::from_hours(1));
    }
}
