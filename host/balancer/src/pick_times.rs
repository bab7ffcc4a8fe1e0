//! How long picks take, as a histogram for `/metrics`.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use waymark_core::exposition::Histogram;

/// The upper bounds of the buckets, in nanoseconds: from what a component needs at least to the
/// longest deadline. The last has none.
const BOUNDS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 100_000_000];

/// Times of one service's picks, of those that were measured. Made with the first one, since most
/// services have a plan and none.
#[derive(Default)]
pub struct PickTimes {
    made: OnceLock<Box<Made>>,
}

#[derive(Default)]
struct Made {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl PickTimes {
    pub(super) fn add(&self, time: Duration) {
        let made = self.made.get_or_init(Box::default);
        let nanoseconds = time.as_nanos() as u64;
        made.buckets[BOUNDS.partition_point(|bound| *bound < nanoseconds)].fetch_add(1, Relaxed);
        made.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// What was measured so far; none if nothing was, as with a policy that plans ahead.
    pub fn read(&self) -> Option<Histogram> {
        let made = self.made.get()?;
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e9);
        let counts = made.buckets.iter().map(|count| count.load(Relaxed));
        Some(Histogram::new(made.nanoseconds.load(Relaxed) as f64 / 1e9, bounds, counts))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_time_is_in_one_bucket_and_nothing_is_there_before_the_first() {
        let times = PickTimes::default();
        assert_eq!(times.read(), None);
        for nanoseconds in [0, 500, 501, 5_000_000, 100_000_001] {
            times.add(Duration::from_nanos(nanoseconds));
        }
        let read = times.read().unwrap();
        let filled: Vec<_> = read.buckets.iter().enumerate().filter(|(_, (_, count))| *count > 0).collect();
        assert_eq!(
            filled.iter().map(|(index, (_, count))| (*index, *count)).collect::<Vec<_>>(),
            [(0, 2), (1, 1), (10, 1), (12, 1)]
        );
        assert_eq!((read.count, read.buckets[12].0), (5, f64::INFINITY));
        assert!((read.sum - 0.105_001_002).abs() < 1e-9, "{}", read.sum);
    }
}
