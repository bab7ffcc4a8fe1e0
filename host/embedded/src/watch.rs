//! Watches: who is told what, in which order, and what happens to those who read too slowly.
//!
//! Pure: no tasks and no clock. A stream is read by polling it; the waker it leaves is the only way
//! out. Commits come in through [`WatchDispatcher::dispatch`]; history comes from the [`Store`]
//! that is passed to [`WatchDispatcher::poll`].
//!
//! ```text
//!                 start in the past                      all history read
//!   create ──┬──────────────────────▶ lagging ───────────────────────────────▶ synced
//!            │                         │  ▲                                     │  ▲
//!            │                         │  └── queue of the watcher is full ─────┘  │
//!            │       history compacted │                                           │
//!            │                         ▼                                           │
//!            │                     compacted (told, and kept until cancelled)      │
//!            └── start now or later ───────────────────────────────────────────────┘
//! ```
//!
//! - **lagging**: reads its events from the store's log when its stream is polled, up to a thousand
//!   revisions or a mebibyte a message. A slow reader thus costs the memory of its bounded queue
//!   and nothing more.
//! - **synced**: events are queued as they are committed, one message a revision.
//! - **compacted**: what it should have read is gone; it was told so and gets nothing more.
//!
//! All watchers of a stream share one queue, so their messages keep the order of the commits.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    task::{Context, Poll, Waker},
};

use super::{
    error::EtcdError,
    index::SpanIndex,
    key_range::KeyRange,
    store::{Commit, Event, Store},
};

/// Most distinct revisions in one message of replayed history (`watchBatchMaxRevs` in etcd).
const REPLAY_REVISIONS: usize = 1000;
/// A message of replayed history ends after the revision that reaches this many bytes. etcd has no
/// such limit, and its messages can outgrow what a client is ready to read (4 MiB in most gRPC
/// libraries).
const REPLAY_BYTES: usize = 1024 * 1024;
/// Most commits looked at in one poll, which holds the lock of the whole server.
const REPLAY_SCAN: usize = 4096;
/// The id on messages that concern no single watcher.
const NO_WATCHER: i64 = -1;
/// Texts etcd gives as `cancel_reason` when a watcher cannot be created.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Names one client's watch stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StreamId(u64);

type WatcherRef = (StreamId, i64);

/// What a client asks for when it creates a watcher.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "the options of one request")]
pub(super) struct WatchSpec {
    pub(super) range: KeyRange,
    /// 0: from now on.
    pub(super) start_revision: i64,
    /// 0: the server chooses.
    pub(super) watch_id: i64,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
}

impl WatchSpec {
    /// Everything that happens there from this revision on, 0: from now on.
    pub(super) fn of(range: KeyRange, start_revision: i64) -> Self {
        Self {
            range,
            start_revision,
            watch_id: 0,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            fragment: false,
            progress_notify: false,
        }
    }
}

/// One message to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Created {
        watch_id: i64,
        revision: i64,
    },
    /// A watcher that could not be created.
    Refused {
        revision: i64,
        reason: String,
    },
    Cancelled {
        watch_id: i64,
        revision: i64,
    },
    /// Ended because its history is gone. etcd leaves the header's revision at 0 here.
    Compacted {
        watch_id: i64,
        compact_revision: i64,
    },
    /// `watch_id` is −1 when it speaks for all watchers of the stream.
    Progress {
        watch_id: i64,
        revision: i64,
    },
    Events {
        watch_id: i64,
        revision: i64,
        events: Vec<Event>,
        /// Set when the client wants previous values: those that a reader at this revision or later
        /// may see.
        prev_since: Option<i64>,
        fragment: bool,
    },
}

impl Message {
    /// The watcher whose queue bound it counts against.
    fn counted_watcher(&self) -> Option<i64> {
        match self {
            Self::Created { watch_id, .. } | Self::Events { watch_id, .. } => Some(*watch_id),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Gets events from this revision on as they happen.
    Synced { from: i64 },
    /// Reads history from this revision on.
    Lagging { next: i64 },
    /// Was told that its history is gone. Holds its id, as in etcd, until the client cancels it.
    Compacted,
}

#[derive(Debug)]
struct Watcher {
    spec: WatchSpec,
    phase: Phase,
    /// Messages in the stream's queue that are for it.
    queued: usize,
    /// No event was sent since the last progress tick.
    idle: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let filtered = if event.is_delete() { self.spec.no_delete } else { self.spec.no_put };
        !filtered && self.spec.range.contains(&event.kv.key)
    }

    fn in_step(&self, revision: i64) -> bool {
        matches!(self.phase, Phase::Synced { .. }) && self.spec.start_revision <= revision
    }
}

#[derive(Debug, Default)]
struct Stream {
    watchers: HashMap<i64, Watcher>,
    next_id: i64,
    queue: VecDeque<Message>,
    /// Ids of watchers in phase lagging, served in turn.
    lagging: VecDeque<i64>,
    waker: Option<Waker>,
}

impl Stream {
    fn push(&mut self, message: Message) {
        if let Some(watcher) = message.counted_watcher().and_then(|id| self.watchers.get_mut(&id)) {
            watcher.queued += 1;
        }
        self.queue.push_back(message);
        self.wake();
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        if let Some(watcher) = message.counted_watcher().and_then(|id| self.watchers.get_mut(&id)) {
            watcher.queued -= 1;
        }
        Some(message)
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// All watch streams of the server.
#[derive(Debug)]
pub(super) struct WatchDispatcher {
    streams: HashMap<StreamId, Stream>,
    index: SpanIndex<WatcherRef>,
    next_stream: u64,
    queue_limit: usize,
    closed: bool,
}

impl WatchDispatcher {
    /// `queue_limit` is the number of messages a watcher may leave unread before it has to read
    /// from history.
    pub(super) fn new(queue_limit: usize) -> Self {
        Self {
            streams: HashMap::new(),
            index: SpanIndex::default(),
            next_stream: 0,
            queue_limit: queue_limit.max(1),
            closed: false,
        }
    }

    pub(super) fn open(&mut self) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(id, Stream::default());
        id
    }

    /// Forgets a stream and its watchers.
    pub(super) fn close(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.remove(&stream) {
            for (id, watcher) in &state.watchers {
                self.index.remove(&watcher.spec.range, (stream, *id));
            }
        }
    }

    /// Ends every stream, now and later: each is answered with [`EtcdError::Stopped`].
    pub(super) fn shut_down(&mut self) {
        self.closed = true;
        for stream in self.streams.values_mut() {
            stream.wake();
        }
    }

    /// How many messages wait on a stream.
    pub(super) fn backlog(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |state| state.queue.len())
    }

    /// Creates a watcher; the answer, good or bad, is queued on the stream.
    pub(super) fn create(&mut self, stream: StreamId, spec: WatchSpec, revision: i64) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let refused = |reason: String| Message::Refused { revision, reason };
        if spec.start_revision < 0 {
            state.push(refused(EtcdError::Compacted.to_string()));
            return;
        }
        if spec.range.is_empty() {
            state.push(refused(EMPTY_RANGE.into()));
            return;
        }
        let watch_id = if spec.watch_id == 0 {
            while state.watchers.contains_key(&state.next_id) {
                state.next_id += 1;
            }
            state.next_id += 1;
            state.next_id - 1
        } else if state.watchers.contains_key(&spec.watch_id) {
            state.push(refused(DUPLICATE_ID.into()));
            return;
        } else {
            spec.watch_id
        };
        let phase = if spec.start_revision == 0 || spec.start_revision > revision {
            Phase::Synced { from: spec.start_revision.max(revision + 1) }
        } else {
            state.lagging.push_back(watch_id);
            Phase::Lagging { next: spec.start_revision }
        };
        self.index.insert(&spec.range, (stream, watch_id));
        state.watchers.insert(watch_id, Watcher { spec, phase, queued: 0, idle: true });
        state.push(Message::Created { watch_id, revision });
    }

    /// Cancels a watcher; an unknown id gets no answer, as in etcd.
    pub(super) fn cancel(&mut self, stream: StreamId, watch_id: i64, revision: i64) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if let Some(watcher) = state.watchers.remove(&watch_id) {
            self.index.remove(&watcher.spec.range, (stream, watch_id));
            state.lagging.retain(|id| *id != watch_id);
            state.push(Message::Cancelled { watch_id, revision });
        }
    }

    /// Answers a progress request: one message for the whole stream, and only if all its watchers
    /// are in step.
    pub(super) fn request_progress(&mut self, stream: StreamId, revision: i64) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if !state.watchers.is_empty() && state.watchers.values().all(|watcher| watcher.in_step(revision)) {
            state.push(Message::Progress { watch_id: NO_WATCHER, revision });
        }
    }

    /// Tells the watchers that asked for it, and had no event since the last tick, how far the
    /// store is.
    pub(super) fn tick_progress(&mut self, stream: StreamId, revision: i64) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let mut due = Vec::new();
        for (id, watcher) in &mut state.watchers {
            if watcher.spec.progress_notify {
                if watcher.idle && watcher.in_step(revision) {
                    due.push(*id);
                }
                watcher.idle = true;
            }
        }
        due.sort_unstable();
        for watch_id in due {
            state.push(Message::Progress { watch_id, revision });
        }
    }

    /// Queues the events of a commit for the watchers they concern.
    pub(super) fn dispatch(&mut self, commit: &Commit) {
        let mut concerned: BTreeMap<WatcherRef, Vec<Event>> = BTreeMap::new();
        for event in &commit.events {
            for watcher in self.index.at(&event.kv.key) {
                concerned.entry(watcher).or_default().push(event.clone());
            }
        }
        for ((stream, watch_id), mut events) in concerned {
            let Some(state) = self.streams.get_mut(&stream) else { continue };
            let Some(watcher) = state.watchers.get_mut(&watch_id) else { continue };
            if !matches!(watcher.phase, Phase::Synced { from } if from <= commit.revision) {
                continue;
            }
            events.retain(|event| watcher.wants(event));
            if events.is_empty() {
                continue;
            }
            if watcher.queued >= self.queue_limit {
                watcher.phase = Phase::Lagging { next: commit.revision };
                state.lagging.push_back(watch_id);
                state.wake();
                continue;
            }
            watcher.idle = false;
            let message = events_message(watcher, watch_id, commit.revision, events);
            state.push(message);
        }
    }

    /// The next message of a stream.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Stopped`] once the dispatcher is shut down or the stream is closed.
    pub(super) fn poll(
        &mut self,
        stream: StreamId,
        store: &Store,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Message, EtcdError>> {
        let Some(state) = self.streams.get_mut(&stream).filter(|_| !self.closed) else {
            return Poll::Ready(Err(EtcdError::Stopped));
        };
        let mut budget = REPLAY_SCAN;
        // A lagging watcher goes on once what was queued for it is read: its messages must stay in
        // order.
        while let Some(turn) = state.lagging.iter().position(|id| state.watchers[id].queued == 0) {
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(watch_id) = state.lagging.remove(turn) else { break };
            let Some(watcher) = state.watchers.get_mut(&watch_id) else { continue };
            let message = replay(watcher, watch_id, store, &mut budget);
            if matches!(watcher.phase, Phase::Lagging { .. }) {
                state.lagging.push_back(watch_id);
            }
            if let Some(message) = message {
                return Poll::Ready(Ok(with_prev_bound(message, store)));
            }
        }
        if let Some(message) = state.pop() {
            return Poll::Ready(Ok(with_prev_bound(message, store)));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One step of a lagging watcher through history: at most one message, at most `budget` commits
/// looked at.
fn replay(watcher: &mut Watcher, watch_id: i64, store: &Store, budget: &mut usize) -> Option<Message> {
    let Phase::Lagging { mut next } = watcher.phase else { return None };
    if next < store.compact_revision() {
        watcher.phase = Phase::Compacted;
        return Some(Message::Compacted { watch_id, compact_revision: store.compact_revision() });
    }
    let mut events = Vec::new();
    let (mut revisions, mut bytes) = (0, 0);
    let mut unread = false;
    for commit in store.commits_from(next) {
        if *budget == 0 || revisions == REPLAY_REVISIONS || bytes >= REPLAY_BYTES {
            unread = true;
            break;
        }
        *budget -= 1;
        next = commit.revision + 1;
        let before = events.len();
        events.extend(commit.events.iter().filter(|event| watcher.wants(event)).cloned());
        revisions += usize::from(events.len() > before);
        bytes += events[before..].iter().map(|event| event.size(watcher.spec.prev_kv)).sum::<usize>();
    }
    watcher.phase = if unread { Phase::Lagging { next } } else { Phase::Synced { from: store.revision() + 1 } };
    if events.is_empty() {
        return None;
    }
    watcher.idle = false;
    Some(events_message(watcher, watch_id, store.revision(), events))
}

fn events_message(watcher: &Watcher, watch_id: i64, revision: i64, events: Vec<Event>) -> Message {
    let prev_since = watcher.spec.prev_kv.then_some(0);
    Message::Events { watch_id, revision, events, prev_since, fragment: watcher.spec.fragment }
}

/// Fills in what of the past may be shown: it is decided when the message leaves, as in etcd.
fn with_prev_bound(mut message: Message, store: &Store) -> Message {
    if let Message::Events { prev_since: Some(since), .. } = &mut message {
        *since = store.compact_revision();
    }
    message
}
