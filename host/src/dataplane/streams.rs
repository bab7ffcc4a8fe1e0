//! The streams of one connection to an endpoint: how many the server allows at once, and which calls have one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use h2::StreamId;
use tokio::{sync::Notify, time::Instant};

use super::{debt::Debt, usage::Usage};

/// How many calls may be reset without a sign that the server has looked at them, and how many more a second. Servers on `h2` take 20
/// that they have not looked at; so one that stands still for a second keeps the connection.
const UNSEEN_RESETS: (u32, u32) = (10, 10);

/// The calls of one connection, and how many the server allows.
pub(super) struct Streams {
    number: u64,
    pub(super) usage: Usage,
    limit: AtomicU32,
    freed: Arc<Notify>,
    /// The latest stream that was answered.
    answered: AtomicU32,
    unseen_resets: Debt,
}

impl Streams {
    /// Those of the endpoint's connection `number`. `freed` is told when one comes free for whoever waits.
    pub(super) fn new(number: u64, limit: usize, freed: Arc<Notify>) -> Self {
        let limit = AtomicU32::new(u32::try_from(limit).unwrap_or(u32::MAX));
        let (most, a_second) = UNSEEN_RESETS;
        Self {
            number,
            usage: Usage::default(),
            limit,
            freed,
            answered: AtomicU32::new(0),
            unseen_resets: Debt::new(most, a_second, Instant::now()),
        }
    }

    /// Which of the endpoint's connections this is, one after the other.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The server has said how many streams there may be.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        if self.limit.load(Relaxed) != limit {
            self.limit.store(limit, Relaxed);
            self.freed.notify_waiters();
        }
    }
}

impl Streams {
    /// The server has answered this stream: it has looked at all before it.
    pub(super) fn answered(&self, id: StreamId) {
        self.answered.fetch_max(id.as_u32(), Relaxed);
    }

    /// Whether a stream that was not answered may be reset now.
    pub(super) fn may_reset(&self, id: StreamId) -> bool {
        self.answered.load(Relaxed) > id.as_u32() || self.unseen_resets.try_owe(Instant::now())
    }
}

/// A call's place on a connection. Dropping it gives the place to another.
pub(super) struct Slot(Arc<Streams>);

impl Slot {
    /// None: all are taken.
    pub(super) fn take(streams: &Arc<Streams>) -> Option<Self> {
        streams.usage.begin_under(streams.limit.load(Relaxed)).then(|| Self(Arc::clone(streams)))
    }

    /// Which of the endpoint's connections it is on.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// The streams it is one of.
    pub(super) fn streams(&self) -> &Streams {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Only a full connection can have somebody wait for it.
        if self.0.usage.end() == self.0.limit.load(Relaxed) {
            self.0.freed.notify_one();
        }
    }
}
