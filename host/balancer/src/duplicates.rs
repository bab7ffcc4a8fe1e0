//! Instances that are registered at one address: one endpoint.
//!
//! A process that crashed and came back under another id stands beside its old entry until the
//! lease of that ends; one that is registered in two layouts has two ids for good. Told apart, the
//! process would get two shares, a retry or a hedge would go where the call has just been, and a
//! check, an ejection or a limit would count each half of what it does.
//!
//! The instance with the smallest id stands for all of them: every node chooses the same, and a
//! value that is written again and again changes nothing. What is kept for the endpoint is theirs
//! together, so that its connection and figures stay when the one that stood for them goes.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use tracing::warn;
use waymark_core::{
    model::{Address, Endpoint, InstanceId},
    snapshot::Snapshot,
};

/// What an endpoint's cell is kept by.
pub(super) type Key = (InstanceId, Address);

pub(super) fn key(endpoint: &Endpoint) -> Key {
    (endpoint.id.clone(), endpoint.address.clone())
}

/// The instances of one service that share an address with another.
#[derive(Default)]
pub(super) struct Duplicates {
    /// What the registry had when this was last looked at.
    registered: Arc<[Endpoint]>,
    /// The same with each address once.
    endpoints: Arc<[Endpoint]>,
    /// Those that were left out, by the one that stands for them.
    others: HashMap<Key, Vec<Key>>,
    /// Whether it was logged that there are any.
    told: bool,
}

impl Duplicates {
    /// The snapshot with each address once, and those that were left out counted. Endpoints that
    /// have not changed stay the same list.
    pub(super) fn take_out(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        if !Arc::ptr_eq(&snapshot.endpoints, &self.registered) {
            self.look(&snapshot.endpoints);
        }
        let left_out = (self.registered.len() - self.endpoints.len()) as u64;
        if left_out == 0 {
            return snapshot;
        }
        let mut snapshot = Snapshot { endpoints: Arc::clone(&self.endpoints), ..Snapshot::clone(&snapshot) };
        snapshot.skipped += left_out;
        snapshot.skips.counts.duplicate += left_out;
        Arc::new(snapshot)
    }

    /// Those that this endpoint stands for beside itself.
    pub(super) fn others(&self, key: &Key) -> &[Key] {
        self.others.get(key).map_or(&[], Vec::as_slice)
    }

    fn look(&mut self, registered: &Arc<[Endpoint]>) {
        self.registered = Arc::clone(registered);
        self.others.clear();
        let mut first: HashMap<Cow<'_, str>, &Endpoint> = HashMap::with_capacity(registered.len());
        let mut left_out = Vec::new();
        // They are sorted by their ids.
        for (index, endpoint) in registered.iter().enumerate() {
            let stands = *first.entry(endpoint.address.canonical()).or_insert(endpoint);
            if !std::ptr::eq(stands, endpoint) {
                self.others.entry(key(stands)).or_default().push(key(endpoint));
                left_out.push((index, stands));
            }
        }
        let Some((index, stands)) = left_out.first() else {
            self.endpoints = Arc::clone(registered);
            return;
        };
        if !std::mem::replace(&mut self.told, true) {
            let (id, address) = (&registered[*index].id, &stands.address);
            warn!(%address, stands = %stands.id, %id, all = left_out.len(), "instances are registered at the address of another: they are one endpoint");
        }
        let mut left_out = left_out.iter().map(|(index, _)| *index).peekable();
        let each_once = registered.iter().enumerate().filter(|(index, _)| left_out.next_if_eq(index).is_none());
        self.endpoints = each_once.map(|(_, endpoint)| endpoint.clone()).collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_core::{
        model::{Revision, ServiceName, Skipped, Update},
        snapshot::{self, Writer},
    };

    use super::*;

    fn endpoint(id: &str, address: &str, weight: u32) -> Endpoint {
        Endpoint { id: InstanceId::new(id), weight, ..Endpoint::at(address.parse().unwrap()) }
    }

    fn listed(writer: &mut Writer, endpoints: Vec<Endpoint>) -> Arc<Snapshot> {
        writer.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 1 });
        writer.current()
    }

    fn ids(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.endpoints.iter().map(|endpoint| endpoint.id.as_str()).collect()
    }

    #[test]
    fn each_address_is_there_once_however_it_is_written_with_the_smallest_id() {
        let (mut writer, _reader) = snapshot::channel(ServiceName::new("svc").unwrap());
        let mut duplicates = Duplicates::default();
        let snapshot = listed(
            &mut writer,
            vec![
                endpoint("d", "192.0.2.1:80", 5),
                endpoint("a", "192.0.2.1:80", 1),
                endpoint("b", "192.0.2.1:81", 1),
                endpoint("c", "Host.Test.:80", 1),
                endpoint("e", "host.test:80", 1),
                endpoint("f", "[::ffff:192.0.2.1]:81", 1),
                endpoint("g", "unix:///run/a.sock", 1),
                endpoint("h", "unix:/run/a.sock", 1),
            ],
        );
        let taken = duplicates.take_out(Arc::clone(&snapshot));
        assert_eq!(ids(&taken), ["a", "b", "c", "g"]);
        assert_eq!((taken.skipped, taken.skips.counts), (5, Skipped { duplicate: 4, ..Skipped::default() }));
        assert_eq!(duplicates.others(&key(&taken.endpoints[0])), [key(&endpoint("d", "192.0.2.1:80", 5))]);
        // A sign of life from the registry is no change.
        writer.apply(Update::Fresh { revision: Revision(9) });
        let again = duplicates.take_out(writer.current());
        assert!(Arc::ptr_eq(&again.endpoints, &taken.endpoints) && again.revision == Revision(9));
        // Without them everything is as it came.
        let alone = listed(&mut writer, vec![endpoint("d", "192.0.2.1:80", 5)]);
        let taken = duplicates.take_out(Arc::clone(&alone));
        assert!(Arc::ptr_eq(&taken, &alone) && duplicates.others(&key(&alone.endpoints[0])).is_empty());
    }
}
