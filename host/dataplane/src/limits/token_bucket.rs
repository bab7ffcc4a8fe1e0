//! What is done at somebody's expense, up to a bound: a token bucket, told the time by whoever uses
//! it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How much is owed. Time forgives some of it; what is paid back meanwhile costs no more than a
/// look where nothing is owed.
pub(crate) struct Debt {
    most: u32,
    forgiven_a_second: u32,
    owed: AtomicU32,
    /// Until when all is forgiven that time forgives.
    until: Mutex<Instant>,
}

impl Debt {
    pub(crate) fn new(most: u32, forgiven_a_second: u32, now: Instant) -> Self {
        Self { most, forgiven_a_second, owed: AtomicU32::new(0), until: Mutex::new(now) }
    }

    /// One more, whatever is owed already.
    pub(crate) fn owe(&self, now: Instant) {
        self.forgive(now);
        self.owed.fetch_add(1, Relaxed);
    }

    /// One more, if that is not too much.
    pub(crate) fn try_owe(&self, now: Instant) -> bool {
        self.forgive(now);
        let more = |owed| (owed < self.most).then_some(owed + 1);
        self.owed.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// One less.
    pub(crate) fn pay(&self) {
        if self.owed.load(Relaxed) > 0 {
            // Another may have paid the last of it.
            let _ = self.owed.fetch_update(Relaxed, Relaxed, |owed| owed.checked_sub(1));
        }
    }

    /// How much is owed.
    pub(crate) fn owed(&self, now: Instant) -> u32 {
        self.forgive(now);
        self.owed.load(Relaxed)
    }

    /// Whether as much is owed as may be, or more.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.owed.load(Relaxed) >= self.most && {
            self.forgive(now);
            self.owed.load(Relaxed) >= self.most
        }
    }

    fn forgive(&self, now: Instant) {
        // A panic while it is held leaves a time that is right.
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let each = Duration::from_secs(1) / self.forgiven_a_second;
        let n = now.saturating_duration_since(*until).div_duration_f64(each) as u32;
        if n > 0 {
            // What is not a whole one yet goes on counting.
            *until += each * n;
            let _ = self.owed.fetch_update(Relaxed, Relaxed, |owed| Some(owed.saturating_sub(n)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_bounded_and_time_forgives_it() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let debt = Debt::new(2, 10, began);
        assert!(debt.try_owe(at(0)) && debt.try_owe(at(0)) && !debt.try_owe(at(99)));
        assert!(debt.is_full(at(99)));
        assert!(!debt.is_full(at(100)), "one is forgiven");
        assert!(debt.try_owe(at(150)) && !debt.try_owe(at(199)) && debt.try_owe(at(200)), "halves add up");
        // What was forgiven while nothing was owed is no credit.
        assert!(debt.try_owe(at(10_000)) && debt.try_owe(at(10_000)) && !debt.try_owe(at(10_000)));
    }

    #[test]
    fn a_debt_past_its_bound_is_paid_back_one_by_one() {
        let now = Instant::now();
        let debt = Debt::new(2, 1, now);
        debt.pay();
        for _ in 0..4 {
            debt.owe(now);
        }
        debt.pay();
        debt.pay();
        assert!(debt.is_full(now));
        debt.pay();
        assert!(!debt.is_full(now));
    }
}
