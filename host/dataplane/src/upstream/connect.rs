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

use http::uri::Authority;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use waymark_core::model::Address;
use waymark_http2::{
    Allowance, Connection, Limits,
    io::{Driver as Http2Driver, Ended},
};
use waymark_net::{address_filter::AddressError, resolve::happy_eyeballs};

use super::{
    exchange::{Handle, Mailbox},
    liveness::{Activity, Liveness, Verdict},
    owner::Exchanges,
    streams::Streams,
};
use crate::{
    errors::{
        connecting::{ConnectError, LostError},
        http2::ConnectionError,
    },
    limits::usage::IdleTimer,
    options::ConnectOptions,
    transport::{socket::Socket, tls::ClientTls},
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

/// The largest header block of an answer as it is encoded. What is larger ends the connection: it
/// cannot be decoded, nor what comes after it.
const HEADER_BLOCK_WIRE: usize = 20 << 20;

/// The least that a frame of such a block has, but for the last, if there are many.
const FRAGMENT: usize = 8 << 10;

/// How many of the last calls HTTP/2 remembers whether they were cancelled, to drop what still
/// comes for them.
const CANCELLED_REMEMBERED: u32 = 1 << 16;

/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// How many answers to PING and SETTINGS may wait to be sent, which have 17 bytes each.
const PENDING_ACKS: u32 = 100_000;

/// Calls of all clients share a connection to an instance. So what one call can bring about there
/// as often as its client likes must not count against the connection: answers that are too large
/// or break a rule, and what is still on its way when a call was given up. What is left to bound is
/// that the task of the connection is kept busy with nothing.
const NO_BOUND: Allowance = Allowance { burst: 1 << 30, per_second: 1 << 30 };
const IDLE_FRAMES: Allowance = Allowance { burst: 1_000_000, per_second: 200_000 };

fn limits(options: &ConnectOptions) -> Limits {
    Limits {
        // What is above the node's own limit is refused by us, with its size.
        header_block: header_size::OF_ANSWERS as usize,
        header_block_wire: HEADER_BLOCK_WIRE,
        continuations: (HEADER_BLOCK_WIRE / FRAGMENT) as u32,
        stream_window: options.stream_window,
        connection_window: MAX_WINDOW,
        // The sender waits whenever something of its stream does.
        stream_backlog: 0,
        resets: NO_BOUND,
        idle_frames: IDLE_FRAMES,
        pending_acks: PENDING_ACKS,
        remembered: CANCELLED_REMEMBERED,
        ..Limits::default()
    }
}

/// Connects within `options.timeout`. What it returns is ready: the server has sent its HTTP/2
/// settings, so that a port where something else listens, or nothing behind a load balancer, counts
/// as unreachable before a call is sent there (gRPC asks the same of its clients before they report
/// READY).
pub(crate) async fn connect(
    target: &ConnectTarget,
    options: &ConnectOptions,
) -> Result<(Arc<Handle>, Driver), ConnectError> {
    match timeout(options.timeout, establish(target, options)).await {
        Ok(result) => result,
        Err(cause) => Err(ConnectError::TimedOut { after: options.timeout, cause }),
    }
}

/// Each address of the endpoint is tried to the end, past TLS and the settings: one that takes the
/// connection and says nothing more is as bad as one that does not take it, and another may be
/// well.
async fn establish(target: &ConnectTarget, options: &ConnectOptions) -> Result<(Arc<Handle>, Driver), ConnectError> {
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
) -> Result<(Arc<Handle>, Driver), ConnectError> {
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
    not_http2: fn(Option<Arc<ConnectionError>>) -> ConnectError,
) -> Result<(Arc<Handle>, Driver), ConnectError> {
    let mailbox = Mailbox::new(options.stream_window);
    let owner = Exchanges::new(Arc::clone(&mailbox), options.max_header_bytes);
    let connection = Connection::client(limits(options), Instant::now().into_std());
    let mut http2 = Http2Driver::new(socket, connection, owner);
    poll_fn(|cx| {
        let ended = Pin::new(&mut http2).poll(cx);
        let owner = http2.owner();
        match ended {
            Poll::Ready(Ok(Ended::Closed | Ended::Finished)) => Poll::Ready(Err(not_http2(None))),
            Poll::Ready(ended) => Poll::Ready(Err(not_http2(Some(owner.end(how(ended)))))),
            // A server that allows no stream is waited for in vain: it would refuse every call.
            Poll::Pending if owner.settings_came() && mailbox.seen.limit() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok((Handle::new(Arc::clone(&mailbox)), Driver { http2, mailbox }))
}

/// How a connection ended.
fn how(ended: io::Result<Ended>) -> ConnectionError {
    match ended {
        Ok(Ended::Finished) => ConnectionError::Ended,
        Ok(Ended::Closed) => ConnectionError::Closed,
        Ok(Ended::Fault(fault)) => ConnectionError::Fault(fault),
        Err(error) => ConnectionError::Io(Arc::new(error)),
    }
}

/// Moves an established connection's bytes. Nothing happens on the connection unless
/// [`Driver::run`] is polled.
pub(crate) struct Driver {
    http2: Http2Driver<Socket, Exchanges>,
    mailbox: Arc<Mailbox>,
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
    /// What calls and the connection share.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
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
        let Self { mut http2, mailbox } = self;
        let ended = {
            let keep_alive = keep_alive(&mailbox, options, streams, owner);
            let mut run = poll_fn(|cx| {
                let ended = Pin::new(&mut http2).poll(cx);
                // The server may change its mind at any time.
                streams.look_at_limit();
                ended
            });
            tokio::select! {
                // What has come is read before anybody says that nothing came: this process may
                // have stood still, too.
                biased;
                ended = &mut run => Some(Ok(ended)),
                after = keep_alive => Some(Err(after)),
                () = stop.cancelled() => {
                    mailbox.leave();
                    timeout(GOODBYE, run).await.ok().map(Ok)
                }
            }
        };
        // Whatever became of the goodbye, this connection is not used any more.
        let Some(ended) = ended else { return Ok(()) };
        let ended = match ended {
            Ok(ended) => how(ended),
            Err(after) => {
                http2.owner().end(ConnectionError::Silent);
                return Err(LostError::KeepAlive(after));
            }
        };
        let cause = http2.owner().end(ended);
        if cause.is_good_order() || stop.is_cancelled() { Ok(()) } else { Err(LostError::Http2(cause)) }
    }
}

/// Looks after a connection until its server is lost; answers how long it gave no sign of life. One
/// timer for all: it is polled whenever the connection is.
async fn keep_alive(
    mailbox: &Mailbox,
    options: &ConnectOptions,
    streams: &Streams,
    owner: &impl ConnectionOwner,
) -> Duration {
    let now = Instant::now();
    let mut unused = options.idle_timeout.map(|limit| IdleTimer::new(&streams.usage, limit, now));
    let mut look_at = unused.as_ref().map(|idle| now + idle.pause());
    let mut liveness = Liveness::new(options, now);
    let mut timer: Pin<&mut Sleep> = pin!(sleep_until(now));
    let mut pongs = 0;
    loop {
        timer.as_mut().reset(look_at.map_or(liveness.due(), |at| at.min(liveness.due())));
        poll_fn(|cx| {
            if liveness.is_pinged() && mailbox.seen.pongs() != pongs {
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
                pongs = mailbox.seen.pongs();
                mailbox.ping();
                liveness.pinged(now);
            }
            Verdict::Silent => owner.silent(true),
            Verdict::Back => owner.silent(false),
            Verdict::Lost => return options.keep_alive_timeout,
        }
    }
}
