//! What the host keeps for one endpoint from one generation to the next: its load figures, whether it can be reached, and
//! the data plane's connection to it.

use std::{
    any::Any,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How a call on an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered, whatever it said.
    Answered,
    /// The endpoint failed: it could not be reached, broke the connection, or answered that it is unavailable.
    Failed,
    /// The caller gave up, which says nothing of the endpoint.
    Cancelled,
}

/// What is kept for one endpoint. It lives as long as a published generation names the endpoint, or a call on it runs.
pub struct EndpointCell {
    in_flight: AtomicU32,
    calls: AtomicU64,
    failures: AtomicU64,
    latency: PeakEwma,
    backing_off: AtomicBool,
    attached: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Default for EndpointCell {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: PeakEwma::new(Instant::now()),
            backing_off: AtomicBool::new(false),
            attached: OnceLock::new(),
        }
    }
}

impl EndpointCell {
    /// Calls begun and not yet ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Calls begun since the endpoint is known.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Calls that ended in [`Outcome::Failed`].
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Peak EWMA of the time to an answer, in microseconds; 0 while no call has ended.
    pub fn latency_us(&self) -> u32 {
        self.latency.micros()
    }

    /// Whether the last attempt to connect failed and its back-off still runs: picks skip it.
    pub fn is_backing_off(&self) -> bool {
        self.backing_off.load(Relaxed)
    }

    /// Says whether picks shall skip this endpoint. The data plane's connection is the only caller.
    pub fn set_backing_off(&self, backing_off: bool) {
        self.backing_off.store(backing_off, Relaxed);
    }

    /// Begins a call. The returned guard ends it, as cancelled if nothing else is said.
    pub fn begin(self: &Arc<Self>) -> CallGuard {
        self.in_flight.fetch_add(1, Relaxed);
        self.calls.fetch_add(1, Relaxed);
        CallGuard { cell: Arc::clone(self), began: Instant::now(), answered: false, outcome: Outcome::Cancelled }
    }

    /// What the data plane keeps with this endpoint (its connection), made at first use. There is one such type a process: asking
    /// for a second one panics.
    pub fn attached<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &T {
        self.attached
            .get_or_init(|| Box::new(make()))
            .downcast_ref()
            .expect("one type of connection is kept with an endpoint")
    }
}

/// A call that runs on an endpoint. Dropping it ends the call.
pub struct CallGuard {
    cell: Arc<EndpointCell>,
    began: Instant,
    answered: bool,
    outcome: Outcome,
}

impl CallGuard {
    /// The head of the answer has come: its time counts as the endpoint's latency.
    pub fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.outcome = Outcome::Answered;
            let now = Instant::now();
            self.cell.latency.record(now - self.began, now);
        }
    }

    /// How the call ended; the last word counts.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.cell.in_flight.fetch_sub(1, Relaxed);
        if self.outcome == Outcome::Failed {
            self.cell.failures.fetch_add(1, Relaxed);
        }
    }
}

/// Peak-sensitive moving average: jumps up to a slow answer at once, and comes down over the decay time.
///
/// After Finagle's `PeakEwma` load metric (twitter/finagle, `finagle-core/…/loadbalancer/PeakEwma.scala`), whose decay time of 10 s
/// it uses. Average and stamp share one word, so that a reader never sees one without the other; two writers at once may
/// lose one sample, which an average forgives.
struct PeakEwma {
    origin: Instant,
    /// High half: average in microseconds. Low half: milliseconds since `origin`, modulo 2^32.
    word: AtomicU64,
}

impl PeakEwma {
    const DECAY: Duration = Duration::from_secs(10);

    fn new(origin: Instant) -> Self {
        Self { origin, word: AtomicU64::new(0) }
    }

    fn micros(&self) -> u32 {
        (self.word.load(Relaxed) >> 32) as u32
    }

    fn record(&self, sample: Duration, now: Instant) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).max(1);
        let stamp = (now - self.origin).as_millis() as u32;
        let word = self.word.load(Relaxed);
        let (average, last) = ((word >> 32) as u32, word as u32);
        let next = if sample >= average {
            sample
        } else {
            let elapsed = f64::from(stamp.wrapping_sub(last)) / (Self::DECAY.as_millis() as f64);
            let keep = (-elapsed).exp();
            (f64::from(average) * keep + f64::from(sample) * (1.0 - keep)) as u32
        };
        self.word.store((u64::from(next.max(1)) << 32) | u64::from(stamp), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn latency_jumps_up_and_decays() {
        let cell = Arc::new(EndpointCell::default());
        assert_eq!(cell.latency_us(), 0);
        let mut call = cell.begin();
        tokio::time::advance(Duration::from_millis(100)).await;
        call.answered();
        drop(call);
        assert_eq!(cell.latency_us(), 100_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut call = cell.begin();
        tokio::time::advance(Duration::from_millis(1)).await;
        call.answered();
        // One decay time later, 1/e of the peak is left.
        assert!((36_000..39_000).contains(&cell.latency_us()), "{}", cell.latency_us());
    }

    #[tokio::test]
    async fn a_dropped_call_ends_and_blames_nobody() {
        let cell = Arc::new(EndpointCell::default());
        let call = cell.begin();
        assert_eq!(cell.in_flight(), 1);
        drop(call);
        assert_eq!((cell.in_flight(), cell.calls(), cell.failures()), (0, 1, 0));
        let mut call = cell.begin();
        call.set_outcome(Outcome::Failed);
        drop(call);
        assert_eq!((cell.in_flight(), cell.calls(), cell.failures()), (0, 2, 1));
    }
}
