//! The streams of one connection to an endpoint: how many the server allows at once, and which
//! calls have one.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{sync::Notify, time::Instant};

use crate::limits::{
    share::{HeldPlace, Share},
    token_bucket::TokenBucket,
    usage::ConnectionUsage,
};

/// How many calls may be reset without a sign that the server has looked at them, and how many more
/// a second. Servers on `h2` take 20 that they have not looked at; so one that stands still for a
/// second keeps the connection.
const UNSEEN_RESETS: (u32, u32) = (10, 10);

/// What is seen of a server, by the task of its connection.
#[derive(Debug)]
pub(crate) struct Seen {
    heard: AtomicU64,
    pongs: AtomicU32,
    /// What headers it takes; the largest number where it has not said.
    takes: AtomicU32,
    limit: AtomicU32,
}

impl Default for Seen {
    fn default() -> Self {
        let most = || AtomicU32::new(u32::MAX);
        Self { heard: AtomicU64::new(0), pongs: AtomicU32::new(0), takes: most(), limit: most() }
    }
}

impl Seen {
    /// How often something came.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    pub(crate) fn set_heard(&self, heard: u64) {
        self.heard.store(heard, Relaxed);
    }

    /// How many pings were answered.
    pub(crate) fn pongs(&self) -> u32 {
        self.pongs.load(Relaxed)
    }

    pub(crate) fn pong(&self) {
        self.pongs.fetch_add(1, Relaxed);
    }

    /// The largest headers that it takes, if it has said.
    pub(crate) fn takes(&self) -> Option<u32> {
        Some(self.takes.load(Relaxed)).filter(|most| *most != u32::MAX)
    }

    /// How many streams it allows at once.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// What its settings say.
    pub(crate) fn set(&self, limit: u32, takes: Option<u32>) {
        self.limit.store(limit, Relaxed);
        self.takes.store(takes.unwrap_or(u32::MAX), Relaxed);
    }
}

/// The calls of one connection, and how many the server allows.
pub(crate) struct Streams {
    number: u64,
    /// Whether it is in reserve, for clients that have few places.
    reserve: bool,
    pub(crate) usage: ConnectionUsage,
    limit: AtomicU32,
    freed: Arc<Notify>,
    /// The latest stream that was answered.
    answered: AtomicU32,
    unseen_resets: TokenBucket,
    /// The server does not answer at the moment.
    silent: AtomicBool,
    /// Told when that begins.
    fell_silent: Notify,
    seen: Arc<Seen>,
}

impl Streams {
    /// Those of the endpoint's connection `number`. `freed` is told when one comes free for whoever
    /// waits.
    pub(crate) fn new(number: u64, reserve: bool, freed: Arc<Notify>, seen: Arc<Seen>) -> Self {
        let limit = AtomicU32::new(seen.limit());
        let (most, a_second) = UNSEEN_RESETS;
        Self {
            number,
            reserve,
            usage: ConnectionUsage::default(),
            limit,
            freed,
            answered: AtomicU32::new(0),
            unseen_resets: TokenBucket::new(most, a_second, Instant::now()),
            silent: AtomicBool::new(false),
            fell_silent: Notify::new(),
            seen,
        }
    }

    /// Which of the endpoint's connections this is, one after the other.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is in reserve.
    pub(crate) fn is_reserve(&self) -> bool {
        self.reserve
    }

    /// How many there may be.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Takes in what the server says by now of how many streams there may be.
    pub(crate) fn look_at_limit(&self) {
        let limit = self.seen.limit();
        if self.limit.load(Relaxed) != limit {
            self.limit.store(limit, Relaxed);
            self.freed.notify_waiters();
        }
    }
}

impl Streams {
    /// The server has answered this stream: it has looked at all before it.
    pub(crate) fn answered(&self, stream: u32) {
        self.answered.fetch_max(stream, Relaxed);
    }

    /// How often the server said anything.
    pub(crate) fn heard(&self) -> u64 {
        self.seen.heard()
    }

    /// The latest stream that was answered.
    pub(crate) fn last_answered(&self) -> u32 {
        self.answered.load(Relaxed)
    }

    /// Whether the server does not answer at the moment.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Relaxed)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Relaxed);
        if silent {
            self.fell_silent.notify_waiters();
        }
    }

    /// Ready when the server does not answer.
    pub(crate) async fn silence(&self) {
        let mut told = pin!(self.fell_silent.notified());
        // Before the look, so that nothing is missed between the two.
        told.as_mut().enable();
        if !self.is_silent() {
            told.await;
        }
    }

    /// Whether a stream that was not answered may be reset now.
    pub(crate) fn may_reset(&self, stream: u32) -> bool {
        self.answered.load(Relaxed) > stream || self.unseen_resets.try_spend(Instant::now())
    }
}

/// A call's place on a connection. Dropping it gives the place to another.
pub(crate) struct StreamPermit {
    streams: Arc<Streams>,
    /// Whose it is; none for what this process does itself.
    _held: Option<HeldPlace>,
}

impl StreamPermit {
    /// None: all are taken, or they are in reserve and this client has many.
    pub(crate) fn take(streams: &Arc<Streams>, share: Option<&Arc<Share>>) -> Option<Self> {
        let limit = streams.limit();
        if streams.reserve && share.is_some_and(|share| !share.is_modest(limit)) {
            return None;
        }
        streams.usage.begin_under(limit).then(|| Self { streams: Arc::clone(streams), _held: share.map(Share::hold) })
    }

    /// The largest headers that the server takes, if it has said.
    pub(crate) fn takes(&self) -> Option<u32> {
        self.streams.seen.takes()
    }

    /// Which of the endpoint's connections it is on.
    pub(crate) fn number(&self) -> u64 {
        self.streams.number
    }

    /// The streams it is one of, for longer than the call.
    pub(crate) fn share(&self) -> Arc<Streams> {
        Arc::clone(&self.streams)
    }

    /// The streams it is one of.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        // Only a full connection can have somebody wait for it.
        if self.streams.usage.end() == self.streams.limit() {
            self.streams.freed.notify_one();
        }
    }
}
