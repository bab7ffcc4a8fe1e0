//! Pauses between attempts that grow, end at a cap, and differ from one client to the next.

use std::time::Duration;

/// Doubling pauses with "equal jitter": half fixed, half random. A fleet that lost etcd at one
/// moment is spread over the pause when it comes back, yet nobody retries at once. (Marc Brooker,
/// "Exponential Backoff And Jitter", 2015, compares the kinds.)
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap: cap.max(base), attempt: 0 }
    }

    /// The pause before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let whole = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        whole / 2 + spread(whole / 2)
    }

    /// The next failure is a first one again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How many pauses there were since the last success.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt
    }
}

/// A uniformly random part of this time.
pub(super) fn spread(whole: Duration) -> Duration {
    whole.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_keep_half_of_themselves() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(base, cap);
        for n in 0..40 {
            let whole = (base * 2u32.pow(n.min(10))).min(cap);
            let pause = backoff.next();
            assert!(pause >= whole / 2 && pause <= whole, "pause {n}: {pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= base);
    }

    #[test]
    fn a_thousand_clients_do_not_come_back_together() {
        let mut slots = [0; 10];
        for _ in 0..1000 {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
            let millis = backoff.next().as_millis() as usize - 500;
            slots[(millis / 50).min(9)] += 1;
        }
        assert!(slots.iter().all(|n| (50..200).contains(n)), "{slots:?}");
    }
}
