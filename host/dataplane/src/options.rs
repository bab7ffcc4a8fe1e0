//! The data plane's settings, with their defaults and where these come from.

use std::time::Duration;

use waymark_net::address_filter::AddressFilter;

use crate::{
    observe::access::AccessLog,
    transport::{
        identity::Authorization,
        tls::{EndpointTls, ServerTls},
    },
    wire::forwarded::Forwarding,
};

/// How requests are taken and forwarded.
#[derive(Debug, Clone)]
pub struct Options {
    /// How a request without a deadline waits when a policy says "queue". Default 10 s. A deadline
    /// that comes first wins.
    pub queue_timeout: Duration,
    /// How many endpoints one request may be tried on. Default 32: an attempt follows another only
    /// when the server cannot have seen the first, and each excludes one endpoint, so this bounds
    /// the work of one call, not the load on the servers.
    pub max_attempts: usize,
    /// How long a request waits for an endpoint whose streams are all taken, or which is being
    /// connected to while those that are connected cannot take the request, before it is tried
    /// elsewhere. Default 250 ms, which is the "connection attempt delay" of RFC 8305, section 8.
    /// Without another endpoint, it waits for the attempt's end; for one that is connected and free
    /// it hardly waits at all (`connect_race`).
    pub connect_patience: Duration,
    /// How many bytes of a request's body are kept until the answer begins, so that a request which
    /// the server refused unseen can be sent again elsewhere. Default 64 KiB. A larger body is sent
    /// once; 0 keeps nothing.
    pub replay_bytes: usize,
    /// How long calls may go on running after the shutdown began. Default 30 s.
    pub drain_timeout: Duration,
    /// Connections to endpoints.
    pub connect: ConnectOptions,
    /// Which endpoints speak TLS. Default: none does.
    pub endpoint_tls: EndpointTls,
    /// Connections from clients.
    pub inbound: InboundOptions,
    /// Which clients may call which services. Default: all may call all.
    pub authorization: Authorization,
    /// What instances are told of clients. Default: nothing, and nothing that callers say of
    /// clients reaches them.
    pub forwarding: Forwarding,
    /// Where every call is logged. Default: nowhere.
    pub access_log: Option<AccessLog>,
}

/// Connections from clients.
#[derive(Debug, Clone)]
pub struct InboundOptions {
    /// How much of one request's body a client may send ahead of its reader, in bytes. Default 1
    /// MiB: a stalled call holds this much memory at most, and 1 MiB fills 1 Gbit/s at 8 ms.
    pub stream_window: u32,
    /// The same for all requests of a connection together. Default 16 MiB, so that a few stalled
    /// calls leave room for the others.
    pub connection_window: u32,
    /// How many connections clients may have at once, over all listeners. One that is too many is
    /// told so (GOAWAY with ENHANCE_YOUR_CALM) and closed. None, the default: three quarters of
    /// what descriptors the process may have when the data plane is made, so that the rest can
    /// reach endpoints and the registry.
    pub max_connections: Option<usize>,
    /// Calls that one client connection may run at once. Default 1000: clients queue what is over
    /// it.
    pub max_concurrent_streams: u32,
    /// The largest headers of a call that are taken, in bytes (see `header_size`). Default 64 KiB,
    /// about what Envoy takes (60 KiB).
    pub max_header_bytes: u32,
    /// How much of one answer is held for a client that does not read it, in bytes, beside what its
    /// window lets out. Default 64 KiB. Together with [`ConnectOptions::stream_window`] this is
    /// what a stalled answer costs.
    pub send_buffer: usize,
    /// A silent client is asked for a sign of life after this. Default 60 s.
    pub keep_alive_interval: Duration,
    /// A client that gives none within this is gone. Default 20 s, as gRPC's keep-alive (A8).
    pub keep_alive_timeout: Duration,
    /// A connection this old takes no new calls (GOAWAY) and closes when those that run have ended;
    /// up to a tenth more or less, by chance. Default: none, as gRPC's servers
    /// (`MAX_CONNECTION_AGE`, proposal A9). It makes clients spread over nodes anew.
    pub max_age: Option<Duration>,
    /// How long calls may go on running on a connection that has reached its age. Default: none,
    /// without end, as gRPC's servers (`MAX_CONNECTION_AGE_GRACE`, proposal A9).
    pub max_age_grace: Option<Duration>,
    /// A connection on which no call ran for this long is closed. Default: none, as gRPC's servers
    /// (`MAX_CONNECTION_IDLE`, proposal A9): a client that is gone is noticed by the keep-alive,
    /// and one that is there shall find its connection.
    pub idle_timeout: Option<Duration>,
    /// A call on which nothing moves in either direction for this long is ended; up to a quarter
    /// more. Default: none. Envoy has 5 min, but what is called over gRPC may rightly say nothing
    /// for hours (a watch of a service's health, a subscription), and places that such calls hold
    /// are not taken from other clients.
    pub stream_idle_timeout: Option<Duration>,
    /// How long a new connection may take to show which protocol it speaks. Default 10 s.
    pub first_bytes_timeout: Duration,
    /// TLS with clients. Default: none, clients speak cleartext.
    pub tls: Option<ServerTls>,
    /// How long a TLS handshake may take. Default 10 s: slow clients need a few round trips, and
    /// the slot of one that says nothing is soon free again.
    pub handshake_timeout: Duration,
}

/// Connections to endpoints.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Which addresses are connected to. Default: all, this machine's included.
    pub address_filter: AddressFilter,
    /// How long an attempt may take, name resolution, TCP and the server's HTTP/2 settings
    /// together. Default 2 s: room for one lost SYN (sent again after 1 s, RFC 6298), and no more,
    /// because another endpoint can serve the call.
    pub timeout: Duration,
    /// The wait after the first failed attempt. Default 200 ms.
    ///
    /// The algorithm is gRPC's connection-backoff.md (times 1.6 an attempt, jitter 0.2). Its 1 s
    /// and 120 s are meant for a fleet of clients that each try; here one node tries for all of its
    /// clients, and the cap is the time that an instance which came back stays unused. Linkerd's
    /// proxy waits 100 to 500 ms for the same reason.
    pub backoff_base: Duration,
    /// The longest wait. Default 5 s. See [`Self::backoff_base`].
    pub backoff_max: Duration,
    /// How much of one answer's body a server may send ahead of its reader, in bytes. Default 64
    /// KiB, as HTTP/2's own, which fills 1 Gbit/s at 0.5 ms. There is no such limit for all answers
    /// of a connection together: the calls of all clients share it, and those whose clients do not
    /// read would use it up and stop the rest.
    pub stream_window: u32,
    /// The largest headers, and the largest trailers, that a server may answer with, in bytes.
    /// Default 64 KiB, as of clients: much more than gRPC's C core and Java take (8 KiB). What a
    /// client says it takes goes before it where that is less.
    pub max_header_bytes: u32,
    /// A server from which nothing came for this long although calls wait is asked for a sign of
    /// life (a ping), and when nothing came for as long again, other endpoints get its calls until
    /// something does. Default 200 ms: well over a round trip and what a busy machine makes of it,
    /// and of what a hung server is given until it is known, most calls come within half a second.
    /// A suspicion ends with the first byte, so one that was wrong costs little. There are at most
    /// two such pings from one answer to the next, which no server counts as abuse. None: never.
    pub quiet: Option<Duration>,
    /// While calls run, the server is asked for a sign of life this often. Default 305 s, because
    /// servers on grpc-go end a connection that is pinged more often than every 5 min (its
    /// `EnforcementPolicy.MinTime`). Lower it where servers allow it.
    pub keep_alive_interval: Duration,
    /// A server that gives none within this, after either, is gone; and, on Linux, one that does
    /// not acknowledge what was sent (`TCP_USER_TIMEOUT`, as gRPC's A18). Default 20 s.
    pub keep_alive_timeout: Duration,
    /// How many connections one endpoint may have at once, each begun when every stream that the
    /// server allows on those before it (MAX_CONCURRENT_STREAMS) is taken. Of several the last is
    /// in reserve: it takes calls of clients that have few places, so that those who hold many
    /// calls leave some to others. Default 5, of which four are anybody's. gRPC's proposal A105 has
    /// 1 by default and 10 at most, for channels that each belong to one client; a node's
    /// connections carry the calls of many.
    pub max_connections: usize,
    /// A connection on which no call ran for this long is closed; the next call connects again.
    /// Default 30 min, as gRPC's client idle timeout (`WithIdleTimeout` in grpc-go). None: never.
    pub idle_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_timeout: Duration::from_secs(10),
            max_attempts: 32,
            connect_patience: Duration::from_millis(250),
            replay_bytes: 64 << 10,
            drain_timeout: Duration::from_secs(30),
            connect: ConnectOptions::default(),
            endpoint_tls: EndpointTls::default(),
            inbound: InboundOptions::default(),
            authorization: Authorization::default(),
            forwarding: Forwarding::default(),
            access_log: None,
        }
    }
}

impl Default for InboundOptions {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            max_connections: None,
            max_concurrent_streams: 1000,
            max_header_bytes: 64 << 10,
            send_buffer: 64 << 10,
            keep_alive_interval: Duration::from_mins(1),
            keep_alive_timeout: Duration::from_secs(20),
            max_age: None,
            max_age_grace: None,
            idle_timeout: None,
            stream_idle_timeout: None,
            first_bytes_timeout: Duration::from_secs(10),
            tls: None,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            address_filter: AddressFilter::default(),
            timeout: Duration::from_secs(2),
            backoff_base: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            stream_window: 64 << 10,
            max_header_bytes: 64 << 10,
            quiet: Some(Duration::from_millis(200)),
            keep_alive_interval: Duration::from_secs(305),
            keep_alive_timeout: Duration::from_secs(20),
            max_connections: 5,
            idle_timeout: Some(Duration::from_mins(30)),
        }
    }
}
