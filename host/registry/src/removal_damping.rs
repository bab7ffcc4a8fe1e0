//! Removal damping, against a mass disappearance: what the registry takes away all at once, or
//! nearly so, stays in use for a while.
//!
//! Within any stretch of [`RemovalDamping::time`], at most [`RemovalDamping::share`] of a service's
//! endpoints (and always at least one) may leave. Those beyond that are *held*: they stay in the
//! snapshot until they have been gone for that long, or come back. An instance that is really gone
//! is found out by the first call to it; an instance that is there but was forgotten (a partition
//! between it and etcd, a store that was wiped, a prefix deleted by mistake) goes on being called.
//!
//! ```text
//!             removed, beyond the share             gone for the whole time, registry at hand
//!   served ──────────────────────────────▶ held ────────────────────────────────────────────▶ (left)
//!     ▲  │ removed, within the share        │
//!     │  └──────────────────────▶ (left)    │ written again
//!     └─────────────────────────────────────┘
//! ```
//!
//! The idea is that of Eureka's self-preservation and Envoy's panic threshold, which both distrust
//! a list that shrinks too fast. No clock and no I/O here: times are passed in.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use waymark_core::model::{Endpoint, InstanceId, Update};

/// How much of a service may disappear how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RemovalDamping {
    /// The share of a service's endpoints that may leave within [`Self::time`], over 0 and under 1;
    /// one endpoint may always leave.
    pub share: f64,
    /// How long those beyond the share are held. A service that is scaled down to nothing on
    /// purpose stays known this long too.
    pub time: Duration,
}

/// What is held of one service.
#[derive(Debug, Default)]
pub(super) struct RemovalDamper {
    damping: Option<RemovalDamping>,
    /// When each one was taken away. They are among what is served.
    held: BTreeMap<InstanceId, Instant>,
    /// When those left that were let go within the last [`RemovalDamping::time`]. Held ones whose
    /// time was over do not count: a trickle would extend its own damping.
    left: VecDeque<Instant>,
    /// While the registry is away nobody can come back, so nobody's time ends.
    away: bool,
}

impl RemovalDamper {
    /// Nothing is held yet. Without `damping`, nothing ever is.
    pub(super) fn new(damping: Option<RemovalDamping>) -> Self {
        Self { damping, ..Self::default() }
    }

    /// How many endpoints are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// When the first of them will have been gone for long enough, if the registry stays at hand.
    pub(super) fn due(&self) -> Option<Instant> {
        let damping = self.damping.filter(|_| !self.away)?;
        self.held.values().min().map(|gone| *gone + damping.time)
    }

    /// What becomes of an update: what it takes away is held, in part or whole. `served` is what
    /// readers see before it.
    pub(super) fn filter(&mut self, update: Update, served: &[Endpoint], now: Instant) -> Update {
        let Some(damping) = self.damping else { return update };
        match update {
            Update::Reset { revision, mut endpoints, skipped } => {
                self.away = false;
                let there: HashSet<&InstanceId> = endpoints.iter().map(|endpoint| &endpoint.id).collect();
                self.held.retain(|id, _| !there.contains(id));
                let missing: Vec<Endpoint> =
                    served.iter().filter(|endpoint| !there.contains(&endpoint.id)).cloned().collect();
                let mut n_served = served.len();
                for endpoint in missing {
                    if self.may_leave(damping, &endpoint.id, n_served, now) {
                        n_served -= 1;
                    } else {
                        endpoints.push(endpoint);
                    }
                }
                Update::Reset { revision, endpoints, skipped }
            }
            Update::Changed { revision, upserted, mut removed, skipped } => {
                self.away = false;
                for endpoint in &upserted {
                    self.held.remove(&endpoint.id);
                }
                let mut n_served = served.len();
                removed.retain(|id| {
                    let known = served.binary_search_by(|endpoint| endpoint.id.cmp(id)).is_ok();
                    let leaves = !known || self.may_leave(damping, id, n_served, now);
                    n_served -= usize::from(known && leaves);
                    leaves
                });
                Update::Changed { revision, upserted, removed, skipped }
            }
            Update::Stale { .. } | Update::Restored { .. } => {
                self.away = true;
                update
            }
            Update::Fresh { .. } => {
                self.away = false;
                update
            }
            Update::Skipped(_) => update,
        }
    }

    /// Those that have been gone for long enough; they are held no longer.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<InstanceId> {
        let Some(damping) = self.damping.filter(|_| !self.away) else { return Vec::new() };
        let over: Vec<_> =
            self.held.iter().filter(|(_, gone)| **gone + damping.time <= now).map(|(id, _)| id.clone()).collect();
        for id in &over {
            self.held.remove(id);
        }
        over
    }

    /// Whether one of `n_served` endpoints that the registry takes away leaves; otherwise it is
    /// held.
    fn may_leave(&mut self, damping: RemovalDamping, id: &InstanceId, n_served: usize, now: Instant) -> bool {
        if self.held.contains_key(id) {
            return false;
        }
        while self.left.front().is_some_and(|left| *left + damping.time <= now) {
            self.left.pop_front();
        }
        let allowed = ((n_served + self.left.len()) as f64 * damping.share).floor().max(1.0) as usize;
        let leaves = self.left.len() < allowed;
        if leaves {
            self.left.push_back(now);
        } else {
            self.held.insert(id.clone(), now);
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use waymark_core::{
        model::{Revision, ServiceName},
        snapshot,
    };

    use super::*;

    const DAMPING: RemovalDamping = RemovalDamping { share: 0.5, time: Duration::from_secs(30) };

    fn endpoint(n: u8) -> Endpoint {
        Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())
    }

    /// A service whose updates go through the damper, at times that the test chooses.
    struct Service {
        damper: RemovalDamper,
        writer: snapshot::Writer,
        reader: snapshot::Reader,
        now: Instant,
    }

    impl Service {
        fn new(damping: Option<RemovalDamping>, n: u8) -> Self {
            let (writer, reader) = snapshot::channel(ServiceName::new("svc").unwrap());
            let mut service = Self { damper: RemovalDamper::new(damping), writer, reader, now: Instant::now() };
            service.reset(&(1..=n).collect::<Vec<_>>());
            service
        }

        fn apply(&mut self, update: Update) {
            let update = self.damper.filter(update, &self.reader.current().endpoints, self.now);
            self.writer.apply(update);
        }

        fn reset(&mut self, numbers: &[u8]) {
            let endpoints = numbers.iter().map(|n| endpoint(*n)).collect();
            self.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 0 });
        }

        fn change(&mut self, put: &[u8], gone: &[u8]) {
            let upserted = put.iter().map(|n| endpoint(*n)).collect();
            let removed = gone.iter().map(|n| endpoint(*n).id).collect();
            self.apply(Update::Changed { revision: Revision(1), upserted, removed, skipped: 0 });
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            let removed = self.damper.expired(self.now);
            self.writer.apply(Update::Changed { revision: Revision(1), upserted: vec![], removed, skipped: 0 });
        }

        fn served(&self) -> usize {
            self.reader.current().endpoints.len()
        }
    }

    #[test]
    fn a_list_without_most_of_them_leaves_the_share_and_holds_the_rest() {
        let mut service = Service::new(Some(DAMPING), 10);
        service.reset(&[1]);
        assert_eq!((service.served(), service.damper.len()), (5, 4));
        service.pass(29);
        assert_eq!(service.served(), 5);
        service.pass(1);
        assert_eq!((service.served(), service.damper.len()), (1, 0));
    }

    #[test]
    fn a_trickle_is_held_like_a_flood() {
        let mut service = Service::new(Some(DAMPING), 10);
        for n in 1..=10 {
            service.change(&[], &[n]);
            service.pass(1);
        }
        assert_eq!((service.served(), service.damper.len()), (5, 5));
        service.pass(30);
        assert_eq!(service.served(), 0);
    }

    #[test]
    fn one_that_comes_back_is_held_no_longer() {
        let mut service = Service::new(Some(DAMPING), 4);
        service.reset(&[]);
        assert_eq!((service.served(), service.damper.len()), (2, 2));
        service.change(&[1, 2, 3, 4], &[]);
        assert_eq!((service.served(), service.damper.len()), (4, 0));
        service.pass(60);
        assert_eq!(service.served(), 4);
    }

    #[test]
    fn the_last_one_may_always_leave_and_of_two_one_is_held() {
        let mut service = Service::new(Some(DAMPING), 1);
        service.reset(&[]);
        assert_eq!(service.served(), 0);
        let mut service = Service::new(Some(DAMPING), 2);
        service.reset(&[]);
        assert_eq!((service.served(), service.damper.len()), (1, 1));
        service.pass(30);
        assert_eq!(service.served(), 0);
    }

    #[test]
    fn nobodys_time_ends_while_the_registry_is_away() {
        let mut service = Service::new(Some(DAMPING), 10);
        service.reset(&[1]);
        service.apply(Update::Stale { reason: "away".into() });
        assert_eq!(service.damper.due(), None);
        service.pass(100);
        assert_eq!(service.served(), 5);
        service.apply(Update::Fresh { revision: Revision(2) });
        assert!(service.damper.due().is_some_and(|due| due <= service.now));
        service.pass(0);
        assert_eq!(service.served(), 1);
    }

    proptest! {
        #[test]
        fn no_more_than_the_share_leaves_within_the_time_and_in_the_end_all_is_as_the_registry_says(
            steps in proptest::collection::vec((0u8..4, 0u8..20, 0u64..8), 1..80),
        ) {
            let mut service = Service::new(Some(DAMPING), 20);
            let mut model: std::collections::BTreeSet<u8> = (1..=20).collect();
            for (kind, n, seconds) in steps {
                let n = n + 1;
                let before = service.reader.current();
                let (held_before, left_before) = (service.damper.len(), service.damper.left.len());
                match kind {
                    0 => { model.insert(n); service.change(&[n], &[]); }
                    1 | 2 => { model.remove(&n); service.change(&[], &[n]); }
                    _ => {
                        model.retain(|m| *m < n);
                        service.reset(&model.iter().copied().collect::<Vec<_>>());
                    }
                }
                let lost = before.endpoints.len().saturating_sub(service.served());
                let allowed = ((before.endpoints.len() + left_before) as f64 * DAMPING.share).floor().max(1.0) as usize;
                prop_assert!(lost <= allowed, "{lost} left at once, {allowed} may; {held_before} were held");
                // Everything the registry knows is served, and whatever else is served is held.
                prop_assert_eq!(service.served(), model.len() + service.damper.len());
                service.pass(seconds);
            }
            service.pass(30);
            let served: Vec<_> = service.reader.current().endpoints.iter().map(|e| e.id.clone()).collect();
            let mut wanted: Vec<_> = model.iter().map(|n| endpoint(*n).id).collect();
            wanted.sort();
            prop_assert_eq!(served, wanted);
        }

        #[test]
        fn without_damping_every_update_stays_as_it_is(gone in proptest::collection::vec(1u8..10, 0..10)) {
            let mut service = Service::new(None, 10);
            let update = Update::Changed {
                revision: Revision(3),
                upserted: vec![],
                removed: gone.iter().map(|n| endpoint(*n).id).collect(),
                skipped: 0,
            };
            let judged = service.damper.filter(update.clone(), &service.reader.current().endpoints, service.now);
            prop_assert_eq!(judged, update);
        }
    }
}
