//! The data plane's figures, a set a service.
//!
//! A request finds its service's set with one hash look-up and then touches atomics only; a scrape
//! reads them. A new service costs the same however many there are.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio::time::Instant;
use waymark_core::{
    exposition::{Families, Histogram, Writer},
    model::ServiceName,
    traffic::Code,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReloadLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabel {
    /// The setting's table.
    which: String,
}

/// The data plane's metrics. Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    requests_refused: Family<ReasonLabel, Counter>,
    failures: Family<ReasonLabel, Counter>,
    connections: Gauge,
    connections_refused: Family<ReasonLabel, Counter>,
    handshakes_failed: Counter,
    tls_reloads: Family<ReloadLabel, Counter>,
    tls_not_after: Family<CertificateLabel, Gauge>,
    access_log_left_out: Counter,
    /// By name; the empty name is for requests that reached no service.
    services: DashMap<Box<str>, Arc<ServiceMetrics>>,
    /// How many of them have a histogram of their own.
    timed: AtomicUsize,
    /// The histogram of the others.
    others: Durations,
}

/// How many services have a histogram of their own, of twenty series: those that had a request
/// first. The others have one together.
const TIMED: usize = 1_000;

/// The label of the others' histogram. No service is called so: names have no spaces.
const OTHERS: &str = "all others";

impl Metrics {
    /// Metrics that are shown under `dataplane_` among these families.
    pub fn register(families: &mut Families) -> Self {
        let metrics = Self::default();
        let inner = &metrics.inner;
        let help = "When each of our own certificates expires, unix time";
        families.top().register_seconds("tls_not_after", help, inner.tls_not_after.clone());
        let mut sub = families.section("dataplane");
        let help = "Requests over HTTP/2 that are no gRPC calls, by what is wrong";
        sub.register("requests_refused", help, inner.requests_refused.clone());
        let help = "Calls that this node answered itself, by why; the reasons are those of the header waymark-error";
        sub.register("failures", help, inner.failures.clone());
        sub.register("client_connections", "Connections from clients", inner.connections.clone());
        let help = "Connections from clients that were not served, by why";
        sub.register("client_connections_refused", help, inner.connections_refused.clone());
        let help = "TLS handshakes with clients that failed";
        sub.register("tls_handshakes_failed", help, inner.handshakes_failed.clone());
        let help = "Changed certificate files, by whether they were taken or refused";
        sub.register("tls_reloads", help, inner.tls_reloads.clone());
        let help = "Calls that the access log has not, because it could not be written, or not fast enough";
        sub.register("access_log_left_out", help, inner.access_log_left_out.clone());
        sub.register_collector(ByService(metrics.clone()));
        metrics
    }

    /// The set of one service.
    pub(crate) fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        match self.inner.services.get(name) {
            Some(set) => Arc::clone(&set),
            None => self.add(name),
        }
    }

    #[cold]
    fn add(&self, name: &str) -> Arc<ServiceMetrics> {
        let inner = &self.inner;
        // Of several at once, one makes it.
        let set = inner.services.entry(name.into()).or_insert_with(|| {
            let is_timed = inner.timed.fetch_update(Relaxed, Relaxed, |n| (n < TIMED).then_some(n + 1)).is_ok();
            Arc::new(ServiceMetrics {
                durations: if is_timed { Durations::default() } else { inner.others.clone() },
                is_timed,
                codes: Default::default(),
                retries: AtomicU64::default(),
                withheld: AtomicU64::default(),
                in_flight: AtomicI64::default(),
                failures: inner.failures.clone(),
                streams: OnceLock::new(),
                name: name.into(),
            })
        });
        Arc::clone(&set)
    }

    /// Forgets a service that is not balanced any more. A call that outlives it brings no series
    /// back.
    pub(crate) fn forget(&self, name: &ServiceName) {
        let removed = self.inner.services.remove(name.as_str());
        if removed.is_some_and(|(_, set)| set.is_timed) {
            self.inner.timed.fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn access_log_left_out(&self) -> Counter {
        self.inner.access_log_left_out.clone()
    }

    /// A request that is no call.
    pub(crate) fn request_refused(&self, reason: &'static str) {
        self.inner.requests_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A client's connection on which no request is taken.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.inner.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.inner.handshakes_failed.inc();
    }

    /// Counts changed certificates: taken, or refused because they cannot be used.
    pub fn certificates_changed(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.inner.tls_reloads.get_or_create(&ReloadLabel { result }).inc();
    }

    /// Our certificate of this setting expires then, in seconds of the unix time.
    pub fn certificate(&self, setting: &str, not_after: i64) {
        self.inner.tls_not_after.get_or_create(&CertificateLabel { which: setting.to_owned() }).set(not_after);
    }

    /// A call of this service waits for a free stream until the guard is dropped.
    pub(crate) fn waits_for_stream(&self, service: &ServiceName) -> StreamWait {
        let metrics = self.service(service.as_str());
        metrics.streams().waiting.fetch_add(1, Relaxed);
        StreamWait { metrics, began: Instant::now() }
    }

    /// A call of this service got none.
    pub(crate) fn stream_refused(&self, service: &ServiceName) {
        self.service(service.as_str()).streams().refused.fetch_add(1, Relaxed);
    }

    /// Counts a client's connection until the guard is dropped.
    pub(crate) fn connection(&self) -> ConnectionRecord {
        self.inner.connections.inc();
        ConnectionRecord(self.inner.connections.clone())
    }
}

/// A call that waits for a free stream.
pub(crate) struct StreamWait {
    metrics: Arc<ServiceMetrics>,
    began: Instant,
}

impl Drop for StreamWait {
    fn drop(&mut self) {
        let streams = self.metrics.streams();
        streams.waiting.fetch_sub(1, Relaxed);
        streams.waited_us.fetch_add(self.began.elapsed().as_micros() as u64, Relaxed);
    }
}

pub(crate) struct ConnectionRecord(Gauge);

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is counted by service, for a scrape. Held nowhere while it is written, so that no request
/// waits for whoever reads it.
struct ByService(Metrics);

impl fmt::Debug for ByService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByService").finish_non_exhaustive()
    }
}

impl Collector for ByService {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let inner = &self.0.inner;
        let sets = inner.services.iter().map(|entry| (entry.key().to_string(), Arc::clone(&entry)));
        let mut services: Vec<(String, Arc<ServiceMetrics>)> = sets.collect();
        services.sort_by(|(one, _), (other, _)| one.cmp(other));
        let label = |name: &str| vec![("service", name.to_owned())];
        let each =
            |value: fn(&ServiceMetrics) -> u64| services.iter().map(move |(name, set)| (label(name), value(set)));
        let mut out = Writer { encoder };
        let codes = services.iter().flat_map(|(name, set)| {
            let by_code = Code::ALL.into_iter().map(|code| (code, set.codes[code as usize].load(Relaxed)));
            by_code.filter(|(_, n)| *n > 0).map(move |(code, n)| {
                let mut labels = label(name);
                labels.push(("code", code.as_str().to_owned()));
                (labels, n)
            })
        });
        out.counters("requests", "Requests that have ended, by gRPC status", codes)?;
        let help =
            "Time from a request's arrival to the end of its answer; services beyond a thousand have one together";
        let of_others = services.iter().any(|(_, set)| !set.is_timed).then(|| (label(OTHERS), inner.others.read()));
        let timed = services.iter().filter(|(_, set)| set.is_timed);
        let timed = timed.map(|(name, set)| (label(name), set.durations.read()));
        out.histograms("request_duration", help, timed.chain(of_others))?;
        out.counters("retries", "Attempts of a request after its first", each(|set| set.retries.load(Relaxed)))?;
        let help = "Retries and hedges that a policy asked for and the budget did not allow";
        out.counters("retries_withheld", help, each(|set| set.withheld.load(Relaxed)))?;
        let in_flight = services.iter().map(|(name, set)| (label(name), set.in_flight.load(Relaxed)));
        out.gauges("requests_in_flight", "Requests that run", in_flight)?;
        let streams = || services.iter().filter_map(|(name, set)| Some((label(name), set.streams.get()?)));
        let help = "Calls that wait because every stream of their endpoint is taken (MAX_CONCURRENT_STREAMS, on all its connections)";
        out.gauges("stream_waiting", help, streams().map(|(labels, of)| (labels, of.waiting.load(Relaxed))))?;
        let help = "Time that calls have waited for a free stream";
        let seconds = |us: &AtomicU64| us.load(Relaxed) as f64 / 1e6;
        out.seconds("stream_waited", help, streams().map(|(labels, of)| (labels, seconds(&of.waited_us))))?;
        let help = "Calls that got no free stream in time";
        out.counters("stream_refused", help, streams().map(|(labels, of)| (labels, of.refused.load(Relaxed))))
    }
}

/// The metrics of one service.
pub(crate) struct ServiceMetrics {
    name: Box<str>,
    codes: [AtomicU64; Code::COUNT],
    /// Its own, or those of all that have none.
    durations: Durations,
    is_timed: bool,
    retries: AtomicU64,
    withheld: AtomicU64,
    in_flight: AtomicI64,
    failures: Family<ReasonLabel, Counter>,
    /// Made when a call waits for the first time: most services never see one.
    streams: OnceLock<Box<StreamWaits>>,
}

/// Calls that wait for a free stream.
#[derive(Default)]
struct StreamWaits {
    waiting: AtomicI64,
    waited_us: AtomicU64,
    refused: AtomicU64,
}

impl ServiceMetrics {
    /// A request has begun.
    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request has ended.
    pub(super) fn ended(&self, code: Code, duration: Duration) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.durations.observe(duration);
        self.codes[code as usize].fetch_add(1, Relaxed);
    }

    /// A request is sent once more.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// A request is not sent once more, for want of a budget.
    pub(super) fn withheld(&self) {
        self.withheld.fetch_add(1, Relaxed);
    }

    /// This node answers a request itself, for this reason.
    pub(super) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The service's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn streams(&self) -> &StreamWaits {
        self.streams.get_or_init(Box::default)
    }
}

/// A histogram of atomics: prometheus-client's own takes a write lock an observation, which all
/// worker threads would share.
#[derive(Clone, Default)]
struct Durations {
    inner: Arc<DurationsInner>,
}

#[derive(Default)]
struct DurationsInner {
    buckets: [AtomicU64; Durations::BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// Upper bounds in microseconds: 0.25 ms to 16 s by powers of two, then a minute.
    const BOUNDS: [u64; 18] = [
        250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_000_000, 2_000_000,
        4_000_000, 8_000_000, 16_000_000, 60_000_000,
    ];

    fn observe(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        let bucket = Self::BOUNDS.iter().position(|bound| us <= *bound).unwrap_or(Self::BOUNDS.len());
        self.inner.buckets[bucket].fetch_add(1, Relaxed);
        self.inner.sum_us.fetch_add(us, Relaxed);
    }

    fn read(&self) -> Histogram {
        let bounds = Self::BOUNDS.iter().map(|us| *us as f64 / 1e6);
        let counts = self.inner.buckets.iter().map(|count| count.load(Relaxed));
        Histogram::new(self.inner.sum_us.load(Relaxed) as f64 / 1e6, bounds, counts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_counted_by_code_when_it_ends() {
        let mut families = Families::default();
        let metrics = Metrics::register(&mut families);
        let mut record = metrics.service("svc").begin(Instant::now(), None);
        let address = "192.0.2.1:80".parse().unwrap();
        record.attempt(0, &address);
        record.attempt(1, &address);
        let show = |families: &Families| families.page().unwrap();
        assert!(show(&families).contains("dataplane_requests_in_flight{service=\"svc\"} 1"));
        record.set_code(Code::Unavailable);
        drop(record);
        drop(metrics.service("svc").begin(Instant::now(), None));
        let text = show(&families);
        for line in [
            "dataplane_requests_total{service=\"svc\",code=\"UNAVAILABLE\"} 1",
            "dataplane_requests_total{service=\"svc\",code=\"CANCELLED\"} 1",
            "dataplane_request_duration_seconds_bucket{le=\"0.00025\",service=\"svc\"} 2",
            "dataplane_request_duration_seconds_bucket{le=\"+Inf\",service=\"svc\"} 2",
            "dataplane_request_duration_seconds_count{service=\"svc\"} 2",
            "dataplane_retries_total{service=\"svc\"} 1",
            "dataplane_requests_in_flight{service=\"svc\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let last = metrics.service("svc").begin(Instant::now(), None);
        metrics.forget(&ServiceName::new("svc").unwrap());
        assert!(!show(&families).contains("svc"));
        drop(last);
        assert!(!show(&families).contains("svc"));
    }

    #[test]
    fn services_past_the_first_thousand_have_a_histogram_together() {
        let mut families = Families::default();
        let metrics = Metrics::register(&mut families);
        let name = |n: usize| format!("svc/{n:05}");
        (0..TIMED + 2).for_each(|n| drop(metrics.service(&name(n)).begin(Instant::now(), None)));
        let counts = |families: &Families| {
            let text = families.page().unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("dataplane_request_duration_seconds_count"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let shown = counts(&families);
        assert_eq!((shown.len(), shown.last().unwrap().as_str()), (TIMED + 1, "{service=\"all others\"} 2"));
        // One that goes leaves its place to one that comes.
        metrics.forget(&ServiceName::new(name(0)).unwrap());
        drop(metrics.service("svc/new").begin(Instant::now(), None));
        let shown = counts(&families);
        assert!(shown.len() == TIMED + 1 && shown.contains(&"{service=\"svc/new\"} 1".to_owned()), "{shown:?}");
    }
}
