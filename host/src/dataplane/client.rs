//! A client's connection: what its calls share, how old it may get, and how long it may be unused.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::debug;

use super::{Shared, listener::Peer, options::InboundOptions, usage::Usage};

/// What the calls of one connection share.
pub(super) struct Client {
    shared: Arc<Shared>,
    peer: Peer,
    usage: Usage,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, peer: Peer) -> Self {
        Self { shared, peer, usage: Usage::default() }
    }

    /// Says goodbye when the connection is too old or has been idle for too long (`leave`: no new calls), and cuts off what runs
    /// when it does not end in time (`cut`). A task of its own, and only where there is a limit: so that what is not used costs
    /// nothing.
    pub(super) fn care(
        self: &Arc<Self>,
        leave: &CancellationToken,
        cut: &CancellationToken,
    ) -> Option<AbortOnDropHandle<()>> {
        let InboundOptions { max_age, idle_timeout, .. } = self.shared.options.inbound;
        if max_age.is_none() && idle_timeout.is_none() {
            return None;
        }
        let (client, leave, cut) = (Arc::clone(self), leave.clone(), cut.clone());
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let peer = client.peer;
            tokio::select! {
                () = within(max_age.map(jittered), sleep) => {}
                () = within(idle_timeout, |limit| client.usage.idle(limit)) => {
                    debug!(%peer, "closing an idle connection");
                    leave.cancel();
                    return;
                }
            }
            debug!(%peer, "a connection has reached its age");
            leave.cancel();
            within(client.shared.options.inbound.max_age_grace, sleep).await;
            debug!(%peer, "its calls are cut off");
            cut.cancel();
        })))
    }
}

/// What is made of a bound, and without one nothing ever.
async fn within<F: Future<Output = ()>>(bound: Option<Duration>, wait: impl FnOnce(Duration) -> F) {
    match bound {
        Some(bound) => wait(bound).await,
        None => std::future::pending().await,
    }
}

/// Up to a tenth more or less, so that connections which came together do not all come again together (gRPC's proposal A9).
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// A call that counts as use of its connection until it is dropped.
pub(super) struct OpenCall(Arc<Client>);

impl OpenCall {
    pub(super) fn begin(client: &Arc<Client>) -> Self {
        client.usage.begin();
        Self(Arc::clone(client))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn peer(&self) -> Peer {
        self.0.peer
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.usage.end();
    }
}
