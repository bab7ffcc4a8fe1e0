//! Entries that are to be read later: those that had no turn yet, and those on which the key scheme
//! failed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::super::etcd::Kv;

/// How much is kept, in bytes of keys and values. What is over it is read when the service is
/// listed again.
const MAX_BYTES: usize = 16 << 20;

/// How much is read again at once.
const BATCH: usize = 10_000;

/// How long an entry waits on which the scheme failed; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

struct DeferredEntry {
    kv: Kv,
    not_before: Instant,
    /// Why the scheme failed on it, and how often; none where it only had no turn.
    failed: Option<(String, u32)>,
}

#[derive(Default)]
pub(super) struct Deferred {
    entries: HashMap<Arc<[u8]>, DeferredEntry>,
    bytes: usize,
    /// When the service has to be listed again, for what was not kept.
    list_at: Option<Instant>,
    /// How often the scheme failed on entries that are being tried again.
    again: HashMap<Arc<[u8]>, u32>,
}

impl Deferred {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Why this entry, as it is, is not to be tried yet. One that is another by now, or is to be
    /// tried, is deferred no longer.
    pub(super) fn still_deferred(&mut self, kv: &Kv, now: Instant) -> Option<String> {
        let later = self.entries.get(&*kv.key)?;
        let same = later.kv.mod_revision == kv.mod_revision && later.kv.value == kv.value;
        if let Some((reason, _)) = later.failed.as_ref().filter(|_| same && later.not_before > now) {
            return Some(reason.clone());
        }
        let times = later.failed.as_ref().filter(|_| same).map(|(_, times)| *times);
        self.forget(&kv.key);
        if let Some(times) = times {
            self.again.insert(kv.key.as_slice().into(), times);
        }
        None
    }

    /// The scheme failed on it.
    pub(super) fn failed(&mut self, kv: &Kv, reason: &str, now: Instant) {
        let times = self.again.remove(&*kv.key).unwrap_or(0);
        let wait = FIRST_WAIT.saturating_mul(1 << times.min(16)).min(LONGEST_WAIT);
        self.put(DeferredEntry {
            kv: kv.clone(),
            not_before: now + wait,
            failed: Some((reason.to_owned(), times + 1)),
        });
    }

    /// It had no turn.
    pub(super) fn wait(&mut self, kv: &Kv, not_before: Instant) {
        self.put(DeferredEntry { kv: kv.clone(), not_before, failed: None });
    }

    fn put(&mut self, later: DeferredEntry) {
        self.forget(&later.kv.key);
        let size = later.kv.key.len() + later.kv.value.len();
        if self.bytes + size > MAX_BYTES {
            self.list_at = Some(self.list_at.map_or(later.not_before, |at| at.max(later.not_before)));
            return;
        }
        self.bytes += size;
        self.entries.insert(later.kv.key.as_slice().into(), later);
    }

    pub(super) fn forget(&mut self, key: &[u8]) {
        self.again.remove(key);
        if let Some(later) = self.entries.remove(key) {
            self.bytes -= later.kv.key.len() + later.kv.value.len();
        }
    }

    /// Before a list: what only had no turn will be there again, and of what failed this is left.
    pub(super) fn keep_failed(&mut self, listed: &[Kv]) {
        if !self.entries.is_empty() {
            let listed: HashSet<&[u8]> = listed.iter().map(|kv| &*kv.key).collect();
            self.entries.retain(|key, later| later.failed.is_some() && listed.contains(&**key));
        }
        self.bytes = self.entries.values().map(|later| later.kv.key.len() + later.kv.value.len()).sum();
        self.list_at = None;
        self.again.clear();
    }

    /// When the next of them is to be read.
    pub(super) fn due(&self) -> Option<Instant> {
        let entries = self.entries.values().map(|later| later.not_before).min();
        // After all that is kept.
        entries.or(self.list_at)
    }

    /// What is to be read now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Kv> {
        let due = self.entries.values().filter(|later| later.not_before <= now);
        due.take(BATCH).map(|later| later.kv.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_core::model::Revision;

    use super::*;

    fn kv(key: &str, value: &str, revision: i64) -> Kv {
        Kv { key: key.into(), value: value.into(), mod_revision: Revision(revision), lease: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_waits_longer_each_time_unless_it_is_written_anew() {
        let mut it = Deferred::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..8 {
            it.failed(&kv("a", "bad", 1), "trapped", now);
            assert_eq!(
                it.still_deferred(&kv("a", "bad", 1), now).as_deref(),
                Some("trapped"),
                "listing again tries it no sooner"
            );
            let due = it.due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
            assert_eq!(it.take_due(now).len(), 1);
            assert_eq!(it.still_deferred(&kv("a", "bad", 1), now), None);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
        it.failed(&kv("a", "bad", 1), "trapped", now);
        assert_eq!(it.still_deferred(&kv("a", "good", 2), now), None);
        assert_eq!((it.len(), it.due()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_the_rest_is_listed_again() {
        let mut it = Deferred::default();
        let (now, value) = (Instant::now(), "x".repeat(1 << 20));
        for n in 0..40 {
            it.wait(&kv(&n.to_string(), &value, 1), now);
        }
        assert!(it.len() < 16 && it.bytes <= MAX_BYTES, "{}", it.bytes);
        for due in it.take_due(now) {
            assert_eq!(it.still_deferred(&due, now), None);
        }
        assert_eq!((it.len(), it.bytes), (0, 0));
        assert_eq!(it.due(), Some(now), "for those that were not kept");
        assert!(it.take_due(now).is_empty());
        it.failed(&kv("bad", "", 1), "trapped", now);
        it.failed(&kv("gone", "", 1), "trapped", now);
        it.keep_failed(&[kv("bad", "", 1)]);
        assert_eq!((it.len(), it.due().is_some()), (1, true), "what is listed no more is not read again");
        it.keep_failed(&[]);
        assert_eq!((it.len(), it.due()), (0, None));
    }
}
