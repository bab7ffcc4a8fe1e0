//! Takes requests and carries each to an instance: the proxy ([`serve`]) and the in-process
//! [`Channel`].
//!
//! ```text
//!   client ── HTTP/2 ──▶ inbound ─┐ route
//!                                 ├──▶ call ── pick ──▶ ServiceState (balancer)
//!   tonic client ──▶ Channel ─────┘     │
//!                                       ├─ wait ────────▶ a place, an endpoint that can be used
//!                                       ├─ upstream ────▶ the endpoint's HTTP/2 connections, kept in its cell
//!                                       ├─ upload  ─────▶ request body, frame by frame
//!                                       └─ body    ◀───── answer, frame by frame, trailers as they came
//! ```
//!
//! Bodies are never decoded. Back-pressure runs through: a frame is read from one side when the
//! other side's window has taken the one before. Metadata passes as it is, but for
//! `waymark-service` (taken off), `grpc-timeout` (reduced by the time spent here) and
//! `waymark-hops` (one more).
//!
//! Which endpoint gets a request is the balancer's decision, where endpoints come from the
//! registry's. Connections to endpoints are spoken with `waymark-http2` rather than hyper's client:
//! it tells a request that the server cannot have seen from one it may have, it leaves the
//! request's body with us for another attempt, and a call costs neither a channel nor a task.
//!
//! Its rooms, each of which uses only those before it (`host/tests/architecture.rs`):
//!
//! | room | holds |
//! |---|---|
//! | `limits` | what bounds the work that clients can cause |
//! | `transport` | sockets, TLS, certificates, who a client is |
//! | `wire` | what stands in requests and answers |
//! | `errors` | why an attempt or a call failed, and what its caller is told |
//! | `observe` | metrics, the access log, servers' load reports |
//! | `options` | the settings, with their defaults |
//! | `upstream` | connections to instances, and their health |
//! | `call` | one call: attempts, retries, hedges, the bodies both ways |
//! | `channel` | calls of this process |
//! | `inbound` | calls that come over the network |
#![forbid(unsafe_code)]

mod call;
mod channel;
mod errors;
mod inbound;
mod limits;
mod observe;
mod options;
mod transport;
mod upstream;
mod wire;

/// What fuzz targets reach of this module, and nobody else may (`host/fuzz`).
#[doc(hidden)]
pub mod fuzz {
    pub use super::observe::orca::fuzz as load_report;
}

pub use call::{body::ResponseBody, shared::Dataplane, wait::WaitForReady};
pub use channel::{Channel, TargetError};
pub use errors::failure::{UPSTREAM_ERROR, WAYMARK_ERROR};
pub use inbound::serve::{Drained, serve};
pub use observe::{
    access::{AccessFormat, AccessLog, AccessTarget},
    metrics::Metrics,
};
pub use options::{ConnectOptions, InboundOptions, Options};
pub use transport::{
    identity::{Authorization, ClientRule},
    listener::Listener,
    tls::{ClientTls, EndpointTls, Part, Pem, ServerTls, TlsError},
    unix::{Heir, UnixSocket},
    validity::{Validity, unix_now},
};
pub use wire::{
    forwarded::Forwarding,
    hops::WAYMARK_HOPS,
    route::{Route, RouteError, Routes, WAYMARK_SERVICE},
};

/// What the node's own API is served with, too.
pub use limits::rate_limited_log::RateLimitedLog;
pub use transport::{
    certificate::Certificate,
    identity::Identity,
    listener::Peer,
    preface::{Protocol, Refusal, protocol, refuse},
    socket::Socket,
    tls::HandshakeError,
};
