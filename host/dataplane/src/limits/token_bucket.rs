//! A token bucket: each token pays for something that is done at somebody's expense, and time
//! refills it. Whoever uses it tells it the time.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Counts the tokens that are spent. A refund costs no more than a look where none is.
pub(crate) struct TokenBucket {
    capacity: u32,
    refilled_a_second: u32,
    spent: AtomicU32,
    /// Up to when it has been refilled.
    refilled_until: Mutex<Instant>,
}

impl TokenBucket {
    pub(crate) fn new(capacity: u32, refilled_a_second: u32, now: Instant) -> Self {
        Self { capacity, refilled_a_second, spent: AtomicU32::new(0), refilled_until: Mutex::new(now) }
    }

    /// Spends a token, even one that there is not.
    pub(crate) fn spend(&self, now: Instant) {
        self.refill(now);
        self.spent.fetch_add(1, Relaxed);
    }

    /// Spends a token, if there is one.
    pub(crate) fn try_spend(&self, now: Instant) -> bool {
        self.refill(now);
        let more = |spent| (spent < self.capacity).then_some(spent + 1);
        self.spent.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Gives a token back.
    pub(crate) fn refund(&self) {
        if self.spent.load(Relaxed) > 0 {
            // Another may have given back the last one.
            let _ = self.spent.fetch_update(Relaxed, Relaxed, |spent| spent.checked_sub(1));
        }
    }

    /// How many tokens are spent.
    pub(crate) fn spent(&self, now: Instant) -> u32 {
        self.refill(now);
        self.spent.load(Relaxed)
    }

    /// Whether no token is left.
    pub(crate) fn is_empty(&self, now: Instant) -> bool {
        self.spent.load(Relaxed) >= self.capacity && {
            self.refill(now);
            self.spent.load(Relaxed) >= self.capacity
        }
    }

    fn refill(&self, now: Instant) {
        // A panic while it is held leaves a time that is right.
        let mut until = self.refilled_until.lock().unwrap_or_else(PoisonError::into_inner);
        let each = Duration::from_secs(1) / self.refilled_a_second;
        let n = now.saturating_duration_since(*until).div_duration_f64(each) as u32;
        if n > 0 {
            // What is not a whole one yet goes on counting.
            *until += each * n;
            let _ = self.spent.fetch_update(Relaxed, Relaxed, |spent| Some(spent.saturating_sub(n)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_bounded_and_time_refills_it() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let bucket = TokenBucket::new(2, 10, began);
        assert!(bucket.try_spend(at(0)) && bucket.try_spend(at(0)) && !bucket.try_spend(at(99)));
        assert!(bucket.is_empty(at(99)));
        assert!(!bucket.is_empty(at(100)), "one is refilled");
        assert!(bucket.try_spend(at(150)) && !bucket.try_spend(at(199)) && bucket.try_spend(at(200)), "halves add up");
        // It never holds more than its capacity.
        assert!(bucket.try_spend(at(10_000)) && bucket.try_spend(at(10_000)) && !bucket.try_spend(at(10_000)));
    }

    #[test]
    fn an_overdrawn_bucket_is_refunded_one_by_one() {
        let now = Instant::now();
        let bucket = TokenBucket::new(2, 1, now);
        bucket.refund();
        for _ in 0..4 {
            bucket.spend(now);
        }
        bucket.refund();
        bucket.refund();
        assert!(bucket.is_empty(now));
        bucket.refund();
        assert!(!bucket.is_empty(now));
    }
}
