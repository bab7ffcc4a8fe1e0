//! Figures of this module, for a scrape.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Unit,
};
use tokio::time::Instant;
use waymark_core::{exposition, model::Skipped};

/// Why a watch did not simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestartReason {
    /// The stream was lost; it resumes where it was.
    Disconnected,
    /// The history it needs is gone; list again.
    Compacted,
    /// Another cluster answers; list again.
    ClusterChanged,
    /// The store is older than what was read from it, for example restored from a backup; list
    /// again.
    RevisionWentBack,
    /// etcd refused the watch; list again.
    Refused,
    /// The follower did not keep up and its queue was full; list again.
    Lagged,
}

/// Why a registration lost its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LossReason {
    /// etcd says that it is gone.
    LeaseGone,
    /// No refresh got through for as long as it lives.
    LeaseExpired,
    /// etcd refused to grant or to write, or the key scheme failed.
    Refused,
    /// etcd could not be reached.
    Unreachable,
}

/// Why a key was written again under the same lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutBackReason {
    /// Somebody deleted it.
    Deleted,
    /// Somebody wrote something else.
    Changed,
    /// The watch on it had a gap.
    Unsure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListResult {
    Ok,
    Failed,
}

impl RestartReason {
    fn label(self) -> Reason {
        Reason {
            reason: match self {
                Self::Disconnected => "disconnected",
                Self::Compacted => "compacted",
                Self::ClusterChanged => "cluster_changed",
                Self::RevisionWentBack => "revision_went_back",
                Self::Refused => "refused",
                Self::Lagged => "lagged",
            },
        }
    }
}

impl LossReason {
    fn label(self) -> Reason {
        Reason {
            reason: match self {
                Self::LeaseGone => "lease_gone",
                Self::LeaseExpired => "lease_expired",
                Self::Refused => "refused",
                Self::Unreachable => "unreachable",
            },
        }
    }
}

impl PutBackReason {
    fn label(self) -> Reason {
        Reason {
            reason: match self {
                Self::Deleted => "deleted",
                Self::Changed => "changed",
                Self::Unsure => "unsure",
            },
        }
    }
}

impl ListResult {
    fn label(self) -> ListLabels {
        ListLabels {
            result: match self {
                Self::Ok => "ok",
                Self::Failed => "failed",
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

/// What a registry handle counts. Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Families>);

#[derive(Default)]
struct Families {
    watch_restarts: Family<Reason, Counter>,
    watch_connected: Gauge,
    watches: Gauge,
    events: Counter,
    lists: Family<ListLabels, Counter>,
    skipped: Family<ServiceLabels, Gauge>,
    warned: Family<ServiceLabels, Gauge>,
    waiting: Family<ServiceLabels, Gauge>,
    paused: Family<ServiceLabels, Gauge>,
    scheme_failures: Family<Reason, Counter>,
    held: Family<ServiceLabels, Gauge>,
    restored: Counter,
    registrations: Gauge,
    registered: Gauge,
    losses: Family<Reason, Counter>,
    put_backs: Family<Reason, Counter>,
    refreshes: Mutex<HashMap<u64, Instant>>,
    next_session: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the figures, all beginning with `registry_`.
    pub fn register(&self, families: &mut exposition::Families) {
        let mut registry = families.section("registry");
        let families = &self.0;
        registry.register("watch_restarts", "Watches that did not simply go on", families.watch_restarts.clone());
        registry.register("watch_connected", "Whether the watch stream is open", families.watch_connected.clone());
        registry.register("watches", "Key ranges being watched", families.watches.clone());
        registry.register("watch_events", "Changes of keys that were seen", families.events.clone());
        registry.register("lists", "Whole services read", families.lists.clone());
        registry.register("entries_skipped", "Entries and instances that were left out", families.skipped.clone());
        registry.register(
            "entries_warned",
            "Entries that are served, and of which the key scheme warns: they may not mean what they say",
            families.warned.clone(),
        );
        registry.register("entries_put_off", "Entries that are to be read later", families.waiting.clone());
        registry.register(
            "key_scheme_paused",
            "1 while the key scheme is asked about a service's entries only now and then, because it keeps failing",
            families.paused.clone(),
        );
        registry.register(
            "key_scheme_failures",
            "Times a key scheme failed on an entry",
            families.scheme_failures.clone(),
        );
        registry.register("endpoints_held", "Endpoints that disappeared and are held back", families.held.clone());
        registry.register("restores", "Services served from disk because etcd was away", families.restored.clone());
        registry.register("registrations", "Instances to keep registered", families.registrations.clone());
        registry.register("registrations_alive", "Instances registered now", families.registered.clone());
        registry.register("registration_losses", "Times a registration was lost", families.losses.clone());
        registry.register("registration_put_backs", "Times own keys were written again", families.put_backs.clone());
        registry.register_collector(KeepAliveAge(self.clone()));
    }

    pub(super) fn restarted(&self, reason: RestartReason) {
        self.0.watch_restarts.get_or_create(&reason.label()).inc();
    }

    pub(super) fn connected(&self, connected: bool) {
        self.0.watch_connected.set(i64::from(connected));
    }

    pub(super) fn watches(&self, n_watches: usize) {
        self.0.watches.set(i64::try_from(n_watches).unwrap_or(i64::MAX));
    }

    pub(super) fn events(&self, n_events: usize) {
        self.0.events.inc_by(n_events as u64);
    }

    pub(super) fn listed(&self, result: ListResult) {
        self.0.lists.get_or_create(&result.label()).inc();
    }

    /// Only services that have any are shown: one line for each of thousands, all of them 0, would
    /// hide the one that counts.
    pub(super) fn skipped(&self, service: &str, skipped: Skipped) {
        show(&self.0.skipped, service, skipped.total());
        show(&self.0.warned, service, skipped.warned);
    }

    /// Only services that have any are shown, as above.
    pub(super) fn held(&self, service: &str, n_held: u64) {
        show(&self.0.held, service, n_held);
    }

    /// Entries that are to be read later. Only services that have any are shown, as above.
    pub(super) fn waiting(&self, service: &str, n_waiting: u64) {
        show(&self.0.waiting, service, n_waiting);
    }

    /// Whether the key scheme is asked only now and then. Only services where it is are shown, as
    /// above.
    pub(super) fn paused(&self, service: &str, paused: bool) {
        show(&self.0.paused, service, u64::from(paused));
    }

    pub(super) fn key_scheme_failed(&self, overran: bool) {
        let reason = if overran { "deadline" } else { "trap" };
        self.0.scheme_failures.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn restored(&self) {
        self.0.restored.inc();
    }

    /// Forgets a service nobody follows any more.
    pub(super) fn service_removed(&self, service: &str) {
        self.skipped(service, Skipped::default());
        self.held(service, 0);
        self.waiting(service, 0);
        self.paused(service, false);
    }

    /// Figures of one more registration, until they are dropped.
    pub(super) fn session(&self) -> SessionMetrics {
        self.0.registrations.inc();
        let id = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        SessionMetrics { families: Arc::clone(&self.0), id, registered: false }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let mut families = exposition::Families::default();
        self.register(&mut families);
        families.page().expect("a String takes all")
    }
}

fn show(family: &Family<ServiceLabels, Gauge>, service: &str, n: u64) {
    let labels = ServiceLabels { service: service.to_owned() };
    if n == 0 {
        family.remove(&labels);
    } else {
        family.get_or_create(&labels).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
}

/// Figures of one registration. Its gauges go back when it is dropped.
pub(super) struct SessionMetrics {
    families: Arc<Families>,
    id: u64,
    registered: bool,
}

impl SessionMetrics {
    /// Its lease has just been refreshed.
    pub(super) fn refreshed(&self) {
        self.refreshes().insert(self.id, Instant::now());
    }

    pub(super) fn registered(&mut self, registered: bool) {
        if self.registered != registered {
            self.families.registered.inc_by(if registered { 1 } else { -1 });
            self.registered = registered;
        }
        if !registered {
            self.refreshes().remove(&self.id);
        }
    }

    pub(super) fn lost(&self, reason: LossReason) {
        self.families.losses.get_or_create(&reason.label()).inc();
    }

    pub(super) fn put_back(&self, reason: PutBackReason) {
        self.families.put_backs.get_or_create(&reason.label()).inc();
    }

    fn refreshes(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Instant>> {
        self.families.refreshes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionMetrics {
    fn drop(&mut self) {
        self.registered(false);
        self.families.registrations.dec();
    }
}

/// The age is known only when it is asked for, so it is no gauge that somebody sets.
#[derive(Debug)]
struct KeepAliveAge(Metrics);

impl Collector for KeepAliveAge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let oldest = {
            let refreshes = self.0.0.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
            refreshes.values().min().copied()
        };
        let age = ConstGauge::new(oldest.map_or(0.0, |at| at.elapsed().as_secs_f64()));
        let help = "Time since the lease that waits longest was refreshed";
        let metric = encoder.encode_descriptor(
            "keepalive_age",
            help,
            Some(&Unit::Seconds),
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        age.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gauges_follow_a_session_and_go_back_when_it_ends() {
        let metrics = Metrics::default();
        let mut session = metrics.session();
        session.registered(true);
        session.refreshed();
        tokio::time::advance(Duration::from_secs(3)).await;
        let text = metrics.text();
        assert!(text.contains("registry_registrations_alive 1"), "{text}");
        assert!(text.contains("registry_keepalive_age_seconds 3.0"), "{text}");
        drop(session);
        let text = metrics.text();
        assert!(text.contains("registry_registrations 0"), "{text}");
        assert!(text.contains("registry_registrations_alive 0"), "{text}");
        assert!(text.contains("registry_keepalive_age_seconds 0.0"), "{text}");
    }

    #[test]
    fn a_service_that_nobody_follows_any_more_leaves_no_series() {
        let metrics = Metrics::default();
        metrics.held("svc", 2);
        metrics.waiting("svc", 1);
        assert!(metrics.text().contains("registry_endpoints_held{service=\"svc\"} 2"), "{}", metrics.text());
        metrics.service_removed("svc");
        assert!(!metrics.text().contains("svc"), "{}", metrics.text());
    }

    #[test]
    fn restarts_are_told_apart_by_their_reason() {
        let metrics = Metrics::default();
        metrics.restarted(RestartReason::Compacted);
        assert!(metrics.text().contains("registry_watch_restarts_total{reason=\"compacted\"} 1"), "{}", metrics.text());
    }
}
