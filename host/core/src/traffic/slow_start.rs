//! Slow start: an endpoint that joins a service gets its full share of calls only after a while, so
//! that its caches and its compiler have time to warm up.

use std::time::Duration;

/// How the share of an endpoint that joined grows.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    /// How long it takes to the full share.
    pub window: Duration,
    /// How the share grows: evenly at 1, fast at first over it, slowly at first under it.
    /// Default 1.
    pub aggression: f64,
    /// The least share, percent. Default 10.
    pub min_percent: u32,
}

impl SlowStart {
    /// An even growth from a tenth of the share.
    pub fn new(window: Duration) -> Self {
        Self { window, aggression: 1.0, min_percent: 10 }
    }

    /// The part of its share that an endpoint of this age gets, from 0 to 1. Envoy's formula:
    /// max(least, (age / window) ^ (1 / aggression)).
    pub fn part(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let grown = (age.as_secs_f64() / self.window.as_secs_f64()).powf(1.0 / self.aggression);
        grown.max(f64::from(self.min_percent) / 100.0).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_the_least_to_all() {
        let part = |slow: &SlowStart, seconds| (slow.part(Duration::from_secs(seconds)) * 100.0).round() as u32;
        let even = SlowStart::new(Duration::from_secs(100));
        let parts: Vec<_> = [0, 5, 25, 50, 99, 100, 500].iter().map(|age| part(&even, *age)).collect();
        assert_eq!(parts, [10, 10, 25, 50, 99, 100, 100]);
        let fast = SlowStart { aggression: 2.0, ..even.clone() };
        assert_eq!(part(&fast, 25), 50);
        let slow = SlowStart { aggression: 0.5, min_percent: 0, ..even };
        assert_eq!((part(&slow, 0), part(&slow, 50)), (0, 25));
    }
}
