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
//! One task an endpoint makes the attempts, so that a call that is given up takes no attempt with
//! it, and so that any number of calls wait for the same one, if they wait (`connect_race`). The
//! endpoint's cell is told of each change ([`Connectivity`]): while it is backing off, picks skip
//! it and the task goes on trying: an endpoint that comes back is used again without a call paying
//! for the test.
//!
//! A server bounds the calls that run on one connection (MAX_CONCURRENT_STREAMS). When all are
//! taken, the next call begins another connection, up to [`ConnectOptions::max_connections`], the
//! last of which is in reserve for clients that have few places (`share`), and goes on whichever
//! comes first: that connection, or a call that ends. gRPC's proposal A105 does the same. Calls
//! take the oldest connection with room, so that the further ones are idle again when they are not
//! needed. An attempt for a further connection that fails harms nobody: the endpoint is as ready as
//! before. Ready means that there is at least one connection; one that is going away is none,
//! although the calls on it run to their ends.
//!
//! A server that does not answer at the moment (`liveness`) keeps its connection, and others get
//! the calls: those on its further connections that are heard, else other endpoints
//! ([`EndpointCell::set_silent`]). Where none is heard one more is begun beside the calls, since it
//! may be the connections that were forgotten on their way, and not the server that hangs. When the
//! last is lost for that, the endpoint is backing off until it can be connected to: it took
//! connections while it hung, and calls should not wait for the next attempt.
//!
//! Connections live as long as their endpoint is in a published generation or a call on them runs,
//! because the endpoint's cell owns them. Where the service's endpoints are checked (`check`),
//! there is a connection from the beginning. Those on which nothing ran for
//! [`ConnectOptions::idle_timeout`] are closed.

mod check;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use futures::future::OptionFuture;
use http::uri::{self, Authority};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, debug_span, info};
use waymark_balancer::{Connectivity, EndpointCell, EndpointState, Upstream};
use waymark_core::{backoff::Backoff, check::CheckConfig, model::ServiceName};

use super::{
    connect::{ConnectTarget, ConnectionOwner, Driver, connect},
    exchange::Handle,
    streams::{StreamPermit, Streams},
};
use crate::{
    errors::connecting::{ConnectError, LostError},
    limits::share::{Freed, Share},
    observe::metrics::Metrics,
    options::{ConnectOptions, Options},
    transport::{tls::EndpointTls, turns::AfterOthers},
};

/// The connections of one data plane, as its balancer knows them.
pub(crate) struct Connections {
    options: ConnectOptions,
    tls: EndpointTls,
    metrics: Metrics,
}

impl Connections {
    /// Makes connections with these options, and forgets the figures of services that go.
    pub(crate) fn new(options: &Options, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { options: options.connect.clone(), tls: options.endpoint_tls.clone(), metrics })
    }
}

impl Upstream for Connections {
    type Connection = Connection;

    fn attach(&self, service: &ServiceName, endpoint: &EndpointState) -> Connection {
        let target = ConnectTarget { address: endpoint.endpoint.address.clone(), tls: self.tls.of(service).cloned() };
        Connection::idle(target, Arc::downgrade(&endpoint.cell), &self.options)
    }

    fn connect(&self, connection: &Connection) {
        connection.begin();
    }

    fn check(&self, connection: &Connection, config: &CheckConfig) {
        connection.check(config);
    }

    fn forget(&self, service: &ServiceName) {
        self.metrics.forget(service);
    }
}

/// The connection to one endpoint, whatever state it is in.
pub(crate) struct Connection {
    inner: Arc<Inner>,
    /// Whether its check was begun.
    checked: AtomicBool,
    /// Ends the tasks when the endpoint goes.
    _stop: DropGuard,
}

struct Inner {
    target: ConnectTarget,
    /// For requests that name no authority.
    authority: Authority,
    options: ConnectOptions,
    cell: Weak<EndpointCell>,
    /// What calls send on, the oldest first and silent ones last: any exactly while the phase is
    /// Ready. Beside the phase, because calls read it without a lock.
    live: ArcSwap<Vec<Live>>,
    phase: watch::Sender<Phase>,
    growth: Mutex<Growth>,
    /// Told when a stream or a connection has come free.
    freed: Arc<Notify>,
    /// Told when a stream in reserve has.
    spared: Arc<Notify>,
    established: AtomicU64,
    /// Why its check found the endpoint unfit, the last time it did.
    unfit: Mutex<Option<Arc<str>>>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Live {
    handle: Arc<Handle>,
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

/// Whether there are connections, and none is heard.
fn is_silent(live: &[Live]) -> bool {
    !live.is_empty() && live.iter().all(|live| live.streams.is_silent())
}

/// Which of an endpoint's connections one is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The one that makes it ready.
    First,
    /// One more beside others, which are full.
    Further,
    /// The one for clients that have few places.
    Reserve,
}

/// Attempts for connections after the first.
struct Growth {
    runs: bool,
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// One of the connections, as its driver knows it.
struct Kept<'a> {
    inner: &'a Arc<Inner>,
    streams: &'a Streams,
}

impl ConnectionOwner for Kept<'_> {
    fn idle(&self) {
        let number = self.streams.number();
        debug!(number, "connection is idle");
        self.inner.remove(number, Phase::Idle);
    }

    fn silent(&self, silent: bool) {
        self.inner.set_silent(self.streams, silent);
        if silent {
            self.inner.doubt();
        }
    }
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
pub(crate) struct Sender {
    pub(crate) handle: Arc<Handle>,
    /// To be kept until the call has ended.
    pub(crate) permit: StreamPermit,
}

impl Connection {
    /// The connection of an endpoint of this service, made idle at first use.
    pub(crate) fn of<'a>(endpoint: &'a EndpointState, service: &ServiceName, all: &Connections) -> &'a Self {
        endpoint.connection(service, all)
    }

    fn idle(target: ConnectTarget, cell: Weak<EndpointCell>, options: &ConnectOptions) -> Self {
        let stop = CancellationToken::new();
        let authority = target.authority();
        let inner = Arc::new(Inner {
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
            spared: Arc::default(),
            established: AtomicU64::new(0),
            unfit: Mutex::default(),
            stop: stop.clone(),
        });
        Self { inner, checked: AtomicBool::new(false), _stop: stop.drop_guard() }
    }

    /// The authority to use where a request has none.
    pub(crate) fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// The scheme of its requests (RFC 9113, section 8.3.1).
    pub(crate) fn scheme(&self) -> uri::Scheme {
        self.inner.scheme()
    }

    /// What to send on, if a connection with room for this client is up: the hot path.
    pub(crate) fn sender(&self, share: Option<&Arc<Share>>) -> Option<Sender> {
        self.inner.sender(share)
    }

    /// What to send on once the endpoint is connected to: begins an attempt if that is what it
    /// takes. None where every stream is taken. Fails when the endpoint cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Safe: the attempt goes on.
    pub(crate) async fn reached(&self, share: Option<&Arc<Share>>) -> Result<Option<Sender>, Arc<ConnectError>> {
        self.inner.reached(share).await
    }

    /// Begins to connect, unless it is connected to, or that runs already. Does not wait for it.
    pub(crate) fn begin(&self) {
        self.inner.begin();
    }

    /// What to send on, once there is something: begins an attempt if that is what it takes. Fails
    /// when the endpoint cannot be reached; waits for as long as it is connected to and every
    /// stream is taken.
    ///
    /// # Cancel safety
    ///
    /// Safe: the attempt goes on.
    pub(crate) async fn connected(&self, share: Option<&Arc<Share>>) -> Result<Sender, Arc<ConnectError>> {
        self.inner.connected(share).await
    }

    /// Says that this connection takes no more calls (it is going away), so that the next call
    /// connects anew. Calls that run on it go on.
    pub(crate) fn retire(&self, number: u64) {
        self.inner.remove(number, Phase::Idle);
    }

    /// Why the endpoint cannot be reached, while it cannot.
    pub(crate) fn last_error(&self) -> Option<Arc<ConnectError>> {
        match &*self.inner.phase.borrow() {
            Phase::BackingOff { error } => Some(Arc::clone(error)),
            _ => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The last handles that could open a stream: without them, the connections end in good
        // order.
        self.inner.live.store(Arc::default());
    }
}

impl Inner {
    fn scheme(&self) -> uri::Scheme {
        if self.target.tls.is_some() { uri::Scheme::HTTPS } else { uri::Scheme::HTTP }
    }

    /// See [`Connection::sender`].
    fn sender(&self, share: Option<&Arc<Share>>) -> Option<Sender> {
        let live = self.live.load();
        live.iter().find_map(|live| {
            Some(Sender { permit: StreamPermit::take(&live.streams, share)?, handle: Arc::clone(&live.handle) })
        })
    }

    /// See [`Connection::reached`].
    async fn reached(self: &Arc<Self>, share: Option<&Arc<Share>>) -> Result<Option<Sender>, Arc<ConnectError>> {
        let mut phase = self.phase.subscribe();
        loop {
            let seen = phase.borrow_and_update().clone();
            match seen {
                Phase::Idle => self.begin(),
                Phase::Connecting => {}
                Phase::Ready => return Ok(self.sender(share)),
                Phase::BackingOff { error } => return Err(error),
            }
            // As in `connected`.
            phase.changed().await.expect("the phase outlives its readers");
        }
    }

    /// See [`Connection::connected`].
    async fn connected(self: &Arc<Self>, share: Option<&Arc<Share>>) -> Result<Sender, Arc<ConnectError>> {
        let mut phase = self.phase.subscribe();
        let mut waited = false;
        loop {
            // Before the look, so that nothing that comes free after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            let mut spared = pin!(self.spared.notified());
            let mut own = pin!(share.map(|share| share.freed()));
            // Who has too many places for one in reserve waits for one of its own; others are not
            // woken for it in vain.
            let modest = share.is_none_or(|share| {
                // First: a place given back after the look is noticed.
                own.as_mut().as_pin_mut().into_iter().for_each(Freed::enable);
                share.is_modest(self.reserved())
            });
            if modest {
                spared.as_mut().enable();
            }
            if let Some(sender) = self.sender(share) {
                if waited {
                    // More may have come free than this one was told of: pass it on.
                    self.freed.notify_one();
                    self.spared.notify_one();
                }
                return Ok(sender);
            }
            let seen = phase.borrow_and_update().clone();
            match seen {
                Phase::Idle => self.begin(),
                Phase::Connecting => {}
                Phase::Ready => self.grow(modest),
                Phase::BackingOff { error } => return Err(error),
            }
            waited = true;
            tokio::select! {
                () = freed => {}
                () = spared, if modest => {}
                Some(()) = OptionFuture::from(own.as_mut().as_pin_mut()), if !modest => {}
                // The sender of this channel lives in `self`.
                changed = phase.changed() => changed.expect("the phase outlives its readers"),
            }
        }
    }

    /// How many streams there are in reserve; as many as elsewhere, as long as none were made.
    fn reserved(&self) -> u32 {
        // It is the last one, if there is one.
        self.live.load().last().map_or(u32::MAX, |live| live.streams.limit())
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
            tokio::spawn(Arc::clone(self).run(Role::First).instrument(span));
        }
    }

    /// Begins an attempt for one more connection, unless one runs, the last one failed a moment
    /// ago, or there are enough. A `modest` client may have one in reserve.
    fn grow(self: &Arc<Self>, modest: bool) {
        if self.next_role(modest).is_none() {
            return;
        }
        // A panic while it is held leaves it as it was.
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        if growth.runs || growth.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        // Again, because an attempt may have ended well meanwhile.
        let Some(role) = self.next_role(modest) else { return };
        growth.runs = true;
        let span = debug_span!(parent: None, "further connection", address = %self.target.address);
        tokio::spawn(Arc::clone(self).run(role).instrument(span));
    }

    /// Begins one more connection if none is heard: it may be that the server hangs, or only that
    /// what it was reached by has forgotten these connections (a balancer, a firewall, an address
    /// that has moved). A new one tells, and takes the calls.
    fn doubt(self: &Arc<Self>) {
        if is_silent(&self.live.load()) {
            self.grow(true);
        }
    }

    /// What one more connection would be; none where there are enough.
    fn next_role(&self, modest: bool) -> Option<Role> {
        let live = self.live.load();
        let reserved = live.iter().any(|live| live.streams.is_reserve());
        let ordinary = live.len() - usize::from(reserved);
        // The last one of several.
        let reserve = self.options.max_connections > 1;
        if is_silent(&live) {
            // What is silent serves nobody: one more may, whatever there is.
            return (live.len() <= self.options.max_connections).then_some(Role::Further);
        }
        if ordinary < self.options.max_connections - usize::from(reserve) {
            return Some(Role::Further);
        }
        (reserve && !reserved && modest).then_some(Role::Reserve)
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

    /// After an attempt for one more connection that failed: while there is no other way, another
    /// is made.
    async fn doubt_later(self: &Arc<Self>) {
        if !is_silent(&self.live.load()) {
            return;
        }
        // As in `grow`.
        let at = self.growth.lock().unwrap_or_else(PoisonError::into_inner).not_before;
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep_until(at.unwrap_or_else(Instant::now)) => self.doubt(),
        }
    }

    /// Connects, and looks after the connection until it ends in good order or the endpoint is
    /// gone; connects again when it was lost and is the last. One that is not the first is tried
    /// once.
    async fn run(self: Arc<Self>, mut role: Role) {
        let mut backoff = Backoff::new(self.options.backoff_base, self.options.backoff_max);
        loop {
            let attempt = tokio::select! {
                () = self.stop.cancelled() => return,
                attempt = connect(&self.target, &self.options) => attempt,
            };
            let error = match attempt {
                Ok((handle, driver)) => {
                    let streams = self.enter_ready(handle, role == Role::Reserve, &driver);
                    if role != Role::First {
                        self.grown(true);
                    }
                    let (number, since) = (streams.number(), Instant::now());
                    let owner = Kept { inner: &self, streams: &streams };
                    let ended = AfterOthers::new(driver.run(&self.options, &streams, &owner, &self.stop)).await;
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
                    role = Role::First;
                    let after = since.elapsed();
                    // Whoever takes connections only to break them is not hammered.
                    let early = after < backoff.current();
                    if !early {
                        backoff.reset();
                    }
                    let hung = matches!(cause, LostError::KeepAlive(_));
                    let error = ConnectError::Lost { after, cause };
                    info!(error = &error as &dyn std::error::Error, "connection lost");
                    if !early && !hung {
                        continue;
                    }
                    error
                }
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "cannot connect");
                    if role != Role::First {
                        self.grown(false);
                        self.doubt_later().await;
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

    fn enter_ready(&self, handle: Arc<Handle>, reserve: bool, driver: &Driver) -> Arc<Streams> {
        let limit = driver.mailbox().seen.limit();
        let number = self.established.fetch_add(1, Relaxed) + 1;
        let freed = if reserve { &self.spared } else { &self.freed };
        let streams = Arc::new(Streams::new(number, reserve, Arc::clone(freed), Arc::clone(&driver.mailbox().seen)));
        // The phase's lock orders this against `remove`.
        self.phase.send_modify(|phase| {
            let mut live = Vec::clone(&self.live.load());
            live.push(Live { handle, streams: Arc::clone(&streams) });
            self.put(live);
            self.enter(phase, Phase::Ready);
        });
        freed.notify_waiters();
        debug!(number, limit, reserve, "connected");
        streams
    }

    /// These are what calls send on from here on. The caller has locked the phase.
    fn put(&self, mut live: Vec<Live>) {
        // What is in reserve is taken last.
        live.sort_by_key(|live| (live.streams.is_reserve(), live.streams.is_silent(), live.streams.number()));
        if let Some(cell) = self.cell.upgrade() {
            cell.set_silent(live.first().is_some_and(|first| first.streams.is_silent()));
        }
        self.live.store(Arc::new(live));
    }

    /// The server does not answer on this connection at the moment, or does again.
    fn set_silent(&self, streams: &Streams, silent: bool) {
        if silent {
            info!("the server does not answer: calls go elsewhere, where they can");
        } else {
            info!("the server answers again");
        }
        streams.set_silent(silent);
        self.phase.send_if_modified(|_| {
            self.put(Vec::clone(&self.live.load()));
            false
        });
        // Whoever waits for an endpoint's readiness looks again, and those for a stream at their
        // connection.
        self.freed.notify_waiters();
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
            self.put(rest);
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
