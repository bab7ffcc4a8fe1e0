//! What the balancer asks of whoever carries calls to endpoints, given to it at construction.

use waymark_core::{check::CheckConfig, model::ServiceName};

use crate::endpoint::EndpointState;

/// Connects to endpoints and checks them when the balancer says so: the data plane. No method may
/// block, and each may be called on any thread within the async runtime.
///
/// Whoever implements it gets at what it keeps with an endpoint by [`EndpointState::connection`].
pub trait Upstream: Send + Sync + 'static {
    /// What is kept with an endpoint: its connection. It stays from one generation to the next, and
    /// is dropped when no generation names the endpoint any more and the last call on it has ended.
    type Connection: Send + Sync + 'static;

    /// Makes what is kept with this endpoint of this service, when it is first asked for. Connects
    /// to nothing yet.
    fn attach(&self, service: &ServiceName, endpoint: &EndpointState) -> Self::Connection;

    /// Begins to connect, unless that was begun or done already. Told of endpoints that a policy
    /// chose while its call went to another one that is connected to.
    fn connect(&self, connection: &Self::Connection);

    /// Checks the endpoint from now on, unless it does so already. Told of each endpoint of every
    /// generation, where the service's [`Traffic`](waymark_core::traffic::Traffic) asks for checks.
    fn check(&self, connection: &Self::Connection, config: &CheckConfig);

    /// Forgets what it keeps for a service, which is balanced no more.
    fn forget(&self, service: &ServiceName);
}

impl EndpointState {
    /// What `upstream` keeps with this endpoint of `service`, made at first use.
    ///
    /// # Panics
    ///
    /// If its [`Services`](super::Services) were made with an upstream of another type.
    pub fn connection<U: Upstream>(&self, service: &ServiceName, upstream: &U) -> &U::Connection {
        self.cell.attached(|| upstream.attach(service, self))
    }
}

/// An [`Upstream`], whatever it keeps: what services, states and tasks hold, which are of one type
/// so.
pub(super) trait AnyUpstream: Send + Sync {
    fn connect(&self, service: &ServiceName, endpoint: &EndpointState);
    fn check(&self, service: &ServiceName, endpoints: &[EndpointState], config: &CheckConfig);
    fn forget(&self, service: &ServiceName);
}

impl<U: Upstream> AnyUpstream for U {
    fn connect(&self, service: &ServiceName, endpoint: &EndpointState) {
        Upstream::connect(self, endpoint.connection(service, self));
    }

    fn check(&self, service: &ServiceName, endpoints: &[EndpointState], config: &CheckConfig) {
        for endpoint in endpoints {
            Upstream::check(self, endpoint.connection(service, self), config);
        }
    }

    fn forget(&self, service: &ServiceName) {
        Upstream::forget(self, service);
    }
}

/// Carries nothing: for those who only pick.
pub(super) struct NoUpstream;

impl Upstream for NoUpstream {
    type Connection = ();

    fn attach(&self, _: &ServiceName, _: &EndpointState) {}

    fn connect(&self, (): &()) {}

    fn check(&self, (): &(), _: &CheckConfig) {}

    fn forget(&self, _: &ServiceName) {}
}
