//! Takes gRPC requests over HTTP/2 from clients and answers each by an instance.
//!
//! Cleartext with prior knowledge. A client that speaks HTTP/1.1 is told so in its own protocol. What HTTP/2 forbids to pass
//! on (connection-specific headers) never gets here: such a request is malformed, and HTTP/2 resets it (RFC 9113, section
//! 8.2.2).

use std::{convert::Infallible, error::Error, future::Future, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Dataplane, Shared,
    body::ResponseBody,
    call::{Wanted, call, refuse},
    code::is_grpc,
    errors::{Failure, GRPC_MESSAGE, WAYMARK_ERROR},
    occasional::Occasional,
};

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls were not over when the time was up: these calls were cut off.
    pub cut_off: usize,
}

/// Serves clients of this listener until `shutdown` completes, then drains: takes no new connections or calls, lets those that
/// run finish within [`Options::drain_timeout`](super::Options::drain_timeout), and cuts off the rest.
///
/// # Cancel safety
///
/// Dropping the future stops taking connections; those there are go on until the runtime ends.
pub async fn serve(listener: TcpListener, dataplane: Dataplane, shutdown: impl Future<Output = ()>) -> Drained {
    let shared = dataplane.shared;
    let server = Arc::new(Server::new(&shared));
    let (drain, abort, tracker) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection {
                    shared: Arc::clone(&shared),
                    server: Arc::clone(&server),
                    peer: peer.ip().to_canonical(),
                    drain: drain.clone(),
                    abort: abort.clone(),
                };
                tracker.spawn(connection.run(stream));
            }
            Err(error) => {
                warn!(%error, "cannot take a connection");
                // Some errors last (no file descriptor is left): give what runs a chance to end.
                if !is_of_the_connection(&error) {
                    sleep(Duration::from_millis(50)).await;
                }
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

struct Server {
    http2: http2::Builder<TokioExecutor>,
    abuse: Occasional,
}

impl Server {
    fn new(shared: &Shared) -> Self {
        let options = &shared.options.inbound;
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_concurrent_streams(options.max_concurrent_streams)
            .max_header_list_size(options.max_header_bytes)
            .max_send_buf_size(options.send_buffer)
            .keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            // The instance sets the date of its answer, if it wants one.
            .auto_date_header(false);
        Self { http2, abuse: Occasional::default() }
    }
}

struct Connection {
    shared: Arc<Shared>,
    server: Arc<Server>,
    peer: IpAddr,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let _record = self.shared.metrics.connection();
        let options = &self.shared.options.inbound;
        let protocol = tokio::select! {
            protocol = timeout(options.first_bytes_timeout, protocol(&stream)) => protocol,
            // A connection without a call: nothing to finish.
            () = self.drain.cancelled() => return,
        };
        match protocol {
            Ok(Ok(Protocol::Http2)) => self.serve(stream).await,
            Ok(Ok(Protocol::Http1)) => {
                debug!(peer = %self.peer, "refusing HTTP/1");
                // Whether the client reads why is up to it.
                let _ = timeout(options.first_bytes_timeout, refuse_http1(stream)).await;
            }
            Ok(Ok(Protocol::Tls)) => {
                warn!(peer = %self.peer, "a client speaks TLS to a cleartext port; use http:// or plaintext credentials");
            }
            Ok(Err(error)) => debug!(peer = %self.peer, %error, "connection closed before its first byte"),
            Err(_) => debug!(peer = %self.peer, "connection said nothing"),
        }
    }

    async fn serve(&self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(peer = %self.peer, %error, "connection closed early");
            return;
        }
        let service = service_fn(|request| {
            let (shared, peer) = (Arc::clone(&self.shared), self.peer);
            // Boxed: the future of a call has some kilobytes, which hyper and the runtime would otherwise move half a dozen times
            // on the way into a task and out of it.
            Box::pin(async move { Ok::<_, Infallible>(answer(&shared, request, peer).await) })
        });
        let mut connection = pin!(self.server.http2.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = self.abort.cancelled() => return,
                }
            }
        };
        let Err(error) = ended else { return };
        // What this side ended was ended for a reason: a rule that was broken, or a limit of what one client may cost.
        let abuse =
            error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()).filter(|cause| cause.is_library());
        if let Some((abuse, untold)) = abuse.and_then(|abuse| Some((abuse, self.server.abuse.turn()?))) {
            warn!(peer = %self.peer, error = %abuse, untold, "ended a client's connection that broke the rules of HTTP/2");
        } else {
            debug!(peer = %self.peer, error = &error as &dyn Error, "client connection failed");
        }
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>, peer: IpAddr) -> Response<ResponseBody> {
    let began = Instant::now();
    if let Some(refusal) = refuse_http(&request) {
        return refusal;
    }
    let (mut head, body) = request.into_parts();
    let target = shared.routes.resolve(&mut head).map(|target| Wanted::new(&shared.services, target.as_str()));
    match target {
        Ok(wanted) => call(shared, wanted, Request::from_parts(head, body), Some(peer), began).await,
        Err(no_route) => refuse(shared, "", began, &Failure::NoRoute(no_route)),
    }
}

/// Answers to HTTP/2 that is not gRPC, as PROTOCOL-HTTP2.md asks: an HTTP status, so that nobody takes it for a success.
fn refuse_http<B>(request: &Request<B>) -> Option<Response<ResponseBody>> {
    let (status, message) = if request.method() != Method::POST {
        (StatusCode::METHOD_NOT_ALLOWED, "gRPC calls are POST requests")
    } else if !is_grpc(request.headers()) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this port takes gRPC: content-type application/grpc")
    } else {
        return None;
    };
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(WAYMARK_ERROR, HeaderValue::from_static("not-grpc"));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

enum Protocol {
    Http2,
    Http1,
    Tls,
}

/// Looks at a connection's first bytes without taking them. Three are enough to tell HTTP/2's preface, `PRI * HTTP/2.0`, from the
/// methods of HTTP/1; but it is waited for as a whole, because HTTP/2 would wait for the rest without end.
async fn protocol(stream: &TcpStream) -> io::Result<Protocol> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Nothing tells of a further byte beside one that was only looked at. Few prefaces come in pieces.
    const LOOK_AGAIN: Duration = Duration::from_millis(10);
    let mut first = [0; PREFACE.len()];
    let mut seen = 0;
    loop {
        let len = stream.peek(&mut first).await?;
        match &first[..len] {
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            [0x16, ..] => return Ok(Protocol::Tls),
            PREFACE => return Ok(Protocol::Http2),
            first if PREFACE.starts_with(first) => {}
            [b'P', b'R', b'I', ..] => return Ok(Protocol::Http2),
            _ => return Ok(Protocol::Http1),
        }
        // What is only looked at stays, and the end of the stream does not show.
        if len == seen && stream.ready(Interest::READABLE).await?.is_read_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen = len;
        sleep(LOOK_AGAIN).await;
    }
}

async fn refuse_http1(mut stream: TcpStream) -> io::Result<()> {
    const BODY: &str = "this port speaks gRPC over HTTP/2 in cleartext (h2c with prior knowledge), not HTTP/1\n";
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nwaymark-error: not-grpc\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // To close with unread bytes would reset the connection, and take the answer with it.
    let mut rest = [0; 4096];
    let mut budget = 1 << 20;
    while budget > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            len => budget -= len.min(budget),
        }
    }
    Ok(())
}
