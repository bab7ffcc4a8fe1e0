//! From keys and values to instances, with the memory that this takes.
//!
//! A deletion names the key alone, one key may register several instances, and one instance may be
//! registered by several keys (an old entry that has yet to expire beside a new one). So every
//! key's instances are remembered, and every instance's keys: the entry written last says what an
//! instance is, and an instance is gone when its last entry is. An entry that cannot be read
//! (`decode`) is skipped, counted, and logged once. Of one that its key scheme warns of, each
//! warning is logged once a service.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use waymark_core::{
    model::{Endpoint, InstanceId, Revision, ServiceName, Skipped, Update},
    text,
};

use super::{
    decode::{Accepted, Reading},
    etcd::{Event, Kv},
};

/// How many unreadable entries are remembered as logged. Past it, all are forgotten: some are then
/// logged twice.
const LOGGED_LIMIT: usize = 4096;

/// What one key registers.
#[derive(Debug)]
struct Record {
    instances: Box<[InstanceId]>,
    /// What of it was left out, or warned of; boxed, for nearly all have none.
    skipped: Option<Box<Skipped>>,
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
    /// The most instances.
    limit: usize,
    /// Whether it was reached since the last list.
    full: bool,
    skipped: Skipped,
    logged: HashSet<u64>,
    log: Log,
}

/// Bounds what entries can make the node log: so many lines in a window, and then how many more
/// there were.
#[derive(Debug, Default)]
struct Log {
    window: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Log {
    const LINES: u32 = 10;
    const WINDOW: Duration = Duration::from_secs(10);

    /// Whether a line may be logged now, and how many were not since the last one that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|began| now.duration_since(began) >= Self::WINDOW) {
            (self.window, self.said) = (Some(now), 0);
        }
        if self.said >= Self::LINES {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Codec {
    /// A service of at most so many instances.
    pub(super) fn new(service: ServiceName, limit: usize) -> Self {
        Self {
            service,
            keys: HashMap::new(),
            claims: HashMap::new(),
            limit,
            full: false,
            skipped: Skipped::default(),
            logged: HashSet::new(),
            log: Log::default(),
        }
    }

    /// What was left out, by now.
    pub(super) fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Whether instances were left out because there were too many, and there is room for some of
    /// them by now.
    pub(super) fn has_room_again(&self) -> bool {
        self.full && self.claims.len() < self.limit - self.limit / 10
    }

    /// Takes what a list found, with what the scheme made of it, for everything there is.
    pub(super) fn reset(&mut self, revision: Revision, kvs: Vec<Kv>, readings: Vec<Reading>) -> Update {
        let mut former = Self::new(self.service.clone(), self.limit);
        std::mem::swap(&mut former.keys, &mut self.keys);
        std::mem::swap(&mut former.claims, &mut self.claims);
        (self.skipped, self.full) = (Skipped::default(), false);
        for (kv, reading) in kvs.into_iter().zip(readings) {
            let before = || former.endpoints_of(&kv.key);
            let (endpoints, skipped) = self.judge(&kv, reading, before);
            self.insert(kv.key.into(), kv.mod_revision, endpoints, skipped);
        }
        let endpoints = self.claims.values().filter_map(|claims| winner(claims)).cloned().collect();
        Update::Reset { revision, endpoints, skipped: self.skipped.total() }
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

    /// Takes changes: keys that are gone, and keys that were written, with what the scheme made of
    /// these. The work is in proportion to the change, not to the service.
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
        Update::Changed { revision, upserted, removed, skipped: self.skipped.total() }
    }

    /// What becomes of an entry: its instances, and what of it is left out.
    fn judge(&mut self, kv: &Kv, reading: Reading, before: impl FnOnce() -> Vec<Endpoint>) -> (Vec<Endpoint>, Skipped) {
        let none = Skipped::default();
        match reading {
            Reading::Read(Accepted { endpoints, refused, over, note, warnings }) => {
                if let Some(note) = note {
                    self.log_once(kv, &note, "instances of an entry left out");
                }
                for warning in &warnings {
                    self.warn_once(kv, warning);
                }
                let warned = u64::from(!warnings.is_empty());
                (endpoints, Skipped { refused, over_limit: over, warned, ..none })
            }
            Reading::Unreadable(reason) => {
                self.log_once(kv, &reason, "entry skipped");
                (Vec::new(), Skipped { unreadable: 1, ..none })
            }
            Reading::Failed(reason) => {
                let before = before();
                let outcome = if before.is_empty() { "entry skipped" } else { "entry kept as it was" };
                self.log_once(kv, &reason, outcome);
                (before, Skipped { failed: 1, ..none })
            }
            Reading::Waiting => (before(), Skipped { waiting: 1, ..none }),
        }
    }

    fn log_once(&mut self, kv: &Kv, reason: &str, outcome: &str) {
        if let Some(unsaid) = self.may_log(&(&kv.key, &kv.value)) {
            let key = &*text::printable_bytes(&kv.key, text::NAME);
            tracing::warn!(service = %self.service, key, reason, unsaid, "{outcome}");
        }
    }

    /// A warning that is the same for many entries is told of the first of them.
    fn warn_once(&mut self, kv: &Kv, warning: &str) {
        if let Some(unsaid) = self.may_log(&warning) {
            let (key, warning) = (&*text::printable_bytes(&kv.key, text::NAME), text::shown(warning, text::WORDS));
            tracing::warn!(service = %self.service, key, unsaid, "an entry may not mean what it says: {warning}");
        }
    }

    /// Whether it has not been logged yet and there is room for a line; and how many there was none
    /// for.
    fn may_log(&mut self, what: &impl Hash) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        if self.logged.len() >= LOGGED_LIMIT {
            self.logged.clear();
        }
        if self.logged.insert(hasher.finish()) { self.log.admit(Instant::now()) } else { None }
    }

    fn insert(&mut self, key: Arc<[u8]>, mod_revision: Revision, endpoints: Vec<Endpoint>, mut skipped: Skipped) {
        let mut instances = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            if self.claims.len() >= self.limit && !self.claims.contains_key(&endpoint.id) {
                skipped.over_limit += 1;
                if !std::mem::replace(&mut self.full, true) {
                    tracing::warn!(service = %self.service, limit = self.limit, "the service has too many instances; the others are left out");
                }
                continue;
            }
            // Room for one, which is what nearly all need: `Vec` makes room for four by itself.
            let claims = self.claims.entry(endpoint.id.clone()).or_insert_with(|| Vec::with_capacity(1));
            // The same instance twice in one entry: the later word counts.
            claims.retain(|claim| claim.key != key);
            instances.push(endpoint.id.clone());
            claims.push(Claim { key: Arc::clone(&key), mod_revision, endpoint });
        }
        self.skipped.add(skipped);
        let skipped = (skipped != Skipped::default()).then(|| Box::new(skipped));
        self.keys.insert(key, Record { instances: instances.into(), skipped });
    }

    fn remove(&mut self, key: &[u8], touched: &mut HashMap<InstanceId, Option<Endpoint>>) {
        let Some(record) = self.keys.remove(key) else { return };
        if let Some(skipped) = record.skipped {
            self.skipped.remove(*skipped);
        }
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

/// The word that counts: the last written one. Of two in one transaction, the one with the later
/// key, so that all readers agree.
fn winner(claims: &[Claim]) -> Option<&Endpoint> {
    claims.iter().max_by_key(|claim| (claim.mod_revision, &claim.key)).map(|claim| &claim.endpoint)
}
