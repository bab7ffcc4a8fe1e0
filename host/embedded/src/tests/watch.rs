//! The watch dispatcher, polled by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    error::EtcdError,
    key_range::KeyRange,
    store::Store,
    watch::{Message, StreamId, WatchDispatcher, WatchSpec},
};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

struct Fixture {
    store: Store,
    watches: WatchDispatcher,
    wakes: Arc<Wakes>,
}

impl Fixture {
    fn new(queue_limit: usize) -> Self {
        Self { store: Store::new(1, -1), watches: WatchDispatcher::new(queue_limit), wakes: Arc::default() }
    }

    fn put(&mut self, key: &str) {
        self.store.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::from("v"), 0);
        self.commit();
    }

    fn delete(&mut self, key: &str) {
        self.store.delete(&KeyRange::new(key.as_bytes(), b""));
        self.commit();
    }

    fn commit(&mut self) {
        if let Some(commit) = self.store.commit(Duration::ZERO) {
            self.watches.dispatch(&commit);
        }
    }

    fn watch(&mut self, stream: StreamId, spec: WatchSpec) {
        self.watches.create(stream, spec, self.store.revision());
    }

    fn poll(&mut self, stream: StreamId) -> Option<Message> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        match self.watches.poll(stream, &self.store, &mut Context::from_waker(&waker)) {
            Poll::Ready(message) => Some(message.unwrap()),
            Poll::Pending => None,
        }
    }

    /// All messages that are ready, in short form.
    fn read(&mut self, stream: StreamId) -> Vec<String> {
        std::iter::from_fn(|| self.poll(stream)).map(|message| short(&message)).collect()
    }
}

fn spec(key: &str, end: &str) -> WatchSpec {
    WatchSpec::of(KeyRange::new(key.as_bytes(), end.as_bytes()), 0)
}

fn from(start_revision: i64, spec: WatchSpec) -> WatchSpec {
    WatchSpec { start_revision, ..spec }
}

fn short(message: &Message) -> String {
    match message {
        Message::Created { watch_id, revision } => format!("{watch_id} created @{revision}"),
        Message::Refused { reason, .. } => format!("refused: {reason}"),
        Message::Cancelled { watch_id, .. } => format!("{watch_id} cancelled"),
        Message::Compacted { watch_id, compact_revision } => format!("{watch_id} compacted @{compact_revision}"),
        Message::Progress { watch_id, revision } => format!("{watch_id} progress @{revision}"),
        Message::Events { watch_id, revision, events, .. } => {
            let events: Vec<_> = events
                .iter()
                .map(|event| {
                    let sign = if event.is_delete() { '-' } else { '+' };
                    let key = String::from_utf8_lossy(&event.kv.key);
                    format!("{sign}{key}@{}", event.kv.mod_revision)
                })
                .collect();
            format!("{watch_id} [{}] @{revision}", events.join(" "))
        }
    }
}

#[test]
fn a_stream_gives_ids_from_zero_and_only_what_each_watcher_asked_for() {
    let mut f = Fixture::new(10);
    let stream = f.watches.open();
    f.watch(stream, spec("a", ""));
    f.watch(stream, spec("b/", "b0"));
    f.watch(stream, WatchSpec { no_put: true, ..spec("a", "\0") });
    for key in ["a", "b/1", "c"] {
        f.put(key);
    }
    f.delete("b/1");
    assert_eq!(
        f.read(stream),
        [
            "0 created @1",
            "1 created @1",
            "2 created @1",
            "0 [+a@2] @2",
            "1 [+b/1@3] @3",
            "1 [-b/1@5] @5",
            "2 [-b/1@5] @5"
        ]
    );
}

#[test]
fn a_reader_that_waits_is_woken_by_an_event_for_it_and_by_no_other() {
    let mut f = Fixture::new(10);
    let stream = f.watches.open();
    f.watch(stream, spec("a", ""));
    assert_eq!(f.read(stream).len(), 1);
    f.put("b");
    assert_eq!(f.wakes.0.load(Relaxed), 0);
    f.put("a");
    assert_eq!(f.wakes.0.load(Relaxed), 1);
}

#[test]
fn a_start_in_the_past_replays_in_one_message_from_that_revision_on() {
    let mut f = Fixture::new(10);
    for key in ["a", "a", "b", "a"] {
        f.put(key);
    }
    let stream = f.watches.open();
    f.watch(stream, from(3, spec("a", "")));
    f.put("a");
    assert_eq!(f.read(stream), ["0 created @5", "0 [+a@3 +a@5 +a@6] @6"]);
    f.put("a");
    assert_eq!(f.read(stream), ["0 [+a@7] @7"]);
}

#[test]
fn long_history_comes_in_messages_of_a_thousand_revisions() {
    let mut f = Fixture::new(10);
    for _ in 0..2500 {
        f.put("a");
        f.put("other");
    }
    let stream = f.watches.open();
    f.watch(stream, from(1, spec("a", "")));
    let mut sizes = Vec::new();
    let mut idle = 0;
    while idle < 2 {
        match f.poll(stream) {
            Some(Message::Events { events, .. }) => sizes.push(events.len()),
            Some(_) => {}
            // The scan of history yields now and then.
            None => idle += 1,
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 2500);
    assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
}

#[test]
fn history_of_big_values_comes_in_messages_of_about_a_mebibyte_and_no_revision_is_split() {
    let mut f = Fixture::new(10);
    let value = Bytes::from(vec![b'v'; 300 * 1024]);
    for _ in 0..6 {
        for key in ["a", "b"] {
            f.store.put(Bytes::from(key), value.clone(), 0);
        }
        f.commit();
    }
    let stream = f.watches.open();
    f.watch(stream, from(1, spec("a", "\0")));
    let sizes: Vec<_> = std::iter::from_fn(|| f.poll(stream))
        .filter_map(|message| match message {
            Message::Events { events, .. } => Some(events.len()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [4, 4, 4]);
}

#[test]
fn a_start_in_the_future_waits_for_its_revision() {
    let mut f = Fixture::new(10);
    let stream = f.watches.open();
    f.watch(stream, from(4, spec("a", "")));
    for _ in 0..4 {
        f.put("a");
    }
    assert_eq!(f.read(stream), ["0 created @1", "0 [+a@4] @4", "0 [+a@5] @5"]);
}

#[test]
fn a_compacted_start_is_created_first_and_then_told_so_and_keeps_its_id() {
    let mut f = Fixture::new(10);
    for _ in 0..4 {
        f.put("a");
    }
    f.store.compact(4).unwrap();
    let stream = f.watches.open();
    f.watch(stream, WatchSpec { watch_id: 7, ..from(3, spec("a", "")) });
    f.watch(stream, from(4, spec("a", "")));
    f.watch(stream, from(-1, spec("a", "")));
    let mut read = f.read(stream);
    read.sort();
    assert_eq!(
        read,
        [
            "0 [+a@4 +a@5] @5",
            "0 created @5",
            "7 compacted @4",
            "7 created @5",
            "refused: etcdserver: mvcc: required revision has been compacted"
        ]
    );
    f.watch(stream, WatchSpec { watch_id: 7, ..spec("a", "") });
    f.watches.cancel(stream, 7, f.store.revision());
    f.watch(stream, WatchSpec { watch_id: 7, ..spec("a", "") });
    f.put("a");
    let read = f.read(stream);
    assert_eq!(read[0], "refused: mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(read[1..], ["7 cancelled", "7 created @5", "0 [+a@6] @6", "7 [+a@6] @6"]);
}

#[test]
fn a_watcher_that_does_not_read_falls_back_to_history_and_misses_nothing() {
    let mut f = Fixture::new(3);
    let stream = f.watches.open();
    f.watch(stream, spec("a", ""));
    for _ in 0..10 {
        f.put("a");
    }
    assert!(f.watches.backlog(stream) <= 4, "the queue is bounded");
    assert_eq!(
        f.read(stream),
        ["0 created @1", "0 [+a@2] @2", "0 [+a@3] @3", "0 [+a@4 +a@5 +a@6 +a@7 +a@8 +a@9 +a@10 +a@11] @11"]
    );
    f.put("a");
    assert_eq!(f.read(stream), ["0 [+a@12] @12"]);
}

#[test]
fn a_slow_watcher_whose_history_is_compacted_is_told_so() {
    let mut f = Fixture::new(1);
    let stream = f.watches.open();
    f.watch(stream, spec("a", ""));
    for _ in 0..10 {
        f.put("a");
    }
    f.store.compact(9).unwrap();
    assert_eq!(f.read(stream), ["0 created @1", "0 compacted @9"]);
}

#[test]
fn progress_is_told_once_and_only_when_every_watcher_is_in_step() {
    let mut f = Fixture::new(10);
    for _ in 0..3 {
        f.put("a");
    }
    let stream = f.watches.open();
    f.watches.request_progress(stream, f.store.revision());
    assert!(f.read(stream).is_empty(), "there is no watcher");
    f.watch(stream, spec("b", ""));
    f.watch(stream, from(2, spec("a", "")));
    f.watches.request_progress(stream, f.store.revision());
    assert_eq!(f.read(stream).len(), 3, "the second watcher still has history to read");
    f.watches.request_progress(stream, f.store.revision());
    assert_eq!(f.read(stream), ["-1 progress @4"]);
    f.watch(stream, from(50, spec("a", "")));
    f.watches.request_progress(stream, f.store.revision());
    assert_eq!(f.read(stream), ["2 created @4"], "the third waits for its revision");
}

#[test]
fn progress_ticks_skip_a_watcher_that_had_an_event() {
    let mut f = Fixture::new(10);
    let stream = f.watches.open();
    f.watch(stream, WatchSpec { progress_notify: true, ..spec("a", "") });
    f.watch(stream, spec("a", ""));
    f.read(stream);
    f.put("b");
    f.watches.tick_progress(stream, f.store.revision());
    assert_eq!(f.read(stream), ["0 progress @2"]);
    f.put("a");
    f.read(stream);
    f.watches.tick_progress(stream, f.store.revision());
    assert!(f.read(stream).is_empty());
    f.watches.tick_progress(stream, f.store.revision());
    assert_eq!(f.read(stream), ["0 progress @3"]);
}

#[test]
fn an_unknown_id_is_cancelled_without_an_answer_and_ids_are_not_used_again() {
    let mut f = Fixture::new(10);
    let stream = f.watches.open();
    f.watch(stream, spec("a", ""));
    f.watches.cancel(stream, 5, 1);
    f.watches.cancel(stream, 0, 1);
    f.watch(stream, spec("a", ""));
    f.put("a");
    assert_eq!(f.read(stream), ["0 created @1", "0 cancelled", "1 created @1", "1 [+a@2] @2"]);
}

#[test]
fn a_closed_stream_and_a_shut_down_hub_end_every_poll() {
    let mut f = Fixture::new(10);
    let (first, second) = (f.watches.open(), f.watches.open());
    f.watch(first, spec("a", ""));
    f.watches.close(first);
    f.put("a");
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(f.watches.poll(first, &f.store, &mut cx), Poll::Ready(Err(EtcdError::Stopped)));
    assert_eq!(f.watches.poll(second, &f.store, &mut cx), Poll::Pending);
    f.watches.shut_down();
    assert_eq!(f.watches.poll(second, &f.store, &mut cx), Poll::Ready(Err(EtcdError::Stopped)));
}

#[derive(Debug, Clone)]
enum Step {
    Put(&'static str),
    Delete(&'static str),
    Read,
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = prop::sample::select(vec!["a/1", "a/2", "b"]);
    prop_oneof![
        4 => key.clone().prop_map(Step::Put),
        1 => key.prop_map(Step::Delete),
        1 => Just(Step::Read),
    ]
}

proptest! {
    #[test]
    fn however_slowly_it_is_read_a_watcher_gets_every_event_once_and_in_order(
        steps in prop::collection::vec(any_step(), 1..60),
        queue_limit in 1..5_usize,
        start in 0..10_i64,
    ) {
        let mut f = Fixture::new(queue_limit);
        for _ in 0..3 {
            f.put("a/1");
        }
        let created = f.store.revision();
        let stream = f.watches.open();
        f.watch(stream, from(start, spec("a/", "a0")));
        let mut got = Vec::new();
        for step in steps.iter().chain([&Step::Read]) {
            match step {
                Step::Put(key) => f.put(key),
                Step::Delete(key) => f.delete(key),
                Step::Read => {
                    while let Some(message) = f.poll(stream) {
                        if let Message::Events { events, revision, .. } = message {
                            prop_assert!(events.iter().all(|event| event.kv.mod_revision <= revision));
                            got.extend(events);
                        }
                    }
                }
            }
        }
        let first = if start == 0 { created + 1 } else { start };
        let expected: Vec<_> = f
            .store
            .commits_from(first)
            .filter(|commit| commit.revision >= first)
            .flat_map(|commit| &commit.events)
            .filter(|event| event.kv.key.starts_with(b"a/"))
            .cloned()
            .collect();
        prop_assert_eq!(got, expected);
    }
}
