//! The streams of one connection to an endpoint: how many the server allows at once, and which calls have one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::usage::Usage;

/// The calls of one connection, and how many the server allows.
pub(super) struct Streams {
    number: u64,
    pub(super) usage: Usage,
    limit: AtomicU32,
    freed: Arc<Notify>,
}

impl Streams {
    /// Those of the endpoint's connection `number`. `freed` is told when one comes free for whoever waits.
    pub(super) fn new(number: u64, limit: usize, freed: Arc<Notify>) -> Self {
        let limit = AtomicU32::new(u32::try_from(limit).unwrap_or(u32::MAX));
        Self { number, usage: Usage::default(), limit, freed }
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
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Only a full connection can have somebody wait for it.
        if self.0.usage.end() == self.0.limit.load(Relaxed) {
            self.0.freed.notify_one();
        }
    }
}
