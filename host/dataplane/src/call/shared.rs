//! What all calls of a process share, whether they come in over the network or from a channel.

use std::{net::IpAddr, sync::Arc};

use tokio::time::Instant;
use waymark_balancer::{Services, ServicesConfig};

use crate::{
    limits::{connection_limit::ConnectionLimit, lookups::Lookups, rate_limited_log::RateLimitedLog, share::Shares},
    observe::{access::AccessEntry, metrics::Metrics},
    options::Options,
    upstream::connection::Connections,
    wire::route::Routes,
};

/// What the proxy and the channels of one process share. Cheap to clone.
#[derive(Clone)]
pub struct Dataplane {
    pub(crate) shared: Arc<Shared>,
}

/// What all calls of a process share.
pub(crate) struct Shared {
    pub(crate) services: Services,
    pub(crate) connections: Arc<Connections>,
    pub(crate) routes: Routes,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) connection_limit: ConnectionLimit,
    /// When a call was refused last of a client that may not call its service.
    pub(crate) forbidden: RateLimitedLog,
    pub(crate) lookups: Lookups,
    pub(crate) shares: Shares,
}

impl Shared {
    /// What is to be logged of a call that has arrived, if calls are.
    pub(crate) fn entry(&self, service: &str, path: &str, peer: Option<IpAddr>) -> Option<Box<AccessEntry>> {
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
        let connection_limit = ConnectionLimit::new(options.inbound.max_connections);
        let (lookups, shares) = (Lookups::new(Instant::now()), Shares::default());
        let forbidden = RateLimitedLog::default();
        let shared =
            Shared { services, connections, routes, options, metrics, connection_limit, forbidden, lookups, shares };
        Self { shared: Arc::new(shared) }
    }

    /// The services that it carries calls to.
    pub fn services(&self) -> &Services {
        &self.shared.services
    }
}
