//! The data plane's figures, a set a service.
//!
//! A request finds its service's set with one hash look-up and then touches atomics only: the families of prometheus-client, with
//! their locks, are asked once a service and code.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::time::Instant;

use super::{access::Entry, errors::Failure};
use crate::{
    model::{Address, ServiceName},
    traffic::Code,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    /// Empty for requests that reached no service.
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    service: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReloadLabel {
    result: &'static str,
}

/// The data plane's metrics. Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    requests: Family<CodeLabels, Counter>,
    durations: Family<ServiceLabel, Durations>,
    retries: Family<ServiceLabel, Counter>,
    withheld: Family<ServiceLabel, Counter>,
    in_flight: Family<ServiceLabel, Gauge>,
    requests_refused: Family<ReasonLabel, Counter>,
    connections: Gauge,
    connections_refused: Family<ReasonLabel, Counter>,
    handshakes_failed: Counter,
    tls_reloads: Family<ReloadLabel, Counter>,
    access_log_left_out: Counter,
    /// Read for every request; replaced when a service is seen for the first time.
    services: ArcSwap<HashMap<Box<str>, Arc<ServiceMetrics>>>,
    /// Held while `services` is replaced, so that no service gets two sets.
    adding: Mutex<()>,
}

impl Metrics {
    /// Metrics that are shown under `dataplane_` in this registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.inner;
        let sub = registry.sub_registry_with_prefix("dataplane");
        sub.register("requests", "Requests that have ended, by gRPC status", inner.requests.clone());
        let help = "Time from a request's arrival to the end of its answer";
        sub.register_with_unit("request_duration", help, Unit::Seconds, inner.durations.clone());
        sub.register("retries", "Attempts of a request after its first", inner.retries.clone());
        let help = "Retries and hedges that a policy asked for and the budget did not allow";
        sub.register("retries_withheld", help, inner.withheld.clone());
        sub.register("requests_in_flight", "Requests that run", inner.in_flight.clone());
        let help = "Requests over HTTP/2 that are no gRPC calls, by what is wrong";
        sub.register("requests_refused", help, inner.requests_refused.clone());
        sub.register("client_connections", "Connections from clients", inner.connections.clone());
        let help = "Connections from clients that were not served, by why";
        sub.register("client_connections_refused", help, inner.connections_refused.clone());
        let help = "TLS handshakes with clients that failed";
        sub.register("tls_handshakes_failed", help, inner.handshakes_failed.clone());
        let help = "Changed certificate files, by whether they were taken or refused";
        sub.register("tls_reloads", help, inner.tls_reloads.clone());
        let help = "Calls that the access log has not, because it could not be written, or not fast enough";
        sub.register("access_log_left_out", help, inner.access_log_left_out.clone());
        metrics
    }

    /// The set of one service.
    pub(super) fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        match self.inner.services.load().get(name) {
            Some(set) => Arc::clone(set),
            None => self.add(name),
        }
    }

    #[cold]
    fn add(&self, name: &str) -> Arc<ServiceMetrics> {
        let inner = &self.inner;
        // A panic while it is held leaves the map as it was.
        let _adding = inner.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.services.load();
        if let Some(set) = known.get(name) {
            return Arc::clone(set);
        }
        let label = ServiceLabel { service: name.to_owned() };
        let set = Arc::new(ServiceMetrics {
            service: name.to_owned(),
            requests: inner.requests.clone(),
            codes: Default::default(),
            durations: inner.durations.get_or_create_owned(&label),
            retries: inner.retries.get_or_create_owned(&label),
            withheld: inner.withheld.get_or_create_owned(&label),
            in_flight: inner.in_flight.get_or_create_owned(&label),
            forgotten: AtomicBool::new(false),
        });
        let mut next = HashMap::clone(&known);
        next.insert(name.into(), Arc::clone(&set));
        inner.services.store(Arc::new(next));
        set
    }

    /// Forgets a service that is not balanced any more.
    pub(super) fn forget(&self, name: &ServiceName) {
        let inner = &self.inner;
        // As in `add`.
        let _adding = inner.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::clone(&inner.services.load());
        if let Some(set) = next.remove(name.as_str()) {
            set.forgotten.store(true, Relaxed);
        }
        inner.services.store(Arc::new(next));
        let service = name.as_str().to_owned();
        for code in Code::ALL {
            inner.requests.remove(&CodeLabels { service: service.clone(), code: code.as_str() });
        }
        let label = ServiceLabel { service };
        inner.durations.remove(&label);
        inner.retries.remove(&label);
        inner.withheld.remove(&label);
        inner.in_flight.remove(&label);
    }

    pub(super) fn access_log_left_out(&self) -> Counter {
        self.inner.access_log_left_out.clone()
    }

    /// A request that is no call.
    pub(super) fn request_refused(&self, reason: &'static str) {
        self.inner.requests_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A client's connection on which no request is taken.
    pub(super) fn connection_refused(&self, reason: &'static str) {
        self.inner.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn handshake_failed(&self) {
        self.inner.handshakes_failed.inc();
    }

    /// Counts changed certificates: taken, or refused because they cannot be used.
    pub fn certificates_changed(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.inner.tls_reloads.get_or_create(&ReloadLabel { result }).inc();
    }

    /// Counts a client's connection until the guard is dropped.
    pub(super) fn connection(&self) -> ConnectionRecord {
        self.inner.connections.inc();
        ConnectionRecord(self.inner.connections.clone())
    }
}

pub(super) struct ConnectionRecord(Gauge);

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of one service.
pub(super) struct ServiceMetrics {
    service: String,
    requests: Family<CodeLabels, Counter>,
    /// Made when first needed: most services never see most codes.
    codes: [OnceLock<Counter>; Code::COUNT],
    durations: Durations,
    retries: Counter,
    withheld: Counter,
    in_flight: Gauge,
    /// A call that outlives its service brings no series back.
    forgotten: AtomicBool,
}

impl ServiceMetrics {
    /// Begins to count a request that arrived at `began`, and to log it if there is an access log.
    pub(super) fn begin(self: Arc<Self>, began: Instant, entry: Option<Box<Entry>>) -> RequestRecord {
        self.in_flight.inc();
        RequestRecord { metrics: self, began, code: Code::Cancelled, entry }
    }

    fn count(&self, code: Code) {
        if self.forgotten.load(Relaxed) {
            return;
        }
        let make = || {
            let labels = CodeLabels { service: self.service.clone(), code: code.as_str() };
            self.requests.get_or_create_owned(&labels)
        };
        self.codes[code as usize].get_or_init(make).inc();
    }
}

/// A request that runs. Dropping it counts and logs the request, as cancelled if no code was set.
pub(super) struct RequestRecord {
    metrics: Arc<ServiceMetrics>,
    began: Instant,
    code: Code,
    /// None where calls are not logged.
    entry: Option<Box<Entry>>,
}

impl RequestRecord {
    /// Another endpoint is asked, after so many.
    pub(super) fn attempt(&mut self, before: usize, endpoint: &Address) {
        if before > 0 {
            self.metrics.retries.inc();
        }
        if let Some(entry) = &mut self.entry {
            entry.attempt(endpoint);
        }
    }

    /// Of several endpoints that were asked at once, this one's answer is the call's.
    pub(super) fn answered_by(&mut self, endpoint: &Address) {
        if let Some(entry) = &mut self.entry {
            entry.answered_by(endpoint);
        }
    }

    /// Where bytes of its body are counted, if they are.
    pub(super) fn received(&self) -> Option<Arc<AtomicU64>> {
        self.entry.as_ref().map(|entry| entry.received())
    }

    /// Bytes of the answer's body went to the caller.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.entry {
            entry.sent(bytes);
        }
    }

    pub(super) fn withheld(&self) {
        self.metrics.withheld.inc();
    }

    pub(super) fn set_code(&mut self, code: Code) {
        self.code = code;
    }

    /// No instance answered it, or not to its end.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.code = failure.code();
        if let Some(entry) = &mut self.entry {
            entry.reason(failure.kind());
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let duration = self.began.elapsed();
        self.metrics.durations.observe(duration);
        self.metrics.count(self.code);
        if let Some(entry) = self.entry.take() {
            entry.ended(self.code, duration);
        }
    }
}

/// A histogram of atomics: prometheus-client's own takes a write lock an observation, which all worker threads would share.
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
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts = self.inner.buckets.iter().map(|count| count.load(Relaxed));
        let bounds = Self::BOUNDS.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.inner.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<[(String, String); 0]>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_counted_by_code_when_it_ends() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let mut record = metrics.service("svc").begin(Instant::now(), None);
        let address = "192.0.2.1:80".parse().unwrap();
        record.attempt(0, &address);
        record.attempt(1, &address);
        let show = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        assert!(show(&registry).contains("dataplane_requests_in_flight{service=\"svc\"} 1"));
        record.set_code(Code::Unavailable);
        drop(record);
        drop(metrics.service("svc").begin(Instant::now(), None));
        let text = show(&registry);
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
        assert!(!show(&registry).contains("svc"));
        drop(last);
        assert!(!show(&registry).contains("svc"));
    }
}
