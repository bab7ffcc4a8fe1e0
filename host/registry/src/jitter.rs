//! Random parts of pauses, so that clients that wait for one thing do not come at one moment.

use std::time::Duration;

/// A uniformly random part of this time.
pub(super) fn jitter(whole: Duration) -> Duration {
    whole.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use waymark_core::backoff::Backoff;

    use super::*;

    #[test]
    fn a_thousand_clients_do_not_come_back_together() {
        let second = Duration::from_secs(1);
        let mut slots = [0; 10];
        for _ in 0..1000 {
            let pause = Backoff::equal_jitter(second, second).next(fastrand::f64());
            slots[((pause.as_millis() as usize - 500) / 50).min(9)] += 1;
        }
        assert!(slots.iter().all(|n| (50..200).contains(n)), "{slots:?}");
        assert!(jitter(second) <= second);
    }
}
