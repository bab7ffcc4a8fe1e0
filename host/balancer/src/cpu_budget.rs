//! How much of the workers' time a policy's picks use, and whether that is too much.
//!
//! One leaky bucket a thread. What picks use flows in; what they may use flows out, which is a part
//! of the time that passes. So a burst is borne, a little too much for long is not, and nothing has
//! to be reset. A thread for itself, because what picks take away is the time of the calls that
//! share their thread; how many threads there are does not matter. And of the time that passes only
//! that counts in which the thread could run: on a machine that leaves a node little, the same
//! picks take more of it.

use std::time::Duration;

use tokio::time::Instant;
use waymark_core::policy::PickTook;

/// The threads that are told apart. With more than so many, two share a bucket.
const THREADS: usize = 256;

/// What part of a thread's time picks may use, and what they used lately.
pub(super) struct CpuBudget {
    percent: u32,
    buckets: Vec<Bucket>,
}

/// What one thread's picks used beyond what they may.
#[derive(Clone, Copy)]
struct Bucket {
    level: Duration,
    at: Instant,
    /// How long the thread was kept waiting for a processor until then, since it began.
    waited: Duration,
    /// How long it has not been empty, without such waiting, and what flowed in meanwhile: for
    /// people.
    filled: Duration,
    used: Duration,
}

/// How much of the budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CpuUse {
    /// No more than may be: the policy goes on.
    Within,
    /// For a while it was too much: this many percent of a thread's time. The policy is slow.
    Over(u32),
    /// It was too much for so long, or so much too much, that the policy has to be quarantined.
    Exhausted(u32),
}

impl CpuBudget {
    /// The part that picks may use of a thread's time, in percent; 100 is no bound.
    pub(super) fn new(percent: u32) -> Self {
        Self { percent, buckets: Vec::new() }
    }

    /// What picks may use in so much time.
    fn allowance(&self, time: Duration) -> Duration {
        time * self.percent / 100
    }

    /// Adds what a pick used until `now`.
    pub(super) fn add(&mut self, took: &PickTook, now: Instant) -> CpuUse {
        if self.percent >= 100 {
            return CpuUse::Within;
        }
        let thread = took.thread % THREADS;
        let empty = Bucket {
            level: Duration::ZERO,
            at: now,
            waited: took.kept_waiting,
            filled: Duration::ZERO,
            used: Duration::ZERO,
        };
        if thread >= self.buckets.len() {
            self.buckets.resize(thread + 1, empty);
        }
        let mut bucket = self.leak(self.buckets[thread], now, took.kept_waiting);
        if bucket.level.is_zero() {
            // It began when the pick did.
            bucket = Bucket { filled: took.charged, ..empty };
        }
        bucket.level += took.charged;
        bucket.used += took.charged;
        self.buckets[thread] = bucket;
        self.cpu_use(bucket)
    }

    /// What it comes to if nothing is added until `now`.
    pub(super) fn use_at(&self, now: Instant) -> CpuUse {
        let leaked = self.buckets.iter().map(|bucket| self.leak(*bucket, now, bucket.waited));
        leaked.max_by_key(|bucket| bucket.level).map_or(CpuUse::Within, |bucket| self.cpu_use(bucket))
    }

    /// Forgets what was used.
    pub(super) fn reset(&mut self) {
        self.buckets.clear();
    }

    fn leak(&self, bucket: Bucket, now: Instant, waited: Duration) -> Bucket {
        let passed = now.saturating_duration_since(bucket.at).saturating_sub(waited.saturating_sub(bucket.waited));
        let level = bucket.level.saturating_sub(self.allowance(passed));
        Bucket { level, at: now, waited, filled: bucket.filled + passed, ..bucket }
    }

    fn cpu_use(&self, bucket: Bucket) -> CpuUse {
        let second = self.allowance(Duration::from_secs(1));
        let part = bucket.used.as_secs_f64() / bucket.filled.as_secs_f64().max(1e-3);
        let percent = (part * 100.0).round().min(100.0) as u32;
        match bucket.level {
            level if level > second * 3 => CpuUse::Exhausted(percent),
            level if level > second => CpuUse::Over(percent),
            _ => CpuUse::Within,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn took(thread: usize, charged: Duration, kept_waiting: Duration) -> PickTook {
        PickTook { measured: None, charged, thread, kept_waiting }
    }

    /// Adds `used` in every `period` on one thread until it is condemned or so long has passed.
    fn use_up(
        budget: &mut CpuBudget,
        used: Duration,
        period: Duration,
        mut now: Instant,
        most: Duration,
    ) -> (CpuUse, Duration) {
        let began = now;
        let mut cpu_use = CpuUse::Within;
        while now - began < most && !matches!(cpu_use, CpuUse::Exhausted(_)) {
            now += period;
            cpu_use = budget.add(&took(0, used, Duration::ZERO), now);
        }
        (cpu_use, now - began)
    }

    #[test]
    fn what_stays_below_its_part_is_never_told_of() {
        let (cpu_use, _) = use_up(&mut CpuBudget::new(25), 2 * MS, 10 * MS, Instant::now(), Duration::from_secs(3600));
        assert_eq!(cpu_use, CpuUse::Within);
    }

    #[test]
    fn what_fills_a_thread_is_out_after_a_second_and_a_little_too_much_after_a_while() {
        let (cpu_use, after) =
            use_up(&mut CpuBudget::new(25), 10 * MS, 10 * MS, Instant::now(), Duration::from_secs(60));
        assert!(matches!(cpu_use, CpuUse::Exhausted(99..=100)), "{cpu_use:?}");
        assert!((900 * MS..=1100 * MS).contains(&after), "{after:?}");
        let (cpu_use, after) =
            use_up(&mut CpuBudget::new(25), 3 * MS, 10 * MS, Instant::now(), Duration::from_secs(60));
        assert_eq!(cpu_use, CpuUse::Exhausted(30));
        assert!((14_000 * MS..=16_000 * MS).contains(&after), "{after:?}");
    }

    #[test]
    fn one_pick_of_seconds_is_enough() {
        let long = took(7, Duration::from_secs(2), Duration::ZERO);
        assert_eq!(CpuBudget::new(25).add(&long, Instant::now()), CpuUse::Exhausted(100));
        assert_eq!(CpuBudget::new(100).add(&long, Instant::now()), CpuUse::Within, "no bound");
    }

    #[test]
    fn it_is_told_of_before_it_is_out_and_passes_when_the_picks_do() {
        let mut budget = CpuBudget::new(25);
        let now = Instant::now();
        let (cpu_use, after) = use_up(&mut budget, 10 * MS, 10 * MS, now, 500 * MS);
        assert!(matches!(cpu_use, CpuUse::Over(99..=100)), "{cpu_use:?}");
        assert_eq!(budget.use_at(now + after + 2000 * MS), CpuUse::Within);
    }

    #[test]
    fn threads_are_counted_each_for_itself() {
        let mut budget = CpuBudget::new(25);
        let now = Instant::now();
        for n in 1..=1000u32 {
            for thread in 0..4 {
                assert_eq!(budget.add(&took(thread, 2 * MS, Duration::ZERO), now + n * 10 * MS), CpuUse::Within);
            }
        }
    }

    #[test]
    fn a_thread_that_is_seldom_let_run_has_less_to_give() {
        let mut budget = CpuBudget::new(25);
        let now = Instant::now();
        // A tenth of the time that passes, and half of what the thread has.
        let cpu_use = (1..=100u32).map(|n| budget.add(&took(0, MS, n * 8 * MS), now + n * 10 * MS)).last();
        assert_eq!(cpu_use, Some(CpuUse::Within));
        let cpu_use = (101..=600u32).map(|n| budget.add(&took(0, MS, n * 8 * MS), now + n * 10 * MS)).last();
        assert_eq!(cpu_use, Some(CpuUse::Over(50)));
        let cpu_use = (601..=1800u32).map(|n| budget.add(&took(0, MS, n * 8 * MS), now + n * 10 * MS)).last();
        assert_eq!(cpu_use, Some(CpuUse::Exhausted(50)));
    }
}
