//! A client's connection: what its calls share, how old it may get, and how long it may be unused.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::debug;

use super::{Shared, debt::Debt, linger, listener::Peer, options::InboundOptions, usage::Usage};

/// How many calls a connection may give up right after it began them, beside one for each that it waited for, and how many more a
/// second. The numbers are those of nghttp2 for resets (`nghttp2_option_set_stream_reset_rate_limit`).
pub(super) const GIVEN_UP: (u32, u32) = (1000, 33);

/// What the calls of one connection share.
pub(super) struct Client {
    shared: Arc<Shared>,
    peer: Peer,
    usage: Usage,
    given_up: Debt,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, peer: Peer) -> Self {
        let (most, a_second) = GIVEN_UP;
        Self { shared, peer, usage: Usage::default(), given_up: Debt::new(most, a_second, Instant::now()) }
    }

    /// Whether it gives up so many calls that it gets no further one.
    pub(super) fn gives_up_too_much(&self, now: Instant) -> bool {
        self.given_up.is_full(now)
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
pub(super) struct OpenCall {
    client: Arc<Client>,
    began: Instant,
    answered: bool,
}

impl OpenCall {
    pub(super) fn begin(client: &Arc<Client>) -> Self {
        client.usage.begin();
        Self { client: Arc::clone(client), began: Instant::now(), answered: false }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.client.shared
    }

    pub(super) fn peer(&self) -> Peer {
        self.client.peer
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Its client has waited for the answer's beginning. A call that was refused for what the client gave up makes up for nothing.
    pub(super) fn answered(&mut self, makes_up: bool) {
        self.answered = true;
        if makes_up {
            self.client.given_up.pay();
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.client.usage.end();
        if !self.answered {
            let now = Instant::now();
            if now.duration_since(self.began) < linger::GRACE {
                self.client.given_up.owe(now);
            }
        }
    }
}
