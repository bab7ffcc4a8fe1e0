//! One attempt to connect to an endpoint, and the care of what came of it.

use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    PingPong,
    client::{self, SendRequest},
};
use http::uri::Authority;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use waymark_core::model::Address;
use waymark_net::{address_filter::AddressError, resolve::happy_eyeballs};

use super::{
    liveness::{Activity, Liveness, Verdict},
    streams::Streams,
};
use crate::{
    errors::connecting::{ConnectError, LostError},
    limits::usage::IdleTimer,
    options::ConnectOptions,
    transport::{
        frame_tap::{FrameTap, Observed},
        socket::Socket,
        tls::ClientTls,
    },
    wire::header_size,
};

/// What to connect to, and how.
pub(crate) struct ConnectTarget {
    pub(crate) address: Address,
    /// None: in cleartext.
    pub(crate) tls: Option<ClientTls>,
}

/// The authority of a Unix socket, as gRPC has it.
const LOCALHOST: &str = "localhost";

impl ConnectTarget {
    /// Whom certificates have to be for if nothing else is said.
    fn host(&self) -> &str {
        if self.address.unix_path().is_some() { LOCALHOST } else { self.address.host() }
    }

    /// The authority of requests that name none.
    pub(crate) fn authority(&self) -> Authority {
        if self.address.unix_path().is_some() {
            return Authority::from_static(LOCALHOST);
        }
        Authority::try_from(self.address.as_str()).expect("a checked host:port is an authority")
    }
}

/// How many streams may be opened before the server has said how many. While [`connect`] waits for
/// the server's settings this also tells whether they came; a server that allows exactly this many
/// is waited for in vain, which none does: it would refuse every call.
const BEFORE_SETTINGS: usize = 0;

/// How many cancelled calls HTTP/2 remembers for a second, to drop what still comes for them. It
/// remembers 50 by default, and ends a connection after 1024 late answers to those it forgot.
const CANCELLED_REMEMBERED: usize = 1024;

/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// What unread answers in small pieces may cost before HTTP/2 ends the connection: each piece
/// counts for 256 less its length, and takes about 300 bytes. It is a last resort, because it ends
/// other calls too. By default it would be half the connection's window, more than a gigabyte.
const SMALL_FRAMES: usize = 512 << 20;

/// Connects within `options.timeout`. What it returns is ready: the server has sent its HTTP/2
/// settings, so that a port where something else listens, or nothing behind a load balancer, counts
/// as unreachable before a call is sent there (gRPC asks the same of its clients before they report
/// READY).
pub(crate) async fn connect(
    target: &ConnectTarget,
    options: &ConnectOptions,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    match timeout(options.timeout, establish(target, options)).await {
        Ok(result) => result,
        Err(cause) => Err(ConnectError::TimedOut { after: options.timeout, cause }),
    }
}

/// Each address of the endpoint is tried to the end, past TLS and the settings: one that takes the
/// connection and says nothing more is as bad as one that does not take it, and another may be
/// well.
async fn establish(
    target: &ConnectTarget,
    options: &ConnectOptions,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    let address = &target.address;
    if let Some(path) = address.unix_path() {
        let refused = |refusal| AddressError::Refused { at: address.to_string(), refusal };
        options.address_filter.check_unix(path.as_ref()).map_err(refused)?;
        let socket = UnixStream::connect(path).await.map(Socket::Unix).map_err(ConnectError::Socket)?;
        return handshake(target, socket, options).await;
    }
    let attempt = async |socket| handshake(target, dial(socket, options).await?, options).await;
    let connected = happy_eyeballs(options.address_filter.resolve(address).await?, options.timeout, attempt).await;
    connected.map_err(|error| error.unwrap_or_else(|| ConnectError::Socket(io::ErrorKind::AddrNotAvailable.into())))
}

/// What comes after the connection: TLS, if there is any, and HTTP/2's beginning.
async fn handshake(
    target: &ConnectTarget,
    socket: Socket,
    options: &ConnectOptions,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    let Some(tls) = &target.tls else { return http2_handshake(socket, options, ConnectError::NotHttp2).await };
    let socket = tls.connect(target.host(), socket).await.map_err(ConnectError::Tls)?;
    http2_handshake(socket, options, ConnectError::NotHttp2InTls).await
}

async fn dial(at: SocketAddr, options: &ConnectOptions) -> Result<Socket, ConnectError> {
    let stream = TcpStream::connect(at).await.map_err(ConnectError::Socket)?;
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(options.keep_alive_timeout.as_millis()).unwrap_or(u32::MAX);
        // Without it, the loss of a machine is noticed after minutes of retransmissions (gRPC's
        // proposal A18).
        rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)
            .map_err(|error| ConnectError::Socket(error.into()))?;
    }
    let socket = Socket::Tcp(stream);
    socket.set_nodelay().map_err(ConnectError::Socket)?;
    Ok(socket)
}

/// HTTP/2's beginning, up to the server's settings. `not_http2` is what to say of a server that
/// does not speak it.
async fn http2_handshake(
    socket: Socket,
    options: &ConnectOptions,
    not_http2: fn(Option<h2::Error>) -> ConnectError,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    let socket = FrameTap::instance(socket, options.max_header_bytes);
    let seen = socket.seen();
    let (sender, mut connection) = client::Builder::new()
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(MAX_WINDOW)
        .max_header_list_size(header_size::OF_ANSWERS)
        .data_frame_budget(SMALL_FRAMES)
        .initial_max_send_streams(BEFORE_SETTINGS)
        // Calls of all clients share this connection. Answers that were on their way when a call
        // was given up are no error of the server: remember many such calls, and do not close the
        // connection over late answers to those forgotten.
        .max_concurrent_reset_streams(CANCELLED_REMEMBERED)
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .handshake(socket)
        .await
        .map_err(|error| not_http2(Some(error)))?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(not_http2(None))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(not_http2(Some(error)))),
        Poll::Pending if connection.max_concurrent_send_streams() != BEFORE_SETTINGS => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((sender, Driver { connection, seen }))
}

/// Moves an established connection's bytes. Nothing happens on the connection unless
/// [`Driver::run`] is polled.
pub(crate) struct Driver {
    connection: client::Connection<FrameTap, Bytes>,
    seen: Arc<Observed>,
}

/// What a connection tells while it runs.
pub(crate) trait ConnectionOwner {
    /// No call ran for a while. It is to see to it that no more calls come, whereupon the
    /// connection closes. Told once.
    fn idle(&self);

    /// The server does not answer at the moment, or does again.
    fn silent(&self, silent: bool);
}

impl Driver {
    /// What is seen of the server beside what HTTP/2 tells.
    pub(crate) fn seen(&self) -> Arc<Observed> {
        Arc::clone(&self.seen)
    }

    /// How many streams the server allows at once.
    pub(crate) fn limit(&self) -> usize {
        self.connection.max_concurrent_send_streams()
    }

    /// Runs until the connection ends: well, because either side said so and no call was left, or
    /// with an error.
    ///
    /// While calls run, the server is pinged: now and then, and when it falls silent (see
    /// [`Liveness`]). When `stop` is cancelled, nobody will send anything more, and the connection
    /// gets a little time to say goodbye.
    pub(crate) async fn run(
        self,
        options: &ConnectOptions,
        streams: &Streams,
        owner: &impl ConnectionOwner,
        stop: &CancellationToken,
    ) -> Result<(), LostError> {
        const GOODBYE: Duration = Duration::from_secs(1);
        let Self { mut connection, .. } = self;
        let pings = connection.ping_pong();
        let keep_alive = keep_alive(pings, options, streams, owner);
        let mut run = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            // The server may change its mind at any time.
            streams.set_limit(connection.max_concurrent_send_streams());
            ended
        });
        tokio::select! {
            // What has come is read before anybody says that nothing came: this process may have
            // stood still, too.
            biased;
            ended = &mut run => return ended.map_err(LostError::Http2),
            after = keep_alive => return Err(LostError::KeepAlive(after)),
            () = stop.cancelled() => {}
        }
        // Whatever becomes of the goodbye, this connection is not used any more.
        let _ = timeout(GOODBYE, run).await;
        Ok(())
    }
}

/// Looks after a connection until its server is lost; answers how long it gave no sign of life. One
/// timer for all: it is polled whenever the connection is.
async fn keep_alive(
    mut pings: Option<PingPong>,
    options: &ConnectOptions,
    streams: &Streams,
    owner: &impl ConnectionOwner,
) -> Duration {
    let now = Instant::now();
    let mut unused = options.idle_timeout.map(|limit| IdleTimer::new(&streams.usage, limit, now));
    let mut look_at = unused.as_ref().map(|idle| now + idle.pause());
    let mut liveness = Liveness::new(options, now);
    let mut timer: Pin<&mut Sleep> = pin!(sleep_until(now));
    loop {
        timer.as_mut().reset(look_at.map_or(liveness.due(), |at| at.min(liveness.due())));
        poll_fn(|cx| {
            if liveness.is_pinged()
                && let Some(pings) = &mut pings
                && matches!(pings.poll_pong(cx), Poll::Ready(Ok(_)))
            {
                liveness.answered();
            }
            if liveness.wants_a_look(&Activity::of(streams)) { Poll::Ready(()) } else { timer.as_mut().poll(cx) }
        })
        .await;
        let now = Instant::now();
        if let Some(watched) = unused.as_mut().filter(|_| look_at.is_some_and(|at| at <= now)) {
            look_at = Some(now + watched.pause());
            if watched.look(&streams.usage, now) {
                (unused, look_at) = (None, None);
                owner.idle();
            }
        }
        match liveness.look(Activity::of(streams), now) {
            Verdict::Wait => {}
            Verdict::Ping => {
                // Where it cannot be sent the connection has failed, and says how itself.
                if pings.as_mut().is_some_and(|pings| pings.send_ping(h2::Ping::opaque()).is_ok()) {
                    liveness.pinged(now);
                }
            }
            Verdict::Silent => owner.silent(true),
            Verdict::Back => owner.silent(false),
            Verdict::Lost => return options.keep_alive_timeout,
        }
    }
}
