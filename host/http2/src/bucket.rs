//! A token bucket that looks at the clock only when it is empty.
//!
//! So taking a token is a subtraction. The price: after a long rest, what was used since then is
//! paid for once more, and a burst can be twice as large as it says.

use std::time::Instant;

use crate::limits::Allowance;

#[derive(Debug)]
pub(crate) struct Bucket {
    allowance: Allowance,
    tokens: u32,
    /// When it was filled last.
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(allowance: Allowance, now: Instant) -> Self {
        Self { allowance, tokens: allowance.burst, filled: now }
    }

    /// Takes so many tokens. Returns whether there were as many.
    pub(crate) fn take(&mut self, tokens: u32, now: Instant) -> bool {
        if self.tokens < tokens {
            let passed = now.saturating_duration_since(self.filled).as_millis();
            let back = passed * u128::from(self.allowance.per_second) / 1000;
            if back == 0 {
                return false;
            }
            self.filled = now;
            let back = u32::try_from(back).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(back).min(self.allowance.burst);
        }
        let enough = self.tokens >= tokens;
        self.tokens = self.tokens.saturating_sub(tokens);
        enough
    }

    /// Puts a token back.
    pub(crate) fn give(&mut self) {
        self.tokens = (self.tokens + 1).min(self.allowance.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_by_giving() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Allowance { burst: 10, per_second: 100 }, start);
        assert!((0..10).all(|_| bucket.take(1, start)));
        assert!(!bucket.take(1, start));
        let later = start + Duration::from_millis(50);
        assert!((0..5).all(|_| bucket.take(1, later)));
        assert!(!bucket.take(1, later));
        bucket.give();
        assert!(bucket.take(1, later) && !bucket.take(1, later));
        let much_later = start + Duration::from_secs(60);
        assert!((0..10).all(|_| bucket.take(1, much_later)));
        assert!(!bucket.take(1, much_later));
    }
}
