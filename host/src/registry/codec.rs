//! From keys and values to instances, with the memory that this takes.
//!
//! A deletion names the key alone, one key may register several instances, and one instance may be registered by several
//! keys (an old entry that has yet to expire beside a new one). So every key's instances are remembered, and every
//! instance's keys: the entry written last says what an instance is, and an instance is gone when its last entry is.
//! An entry that the key scheme cannot read is skipped, counted, and logged once.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::{
    error::chain,
    etcd::{Event, Kv},
    lane::Lane,
};
use crate::{
    model::{Endpoint, InstanceId, Revision, ServiceName, Update},
    naming::{Decoded, Entry, KeyScheme, NamingError},
};

/// How many unreadable entries are remembered as logged. Past it, all are forgotten: some are then logged twice.
const LOGGED_LIMIT: usize = 4096;

/// What the key scheme made of one entry.
#[derive(Debug)]
pub(super) enum Reading {
    /// These instances; none for a marker.
    Endpoints(Vec<Endpoint>),
    /// It is not the scheme's. Whatever the key said before no longer holds.
    Unreadable(String),
    /// The scheme failed, which says nothing about the entry: what the key said before is the best we know.
    Failed(String),
}

/// Reads entries, in their order. The key scheme may block, so this runs on a thread where that harms nobody.
pub(super) async fn read(lane: &Lane, scheme: &Arc<dyn KeyScheme>, service: &ServiceName, kvs: &[Kv]) -> Vec<Reading> {
    if kvs.is_empty() {
        return Vec::new();
    }
    let (scheme, service) = (Arc::clone(scheme), service.clone());
    let n_kvs = kvs.len();
    let mut readings = Vec::with_capacity(n_kvs);
    let mut entries = Vec::with_capacity(n_kvs);
    // Keys are bytes to etcd and text to key schemes.
    for kv in kvs {
        match std::str::from_utf8(&kv.key) {
            Ok(key) => {
                entries.push(Entry { key: key.to_owned(), value: kv.value.clone() });
                readings.push(None);
            }
            Err(_) => readings.push(Some(Reading::Unreadable("its key is not UTF-8".to_owned()))),
        }
    }
    let decoded = lane.run(move || decode(&*scheme, &service, &entries)).await;
    // A key scheme that panics is a plugin host's bug; it must not take the service's endpoints with it.
    let mut decoded = decoded.unwrap_or_default().into_iter();
    readings
        .into_iter()
        .map(|reading| {
            let or_next = || decoded.next().unwrap_or_else(|| Reading::Failed("it gave no answer".to_owned()));
            reading.unwrap_or_else(or_next)
        })
        .collect()
}

fn decode(scheme: &dyn KeyScheme, service: &ServiceName, entries: &[Entry]) -> Vec<Reading> {
    let results = scheme.decode_all(service, entries);
    let results = results.into_iter().zip(entries).map(|(result, entry)| match result {
        // Once more: a failed plugin gets a fresh instance for its next call.
        Err(NamingError::Failed { .. }) => scheme.decode(service, entry),
        result => result,
    });
    let readings = results.map(|result| match result {
        Ok(Decoded { endpoints }) => Reading::Endpoints(endpoints),
        Err(error @ NamingError::Failed { .. }) => Reading::Failed(chain(&error)),
        Err(error) => Reading::Unreadable(chain(&error)),
    });
    readings.collect()
}

/// What one key registers.
#[derive(Debug)]
struct Record {
    instances: Box<[InstanceId]>,
    skipped: bool,
}

/// One key's word on one instance.
#[derive(Debug)]
struct Claim {
    key: Arc<[u8]>,
    mod_revision: Revision,
    endpoint: Endpoint,
}

/// The memory of one service.
#[derive(Debug)]
pub(super) struct Codec {
    service: ServiceName,
    keys: HashMap<Arc<[u8]>, Record>,
    claims: HashMap<InstanceId, Vec<Claim>>,
    n_skipped: u64,
    logged: HashSet<u64>,
}

impl Codec {
    pub(super) fn new(service: ServiceName) -> Self {
        Self { service, keys: HashMap::new(), claims: HashMap::new(), n_skipped: 0, logged: HashSet::new() }
    }

    /// Entries that the key scheme could not read, by now.
    pub(super) fn skipped(&self) -> u64 {
        self.n_skipped
    }

    /// Takes what a list found, with what the scheme made of it, for everything there is.
    pub(super) fn reset(&mut self, revision: Revision, kvs: Vec<Kv>, readings: Vec<Reading>) -> Update {
        let mut former = Self::new(self.service.clone());
        std::mem::swap(&mut former.keys, &mut self.keys);
        std::mem::swap(&mut former.claims, &mut self.claims);
        self.n_skipped = 0;
        for (kv, reading) in kvs.into_iter().zip(readings) {
            let before = || former.endpoints_of(&kv.key);
            let (endpoints, skipped) = self.judge(&kv, reading, before);
            self.insert(kv.key.into(), kv.mod_revision, endpoints, skipped);
        }
        let endpoints = self.claims.values().filter_map(|claims| winner(claims)).cloned().collect();
        Update::Reset { revision, endpoints, skipped: self.n_skipped }
    }

    /// The changes that count among `events`, in order: the last one of each key.
    pub(super) fn latest(events: Vec<Event>) -> (Revision, Vec<Vec<u8>>, Vec<Kv>) {
        let revision = events.iter().map(Event::mod_revision).max().unwrap_or_default();
        let mut last = HashMap::new();
        for (n, event) in events.iter().enumerate() {
            let key = match event {
                Event::Put(kv) => &kv.key,
                Event::Delete { key, .. } => key,
            };
            last.insert(key.clone(), n);
        }
        let (mut deleted, mut put) = (Vec::new(), Vec::new());
        for (n, event) in events.into_iter().enumerate() {
            match event {
                Event::Put(kv) if last.get(&kv.key) == Some(&n) => put.push(kv),
                Event::Delete { key, .. } if last.get(&key) == Some(&n) => deleted.push(key),
                _ => {}
            }
        }
        (revision, deleted, put)
    }

    /// Takes changes: keys that are gone, and keys that were written, with what the scheme made of these. The work is
    /// in proportion to the change, not to the service.
    pub(super) fn apply(
        &mut self,
        revision: Revision,
        deleted: Vec<Vec<u8>>,
        put: Vec<Kv>,
        readings: Vec<Reading>,
    ) -> Update {
        // Each instance touched, with what it was before.
        let mut touched = HashMap::new();
        for key in deleted {
            self.remove(&key, &mut touched);
        }
        for (kv, reading) in put.into_iter().zip(readings) {
            let before = self.endpoints_of(&kv.key);
            self.remove(&kv.key, &mut touched);
            let (endpoints, skipped) = self.judge(&kv, reading, || before);
            for endpoint in &endpoints {
                let was = self.claims.get(&endpoint.id).and_then(|claims| winner(claims)).cloned();
                touched.entry(endpoint.id.clone()).or_insert(was);
            }
            self.insert(kv.key.into(), kv.mod_revision, endpoints, skipped);
        }
        let (mut upserted, mut removed) = (Vec::new(), Vec::new());
        for (id, was) in touched {
            match (was, self.claims.get(&id).and_then(|claims| winner(claims))) {
                (Some(was), Some(is)) if was == *is => {}
                (_, Some(is)) => upserted.push(is.clone()),
                (Some(_), None) => removed.push(id),
                (None, None) => {}
            }
        }
        Update::Changed { revision, upserted, removed, skipped: self.n_skipped }
    }

    /// What becomes of an entry: its instances, and whether it counts as skipped.
    fn judge(&mut self, kv: &Kv, reading: Reading, before: impl FnOnce() -> Vec<Endpoint>) -> (Vec<Endpoint>, bool) {
        match reading {
            Reading::Endpoints(endpoints) => (endpoints, false),
            Reading::Unreadable(reason) => {
                self.log_once(kv, &reason, "entry skipped");
                (Vec::new(), true)
            }
            Reading::Failed(reason) => {
                let before = before();
                let outcome = if before.is_empty() { "entry skipped" } else { "entry kept as it was" };
                self.log_once(kv, &reason, outcome);
                (before, true)
            }
        }
    }

    fn log_once(&mut self, kv: &Kv, reason: &str, outcome: &str) {
        let mut hasher = DefaultHasher::new();
        (&kv.key, &kv.value).hash(&mut hasher);
        if self.logged.len() >= LOGGED_LIMIT {
            self.logged.clear();
        }
        if self.logged.insert(hasher.finish()) {
            let key = &*String::from_utf8_lossy(&kv.key);
            tracing::warn!(service = %self.service, key, reason, "{outcome}");
        }
    }

    fn insert(&mut self, key: Arc<[u8]>, mod_revision: Revision, endpoints: Vec<Endpoint>, skipped: bool) {
        self.n_skipped += u64::from(skipped);
        let mut instances = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            // Room for one, which is what nearly all need: `Vec` makes room for four by itself.
            let claims = self.claims.entry(endpoint.id.clone()).or_insert_with(|| Vec::with_capacity(1));
            // The same instance twice in one entry: the later word counts.
            claims.retain(|claim| claim.key != key);
            instances.push(endpoint.id.clone());
            claims.push(Claim { key: Arc::clone(&key), mod_revision, endpoint });
        }
        self.keys.insert(key, Record { instances: instances.into(), skipped });
    }

    fn remove(&mut self, key: &[u8], touched: &mut HashMap<InstanceId, Option<Endpoint>>) {
        let Some(record) = self.keys.remove(key) else { return };
        self.n_skipped -= u64::from(record.skipped);
        for id in record.instances {
            let Some(claims) = self.claims.get_mut(&id) else { continue };
            touched.entry(id.clone()).or_insert_with(|| winner(claims).cloned());
            claims.retain(|claim| *claim.key != *key);
            if claims.is_empty() {
                self.claims.remove(&id);
            }
        }
    }

    fn endpoints_of(&self, key: &[u8]) -> Vec<Endpoint> {
        let ids = self.keys.get(key).into_iter().flat_map(|record| &record.instances);
        let claims = ids.filter_map(|id| self.claims.get(id)?.iter().find(|claim| *claim.key == *key));
        claims.map(|claim| claim.endpoint.clone()).collect()
    }
}

/// The word that counts: the last written one. Of two in one transaction, the one with the later key, so that all readers agree.
fn winner(claims: &[Claim]) -> Option<&Endpoint> {
    claims.iter().max_by_key(|claim| (claim.mod_revision, &claim.key)).map(|claim| &claim.endpoint)
}
