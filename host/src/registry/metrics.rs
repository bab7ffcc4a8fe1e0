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
    registry::{Registry, Unit},
};
use tokio::time::Instant;

/// Why a watch did not simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestartReason {
    /// The stream was lost; it resumes where it was.
    Disconnected,
    /// The history it needs is gone; list again.
    Compacted,
    /// Another cluster answers; list again.
    ClusterChanged,
    /// The store is older than what was read from it, for example restored from a backup; list again.
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
    /// Names the figures in `registry`, all beginning with `registry_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("registry");
        let families = &self.0;
        registry.register("watch_restarts", "Watches that did not simply go on", families.watch_restarts.clone());
        registry.register("watch_connected", "Whether the watch stream is open", families.watch_connected.clone());
        registry.register("watches", "Key ranges being watched", families.watches.clone());
        registry.register("watch_events", "Changes of keys that were seen", families.events.clone());
        registry.register("lists", "Whole services read", families.lists.clone());
        registry.register("entries_skipped", "Entries a key scheme cannot read", families.skipped.clone());
        registry.register("endpoints_held", "Endpoints that disappeared and are held back", families.held.clone());
        registry.register("restores", "Services served from disk because etcd was away", families.restored.clone());
        registry.register("registrations", "Instances to keep registered", families.registrations.clone());
        registry.register("registrations_alive", "Instances registered now", families.registered.clone());
        registry.register("registration_losses", "Times a registration was lost", families.losses.clone());
        registry.register("registration_put_backs", "Times own keys were written again", families.put_backs.clone());
        registry.register_collector(Box::new(KeepAliveAge(self.clone())));
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

    /// Only services that have any are shown: one line for each of thousands, all of them 0, would hide the one that counts.
    pub(super) fn skipped(&self, service: &str, n_skipped: u64) {
        if n_skipped == 0 {
            return self.unfollowed(service);
        }
        let labels = ServiceLabels { service: service.to_owned() };
        self.0.skipped.get_or_create(&labels).set(i64::try_from(n_skipped).unwrap_or(i64::MAX));
    }

    /// Only services that have any are shown, as above.
    pub(super) fn held(&self, service: &str, n_held: u64) {
        let labels = ServiceLabels { service: service.to_owned() };
        if n_held == 0 {
            self.0.held.remove(&labels);
        } else {
            self.0.held.get_or_create(&labels).set(i64::try_from(n_held).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn restored(&self) {
        self.0.restored.inc();
    }

    /// Forgets a service nobody follows any more.
    pub(super) fn unfollowed(&self, service: &str) {
        self.0.skipped.remove(&ServiceLabels { service: service.to_owned() });
    }

    /// Figures of one more registration, until they are dropped.
    pub(super) fn session(&self) -> SessionMetrics {
        self.0.registrations.inc();
        let id = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        SessionMetrics { families: Arc::clone(&self.0), id, registered: false }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all");
        text
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
    fn restarts_are_told_apart_by_their_reason() {
        let metrics = Metrics::default();
        metrics.restarted(RestartReason::Compacted);
        assert!(metrics.text().contains("registry_watch_restarts_total{reason=\"compacted\"} 1"), "{}", metrics.text());
    }
}
