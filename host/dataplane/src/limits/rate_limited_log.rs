//! A rate limit for log lines that a stranger can cause: at most one a second, with the number of
//! those that were left out.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Lets one line of a kind be logged a second.
pub struct RateLimitedLog {
    began: Instant,
    /// When the next line may be written, in milliseconds since `began`.
    next: AtomicU64,
    untold: AtomicU64,
}

const PAUSE: Duration = Duration::from_secs(1);

impl Default for RateLimitedLog {
    fn default() -> Self {
        Self { began: Instant::now(), next: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }
}

impl RateLimitedLog {
    /// Whether a line may be logged now: how many were left out before it; none if this one is to
    /// be left out too.
    pub fn allow(&self) -> Option<u64> {
        let now = self.began.elapsed().as_millis() as u64;
        let next = self.next.load(Relaxed);
        let mine =
            now >= next && self.next.compare_exchange(next, now + PAUSE.as_millis() as u64, Relaxed, Relaxed).is_ok();
        if mine {
            return Some(self.untold.swap(0, Relaxed));
        }
        self.untold.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_tells_of_those_left_out() {
        let log = RateLimitedLog::default();
        assert_eq!(log.allow(), Some(0));
        assert_eq!((log.allow(), log.allow()), (None, None));
        tokio::time::advance(PAUSE).await;
        assert_eq!(log.allow(), Some(2));
        assert_eq!(log.allow(), None);
    }
}
