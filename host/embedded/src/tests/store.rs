//! The store against a model that keeps a whole copy of the data for every revision.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    error::EtcdError,
    key_range::KeyRange,
    store::{AutoCompaction, Store},
};

const START: i64 = 100;

/// value, create revision, mod revision, version, lease
type Fields = (Bytes, i64, i64, i64, i64);
type Data = BTreeMap<Bytes, Fields>;

#[derive(Debug, Clone)]
enum Change {
    Put(Bytes, Bytes, i64),
    Delete(KeyRange),
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Change>),
    /// Compact at this share (of 8) of the revisions held.
    Compact(i64),
}

#[derive(Debug)]
struct Model {
    by_revision: BTreeMap<i64, Data>,
    /// revision → (key, put or deleted) in order
    changes: BTreeMap<i64, Vec<(Bytes, bool)>>,
}

impl Model {
    fn new() -> Self {
        Self { by_revision: BTreeMap::from([(START, Data::new())]), changes: BTreeMap::new() }
    }

    fn revision(&self) -> i64 {
        *self.by_revision.last_key_value().unwrap().0
    }

    fn write(&mut self, changes: &[Change]) {
        let revision = self.revision() + 1;
        let mut data = self.by_revision.last_key_value().unwrap().1.clone();
        let mut log = Vec::new();
        for change in changes {
            match change {
                Change::Put(key, value, lease) => {
                    let (created, version) = data.get(key).map_or((revision, 0), |old| (old.1, old.3));
                    data.insert(key.clone(), (value.clone(), created, revision, version + 1, *lease));
                    log.push((key.clone(), true));
                }
                Change::Delete(range) => {
                    let gone: Vec<_> = data.keys().filter(|key| range.contains(key)).cloned().collect();
                    for key in gone {
                        data.remove(&key);
                        log.push((key, false));
                    }
                }
            }
        }
        if !log.is_empty() {
            self.by_revision.insert(revision, data);
            self.changes.insert(revision, log);
        }
    }
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a/1", "a/2", "b", "b/1", "c", "\u{7f}"]).prop_map(Bytes::from)
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(&[0])), any_key()];
    (any_key(), end).prop_map(|(key, end)| KeyRange::new(&key, &end))
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (any_key(), "[xyz]{0,3}", 0..3_i64).prop_map(|(key, value, lease)| Change::Put(key, value.into(), lease)),
        2 => any_range().prop_map(Change::Delete),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any_change(), 1..4).prop_map(Step::Write),
        1 => (0..=8_i64).prop_map(Step::Compact),
    ]
}

fn fields(store: &Store, range: &KeyRange, revision: i64) -> Data {
    store
        .range(range, revision)
        .map(|kv| {
            let fields = (kv.value.clone(), kv.create_revision, kv.mod_revision, kv.version, kv.lease);
            (kv.key.clone(), fields)
        })
        .collect()
}

fn run(store: &mut Store, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, value, lease) => {
                store.put(key.clone(), value.clone(), *lease);
            }
            Change::Delete(range) => {
                store.delete(range);
            }
        }
    }
    store.commit(Duration::ZERO);
}

fn put(store: &mut Store, key: &'static str, at: u64) {
    store.put(Bytes::from(key), Bytes::from("value"), 0);
    store.commit(Duration::from_secs(at));
}

proptest! {
    #[test]
    fn every_revision_still_held_reads_as_it_was_written(
        steps in prop::collection::vec(any_step(), 1..40),
        ranges in prop::collection::vec(any_range(), 1..4),
    ) {
        let mut store = Store::new(START, START);
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Write(changes) => {
                    run(&mut store, changes);
                    model.write(changes);
                }
                Step::Compact(share) => {
                    let held = store.revision() - store.compact_revision();
                    let target = store.compact_revision() + held * share / 8;
                    let expected = if target > store.compact_revision() { Ok(()) } else { Err(EtcdError::Compacted) };
                    prop_assert_eq!(store.compact(target), expected);
                }
            }
            prop_assert_eq!(store.revision(), model.revision());
            for (revision, data) in model.by_revision.range(store.compact_revision()..) {
                for range in &ranges {
                    let expected: Data =
                        data.iter().filter(|(key, _)| range.contains(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
                    prop_assert_eq!(fields(&store, range, *revision), expected, "{:?} at {}", range, revision);
                }
            }
            prop_assert_eq!(
                store.bytes(),
                store.versions().map(|kv| kv.key.len() + kv.value.len() + 128).sum::<usize>()
            );
        }
        // What watches replay: every change in order, with what was there before.
        for from in store.compact_revision()..=store.revision() + 1 {
            let replayed: Vec<_> = store
                .commits_from(from)
                .flat_map(|commit| commit.events.iter().map(|e| (commit.revision, e.kv.key.clone(), !e.is_delete())))
                .collect();
            let expected: Vec<_> = model
                .changes
                .range(from..)
                .flat_map(|(revision, log)| log.iter().map(|(key, put)| (*revision, key.clone(), *put)))
                .collect();
            prop_assert_eq!(replayed, expected, "from {}", from);
        }
        for commit in store.commits_from(store.compact_revision()) {
            for event in &commit.events {
                let before = model.by_revision[&(commit.revision - 1)].get(&event.kv.key);
                prop_assert_eq!(event.prev.as_ref().map(|kv| kv.value.clone()), before.map(|old| old.0.clone()));
            }
        }
    }
}

#[test]
fn compaction_at_or_before_the_last_one_and_in_the_future_is_refused() {
    let mut store = Store::new(1, -1);
    for _ in 0..5 {
        put(&mut store, "a", 0);
    }
    assert_eq!(store.compact(4), Ok(()));
    assert_eq!(store.compact(4), Err(EtcdError::Compacted));
    assert_eq!(store.compact(3), Err(EtcdError::Compacted));
    assert_eq!(store.compact(7), Err(EtcdError::FutureRevision));
    assert_eq!(store.compact(6), Ok(()));
}

#[test]
fn a_compacted_store_holds_no_more_than_its_live_keys() {
    let mut store = Store::new(1, -1);
    for key in ["a", "b", "c"] {
        put(&mut store, key, 0);
    }
    let live = store.bytes();
    for _ in 0..100 {
        put(&mut store, "a", 0);
        put(&mut store, "gone", 0);
        store.delete(&KeyRange::new(b"gone", b""));
        store.commit(Duration::ZERO);
    }
    store.compact(store.revision()).unwrap();
    assert_eq!(store.bytes(), live);
    assert_eq!(store.versions().count(), 3);
    assert_eq!(store.commits_from(0).count(), 1, "the commit at the compact revision itself stays");
}

#[test]
fn compaction_by_revisions_keeps_at_least_that_many() {
    let mut store = Store::new(1, -1);
    for _ in 0..1000 {
        put(&mut store, "a", 0);
        store.auto_compact(AutoCompaction::Revisions(80), Duration::ZERO);
        let held = store.revision() - store.compact_revision().max(1);
        assert!(held <= 80 + 80 / 8 + 1, "{held} revisions held");
    }
    assert!(store.revision() - store.compact_revision() >= 80);
}

#[test]
fn compaction_by_age_keeps_what_is_younger() {
    let mut store = Store::new(1, -1);
    for second in 1..=10 {
        put(&mut store, "a", second);
    }
    let policy = AutoCompaction::Age(Duration::from_secs(4));
    store.auto_compact(policy, Duration::from_secs(3));
    assert_eq!(store.compact_revision(), -1);
    store.auto_compact(policy, Duration::from_secs(10));
    // The commits of seconds 6 to 10 are young; a reader at the state before them (second 5) is
    // still served.
    assert_eq!(store.compact_revision(), 6);
    store.auto_compact(policy, Duration::from_secs(10));
    assert_eq!(store.compact_revision(), 6);
}
