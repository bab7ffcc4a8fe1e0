//! All endpoints of one service at one revision: written by the task that follows the registry,
//! read by everybody else.
//!
//! The writer does not clone and lives in the task that feeds it; readers clone freely and always
//! see a whole, immutable [`Snapshot`]. Reading the newest one misses intermediate ones on purpose:
//! a burst of changes costs its readers one look.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::watch, time::Instant};

use crate::model::{Endpoint, InstanceId, Revision, ServiceName, Skips, Update};

/// Since when, and why, the registry cannot be reached.
#[derive(Debug, Clone)]
pub struct Staleness {
    /// Since when it is not known whether the endpoints are right: when the first failure was seen,
    /// and for those kept on disk when they were last known to be.
    pub since: Instant,
    /// The last failure, for people.
    pub reason: Arc<str>,
}

/// All endpoints of a service at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The service.
    pub service: ServiceName,
    /// What it was read at; 0 before the first list.
    pub revision: Revision,
    /// The endpoints, sorted by instance, each instance once.
    pub endpoints: Arc<[Endpoint]>,
    /// Set while the registry cannot be reached: the endpoints are the last known ones.
    pub stale: Option<Staleness>,
    /// Entries under the service's prefixes, and instances of them, that were left out.
    pub skipped: u64,
    /// The same by their reasons.
    pub skips: Skips,
    /// How many of the endpoints the registry has taken away: they are held back, and served until
    /// they have been gone for long.
    pub held: u64,
    /// Whether the registry has answered at least once: only then does "no endpoints" mean that
    /// there are none.
    pub listed: bool,
}

impl Snapshot {
    /// Before the first list: nothing is known of the service.
    pub fn empty(service: ServiceName) -> Self {
        Self {
            service,
            revision: Revision(0),
            endpoints: Arc::default(),
            stale: None,
            skipped: 0,
            skips: Skips::default(),
            held: 0,
            listed: false,
        }
    }
}

/// Makes the two ends of one service's snapshot.
pub fn channel(service: ServiceName) -> (Writer, Reader) {
    let (tx, rx) = watch::channel(Arc::new(Snapshot::empty(service)));
    (Writer { tx }, Reader { rx })
}

/// Turns updates into snapshots. There is one a service.
#[derive(Debug)]
pub struct Writer {
    tx: watch::Sender<Arc<Snapshot>>,
}

impl Writer {
    /// Applies one update and publishes the snapshot that follows. An update that changes nothing
    /// publishes nothing.
    pub fn apply(&mut self, update: Update) {
        self.apply_holding(update, 0);
    }

    /// As [`Self::apply`], for a set of which so many endpoints are held back.
    pub fn apply_holding(&mut self, update: Update, held: u64) {
        let mut next = Snapshot { held, ..Snapshot::clone(&self.tx.borrow()) };
        match update {
            Update::Reset { revision, endpoints, skipped } => {
                next = Snapshot { revision, skipped, stale: None, listed: true, ..next };
                let endpoints: BTreeMap<_, _> = endpoints.into_iter().map(by_id).collect();
                next.endpoints = keep_if_equal(next.endpoints, endpoints.into_values().collect());
            }
            Update::Changed { revision, upserted, removed, skipped } => {
                next = Snapshot { revision, skipped, stale: None, ..next };
                let endpoints = merge(&next.endpoints, upserted, removed);
                next.endpoints = keep_if_equal(next.endpoints, endpoints);
            }
            Update::Stale { reason } => {
                let since = next.stale.as_ref().map_or_else(Instant::now, |stale| stale.since);
                next.stale = Some(Staleness { since, reason: reason.into() });
            }
            Update::Restored { revision, endpoints, age, reason } => {
                let endpoints: BTreeMap<_, _> = endpoints.into_iter().map(by_id).collect();
                next.endpoints = keep_if_equal(next.endpoints, endpoints.into_values().collect());
                next.revision = revision;
                let now = Instant::now();
                // A clock that is younger than that counts from its beginning.
                next.stale = Some(Staleness { since: now.checked_sub(age).unwrap_or(now), reason: reason.into() });
            }
            Update::Skipped(skips) => next.skips = skips,
            Update::Fresh { revision } => {
                if next.stale.is_none() && next.revision == revision {
                    return;
                }
                next.stale = None;
                next.revision = next.revision.max(revision);
            }
        }
        self.tx.send_replace(Arc::new(next));
    }

    /// What readers see.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.tx.borrow())
    }

    /// Whether anybody still reads: a writer without readers may stop.
    pub fn has_readers(&self) -> bool {
        self.tx.receiver_count() > 0
    }

    /// Completes when the last reader is gone.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is lost by dropping the future.
    pub async fn closed(&self) {
        self.tx.closed().await;
    }
}

fn by_id(endpoint: Endpoint) -> (InstanceId, Endpoint) {
    (endpoint.id.clone(), endpoint)
}

/// The former slice where nothing changed, so that readers can compare by pointer.
fn keep_if_equal(former: Arc<[Endpoint]>, endpoints: Vec<Endpoint>) -> Arc<[Endpoint]> {
    if *former == *endpoints { former } else { endpoints.into() }
}

/// The former endpoints with these changes, sorted as they were. The slice itself is all the memory
/// there is: a map beside it would double what an endpoint costs, and publishing a slice takes time
/// in proportion to it anyway.
fn merge(former: &[Endpoint], upserted: Vec<Endpoint>, removed: Vec<InstanceId>) -> Vec<Endpoint> {
    let mut changes: BTreeMap<InstanceId, Option<Endpoint>> = removed.into_iter().map(|id| (id, None)).collect();
    changes.extend(upserted.into_iter().map(by_id).map(|(id, endpoint)| (id, Some(endpoint))));
    let mut changes = changes.into_iter().peekable();
    let mut merged = Vec::with_capacity(former.len() + changes.len());
    for endpoint in former {
        while let Some((_, new)) = changes.next_if(|(id, _)| *id < endpoint.id) {
            merged.extend(new);
        }
        match changes.next_if(|(id, _)| *id == endpoint.id) {
            Some((_, change)) => merged.extend(change),
            None => merged.push(endpoint.clone()),
        }
    }
    merged.extend(changes.filter_map(|(_, new)| new));
    merged
}

/// Reads one service's snapshots. When all readers are dropped, the writer's task ends.
#[derive(Debug, Clone)]
pub struct Reader {
    rx: watch::Receiver<Arc<Snapshot>>,
}

/// The writer is gone: what was last read stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody follows the registry for this service any more")]
pub struct Closed;

impl Reader {
    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.rx.borrow())
    }

    /// Waits for a snapshot newer than the last one this reader waited for, and returns it.
    ///
    /// # Cancel safety
    ///
    /// Safe: an update that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, Closed> {
        self.rx.changed().await.map_err(|_| Closed)?;
        Ok(Arc::clone(&self.rx.borrow_and_update()))
    }

    /// Waits until the registry has answered once, or is known to be unreachable.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn settled(&mut self) -> Result<Arc<Snapshot>, Closed> {
        let settled = self.rx.wait_for(|snapshot| snapshot.listed || snapshot.stale.is_some()).await;
        settled.map(|snapshot| Arc::clone(&snapshot)).map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn endpoint(n: u8, weight: u32) -> Endpoint {
        Endpoint { weight, ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap()) }
    }

    fn pair() -> (Writer, Reader) {
        channel(ServiceName::new("svc").unwrap())
    }

    #[test]
    fn losing_the_registry_keeps_every_endpoint() {
        let (mut writer, reader) = pair();
        writer.apply(Update::Reset { revision: Revision(5), endpoints: vec![endpoint(1, 1)], skipped: 0 });
        writer.apply(Update::Stale { reason: "connection refused".into() });
        let snapshot = reader.current();
        assert_eq!(snapshot.endpoints.len(), 1);
        assert!(snapshot.stale.is_some());
        writer.apply(Update::Fresh { revision: Revision(9) });
        assert!(reader.current().stale.is_none());
        assert_eq!(reader.current().revision, Revision(9));
    }

    #[test]
    fn an_unchanged_set_keeps_its_slice() {
        let (mut writer, reader) = pair();
        writer.apply(Update::Reset { revision: Revision(5), endpoints: vec![endpoint(1, 1)], skipped: 0 });
        let before = reader.current();
        writer.apply(Update::Reset { revision: Revision(8), endpoints: vec![endpoint(1, 1)], skipped: 0 });
        assert!(Arc::ptr_eq(&before.endpoints, &reader.current().endpoints));
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (writer, reader) = pair();
        let other = reader.clone();
        drop(reader);
        assert!(writer.has_readers());
        drop(other);
        assert!(!writer.has_readers());
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_equals_a_fresh_list(
            steps in proptest::collection::vec((any::<bool>(), 1u8..20, 0u32..3), 0..60),
        ) {
            let (mut writer, reader) = pair();
            writer.apply(Update::Reset { revision: Revision(1), endpoints: vec![], skipped: 0 });
            let mut model = BTreeMap::new();
            for (revision, (put, id, weight)) in (2..).zip(steps) {
                let e = endpoint(id, weight);
                let (upserted, removed) = if put {
                    model.insert(e.id.clone(), e.clone());
                    (vec![e], vec![])
                } else {
                    model.remove(&e.id);
                    (vec![], vec![e.id])
                };
                writer.apply(Update::Changed { revision: Revision(revision), upserted, removed, skipped: 0 });
            }
            let (mut fresh, fresh_reader) = pair();
            fresh.apply(Update::Reset { revision: Revision(99), endpoints: model.into_values().collect(), skipped: 0 });
            prop_assert_eq!(&reader.current().endpoints, &fresh_reader.current().endpoints);
        }
    }
}
