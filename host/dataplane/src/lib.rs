//! Takes requests and carries each to an instance: the proxy ([`serve`]) and the in-process
//! [`Channel`].
//!
//! ```text
//!   client ── HTTP/2 ──▶ inbound ─┐ route
//!                                 ├──▶ call ── pick ──▶ ServiceState (balancer)
//!   tonic client ──▶ Channel ─────┘     │
//!                                       ├─ wait ────────▶ a place, an endpoint that can be used
//!                                       ├─ connection ──▶ the endpoint's HTTP/2 connections, kept in its cell
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
//! registry's. Connections to endpoints are spoken with `h2` itself rather than hyper's client: it
//! tells a request that the server cannot have seen from one it may have, it leaves the request's
//! body with us for another attempt, and a call costs neither a channel nor a task.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod authority;
mod backoff;
mod beside;
mod body;
mod call;
mod certificate;
mod channel;
mod client;
mod code;
mod connect;
mod connection;
mod debt;
mod errors;
mod feed;
mod forwarded;
mod greeting;
mod header_size;
mod hops;
mod identity;
mod inbound;
mod linger;
mod listener;
mod lookups;
mod merge;
mod metrics;
mod node_health;
mod not_grpc;
mod occasional;
mod options;
mod orca;
mod received;
mod route;
mod share;
mod silence;
mod socket;
mod stillness;
mod streams;
mod timeout;
mod tls;
mod unix;
mod upload;
mod usage;
mod validity;
mod wait;
mod watched;

use std::{net::IpAddr, sync::Arc};

use tokio::time::Instant;

/// What fuzz targets reach of this module, and nobody else may (`host/fuzz`).
#[doc(hidden)]
pub mod fuzz {
    pub use super::orca::fuzz as load_report;
}

pub use access::{AccessFormat, AccessLog, AccessTarget};
pub use body::ResponseBody;
pub use channel::{Channel, TargetError};
pub use errors::{UPSTREAM_ERROR, WAYMARK_ERROR};
pub use forwarded::Forwarding;
pub use hops::WAYMARK_HOPS;
pub use identity::{Authorization, ClientRule};
pub use inbound::{Drained, serve};
pub use listener::Listener;
pub use metrics::Metrics;
pub use options::{ConnectOptions, InboundOptions, Options};
pub use route::{Route, RouteError, Routes, WAYMARK_SERVICE};
pub use tls::{ClientTls, EndpointTls, Part, Pem, ServerTls, TlsError};
pub use unix::{Heir, UnixSocket};
pub use validity::{Validity, unix_now};
pub use wait::WaitForReady;
/// What the node's own API is served with, too.
use waymark_balancer::{Services, ServicesConfig};
use waymark_core::model::ServiceName;

pub use {
    certificate::Certificate,
    greeting::{Protocol, Refusal, protocol, refuse},
    identity::Identity,
    listener::Peer,
    occasional::Occasional,
    socket::Socket,
    tls::HandshakeError,
};

use self::{admission::Admission, connection::Connections, lookups::Lookups, share::Shares};

/// What the proxy and the channels of one process share. Cheap to clone.
#[derive(Clone)]
pub struct Dataplane {
    shared: Arc<Shared>,
}

struct Shared {
    services: Services,
    connections: Arc<Connections>,
    routes: Routes,
    options: Options,
    metrics: Metrics,
    admission: Admission,
    /// When a call was refused last of a client that may not call its service.
    forbidden: Occasional,
    lookups: Lookups,
    shares: Shares,
}

impl Shared {
    /// What is to be logged of a call that has arrived, if calls are.
    fn entry(&self, service: &str, path: &str, peer: Option<IpAddr>) -> Option<Box<access::Entry>> {
        self.options.access_log.as_ref().map(|log| log.entry(service, path, peer))
    }
}

impl Dataplane {
    /// A data plane, and the services that it carries calls to: none yet. It connects to their
    /// endpoints, checks those whose traffic asks for it, and forgets the figures of services that
    /// are balanced no more.
    pub fn new(services: ServicesConfig, routes: Routes, options: Options, metrics: Metrics) -> Self {
        let connections = Connections::new(&options, metrics.clone());
        let services = Services::with_upstream(services, Arc::clone(&connections));
        let admission = Admission::new(options.inbound.max_connections);
        let (lookups, shares) = (Lookups::new(Instant::now()), Shares::default());
        let forbidden = Occasional::default();
        let shared = Shared { services, connections, routes, options, metrics, admission, forbidden, lookups, shares };
        Self { shared: Arc::new(shared) }
    }

    /// The services that it carries calls to.
    pub fn services(&self) -> &Services {
        &self.shared.services
    }

    /// A channel to one service.
    pub fn channel(&self, service: ServiceName) -> Channel {
        Channel::new(self, service)
    }

    /// A channel to the service that a gRPC target names: `waymark:///ayang/server1`,
    /// `etcd:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        channel::service_of(target).map(|service| self.channel(service))
    }
}
