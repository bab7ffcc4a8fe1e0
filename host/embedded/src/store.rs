//! The multi-version key-value store: every key's versions, and the log of revisions that watches
//! replay.
//!
//! Pure: no clock, no I/O, no tasks; the time of a commit is passed in. Leases, txn rules and watch
//! dispatch are left to the modules that use it.
//!
//! ```text
//!   keys:  key ─▶ versions, oldest first            log:  compact_revision .. revision, one commit each
//!          a   ─▶ put@5  put@9                             5:[put a]  6:[put b]  9:[put a]  12:[del b, put c]
//!          b   ─▶ put@6  tombstone@12
//! ```
//!
//! Compacting at `c` keeps, for each key, the newest version at or before `c` (nothing, if that is
//! a tombstone) and every later one; the log keeps the commits from `c` on. So reads at `c` and
//! later, and watches from `c`, stay exact.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{error::EtcdError, key_range::KeyRange};

/// What a version is charged for beside its key and value: the structures around it.
const VERSION_OVERHEAD: usize = 128;

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kv {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
    /// 1 for a key just created; 0 for a tombstone, which has neither value, create revision nor
    /// lease.
    pub(super) version: i64,
    pub(super) lease: i64,
}

impl Kv {
    pub(super) fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.len() + VERSION_OVERHEAD
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kv: Arc<Kv>,
    /// What a reader at the revision before saw.
    pub(super) prev: Option<Arc<Kv>>,
}

impl Event {
    pub(super) fn is_delete(&self) -> bool {
        self.kv.is_tombstone()
    }

    /// About what it takes in a message, with the previous value or without.
    pub(super) fn size(&self, with_prev: bool) -> usize {
        self.kv.size() + self.prev.as_ref().filter(|_| with_prev).map_or(0, |prev| prev.size())
    }
}

/// All changes of one revision, in the order they were made.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) revision: i64,
    /// Since the server's start.
    pub(super) at: Duration,
    pub(super) events: Vec<Event>,
}

/// When history is given up without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Only on request.
    Off,
    /// Keep at least this many of the newest revisions.
    Revisions(u32),
    /// Keep what is younger than this.
    Age(Duration),
}

/// A key's versions, oldest first; more than one may have the same revision when a txn deletes and
/// puts a key.
#[derive(Debug, Default)]
struct History(Vec<Arc<Kv>>);

impl History {
    fn at(&self, revision: i64) -> Option<&Arc<Kv>> {
        let visible = match self.0.last() {
            Some(last) if last.mod_revision <= revision => self.0.len(),
            _ => self.0.partition_point(|kv| kv.mod_revision <= revision),
        };
        self.0[..visible].last().filter(|kv| !kv.is_tombstone())
    }

    /// Drops what no read at `revision` or later can see. Returns the bytes freed.
    fn prune(&mut self, revision: i64) -> usize {
        let visible = self.0.partition_point(|kv| kv.mod_revision <= revision);
        let Some(newest) = self.0[..visible].last() else { return 0 };
        let dropped = if newest.is_tombstone() { visible } else { visible - 1 };
        self.0.drain(..dropped).map(|kv| kv.size()).sum()
    }
}

/// The keys at every revision that is still held.
#[derive(Debug)]
pub(super) struct Store {
    keys: BTreeMap<Bytes, History>,
    log: VecDeque<Arc<Commit>>,
    revision: i64,
    compact_revision: i64,
    /// Changes made and not committed yet; they belong to `revision + 1`.
    pending: Vec<Event>,
    bytes: usize,
}

impl Store {
    /// An empty store at `revision`. What lies before `compact_revision` counts as compacted.
    pub(super) fn new(revision: i64, compact_revision: i64) -> Self {
        Self { keys: BTreeMap::new(), log: VecDeque::new(), revision, compact_revision, pending: Vec::new(), bytes: 0 }
    }

    /// The newest committed revision.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// What a reader inside an open write sees: the committed revision, or the next one once
    /// something has changed.
    pub(super) fn read_revision(&self) -> i64 {
        self.revision + i64::from(!self.pending.is_empty())
    }

    pub(super) fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Bytes held for all versions of all keys.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest version of a key, open changes included.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Kv>> {
        self.keys.get(key)?.at(i64::MAX)
    }

    /// The keys of `range` as they were at `revision`, in key order.
    pub(super) fn range<'s>(&'s self, range: &'s KeyRange, revision: i64) -> impl Iterator<Item = &'s Arc<Kv>> + 's {
        range
            .bounds()
            .into_iter()
            .flat_map(move |bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(_, history)| history.at(revision))
    }

    /// Every version held, for hashing: key order, then age.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Arc<Kv>> {
        self.keys.values().flat_map(|history| &history.0)
    }

    /// Writes a key in the open revision and returns the version it replaces, if any.
    pub(super) fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Option<Arc<Kv>> {
        let revision = self.revision + 1;
        let replaced = self.get(&key).cloned();
        let kv = Kv {
            create_revision: replaced.as_ref().map_or(revision, |kv| kv.create_revision),
            version: replaced.as_ref().map_or(0, |kv| kv.version) + 1,
            mod_revision: revision,
            key,
            value,
            lease,
        };
        self.push(kv);
        replaced
    }

    /// Deletes the keys of `range` in the open revision and returns what they held.
    pub(super) fn delete(&mut self, range: &KeyRange) -> Vec<Arc<Kv>> {
        let found: Vec<_> = self.range(range, i64::MAX).cloned().collect();
        for kv in &found {
            self.push(Kv {
                key: kv.key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: self.revision + 1,
                version: 0,
                lease: 0,
            });
        }
        found
    }

    fn push(&mut self, kv: Kv) {
        let kv = Arc::new(kv);
        self.bytes += kv.size();
        let history = self.keys.entry(kv.key.clone()).or_default();
        // Not simply the last version: a txn may put a key and then delete it in a range.
        let prev = history.at(self.revision).cloned();
        history.0.push(Arc::clone(&kv));
        self.pending.push(Event { kv, prev });
    }

    /// Closes the open revision. None, and no new revision, when nothing was changed.
    pub(super) fn commit(&mut self, at: Duration) -> Option<Arc<Commit>> {
        if self.pending.is_empty() {
            return None;
        }
        self.revision += 1;
        let events = std::mem::take(&mut self.pending);
        let commit = Arc::new(Commit { revision: self.revision, at, events });
        self.log.push_back(Arc::clone(&commit));
        Some(commit)
    }

    /// The commits from `revision` on, oldest first. Those before the compact revision are gone.
    pub(super) fn commits_from(&self, revision: i64) -> impl Iterator<Item = &Arc<Commit>> {
        let first = self.log.front().map_or(self.revision + 1, |commit| commit.revision);
        let skipped = usize::try_from(revision.saturating_sub(first)).unwrap_or(0).min(self.log.len());
        self.log.range(skipped..)
    }

    /// Gives up what only readers before `revision` could see.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), EtcdError> {
        if revision <= self.compact_revision {
            return Err(EtcdError::Compacted);
        }
        if revision > self.revision {
            return Err(EtcdError::FutureRevision);
        }
        self.compact_revision = revision;
        // Only a key that changed at or before `revision` can have a version to drop, and an
        // earlier compaction has already dealt with what lies before the log.
        while let Some(commit) = self.log.front().filter(|commit| commit.revision <= revision).cloned() {
            for event in &commit.events {
                self.prune(&event.kv.key);
            }
            if commit.revision == revision {
                break;
            }
            self.log.pop_front();
        }
        Ok(())
    }

    fn prune(&mut self, key: &Bytes) {
        if let Some(history) = self.keys.get_mut(key) {
            self.bytes -= history.prune(self.compact_revision);
            if history.0.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Compacts as `policy` says, in steps big enough that a write pays for about one pruned
    /// version.
    pub(super) fn auto_compact(&mut self, policy: AutoCompaction, now: Duration) {
        let target = match policy {
            AutoCompaction::Off => return,
            AutoCompaction::Revisions(kept) => {
                let target = self.revision - i64::from(kept);
                let step = i64::from(kept / 8) + 1;
                if target < self.compact_revision.max(0) + step {
                    return;
                }
                target
            }
            AutoCompaction::Age(kept) => {
                let Some(limit) = now.checked_sub(kept) else { return };
                let old = self.log.partition_point(|commit| commit.at < limit);
                let Some(newest) = old.checked_sub(1) else { return };
                self.log[newest].revision
            }
        };
        if target > self.compact_revision {
            // Between the compact revision and the newest one by construction.
            let compacted = self.compact(target);
            debug_assert_eq!(compacted, Ok(()), "compaction at {target}");
        }
    }
}
