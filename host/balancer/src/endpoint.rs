//! What the host keeps for one endpoint from one generation to the next: its load figures, whether
//! it can be reached, and the data plane's connection to it.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use waymark_core::{
    model::Endpoint,
    policy::LoadReport,
    traffic::{CallCounts, Code},
};

use crate::{
    call_limiter::CallLimiter,
    report::Reported,
    status::{Connectivity, EndpointStatus, Health, flag},
};

/// How a call on an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered, with status OK.
    Succeeded,
    /// The endpoint answered with another status, or not before the call's deadline.
    Errored,
    /// The endpoint failed: it could not be reached, broke the connection, or answered that it is
    /// unavailable.
    Failed,
    /// The caller gave up, or the endpoint did not take the call, which says nothing of how it
    /// serves.
    Cancelled,
}

impl Outcome {
    /// What an endpoint's answer with this status means.
    pub fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Succeeded,
            Code::Unavailable => Self::Failed,
            _ => Self::Errored,
        }
    }
}

/// One endpoint of a generation.
#[derive(Clone)]
pub struct EndpointState {
    /// What is registered.
    pub endpoint: Endpoint,
    /// What the host keeps for it, shared with the generations before and after.
    pub cell: Arc<EndpointCell>,
}

/// What is kept for one endpoint. It lives as long as a published generation names the endpoint, or
/// a call on it runs.
pub struct EndpointCell {
    in_flight: AtomicU32,
    /// Where it stands, and what else a pick has to know: see [`flag`].
    flags: AtomicU32,
    /// Calls that have ended, by [`Outcome`].
    ended: [AtomicU64; 4],
    latency: PeakEwma,
    /// While it is in slow start: the part of its share that it gets, of `u32::MAX`.
    slow_start_share: AtomicU32,
    /// How many of its calls failed lately, of `u32::MAX`.
    failing: AtomicU32,
    /// How many calls in a row were not answered in time, with no other answered meanwhile.
    unanswered: AtomicU32,
    /// When its first attempt to connect began, or the first after a loss: milliseconds since the
    /// cell was made, modulo 2^32.
    attempt_at: AtomicU32,
    /// What its instance says of its own load, if it ever did.
    reported: OnceLock<Box<Reported>>,
    limiter: Arc<CallLimiter>,
    /// What the upstream keeps with it: of one type for all endpoints of the same services.
    attached: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl EndpointCell {
    /// What is kept for an endpoint of the service with this limiter.
    pub fn new(limiter: Arc<CallLimiter>) -> Self {
        let limited = if limiter.per_endpoint() == u32::MAX { 0 } else { flag::LIMITED };
        let (_, idle) = flag::of_connectivity(Connectivity::Idle);
        Self {
            in_flight: AtomicU32::new(0),
            flags: AtomicU32::new(limited | idle),
            ended: Default::default(),
            latency: PeakEwma::new(Instant::now()),
            slow_start_share: AtomicU32::new(u32::MAX),
            failing: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            attempt_at: AtomicU32::new(0),
            reported: OnceLock::new(),
            limiter,
            attached: OnceLock::new(),
        }
    }

    /// Calls begun and not yet ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Calls begun since the endpoint is known.
    pub fn calls(&self) -> u64 {
        self.ended.iter().map(|count| count.load(Relaxed)).sum::<u64>() + u64::from(self.in_flight())
    }

    /// Calls that ended so.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize].load(Relaxed)
    }

    /// Calls that ended in [`Outcome::Failed`].
    pub fn failures(&self) -> u64 {
        self.ended(Outcome::Failed)
    }

    /// Peak EWMA of the time to an answer, in microseconds; 0 while no call has ended.
    pub fn latency_us(&self) -> u32 {
        self.latency.micros()
    }

    /// Whether a pick may choose it now, its weight aside: the hot path.
    pub(super) fn takes_calls(&self) -> bool {
        self.takes_calls_without(0)
    }

    /// The same where these flags, too, speak against it.
    pub(super) fn takes_calls_without(&self, extra_flags: u32) -> bool {
        let flags = self.flags.load(Relaxed);
        flags & (flag::ASKED | extra_flags) == 0
            || (flags & (flag::UNUSABLE | extra_flags) == 0
                && !self.is_full()
                && (flags & flag::SLOW_START == 0 || fastrand::u32(..) <= self.slow_start_share.load(Relaxed)))
    }

    /// Whether it could be chosen but for its slow start; where these flags, too, speak against it.
    pub(super) fn takes_calls_despite_slow_start(&self, extra_flags: u32) -> bool {
        self.flags.load(Relaxed) & (flag::UNUSABLE | extra_flags) == 0 && !self.is_full()
    }

    /// Whether there is no connection to it, though nothing speaks against one.
    pub fn is_unconnected(&self) -> bool {
        self.flags.load(Relaxed) & flag::UNCONNECTED != 0
    }

    /// Whether there is no connection to it and none is on its way.
    pub fn is_idle(&self) -> bool {
        self.flags.load(Relaxed) & flag::IDLE != 0
    }

    /// For how long a call may still wait for its first connection, or the first after a loss,
    /// although others are connected: no longer than this from the attempt's beginning.
    pub fn grace_left(&self, grace: Duration) -> Option<Duration> {
        if self.flags.load(Relaxed) & flag::CONNECTING == 0 {
            return None;
        }
        let passed = self.millis().wrapping_sub(self.attempt_at.load(Relaxed));
        grace.checked_sub(Duration::from_millis(u64::from(passed))).filter(|left| !left.is_zero())
    }

    /// Milliseconds since it was made, modulo 2^32.
    fn millis(&self) -> u32 {
        self.latency.origin.elapsed().as_millis() as u32
    }

    /// Whether it is in slow start: it joined lately, and gets a part of its share.
    pub fn is_in_slow_start(&self) -> bool {
        self.flags.load(Relaxed) & flag::SLOW_START != 0
    }

    /// Says which part of its share it gets, from 0 to 1. The service's task is the only caller.
    pub(super) fn set_slow_start_share(&self, part: f64) {
        self.slow_start_share.store((part * f64::from(u32::MAX)) as u32, Relaxed);
        self.set(flag::SLOW_START, part < 1.0);
    }

    /// How many of its calls failed or were answered by an error, from 0 to 1: an average over
    /// about the last 32, in which later ones weigh more.
    pub fn failure_rate(&self) -> f64 {
        f64::from(self.failing.load(Relaxed)) / f64::from(u32::MAX)
    }

    /// What its instance said last of its own load, if it ever did.
    pub fn report(&self) -> Option<LoadReport> {
        Some(self.reported.get()?.report())
    }

    /// A metric that its instance named when it last spoke of its load.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.reported.get()?.metric(name)
    }

    /// All metrics that its instance named when it last spoke of its load; none where there were
    /// none.
    pub fn metrics(&self) -> Option<Arc<BTreeMap<String, f64>>> {
        self.reported.get()?.named()
    }

    fn note(&self, failed: bool) {
        let before = self.failing.load(Relaxed);
        // Two who write at once may lose one call, which an average forgives. While all goes well
        // nothing is written.
        if failed {
            self.failing.store(before + (u32::MAX - before) / 32, Relaxed);
        } else if before > 0 {
            self.failing.store(before - before.div_ceil(32), Relaxed);
        }
    }

    /// Whether picks may choose it, its limit of calls and its weight aside.
    pub fn is_usable(&self) -> bool {
        self.flags.load(Relaxed) & flag::UNUSABLE == 0
    }

    /// Whether it can be reached and is healthy: picks may choose it, its limit of calls, its
    /// weight and an ejection aside.
    pub fn is_reachable(&self) -> bool {
        self.flags.load(Relaxed) & flag::UNREACHABLE == 0
    }

    /// Whether the last attempt to connect failed and its back-off still runs: picks skip it.
    pub fn is_backing_off(&self) -> bool {
        self.flags.load(Relaxed) & flag::BACKING_OFF != 0
    }

    /// Says what its connection is doing. The data plane's connection is the only caller.
    pub fn set_connectivity(&self, connectivity: Connectivity) {
        if connectivity == Connectivity::Connecting {
            self.attempt_at.store(self.millis(), Relaxed);
        }
        let (clear, set) = flag::of_connectivity(connectivity);
        self.change(clear, set);
    }

    /// What its check says of it.
    pub fn health(&self) -> Health {
        flag::health(self.flags.load(Relaxed))
    }

    /// Says what its check says of it. Its check is the only caller.
    pub fn set_health(&self, health: Health) {
        let (clear, set) = flag::of_health(health);
        self.change(clear, set);
    }

    /// All of it in one word.
    pub fn status(&self) -> EndpointStatus {
        flag::status(self.flags.load(Relaxed))
    }

    /// Whether its check is about to say whether it may be used.
    pub fn is_pending(&self) -> bool {
        flag::pending(self.flags.load(Relaxed))
    }

    /// Whether it fails so much more than others that it was ejected. Picks skip it while ejections
    /// are heeded.
    pub fn is_ejected(&self) -> bool {
        self.flags.load(Relaxed) & flag::EJECTED != 0
    }

    /// Whether it could be chosen but for an ejection.
    pub(super) fn takes_calls_despite_ejection(&self) -> bool {
        self.is_reachable() && !self.is_full()
    }

    /// Says whether it is ejected, and whether picks shall heed it. The service's task is the only
    /// caller.
    pub(super) fn set_ejected(&self, ejected: bool, heeded: bool) {
        self.set(flag::EJECTED, ejected);
        self.set(flag::SKIPPED, ejected && heeded);
    }

    /// Says whether the server at the other end of its connection answers. The data plane's
    /// connection is the only caller.
    pub fn set_silent(&self, silent: bool) {
        if self.flags.load(Relaxed) & flag::SILENT != u32::from(silent) * flag::SILENT {
            self.set(flag::SILENT, silent);
        }
    }

    /// Whether it answers neither pings nor calls at the moment. Picks skip it while others can be
    /// used.
    pub fn is_silent(&self) -> bool {
        self.flags.load(Relaxed) & (flag::SILENT | flag::UNANSWERING | flag::TRIAL) != 0
    }

    /// How its calls ended, for the outlier detection.
    pub(super) fn call_counts(&self) -> CallCounts {
        let failed = self.ended(Outcome::Errored) + self.ended(Outcome::Failed);
        CallCounts { succeeded: self.ended(Outcome::Succeeded), failed }
    }

    fn set(&self, flag: u32, on: bool) {
        if on { self.change(0, flag) } else { self.change(flag, 0) }
    }

    fn change(&self, clear: u32, set: u32) {
        let change = |flags| Some(flags & !clear | set);
        // It never declines, so both are what was there before.
        let (Ok(before) | Err(before)) = self.flags.fetch_update(Relaxed, Relaxed, change);
        let now = before & !clear | set;
        let (was_connected, is_connected) = (flag::is_connected(before), flag::is_connected(now));
        if was_connected != is_connected {
            self.limiter.count_connected(is_connected);
        }
        if (before ^ now) & flag::CONNECTING != 0 {
            self.limiter.count_connecting(now & flag::CONNECTING != 0);
        }
        let usable = now & flag::UNUSABLE == 0;
        let usable = usable && (before & flag::UNUSABLE != 0 || (is_connected && !was_connected));
        // Who waits for the word of its check is told a bad one, too.
        if usable || (flag::pending(before) && !flag::pending(now)) {
            self.limiter.ready();
        }
    }

    /// Whether as many calls run on it as may.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= self.limiter.per_endpoint()
    }

    /// What the upstream keeps with this endpoint, made at first use.
    pub(super) fn attached<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> &T {
        self.attached
            .get_or_init(|| Box::new(make()))
            .downcast_ref()
            .expect("an endpoint is asked for what the upstream of its services keeps with it")
    }
}

impl Drop for EndpointCell {
    fn drop(&mut self) {
        let flags = *self.flags.get_mut();
        if flag::is_connected(flags) {
            self.limiter.count_connected(false);
        }
        if flags & flag::CONNECTING != 0 {
            self.limiter.count_connecting(false);
        }
    }
}

/// For [`CallGuard`](super::CallGuard), which says how calls go.
impl EndpointCell {
    /// Counts one more call that runs. False where as many run as may: then nothing is counted.
    pub(super) fn enter(&self) -> bool {
        if self.in_flight.fetch_add(1, Relaxed) >= self.limiter.per_endpoint() {
            self.leave();
            return false;
        }
        if self.flags.load(Relaxed) & flag::TRIAL != 0 {
            // This is the one that tries.
            self.change(flag::TRIAL, flag::UNANSWERING);
        }
        true
    }

    /// A call that ran has ended, as [`Self::count_ended`] was told before.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        if self.limiter.per_endpoint() != u32::MAX {
            self.limiter.free();
        }
    }

    /// Counts how a call ended, also towards the failure rate.
    pub(super) fn count_ended(&self, outcome: Outcome) {
        self.ended[outcome as usize].fetch_add(1, Relaxed);
        match outcome {
            Outcome::Succeeded => self.note(false),
            Outcome::Errored | Outcome::Failed => self.note(true),
            Outcome::Cancelled => {}
        }
    }

    /// The answer to a call that began then has begun to come: that counts towards the latency.
    pub(super) fn record_latency(&self, began: Instant) {
        let now = Instant::now();
        self.latency.record(now - began, now);
    }

    /// Keeps what the instance says of its load, with these metrics of its own by name.
    pub(super) fn keep_report(&self, report: &LoadReport, named: BTreeMap<String, f64>) {
        self.reported.get_or_init(|| Box::new(Reported::new())).keep(report, named);
    }
}

/// For [`unresponsive`](super::unresponsive), which decides who answers no calls.
impl EndpointCell {
    /// After how many unanswered calls in a row it is taken out; 0 for never.
    pub(super) fn most_unanswered(&self) -> u32 {
        self.limiter.unanswered()
    }

    /// Counts a call that began then and was not answered in its time. Answers how many there are
    /// in a row: none if the endpoint has answered another call meanwhile.
    pub(super) fn count_unanswered(&self, began: Instant) -> u32 {
        if self.latency.recorded_since(began) {
            self.unanswered.store(0, Relaxed);
            return 0;
        }
        self.unanswered.fetch_add(1, Relaxed) + 1
    }

    /// Takes it out because it answers no calls. False: it is out already.
    pub(super) fn fall_unanswering(&self) -> bool {
        let out = |flags| (flags & (flag::UNANSWERING | flag::TRIAL) == 0).then_some(flags | flag::UNANSWERING);
        self.flags.fetch_update(Relaxed, Relaxed, out).is_ok()
    }

    /// Lets the next call try whether it answers.
    pub(super) fn put_on_trial(&self) {
        self.change(flag::UNANSWERING, flag::TRIAL);
    }

    /// Whether it answered a call since then; if so, it is used again.
    pub(super) fn is_back_since(&self, then: Instant) -> bool {
        let back = self.latency.recorded_since(then);
        if back {
            self.unanswered.store(0, Relaxed);
            self.change(flag::UNANSWERING | flag::TRIAL, 0);
        }
        back
    }
}

/// Peak-sensitive moving average: jumps up to a slow answer at once, and comes down over the decay
/// time.
///
/// After Finagle's `PeakEwma` load metric (twitter/finagle,
/// `finagle-core/…/loadbalancer/PeakEwma.scala`), whose decay time of 10 s it uses. Average and
/// stamp share one word, so that a reader never sees one without the other; two writers at once may
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

    /// Whether any sample was taken since then. Right for 24 days after the last one.
    fn recorded_since(&self, then: Instant) -> bool {
        let word = self.word.load(Relaxed);
        let then = then.saturating_duration_since(self.origin).as_millis() as u32;
        word != 0 && (word as u32).wrapping_sub(then).cast_signed() >= 0
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
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::FutureExt as _;
    use waymark_core::traffic::{CallLimits, Traffic};

    use super::*;

    fn cell(limits: &CallLimits) -> Arc<EndpointCell> {
        let traffic = Traffic { limits: limits.clone(), ..Traffic::default() };
        Arc::new(EndpointCell::new(Arc::new(CallLimiter::new(&traffic))))
    }

    #[tokio::test(start_paused = true)]
    async fn latency_jumps_up_and_decays() {
        let cell = cell(&CallLimits::default());
        assert_eq!(cell.latency_us(), 0);
        let mut call = cell.begin().unwrap();
        tokio::time::advance(Duration::from_millis(100)).await;
        call.answered();
        drop(call);
        assert_eq!(cell.latency_us(), 100_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut call = cell.begin().unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        call.answered();
        // One decay time later, 1/e of the peak is left.
        assert!((36_000..39_000).contains(&cell.latency_us()), "{}", cell.latency_us());
    }

    #[tokio::test]
    async fn a_dropped_call_ends_and_blames_nobody() {
        let cell = cell(&CallLimits::default());
        let call = cell.begin().unwrap();
        assert_eq!(cell.in_flight(), 1);
        drop(call);
        assert_eq!((cell.in_flight(), cell.calls(), cell.failures()), (0, 1, 0));
        let mut call = cell.begin().unwrap();
        call.set_outcome(Outcome::Failed);
        drop(call);
        assert_eq!((cell.in_flight(), cell.calls(), cell.failures()), (0, 2, 1));
    }

    #[tokio::test]
    async fn an_endpoint_takes_as_many_calls_as_it_may_and_tells_when_one_ends() {
        let limits = CallLimits { max_in_flight_per_endpoint: Some(2), ..CallLimits::default() };
        let cell = cell(&limits);
        let (first, second) = (cell.begin().unwrap(), cell.begin().unwrap());
        assert!(cell.is_full() && cell.begin().is_none());
        // What was not begun is neither in flight nor counted.
        assert_eq!((cell.in_flight(), cell.calls()), (2, 2));
        let limiter = Arc::clone(&cell.limiter);
        assert!(limiter.freed().now_or_never().is_some(), "the attempt above may have misled another one");
        assert!(limiter.freed().now_or_never().is_none());
        drop(first);
        assert!(limiter.freed().now_or_never().is_some() && !cell.is_full());
        drop((second, cell.begin().unwrap()));
        assert_eq!((cell.in_flight(), cell.calls()), (0, 3));
    }

    #[tokio::test]
    async fn a_failure_rate_follows_the_last_calls() {
        let cell = cell(&CallLimits::default());
        let carry = |outcome, calls| (0..calls).for_each(|_| cell.begin().unwrap().set_outcome(outcome));
        carry(Outcome::Succeeded, 10);
        assert_eq!(cell.failure_rate().to_bits(), 0.0f64.to_bits());
        carry(Outcome::Errored, 200);
        assert!(cell.failure_rate() > 0.99, "{}", cell.failure_rate());
        carry(Outcome::Cancelled, 200);
        assert!(cell.failure_rate() > 0.99, "who gave up says nothing");
        carry(Outcome::Succeeded, 22);
        assert!((0.45..0.55).contains(&cell.failure_rate()), "half after 22 of 32: {}", cell.failure_rate());
        carry(Outcome::Succeeded, 2000);
        assert_eq!(cell.failure_rate().to_bits(), 0.0f64.to_bits());
    }

    #[tokio::test]
    async fn who_waits_is_told_what_a_check_says_be_it_good_or_bad() {
        let cell = cell(&CallLimits::default());
        let limiter = Arc::clone(&cell.limiter);
        for word in [Health::Healthy, Health::Unhealthy] {
            cell.set_health(Health::Unknown);
            assert!(cell.is_pending() && !cell.is_usable() && !cell.takes_calls_despite_ejection());
            let told = limiter.readied();
            cell.set_health(word);
            assert!(told.now_or_never().is_some() && cell.health() == word);
            assert_eq!((cell.is_usable(), cell.is_pending()), (word == Health::Healthy, false));
        }
        // What cannot be connected to is not waited for.
        cell.set_health(Health::Unknown);
        let told = limiter.readied();
        cell.set_connectivity(Connectivity::BackingOff);
        assert!(told.now_or_never().is_some() && !cell.is_pending());
    }

    #[tokio::test]
    async fn who_waits_is_told_when_an_endpoint_can_be_used_again() {
        let cell = cell(&CallLimits::default());
        let limiter = Arc::clone(&cell.limiter);
        cell.set_connectivity(Connectivity::BackingOff);
        assert!(!cell.is_usable());
        let mut readied = std::pin::pin!(limiter.readied());
        assert!(readied.as_mut().now_or_never().is_none());
        cell.set_connectivity(Connectivity::Ready);
        assert!(readied.now_or_never().is_some() && cell.is_usable());
        // It was usable before: no news.
        let mut readied = std::pin::pin!(limiter.readied());
        assert!(readied.as_mut().now_or_never().is_none());
        cell.set_connectivity(Connectivity::Ready);
        assert!(readied.now_or_never().is_none());
    }
}
