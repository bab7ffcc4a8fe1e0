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
//! calls wait for the same one. While it is backing off, picks skip the endpoint ([`EndpointCell::set_backing_off`]) and the
//! task goes on trying: an endpoint that comes back is used again without a call paying for the test.
//!
//! A connection lives as long as its endpoint is in a published generation or a call on it runs, because the endpoint's cell
//! owns it. There is one connection an endpoint and process; [`Connection::sender`] is the place to choose among several.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{self, Authority};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, debug_span, info};

use super::{
    backoff::Backoff,
    connect::{ConnectError, Target, connect},
    options::{ConnectOptions, Options},
};
use crate::{
    balancer::{EndpointCell, EndpointState},
    model::ServiceName,
};

/// The connection to one endpoint, whatever state it is in.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Ends the task when the endpoint goes.
    _stop: DropGuard,
}

struct Shared {
    target: Target,
    /// For requests that name no authority.
    authority: Authority,
    options: ConnectOptions,
    cell: Weak<EndpointCell>,
    /// What calls send on: set exactly while the phase is Ready. Beside the phase, because calls read it without a lock.
    live: ArcSwapOption<Live>,
    phase: watch::Sender<Phase>,
    established: AtomicU64,
    stop: CancellationToken,
}

struct Live {
    number: u64,
    sender: SendRequest<Bytes>,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Nobody asked yet, or the last connection ended in good order.
    Idle,
    /// The first attempt runs, or the first after a loss.
    Connecting,
    /// Connection `number` takes calls.
    Ready { number: u64 },
    /// The last attempt failed; the next one waits or runs.
    BackingOff { error: Arc<ConnectError> },
}

/// What a call sends on.
pub(super) struct Sender {
    pub(super) request: SendRequest<Bytes>,
    /// Which of the endpoint's connections, one after the other, this is.
    pub(super) number: u64,
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
        let authority = Authority::try_from(target.address.as_str()).expect("a checked host:port is an authority");
        let shared = Arc::new(Shared {
            target,
            authority,
            options: options.clone(),
            cell,
            live: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::Idle),
            established: AtomicU64::new(0),
            stop: stop.clone(),
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// The authority to use where a request has none.
    pub(super) fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The scheme of its requests (RFC 9113, section 8.3.1).
    pub(super) fn scheme(&self) -> uri::Scheme {
        if self.shared.target.tls.is_some() { uri::Scheme::HTTPS } else { uri::Scheme::HTTP }
    }

    /// What to send on, if the connection is up: the hot path.
    pub(super) fn sender(&self) -> Option<Sender> {
        let live = self.shared.live.load();
        live.as_ref().map(|live| Sender { request: live.sender.clone(), number: live.number })
    }

    /// What to send on, once the attempt that runs is over; begins one if none does.
    ///
    /// # Cancel safety
    ///
    /// Safe: the attempt goes on.
    pub(super) async fn connected(&self) -> Result<Sender, Arc<ConnectError>> {
        let mut phase = self.shared.phase.subscribe();
        loop {
            if let Some(sender) = self.sender() {
                return Ok(sender);
            }
            self.shared.begin();
            let settled = phase.wait_for(|phase| !matches!(phase, Phase::Connecting)).await;
            // The sender of this channel lives in `self.shared`.
            let settled = settled.expect("the phase outlives its readers").clone();
            match settled {
                Phase::BackingOff { error } => return Err(error),
                // Ready, or Ready and over again: look once more.
                _ => tokio::task::yield_now().await,
            }
        }
    }

    /// Says that this connection takes no more calls (it is going away), so that the next call connects anew. Calls that run on
    /// it go on.
    pub(super) fn retire(&self, number: u64) {
        self.shared.leave_ready(number, Phase::Idle);
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
        // The last handle that could open a stream: without it, HTTP/2 closes the connection in good order.
        self.shared.live.store(None);
    }
}

impl Shared {
    /// Idle to Connecting, by the one caller that finds it idle.
    fn begin(self: &Arc<Self>) {
        let begun = self.phase.send_if_modified(|phase| {
            let idle = matches!(phase, Phase::Idle);
            if idle {
                *phase = Phase::Connecting;
            }
            idle
        });
        if begun {
            let span = debug_span!(parent: None, "connection", address = %self.target.address);
            tokio::spawn(Arc::clone(self).run().instrument(span));
        }
    }

    /// From Connecting on, until the connection ends in good order or the endpoint is gone.
    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(self.options.backoff_base, self.options.backoff_max);
        loop {
            let attempt = tokio::select! {
                () = self.stop.cancelled() => return,
                attempt = connect(&self.target, &self.options) => attempt,
            };
            let error = match attempt {
                Ok((request, driver)) => {
                    let number = self.enter_ready(request);
                    let since = Instant::now();
                    let busy = || self.cell.upgrade().is_some_and(|cell| cell.in_flight() > 0);
                    let ended = driver.run(&self.options, busy, &self.stop).await;
                    let Err(cause) = ended else {
                        debug!("connection closed");
                        self.leave_ready(number, Phase::Idle);
                        return;
                    };
                    if !self.leave_ready(number, Phase::Connecting) {
                        // It was retired before, and a successor may be at work.
                        return;
                    }
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

    fn enter_ready(&self, sender: SendRequest<Bytes>) -> u64 {
        let number = self.established.fetch_add(1, Relaxed) + 1;
        if let Some(cell) = self.cell.upgrade() {
            cell.set_backing_off(false);
        }
        // The phase's lock orders this against `leave_ready`.
        self.phase.send_modify(|phase| {
            self.live.store(Some(Arc::new(Live { number, sender })));
            *phase = Phase::Ready { number };
        });
        debug!(number, "connected");
        number
    }

    /// Whether connection `number` was the one in use until now.
    fn leave_ready(&self, number: u64, next: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let mine = matches!(phase, Phase::Ready { number: current } if *current == number);
            if mine {
                self.live.store(None);
                *phase = next;
            }
            mine
        })
    }

    /// Whether the endpoint still exists.
    fn back_off(&self, error: ConnectError) -> bool {
        let Some(cell) = self.cell.upgrade() else { return false };
        if !cell.is_backing_off() {
            info!(error = &error as &dyn std::error::Error, address = %self.target.address, "endpoint cannot be reached");
        }
        cell.set_backing_off(true);
        self.phase.send_replace(Phase::BackingOff { error: Arc::new(error) });
        true
    }
}
