//! Takes the connections of the node's API: its port, its Unix socket, and the port for probes.
//!
//! ```text
//!   accept ─▶ a slot ─▶ what it speaks, TLS ─▶ HTTP/1.1 or HTTP/2 ─▶ guard ─▶ the router
//! ```
//!
//! All that strangers can use up here has a bound: connections, their headers and bodies, and how
//! long each may do nothing.

use std::{convert::Infallible, error::Error, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use super::{
    access::{Access, Peer, Way},
    body::{Bounded, Held},
    connection_limit::{ConnectionLimit, ConnectionSlot, Taken},
    guard,
    rejection::{Refused, Rejection},
    roles::Role,
};
use crate::{
    dataplane::{self, Identity, Listener, Protocol, RateLimitedLog, ServerTls, Socket, protocol},
    text,
};

/// How long a connection may take to show what it speaks, to shake hands, and to send the headers
/// of a request over HTTP/1.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// A connection on which nothing ran for so long is closed. gRPC's clients make another when they
/// have a call.
const IDLE: Duration = Duration::from_mins(1);

/// A silent client is asked for a sign of life after this, and is gone without one.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// The most bytes of a request's headers.
const HEADERS: u32 = 16 << 10;

/// How many calls may run on one connection.
const STREAMS: u32 = 64;

/// The most bytes of a call that changes nothing.
const SMALL_BODY: usize = 64 << 10;

/// How long the body of a change may take to come.
const BODY_TIME: Duration = Duration::from_mins(1);

/// How long what runs on a connection may go on when another needs its place.
const GOODBYE: Duration = Duration::from_secs(5);

/// How many changes may be under way at once: each may bring a component of megabytes.
const CHANGES: usize = 8;

/// The ways into the node's API.
#[derive(Debug)]
pub struct Doors {
    /// The port that has all of it.
    pub control: Listener,
    /// TLS there. Default: none.
    pub tls: Option<ServerTls>,
    /// A Unix socket that has all of it, too. Default: none.
    pub unix: Option<Listener>,
    /// A port that answers probes and nothing else. Default: none.
    pub probe: Option<Listener>,
}

impl<L: Into<Listener>> From<L> for Doors {
    /// One port without TLS.
    fn from(listener: L) -> Self {
        Self { control: listener.into(), tls: None, unix: None, probe: None }
    }
}

/// What all ways in lead to.
pub(super) struct Front {
    pub(super) router: Router,
    pub(super) access: Access,
    /// The most bytes of a change.
    pub(super) message_size: usize,
    pub(super) refused: Refused,
}

struct Server {
    front: Front,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    changes: Arc<Semaphore>,
    warnings: Warnings,
    /// Cancelled when no more is taken.
    closing: CancellationToken,
    /// Cancelled when what runs is cut off.
    cut: CancellationToken,
    tracker: TaskTracker,
}

/// As in the data plane: at most a line a second of each kind.
#[derive(Default)]
struct Warnings {
    accept: RateLimitedLog,
    evicted: RateLimitedLog,
    mixed_up: RateLimitedLog,
    handshake: RateLimitedLog,
    refused: RateLimitedLog,
}

/// One way in.
struct Door {
    server: Arc<Server>,
    way: Way,
    tls: Option<ServerTls>,
    connections: Arc<ConnectionLimit>,
}

/// Serves all doors until `closing` is cancelled, then lets what runs end; dropping the future cuts
/// that off.
pub(super) async fn serve(doors: Doors, front: Front, closing: CancellationToken) {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(FIRST_BYTES).max_headers(64).max_buf_size(HEADERS as usize);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    let server = Arc::new(Server {
        front,
        http1,
        http2,
        changes: Arc::new(Semaphore::new(CHANGES)),
        warnings: Warnings::default(),
        closing,
        cut: CancellationToken::new(),
        tracker: TaskTracker::new(),
    });
    let _cut = server.cut.clone().drop_guard();
    let Doors { control, tls, unix, probe } = doors;
    let way = match control.address() {
        Ok(_) => Way::Control { tls: tls.is_some() },
        Err(_) => Way::Unix,
    };
    let ways = [
        Some((control, way, tls)),
        unix.map(|unix| (unix, Way::Unix, None)),
        probe.map(|probe| (probe, Way::Probe, None)),
    ];
    let loops = ways.into_iter().flatten().map(|(listener, way, tls)| {
        let door = Door { server: Arc::clone(&server), way, tls, connections: Arc::new(ConnectionLimit::new()) };
        Arc::new(door).run(listener)
    });
    futures::future::join_all(loops).await;
    server.tracker.close();
    server.tracker.wait().await;
}

impl Door {
    async fn run(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.server.closing.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let taken = self.connections.take();
                    if taken.evicted
                        && let Some(untold) = self.server.warnings.evicted.allow()
                    {
                        warn!(%peer, untold, "as many connections to the node's API as may be: one that was of no use went for a new one");
                    }
                    self.server.tracker.spawn(Arc::clone(&self).connection(socket, peer.0, taken));
                }
                Err(error) => {
                    if let Some(untold) = self.server.warnings.accept.allow() {
                        warn!(%error, untold, "cannot take a connection of the node's API");
                    }
                    // Some errors last (no file descriptor is left): give what runs a chance to
                    // end.
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, socket: Socket, address: Option<IpAddr>, taken: Taken) {
        let slot = &taken.slot;
        let greeted = tokio::select! {
            greeted = self.greet(socket) => greeted,
            // Nothing has been asked yet: there is nothing to finish.
            () = slot.leave.cancelled() => None,
            () = self.server.closing.cancelled() => None,
        };
        let Some((socket, is_http2)) = greeted else { return };
        if socket.set_nodelay().is_err() {
            return;
        }
        let peer = Arc::new(Peer { way: self.way, address, identity: Identity::of(&socket) });
        let service = service_fn(|request| {
            let (door, peer, slot) = (Arc::clone(&self), Arc::clone(&peer), Arc::clone(slot));
            async move { Ok::<_, Infallible>(door.answer(&peer, &slot, request).await) }
        });
        // Two kinds of connections with the same three calls.
        macro_rules! serve {
            ($builder:expr) => {{
                let mut connection = pin!($builder.serve_connection(TokioIo::new(socket), service));
                tokio::select! {
                    ended = &mut connection => ended,
                    () = self.leave(slot) => {
                        connection.as_mut().graceful_shutdown();
                        tokio::select! {
                            ended = &mut connection => ended,
                            () = self.cut(slot) => return,
                        }
                    }
                }
            }};
        }
        let ended: Result<(), hyper::Error> =
            if is_http2 { serve!(self.server.http2) } else { serve!(self.server.http1) };
        if let Err(error) = ended {
            debug!(?address, error = &error as &dyn Error, "a connection of the node's API failed");
        }
    }

    /// Completes when a connection is to take no more requests.
    async fn leave(&self, slot: &ConnectionSlot) {
        tokio::select! {
            () = slot.leave.cancelled() => {}
            () = self.server.closing.cancelled() => {}
            () = slot.idle(IDLE) => {}
        }
    }

    /// Completes when what runs on a connection that is to leave is cut off.
    async fn cut(&self, slot: &ConnectionSlot) {
        let evicted = async {
            slot.leave.cancelled().await;
            sleep(GOODBYE).await;
        };
        tokio::select! {
            () = evicted => {}
            () = self.server.cut.cancelled() => {}
        }
    }

    /// Finds out what a client speaks, and shakes hands. The flag: HTTP/2. None: it was told why
    /// not, if it can be.
    async fn greet(&self, socket: Socket) -> Option<(Socket, bool)> {
        let spoken = timeout(FIRST_BYTES, protocol(&socket)).await.ok()?.ok()?;
        match (&self.tls, spoken) {
            (None, Protocol::Tls) => {
                self.mixed_up("TLS to a cleartext port of the node's API; use http://");
                None
            }
            (None, Protocol::Http1 | Protocol::Http2) => Some((socket, spoken == Protocol::Http2)),
            (Some(_), Protocol::Http1 | Protocol::Http2) => {
                self.mixed_up("cleartext to a TLS port of the node's API; use https://");
                let _ = timeout(FIRST_BYTES, dataplane::refuse(socket, dataplane::Refusal::Cleartext)).await;
                None
            }
            (Some(tls), Protocol::Tls) => match timeout(FIRST_BYTES, tls.accept(socket)).await {
                Ok(Ok(shaken)) => Some(shaken),
                Ok(Err(error)) => {
                    if let Some(untold) = self.server.warnings.handshake.allow() {
                        warn!(untold, error = &error as &dyn Error, "cannot take a TLS connection of the node's API");
                    }
                    None
                }
                Err(_) => None,
            },
        }
    }

    fn mixed_up(&self, what: &str) {
        if let Some(untold) = self.server.warnings.mixed_up.allow() {
            warn!(untold, "a client speaks {what}");
        }
    }

    async fn answer(&self, peer: &Peer, slot: &Arc<ConnectionSlot>, request: Request<Incoming>) -> Response<Body> {
        let server = &self.server;
        let running = slot.begin();
        let (mut head, body) = request.into_parts();
        let is_grpc = guard::is_grpc(&head.headers) && head.version == http::Version::HTTP_2;
        let admitted = guard::admit(&server.front.access, peer, &head);
        let admitted = admitted.and_then(|admitted| {
            let permit = match admitted.needs {
                Role::Write => Some(Arc::clone(&server.changes).try_acquire_owned().map_err(|_| Rejection::Busy)?),
                Role::Probe | Role::Read => None,
            };
            Ok((admitted, permit))
        });
        let (admitted, permit): (_, Option<OwnedSemaphorePermit>) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                server.front.refused.count(refusal.label());
                if let Some(untold) = server.warnings.refused.allow() {
                    let (path, reason) = (text::printable(head.uri.path(), text::NAME), refusal.to_string());
                    let peer = peer.address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
                    warn!(%peer, path, reason, untold, "refused a request to the node's API");
                }
                slot.refused();
                let body = Body::new(Held::new(Body::empty(), running, None::<OwnedSemaphorePermit>));
                return refused(&refusal, is_grpc, body);
            }
        };
        let body = match admitted.needs {
            Role::Write => {
                let by = admitted.caller.name.as_deref().unwrap_or_default();
                let address = peer.address.map(|address| address.to_string());
                info!(call = head.uri.path(), by, peer = address.as_deref().unwrap_or("unix"), "a change is asked for");
                Bounded::new(body, server.front.message_size, Some(BODY_TIME))
            }
            Role::Probe | Role::Read => Bounded::new(body, SMALL_BODY, None),
        };
        head.extensions.insert(admitted.caller);
        let Ok(response) = server.front.router.clone().oneshot(Request::from_parts(head, Body::new(body))).await;
        response.map(|body| Body::new(Held::new(body, running, permit)))
    }
}

/// The answer to a request that goes no further, in its own language.
fn refused(refusal: &Rejection, is_grpc: bool, body: Body) -> Response<Body> {
    let text = refusal.to_string();
    if is_grpc {
        let mut response = tonic::Status::new(refusal.grpc(), text).into_http::<Body>();
        // gRPC's clients read the header; what is no such client shall not take it for a success.
        if !matches!(refusal, Rejection::NotProven(_) | Rejection::NoBearer | Rejection::WrongToken | Rejection::Busy) {
            *response.status_mut() = refusal.http();
        }
        *response.body_mut() = body;
        return response;
    }
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = refusal.http();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    match response.status() {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        _ => {}
    }
    response
}
