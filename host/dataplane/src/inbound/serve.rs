//! Takes gRPC requests over HTTP/2 from clients and answers each by an instance.
//!
//! Cleartext with prior knowledge, or TLS. A client that speaks something else is told so in its
//! own protocol (`preface`). Whatever a connection does until its first call happens in its own
//! task, so that none keeps another from being taken. What HTTP/2 forbids to pass on
//! (connection-specific headers) never gets here: such a request is malformed, and HTTP/2 resets it
//! (RFC 9113, section 8.2.2).

use std::{convert::Infallible, error::Error, future::Future, io, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};
use waymark_core::{model::ServiceName, text, traffic::Code};

use super::{node_health, not_grpc::NotGrpc};
use crate::{
    call::{
        body::ResponseBody,
        client::{ClientConnection, OpenCall},
        run::{RequestedService, call, refuse},
        shared::{Dataplane, Shared},
    },
    errors::failure::Failure,
    limits::{
        GIVEN_UP,
        connection_limit::{Admitted, ConnectionPermit},
        rate_limited_log::RateLimitedLog,
    },
    transport::{
        frame_tap::FrameTap,
        identity::Identity,
        listener::{Listener, Peer},
        preface::{self, NOT_GRPC, Protocol, Refusal},
        socket::Socket,
        tls::ServerTls,
        turns::AfterOthers,
    },
    wire::{authority, header_size, status::WireCode as _},
};

/// How long a client that is one too many waits to be told. gRPC's clients count a connection as
/// made once they have its settings, without which nothing can be told; one that ends after that
/// they make again at once, for as long as they have calls.
const TURN_AWAY_AFTER: Duration = Duration::from_secs(1);

/// How long a client that connected as the node began to drain may take to its first bytes. A
/// connection that ends before the node's settings counts with gRPC's clients as one that failed,
/// and their calls fail with it; one that ends after them is made again at once.
const DRAIN_FIRST_BYTES: Duration = Duration::from_secs(1);

/// How many that wait in a listener's queue are still taken when it closes: as many as the kernel
/// lets wait on most systems.
const LAST_TAKEN: usize = 4096;

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls were not over when the time was up: these calls were cut off.
    pub cut_off: usize,
}

/// Serves clients of this listener until `shutdown` completes, then drains: takes no new
/// connections or calls, lets those that run finish within
/// [`Options::drain_timeout`](crate::Options::drain_timeout), and cuts off the rest. Who has
/// connected by then and was not taken yet is taken, and told to connect anew; unless the socket
/// has an [`Heir`](crate::Heir), which will take it.
///
/// # Cancel safety
///
/// Dropping the future stops taking connections; those there are go on until the runtime ends.
pub async fn serve(listener: impl Into<Listener>, dataplane: Dataplane, shutdown: impl Future<Output = ()>) -> Drained {
    let listener = listener.into();
    let shared = dataplane.shared;
    let listener_state = Arc::new(ListenerState::new(&shared));
    let (drain, abort, tracker) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let take = |socket, peer| {
        let connection = AcceptedConnection {
            shared: Arc::clone(&shared),
            listener_state: Arc::clone(&listener_state),
            peer,
            drain: drain.clone(),
            abort: abort.clone(),
            default: listener.default_service().cloned(),
        };
        match shared.connection_limit.admit() {
            Admitted::Served(permit) => drop(tracker.spawn(AfterOthers::new(connection.run(socket, permit)))),
            Admitted::Refused(permit) => drop(tracker.spawn(connection.turn_away(socket, permit))),
            Admitted::Closed => connection.too_many(),
        }
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((socket, peer)) => take(socket, peer),
            Err(error) => {
                if let Some(untold) = listener_state.warnings.accept.allow() {
                    warn!(%error, untold, "cannot take a connection");
                }
                // Some errors last (no file descriptor is left): give what runs a chance to end.
                if !is_of_the_connection(&error) {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    if !listener.heir().is_there() {
        // A bound, or a crowd that keeps coming would keep the port open.
        for _ in 0..LAST_TAKEN {
            match listener.accept_waiting() {
                Ok(Some((socket, peer))) => take(socket, peer),
                Ok(None) | Err(_) => break,
            }
        }
    }
    drop(listener);
    drain.cancel();
    tracker.close();
    info!(connections = tracker.len(), "draining");
    if timeout(shared.options.drain_timeout, tracker.wait()).await.is_ok() {
        return Drained { cut_off: 0 };
    }
    let cut_off = tracker.len();
    warn!(connections = cut_off, "calls still run at the end of the drain; cutting them off");
    abort.cancel();
    tracker.wait().await;
    Drained { cut_off }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct ListenerState {
    http2: http2::Builder<TokioExecutor>,
    warnings: Warnings,
}

/// What a stranger can bring about as often as it likes is told at most once a second, each kind
/// for itself: one must not hide another.
#[derive(Default)]
struct Warnings {
    accept: RateLimitedLog,
    too_many: RateLimitedLog,
    mixed_up: RateLimitedLog,
    handshake: RateLimitedLog,
    given_up: RateLimitedLog,
    abuse: RateLimitedLog,
}

impl ListenerState {
    fn new(shared: &Shared) -> Self {
        let options = &shared.options.inbound;
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_concurrent_streams(options.max_concurrent_streams)
            .max_header_list_size(header_size::of_requests(options.max_header_bytes))
            .max_send_buf_size(options.send_buffer)
            .keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            // Calls that were reset before this node looked at them. While it stands still, a
            // second of an honest client's deadlines does that; by default 20 end its connection.
            // What abuse may cost is bounded by the client's token bucket for calls that it gives
            // up.
            .max_pending_accept_reset_streams(GIVEN_UP.0 as usize)
            // The instance sets the date of its answer, if it wants one.
            .auto_date_header(false);
        Self { http2, warnings: Warnings::default() }
    }
}

struct AcceptedConnection {
    shared: Arc<Shared>,
    listener_state: Arc<ListenerState>,
    peer: Peer,
    drain: CancellationToken,
    abort: CancellationToken,
    /// What calls are for that name no service.
    default: Option<ServiceName>,
}

impl AcceptedConnection {
    async fn run(self, socket: Socket, _permit: ConnectionPermit) {
        let _record = self.shared.metrics.connection();
        let detected = tokio::select! {
            detected = self.detect_protocol(socket) => detected,
            () = self.is_late() => return,
        };
        if let Some(socket) = detected {
            self.serve(socket).await;
        }
    }

    /// Ready when a client that has said nothing has no more time to.
    async fn is_late(&self) {
        self.drain.cancelled().await;
        sleep(DRAIN_FIRST_BYTES).await;
    }

    /// Tells a client that it is one too many, after a while.
    async fn turn_away(self, socket: Socket, _permit: ConnectionPermit) {
        self.too_many();
        let told = async {
            sleep(TURN_AWAY_AFTER).await;
            self.tell(socket, Refusal::TooMany).await;
        };
        tokio::select! {
            () = told => {}
            () = self.drain.cancelled() => {}
        }
    }

    fn too_many(&self) {
        self.shared.metrics.connection_refused(Refusal::TooMany.label());
        if let Some(untold) = self.listener_state.warnings.too_many.allow() {
            let most = self.shared.connection_limit.most();
            warn!(peer = %self.peer, most, untold, "refused a client: there are as many connections as may be");
        }
    }

    /// Finds out what the client speaks. None: not what this port does, and it was told.
    async fn detect_protocol(&self, socket: Socket) -> Option<Socket> {
        let options = &self.shared.options.inbound;
        let protocol = match timeout(options.first_bytes_timeout, preface::protocol(&socket)).await {
            Ok(Ok(protocol)) => protocol,
            Ok(Err(error)) => {
                debug!(peer = %self.peer, %error, "connection closed before its first byte");
                return None;
            }
            Err(_) => {
                debug!(peer = %self.peer, "connection said nothing");
                return None;
            }
        };
        match (&options.tls, protocol) {
            (None, Protocol::Http2) => Some(socket),
            (None, Protocol::Http1) => {
                debug!(peer = %self.peer, "refusing HTTP/1");
                self.refuse(socket, Refusal::Http1).await
            }
            (None, Protocol::Tls) => {
                if let Some(untold) = self.listener_state.warnings.mixed_up.allow() {
                    warn!(peer = %self.peer, untold, "a client speaks TLS to a cleartext port; use http:// or plaintext credentials");
                }
                self.shared.metrics.connection_refused("tls");
                None
            }
            (Some(tls), Protocol::Tls) => self.tls_handshake(tls, socket).await,
            (Some(_), Protocol::Http1 | Protocol::Http2) => {
                if let Some(untold) = self.listener_state.warnings.mixed_up.allow() {
                    warn!(peer = %self.peer, untold, "a client speaks cleartext to a TLS port; use https:// or TLS credentials");
                }
                self.refuse(socket, Refusal::Cleartext).await
            }
        }
    }

    async fn tls_handshake(&self, tls: &ServerTls, socket: Socket) -> Option<Socket> {
        let bound = self.shared.options.inbound.handshake_timeout;
        let handshake = timeout(bound, tls.accept(socket)).await;
        if let Ok(Ok((socket, true))) = handshake {
            return Some(socket);
        }
        self.shared.metrics.handshake_failed();
        if let Some(untold) = self.listener_state.warnings.handshake.allow() {
            let peer = self.peer;
            match &handshake {
                Ok(Ok(_)) => warn!(%peer, untold, "a client did not ask for HTTP/2 in its TLS handshake (ALPN h2)"),
                Ok(Err(error)) => warn!(%peer, untold, error = error as &dyn Error, "cannot take a TLS connection"),
                Err(_) => warn!(%peer, untold, "no TLS handshake within {} s", bound.as_secs()),
            }
        }
        match handshake {
            Ok(Ok((socket, _))) => self.refuse(socket, Refusal::NoAlpn).await,
            _ => None,
        }
    }

    async fn refuse(&self, socket: Socket, refusal: Refusal) -> Option<Socket> {
        self.shared.metrics.connection_refused(refusal.label());
        self.tell(socket, refusal).await;
        None
    }

    async fn tell(&self, socket: Socket, refusal: Refusal) {
        // Whether the client reads why is up to it.
        let _ = timeout(self.shared.options.inbound.first_bytes_timeout, preface::refuse(socket, refusal)).await;
    }

    /// Whether this client's calls are taken.
    fn is_calm(&self, client: &ClientConnection, now: Instant) -> bool {
        let calm = !client.gives_up_too_much(now);
        if !calm && let Some(untold) = self.listener_state.warnings.given_up.allow() {
            warn!(peer = %self.peer, untold, "refused a call of a client that gives up too many right after it began them");
        }
        calm
    }

    async fn serve(&self, socket: Socket) {
        if let Err(error) = socket.set_nodelay() {
            debug!(peer = %self.peer, %error, "connection closed early");
            return;
        }
        let identity = Identity::of(&socket);
        let socket = FrameTap::client(socket);
        let (leave, cut) = (self.drain.child_token(), self.abort.child_token());
        let (shared, default) = (Arc::clone(&self.shared), self.default.clone());
        let (seen, drain) = (socket.seen(), self.drain.clone());
        let client = Arc::new(ClientConnection::new(shared, self.peer, &identity, seen, default, leave.clone(), drain));
        let _limits = client.enforce_limits(&leave, &cut);
        let service = service_fn(|request| {
            let call = OpenCall::begin(&client);
            let calm = self.is_calm(&client, call.began());
            // Boxed: the future of a call has some kilobytes, which hyper and the runtime would
            // otherwise move half a dozen times on the way into a task and out of it.
            Box::pin(async move { Ok::<_, Infallible>(answer(call, calm, request).await) })
        });
        let mut connection = pin!(self.listener_state.http2.serve_connection(TokioIo::new(socket), service));
        let told_to_leave = async {
            leave.cancelled().await;
            client.rests().await;
        };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = told_to_leave => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = cut.cancelled() => return,
                }
            }
        };
        let Err(error) = ended else { return };
        // What this side ended was ended for a reason: a rule that was broken, or a limit of what
        // one client may cost.
        let abuse =
            error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()).filter(|cause| cause.is_library());
        if let Some((abuse, untold)) =
            abuse.and_then(|abuse| Some((abuse, self.listener_state.warnings.abuse.allow()?)))
        {
            warn!(peer = %self.peer, error = %abuse, untold, "ended a client's connection that broke the rules of HTTP/2");
        } else {
            debug!(peer = %self.peer, error = &error as &dyn Error, "client connection failed");
        }
    }
}

/// Answers a request; `calm`: unless its client gives up too many.
async fn answer(mut open: OpenCall, calm: bool, request: Request<Incoming>) -> Response<ResponseBody> {
    let (shared, origin, began) = (open.shared(), open.origin(), open.began());
    let mut response = if !calm {
        refuse(shared, "", request.uri().path(), origin.peer, began, &Failure::GivesUpTooMuch)
    } else if let Some(not_grpc) = NotGrpc::of(&request) {
        shared.metrics.request_refused(not_grpc.label());
        if let Some(mut entry) = shared.entry("", request.uri().path(), origin.peer) {
            entry.reason(NOT_GRPC);
            // What a gRPC client makes of it.
            entry.ended(Code::of_http(not_grpc.status()), began.elapsed());
        }
        not_grpc.response()
    } else if let Err(large) = header_size::check_request(&request, shared.options.inbound.max_header_bytes) {
        refuse(shared, "", request.uri().path(), origin.peer, began, &large.into())
    } else {
        let (mut head, body) = request.into_parts();
        open.client().introduce(&mut head.headers);
        authority::settle(&mut head);
        let default = open.client().default_service();
        let target = shared.routes.resolve(&mut head, default).map(|target| {
            let name = target.name(|name| shared.services.get(name).is_some());
            // Before the service is looked for: who may not call it does not bring it about either.
            if open.client().may_call(&name) {
                Ok(RequestedService::new(&shared.services, &name))
            } else {
                Err(name.into_owned())
            }
        });
        match target {
            Ok(Err(service)) => forbidden(&open, &service, &head),
            Ok(Ok(wanted)) => call(shared, wanted, Request::from_parts(head, body), origin, began).await,
            Err(no_route) if node_health::is_for(head.uri.path(), &no_route) => {
                Box::pin(node_health::answer(&open, Request::from_parts(head, body))).await
            }
            Err(no_route) => refuse(shared, "", head.uri.path(), origin.peer, began, &Failure::NoRoute(no_route)),
        }
    };
    open.answered(calm);
    response.body_mut().hold(open);
    response
}

/// Refuses a call of a client that may not call this service.
fn forbidden(open: &OpenCall, service: &str, head: &http::request::Parts) -> Response<ResponseBody> {
    let (shared, peer, client) = (open.shared(), open.client().peer(), open.client().name());
    let failure = Failure::Forbidden { client: client.map(Into::into) };
    shared.metrics.request_refused(failure.kind());
    if let Some(untold) = shared.forbidden.allow() {
        let client = client.unwrap_or("none");
        let service = text::printable(service, text::NAME);
        warn!(%peer, client, service, untold, "refused a call of a client that may not call the service (allow-clients)");
    }
    refuse(shared, service, head.uri.path(), peer.0, open.began(), &failure)
}
