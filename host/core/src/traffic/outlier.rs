//! Passive outlier ejection: who fails much more than the others gets no calls for a while.
//!
//! ```text
//!            an outlier in one interval
//!   In ───────────────────────────────────▶ Ejected { since }
//!    ▲                                        │
//!    └────────────────────────────────────────┘
//!       base ejection time × how often it was ejected lately
//! ```
//!
//! The algorithms and the defaults are gRPC's (A50), which are Envoy's. One thing is stricter: the
//! share that may be ejected is a cap, where A50 goes on until it is passed; at least one endpoint
//! may be ejected in both. And Envoy's panic threshold, which A50 leaves out, is here: when too few
//! are left, ejections are not heeded.
//!
//! [`Detector`] is told the time and draws no random numbers of its own.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// When an endpoint is an outlier, and what follows. The defaults are those of gRFC A50 but for
/// [`Self::panic_threshold`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// The time between two looks at the endpoints. Default 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts; the next one lasts twice as long, and so on. Default 30
    /// s.
    pub base_ejection_time: Duration,
    /// The longest an ejection lasts, unless the base is longer. Default 300 s.
    pub max_ejection_time: Duration,
    /// The most endpoints that are ejected at once, percent; one may be in any case. Default 10.
    pub max_ejection_percent: u32,
    /// When fewer than this many percent of the endpoints are left, ejections are not heeded: to
    /// send calls to endpoints that fail some is better than to send all to few. Default 50, as
    /// Envoy's healthy panic threshold; 0 for never.
    pub panic_threshold: u32,
    /// By success rate: who is far under the mean of all. Unset: not looked at.
    pub success_rate: Option<SuccessRate>,
    /// By failure percentage: who fails more than a fixed share. Unset: not looked at.
    pub failure_percentage: Option<FailurePercentage>,
}

/// Who is far under the mean of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessRate {
    /// How many thousandths of the standard deviation under the mean are too many. Default 1900.
    pub stdev_factor: u32,
    /// How likely an outlier is ejected, percent. Default 100.
    pub enforcement_percentage: u32,
    /// So many endpoints must have had enough calls. Default 5.
    pub minimum_hosts: u32,
    /// Enough calls in one interval. Default 100.
    pub request_volume: u32,
}

/// Who fails more than a fixed share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Who fails more than this is an outlier, percent. Default 85.
    pub threshold: u32,
    /// How likely an outlier is ejected, percent. Default 100.
    pub enforcement_percentage: u32,
    /// So many endpoints there must be. Default 5.
    pub minimum_hosts: u32,
    /// Enough calls in one interval. Default 50.
    pub request_volume: u32,
}

impl Default for OutlierDetection {
    /// Neither algorithm is on: without one, nobody is ejected.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            panic_threshold: 50,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1900, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 100 }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 50 }
    }
}

/// How the calls on an endpoint ended, since it is known. Both numbers only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// With status OK.
    pub succeeded: u64,
    /// With another status, not in time, or not at all. Calls that their callers gave up are in
    /// neither number.
    pub failed: u64,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
struct Track {
    seen: CallCounts,
    /// When it was ejected, on the detector's clock.
    ejected: Option<Duration>,
    /// How often it was ejected lately.
    multiplier: u32,
}

/// Decides who is ejected. `K` tells endpoints apart.
#[derive(Debug)]
pub struct Detector<K> {
    config: OutlierDetection,
    tracks: HashMap<K, Track>,
}

/// One endpoint in the interval that just ended.
struct Interval<K> {
    key: K,
    volume: u64,
    success: f64,
}

impl<K: Hash + Eq + Clone> Detector<K> {
    /// Nobody is known and nobody ejected.
    pub fn new(config: OutlierDetection) -> Self {
        Self { config, tracks: HashMap::new() }
    }

    /// Its settings.
    pub fn config(&self) -> &OutlierDetection {
        &self.config
    }

    /// Whether this endpoint is ejected.
    pub fn is_ejected(&self, key: &K) -> bool {
        self.tracks.get(key).is_some_and(|track| track.ejected.is_some())
    }

    /// How many are ejected.
    pub fn n_ejected(&self) -> usize {
        self.tracks.values().filter(|track| track.ejected.is_some()).count()
    }

    /// Ends an interval at `now`, a time on a clock of the caller's that only moves forward.
    /// `endpoints` are all there are; who is not among them is forgotten, who is new has had no
    /// calls. `random` draws from 0 to 99.
    pub fn sweep(&mut self, now: Duration, endpoints: &[(K, CallCounts)], mut random: impl FnMut() -> u32) {
        let mut before = std::mem::take(&mut self.tracks);
        let mut intervals = Vec::with_capacity(endpoints.len());
        for (key, counts) in endpoints {
            // What a new one was called before the detector met it is not of one interval.
            let mut track = before.remove(key).unwrap_or(Track { seen: *counts, ..Track::default() });
            let succeeded = counts.succeeded.saturating_sub(track.seen.succeeded);
            let volume = succeeded + counts.failed.saturating_sub(track.seen.failed);
            track.seen = *counts;
            self.tracks.insert(key.clone(), track);
            intervals.push(Interval { key: key.clone(), volume, success: succeeded as f64 / volume.max(1) as f64 });
        }
        self.by_success_rate(now, &intervals, &mut random);
        self.by_failure_percentage(now, &intervals, &mut random);
        let longest = self.config.max_ejection_time.max(self.config.base_ejection_time);
        for track in self.tracks.values_mut() {
            match track.ejected {
                None => track.multiplier = track.multiplier.saturating_sub(1),
                Some(since) => {
                    let lasts = self.config.base_ejection_time.saturating_mul(track.multiplier).min(longest);
                    if now > since.saturating_add(lasts) {
                        track.ejected = None;
                    }
                }
            }
        }
    }

    fn by_success_rate(&mut self, now: Duration, intervals: &[Interval<K>], random: &mut dyn FnMut() -> u32) {
        let Some(by) = self.config.success_rate.clone() else { return };
        let enough = |one: &&Interval<K>| one.volume >= u64::from(by.request_volume.max(1));
        let counted: Vec<_> = intervals.iter().filter(enough).collect();
        if counted.is_empty() || counted.len() < by.minimum_hosts as usize {
            return;
        }
        let n = counted.len() as f64;
        let mean = counted.iter().map(|one| one.success).sum::<f64>() / n;
        let variance = counted.iter().map(|one| (one.success - mean).powi(2)).sum::<f64>() / n;
        let least = mean - variance.sqrt() * f64::from(by.stdev_factor) / 1000.0;
        for one in counted.into_iter().filter(|one| one.success < least) {
            self.eject(now, &one.key, by.enforcement_percentage, random);
        }
    }

    fn by_failure_percentage(&mut self, now: Duration, intervals: &[Interval<K>], random: &mut dyn FnMut() -> u32) {
        let Some(by) = self.config.failure_percentage.clone() else { return };
        if intervals.len() < by.minimum_hosts as usize {
            return;
        }
        let enough = |one: &&Interval<K>| one.volume >= u64::from(by.request_volume.max(1));
        let failing = |one: &&Interval<K>| (1.0 - one.success) * 100.0 > f64::from(by.threshold);
        for one in intervals.iter().filter(enough).filter(failing) {
            self.eject(now, &one.key, by.enforcement_percentage, random);
        }
    }

    fn eject(&mut self, now: Duration, key: &K, likelihood: u32, random: &mut dyn FnMut() -> u32) {
        let (ejected, all) = (self.n_ejected(), self.tracks.len());
        let within_cap = ejected == 0 || (ejected + 1) * 100 <= self.config.max_ejection_percent as usize * all;
        let Some(track) = self.tracks.get_mut(key).filter(|track| track.ejected.is_none()) else { return };
        if within_cap && random() < likelihood {
            track.ejected = Some(now);
            track.multiplier = track.multiplier.saturating_add(1);
        }
    }
}

impl OutlierDetection {
    /// Whether so few of the endpoints are left that ejections are not heeded.
    pub fn panics(&self, usable: usize, all: usize) -> bool {
        usable * 100 < self.panic_threshold as usize * all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Endpoints whose counters a test moves on, one interval of 10 s after the other.
    struct Bench {
        detector: Detector<usize>,
        endpoints: Vec<(usize, CallCounts)>,
        now: Duration,
        random: u32,
    }

    impl Bench {
        fn new(n: usize, config: OutlierDetection) -> Self {
            let endpoints = (0..n).map(|key| (key, CallCounts::default())).collect();
            let mut bench = Self { detector: Detector::new(config), endpoints, now: Duration::ZERO, random: 0 };
            bench.interval(&[]);
            bench
        }

        /// An interval in which each endpoint answered so many calls with OK and with errors. Who
        /// is ejected after it?
        fn interval(&mut self, calls: &[(u64, u64)]) -> Vec<usize> {
            for ((_, counts), (succeeded, failed)) in self.endpoints.iter_mut().zip(calls) {
                counts.succeeded += succeeded;
                counts.failed += failed;
            }
            self.now += 10 * SECOND;
            let random = self.random;
            self.detector.sweep(self.now, &self.endpoints, || random);
            self.endpoints.iter().map(|(key, _)| *key).filter(|key| self.detector.is_ejected(key)).collect()
        }
    }

    fn by_percentage() -> OutlierDetection {
        OutlierDetection { failure_percentage: Some(FailurePercentage::default()), ..OutlierDetection::default() }
    }

    fn by_rate() -> OutlierDetection {
        OutlierDetection { success_rate: Some(SuccessRate::default()), ..OutlierDetection::default() }
    }

    #[test]
    fn who_fails_more_than_the_threshold_is_ejected_and_comes_back_after_its_time() {
        let mut bench = Bench::new(5, by_percentage());
        let well = [(100, 0); 5];
        let mut third_fails = well;
        third_fails[2] = (15, 85);
        assert!(bench.interval(&third_fails).is_empty(), "85 percent is not more than 85");
        third_fails[2] = (14, 86);
        assert_eq!(bench.interval(&third_fails), [2]);
        // Ejected at 30 s for 30 s: at 60 s not yet, at 70 s it is back.
        assert_eq!((bench.interval(&[]), bench.interval(&[])), (vec![2], vec![2]));
        assert_eq!((bench.interval(&[]), bench.interval(&[])), (vec![2], vec![]));
        // Again at once: twice as long. The multiplier is 1 still.
        assert_eq!(bench.interval(&third_fails), [2]);
        for _ in 0..6 {
            assert_eq!(bench.interval(&[]), [2]);
        }
        assert!(bench.interval(&[]).is_empty());
        // Two intervals in peace, and it is as if it had never been: the first is the one it came
        // back in.
        bench.interval(&well);
        bench.interval(&well);
        assert_eq!(bench.interval(&third_fails), [2]);
        for _ in 0..3 {
            assert_eq!(bench.interval(&[]), [2]);
        }
        assert!(bench.interval(&[]).is_empty());
    }

    #[test]
    fn an_ejection_lasts_no_longer_than_the_longest() {
        let config = OutlierDetection { max_ejection_time: 40 * SECOND, ..by_percentage() };
        let mut bench = Bench::new(5, config);
        let fails = [(100, 0), (100, 0), (0, 100), (100, 0), (100, 0)];
        for lasts in [3, 4, 4] {
            assert_eq!(bench.interval(&fails), [2]);
            for _ in 0..lasts {
                assert_eq!(bench.interval(&[]), [2]);
            }
            assert!(bench.interval(&[]).is_empty());
        }
    }

    #[test]
    fn who_is_far_under_the_mean_is_ejected() {
        let mut bench = Bench::new(10, by_rate());
        let mut calls = [(98, 2); 10];
        assert!(bench.interval(&calls).is_empty(), "all alike");
        calls[7] = (80, 20);
        assert_eq!(bench.interval(&calls), [7]);
        // Nine with enough calls and one with too few.
        let mut bench = Bench::new(10, by_rate());
        calls[7] = (0, 99);
        assert!(bench.interval(&calls).is_empty());
        // Only four had enough.
        let mut bench = Bench::new(10, by_rate());
        let few: Vec<_> = (0..10).map(|n| if n < 3 { (100, 0) } else { (1, 0) }).collect();
        let mut few = few;
        few[3] = (0, 100);
        assert!(bench.interval(&few).is_empty());
    }

    #[test]
    fn too_few_endpoints_or_calls_eject_nobody() {
        let mut bench = Bench::new(4, by_percentage());
        assert!(bench.interval(&[(0, 100); 4]).is_empty());
        let mut bench = Bench::new(5, by_percentage());
        assert!(bench.interval(&[(0, 49); 5]).is_empty());
        let mut bench = Bench::new(5, OutlierDetection::default());
        assert!(bench.interval(&[(0, 100); 5]).is_empty(), "no algorithm is on");
    }

    #[test]
    fn likelihood_is_heeded() {
        let half = FailurePercentage { enforcement_percentage: 50, ..FailurePercentage::default() };
        let config = OutlierDetection { failure_percentage: Some(half), ..OutlierDetection::default() };
        let fails = [(0, 100), (100, 0), (100, 0), (100, 0), (100, 0)];
        let mut bench = Bench::new(5, config);
        bench.random = 50;
        assert!(bench.interval(&fails).is_empty());
        bench.random = 49;
        assert_eq!(bench.interval(&fails), [0]);
    }

    #[test]
    fn who_comes_back_to_the_service_begins_anew_and_old_counts_are_of_no_interval() {
        let mut bench = Bench::new(5, by_percentage());
        let fails = [(0, 100), (100, 0), (100, 0), (100, 0), (100, 0)];
        assert_eq!(bench.interval(&fails), [0]);
        let gone = bench.endpoints.remove(0);
        assert!(bench.interval(&[]).is_empty());
        assert_eq!(bench.detector.n_ejected(), 0);
        bench.endpoints.push(gone);
        assert!(bench.interval(&[]).is_empty(), "its hundred failures are old");
    }

    #[test]
    fn panic_begins_under_the_threshold() {
        let config = OutlierDetection::default();
        assert!(!config.panics(5, 10) && config.panics(4, 10) && !config.panics(0, 0));
        let never = OutlierDetection { panic_threshold: 0, ..config };
        assert!(!never.panics(0, 10));
    }

    proptest! {
        #[test]
        fn never_more_are_ejected_than_may_be(
            n in 1usize..30, most in 1u32..=100, calls in proptest::collection::vec((0u64..200, 0u64..200), 30 * 8),
        ) {
            let config = OutlierDetection {
                max_ejection_percent: most,
                success_rate: Some(SuccessRate { minimum_hosts: 1, ..SuccessRate::default() }),
                failure_percentage: Some(FailurePercentage { minimum_hosts: 1, threshold: 50, ..FailurePercentage::default() }),
                ..OutlierDetection::default()
            };
            let mut bench = Bench::new(n, config);
            for interval in calls.chunks(30) {
                let ejected = bench.interval(interval).len();
                prop_assert!(ejected <= 1.max(n * most as usize / 100), "{ejected} of {n} at {most} percent");
            }
        }
    }
}
