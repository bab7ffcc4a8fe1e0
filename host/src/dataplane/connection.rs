//! The connection kept with an endpoint.
//!
//! ```text
//!            first use               settings came
//!   Idle ───────────────▶ Connecting ─────────────▶ Ready
//!    ▲                    │        ▲                 │ │
//!    │                    │ failed └─────────────────┘ │
//!    │                    ▼          lost in use       │
//!    │               BackingOff ──┐                    │
//!    │                 ▲    │     │ connected again    │
//!    │                 └────┘     └──────▶ Ready       │
//!    │          failed again, waits longer             │
//!    └─────────────────────────────────────────────────┘
//!                     closed in good order
//! ```
//!
//! One task an endpoint makes the attempts, so that a call that is given up takes no attempt with it, and so that any number of
//! calls wait for the same one. The endpoint's cell is told of each change ([`Connectivity`]): while it is backing off, picks skip it and the
//! task goes on trying: an endpoint that comes back is used again without a call paying for the test.
//!
//! A server bounds the calls that run on one connection (MAX_CONCURRENT_STREAMS). When all are taken, the next call begins another
//! connection, up to [`ConnectOptions::max_connections`], and goes on whichever comes first: that connection, or a call that ends. gRPC's
//! proposal A105 does the same. Calls take the oldest connection with room, so that the further ones are idle again when they are
//! not needed. An attempt for a further connection that fails harms nobody: the endpoint is as ready as before. Ready means that
//! there is at least one connection; one that is going away is none, although the calls on it run to their ends.
//!
//! Connections live as long as their endpoint is in a published generation or a call on them runs, because the endpoint's cell
//! owns them. Where the service's endpoints are checked (`check`), there is a connection from the beginning. Those on which nothing ran for [`ConnectOptions::idle_timeout`] are closed.

mod check;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{self, Authority};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, debug_span, info};

use super::{
    backoff::Backoff,
    connect::{ConnectError, Target, connect},
    options::{ConnectOptions, Options},
    streams::{Slot, Streams},
};
use crate::{
    balancer::{Connectivity, EndpointCell, EndpointState},
    model::ServiceName,
};

/// The connection to one endpoint, whatever state it is in.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Whether its check was begun.
    checked: AtomicBool,
    /// Ends the tasks when the endpoint goes.
    _stop: DropGuard,
}

struct Shared {
    target: Target,
    /// For requests that name no authority.
    authority: Authority,
    options: ConnectOptions,
    cell: Weak<EndpointCell>,
    /// What calls send on, the oldest first: any exactly while the phase is Ready. Beside the phase, because calls read it without a
    /// lock.
    live: ArcSwap<Vec<Live>>,
    phase: watch::Sender<Phase>,
    growth: Mutex<Growth>,
    /// Told when a stream or a connection has come free.
    freed: Arc<Notify>,
    established: AtomicU64,
    /// Why its check found the endpoint unfit, the last time it did.
    unfit: Mutex<Option<Arc<str>>>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Live {
    sender: SendRequest<Bytes>,
    streams: Arc<Streams>,
}

/// A [`Connectivity`] with what goes with it.
#[derive(Debug, Clone)]
enum Phase {
    Idle,
    Connecting,
    Ready,
    BackingOff { error: Arc<ConnectError> },
}

impl Phase {
    fn connectivity(&self) -> Connectivity {
        match self {
            Self::Idle => Connectivity::Idle,
            Self::Connecting => Connectivity::Connecting,
            Self::Ready => Connectivity::Ready,
            Self::BackingOff { .. } => Connectivity::BackingOff,
        }
    }
}

/// Attempts for connections after the first.
struct Growth {
    runs: bool,
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// What is left when a connection takes no more calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It had been taken out before.
    Retired,
    /// Others take calls.
    Others,
    /// It was the last.
    Nothing,
}

/// What a call sends on.
pub(super) struct Sender {
    pub(super) request: SendRequest<Bytes>,
    /// To be kept until the call has ended.
    pub(super) slot: Slot,
}

impl Connection {
    /// The connection of an endpoint of this service, made idle at first use.
    pub(super) fn of<'a>(endpoint: &'a EndpointState, service: &ServiceName, options: &Options) -> &'a Self {
        endpoint.cell.attached(|| {
            let tls = options.endpoint_tls.of(service).cloned();
            let target = Target { address: endpoint.endpoint.address.clone(), tls };
            Self::idle(target, Arc::downgrade(&endpoint.cell), &options.connect)
        })
    }

    fn idle(target: Target, cell: Weak<EndpointCell>, options: &ConnectOptions) -> Self {
        let stop = CancellationToken::new();
        let authority = target.authority();
        let shared = Arc::new(Shared {
            target,
            authority,
            options: options.clone(),
            cell,
            live: ArcSwap::default(),
            phase: watch::Sender::new(Phase::Idle),
            growth: Mutex::new(Growth {
                runs: false,
                not_before: None,
                backoff: Backoff::new(options.backoff_base, options.backoff_max),
            }),
            freed: Arc::default(),
            established: AtomicU64::new(0),
            unfit: Mutex::default(),
            stop: stop.clone(),
        });
        Self { shared, checked: AtomicBool::new(false), _stop: stop.drop_guard() }
    }

    /// The authority to use where a request has none.
    pub(super) fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The scheme of its requests (RFC 9113, section 8.3.1).
    pub(super) fn scheme(&self) -> uri::Scheme {
        self.shared.scheme()
    }

    /// What to send on, if a connection with room is up: the hot path.
    pub(super) fn sender(&self) -> Option<Sender> {
        self.shared.sender()
    }

    /// What to send on, once there is something: begins an attempt if that is what it takes. Fails when the endpoint cannot be
    /// reached; waits for as long as it is connected to and every stream is taken.
    ///
    /// # Cancel safety
    ///
    /// Safe: the attempt goes on.
    pub(super) async fn connected(&self) -> Result<Sender, Arc<ConnectError>> {
        self.shared.connected().await
    }

    /// Says that this connection takes no more calls (it is going away), so that the next call connects anew. Calls that run on
    /// it go on.
    pub(super) fn retire(&self, number: u64) {
        self.shared.remove(number, Phase::Idle);
    }

    /// Why the endpoint cannot be reached, while it cannot.
    pub(super) fn last_error(&self) -> Option<Arc<ConnectError>> {
        match &*self.shared.phase.borrow() {
            Phase::BackingOff { error } => Some(Arc::clone(error)),
            _ => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The last handles that could open a stream: without them, HTTP/2 closes the connections in good order.
        self.shared.live.store(Arc::default());
    }
}

impl Shared {
    fn scheme(&self) -> uri::Scheme {
        if self.target.tls.is_some() { uri::Scheme::HTTPS } else { uri::Scheme::HTTP }
    }

    /// See [`Connection::sender`].
    fn sender(&self) -> Option<Sender> {
        let live = self.live.load();
        live.iter().find_map(|live| Some(Sender { slot: Slot::take(&live.streams)?, request: live.sender.clone() }))
    }

    /// See [`Connection::connected`].
    async fn connected(self: &Arc<Self>) -> Result<Sender, Arc<ConnectError>> {
        let mut phase = self.phase.subscribe();
        let mut waited = false;
        loop {
            // Before the look, so that nothing that comes free after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(sender) = self.sender() {
                if waited {
                    // More may have come free than this one was told of: pass it on.
                    self.freed.notify_one();
                }
                return Ok(sender);
            }
            let seen = phase.borrow_and_update().clone();
            match seen {
                Phase::Idle => self.begin(),
                Phase::Connecting => {}
                Phase::Ready => self.grow(),
                Phase::BackingOff { error } => return Err(error),
            }
            waited = true;
            tokio::select! {
                () = freed => {}
                // The sender of this channel lives in `self`.
                changed = phase.changed() => changed.expect("the phase outlives its readers"),
            }
        }
    }

    /// Idle to Connecting, by the one caller that finds it idle.
    fn begin(self: &Arc<Self>) {
        let begun = self.phase.send_if_modified(|phase| {
            let idle = matches!(phase, Phase::Idle);
            if idle {
                self.enter(phase, Phase::Connecting);
            }
            idle
        });
        if begun {
            let span = debug_span!(parent: None, "connection", address = %self.target.address);
            tokio::spawn(Arc::clone(self).run(false).instrument(span));
        }
    }

    /// Begins an attempt for one more connection, unless one runs, the last one failed a moment ago, or there are enough.
    fn grow(self: &Arc<Self>) {
        if self.live.load().len() >= self.options.max_connections {
            return;
        }
        // A panic while it is held leaves it as it was.
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        if growth.runs || growth.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        growth.runs = true;
        let span = debug_span!(parent: None, "further connection", address = %self.target.address);
        tokio::spawn(Arc::clone(self).run(true).instrument(span));
    }

    /// An attempt for one more connection is over.
    fn grown(&self, well: bool) {
        // As in `grow`.
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        growth.runs = false;
        if well {
            growth.backoff.reset();
            growth.not_before = None;
        } else {
            growth.not_before = Some(Instant::now() + growth.backoff.next(fastrand::f64()));
        }
    }

    /// Connects, and looks after the connection until it ends in good order or the endpoint is gone; connects again when it was
    /// lost and is the last. One that is `further` is tried once.
    async fn run(self: Arc<Self>, mut further: bool) {
        let mut backoff = Backoff::new(self.options.backoff_base, self.options.backoff_max);
        loop {
            let attempt = tokio::select! {
                () = self.stop.cancelled() => return,
                attempt = connect(&self.target, &self.options) => attempt,
            };
            let error = match attempt {
                Ok((request, driver)) => {
                    let streams = self.enter_ready(request, driver.limit());
                    if further {
                        self.grown(true);
                    }
                    let (number, since) = (streams.number(), Instant::now());
                    let retire = || {
                        debug!(number, "connection is idle");
                        self.remove(number, Phase::Idle);
                    };
                    let ended = driver.run(&self.options, &streams, retire, &self.stop).await;
                    let Err(cause) = ended else {
                        debug!(number, "connection closed");
                        self.remove(number, Phase::Idle);
                        return;
                    };
                    let left = self.remove(number, Phase::Connecting);
                    if left != Left::Nothing {
                        debug!(number, error = &cause as &dyn std::error::Error, "connection lost");
                        return;
                    }
                    further = false;
                    let after = since.elapsed();
                    // Whoever takes connections only to break them is not hammered.
                    let early = after < backoff.current();
                    if !early {
                        backoff.reset();
                    }
                    let error = ConnectError::Lost { after, cause };
                    info!(error = &error as &dyn std::error::Error, "connection lost");
                    if !early {
                        continue;
                    }
                    error
                }
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "cannot connect");
                    if further {
                        self.grown(false);
                        return;
                    }
                    error
                }
            };
            let wait = backoff.next(fastrand::f64());
            if !self.back_off(error) {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Changes the phase, which the caller has locked, and tells the cell.
    fn enter(&self, phase: &mut Phase, next: Phase) {
        if let Some(cell) = self.cell.upgrade() {
            cell.set_connectivity(next.connectivity());
        }
        *phase = next;
    }

    fn enter_ready(&self, sender: SendRequest<Bytes>, limit: usize) -> Arc<Streams> {
        let number = self.established.fetch_add(1, Relaxed) + 1;
        let streams = Arc::new(Streams::new(number, limit, Arc::clone(&self.freed)));
        // The phase's lock orders this against `remove`.
        self.phase.send_modify(|phase| {
            let mut live = Vec::clone(&self.live.load());
            live.push(Live { sender, streams: Arc::clone(&streams) });
            self.live.store(Arc::new(live));
            self.enter(phase, Phase::Ready);
        });
        self.freed.notify_waiters();
        debug!(number, limit, "connected");
        streams
    }

    /// Lets connection `number` take no more calls. `next` is the phase if it was the last.
    fn remove(&self, number: u64, next: Phase) -> Left {
        let mut left = Left::Retired;
        self.phase.send_if_modified(|phase| {
            let live = self.live.load();
            let rest: Vec<_> = live.iter().filter(|live| live.streams.number() != number).cloned().collect();
            if rest.len() == live.len() {
                return false;
            }
            left = if rest.is_empty() { Left::Nothing } else { Left::Others };
            self.live.store(Arc::new(rest));
            if left == Left::Nothing {
                self.enter(phase, next);
            }
            left == Left::Nothing
        });
        if left == Left::Others {
            // Whoever waits for a stream may begin another connection now.
            self.freed.notify_waiters();
        }
        left
    }

    /// Whether the endpoint still exists, and is not connected to.
    fn back_off(&self, error: ConnectError) -> bool {
        let Some(cell) = self.cell.upgrade() else { return false };
        let mut alone = true;
        self.phase.send_if_modified(|phase| {
            // A further connection may have come up meanwhile.
            alone = self.live.load().is_empty();
            if alone {
                if !cell.is_backing_off() {
                    info!(error = &error as &dyn std::error::Error, address = %self.target.address, "endpoint cannot be reached");
                }
                self.enter(phase, Phase::BackingOff { error: Arc::new(error) });
            }
            alone
        });
        alone
    }
}
