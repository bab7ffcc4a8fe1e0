//! A client's connection: what its calls share, how old it may get, and how long it may be unused.

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::debug;
use waymark_core::{model::ServiceName, text};

use super::{delayed_reset, shared::Shared};
use crate::{
    limits::{GIVEN_UP, lookups::ClientLookups, share::Share, token_bucket::TokenBucket, usage::ConnectionUsage},
    options::InboundOptions,
    transport::{
        frame_tap::Observed,
        identity::{Identity, Verdicts},
        listener::Peer,
    },
    wire::forwarded::Forwarded,
};

/// How often, and with which pause, a connection that is to end is looked at for a moment without a
/// call.
const RESTS: (u32, Duration) = (10, Duration::from_millis(20));

/// What the calls of one connection share.
pub(crate) struct ClientConnection {
    shared: Arc<Shared>,
    peer: Peer,
    /// Its name, where some may call what others may not.
    name: Option<Box<str>>,
    verdicts: Verdicts,
    forwarded: Forwarded,
    usage: ConnectionUsage,
    given_up: TokenBucket,
    /// What is seen of it beside what HTTP/2 tells.
    seen: Arc<Observed>,
    /// What its calls are for that name no service.
    default: Option<ServiceName>,
    /// Cancelled when the connection is to end.
    leave: CancellationToken,
    /// Cancelled when the node shuts down.
    drain: CancellationToken,
    /// What it may ask for that nobody has.
    pub(crate) lookups: ClientLookups,
    /// The places that it has at endpoints.
    pub(crate) share: Arc<Share>,
}

/// Where a call comes from.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) peer: Option<IpAddr>,
    /// None: from this process.
    pub(crate) client: Option<&'a ClientConnection>,
}

impl Origin<'_> {
    /// This process.
    pub(crate) const HERE: Self = Self { peer: None, client: None };
}

impl ClientConnection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        peer: Peer,
        identity: &Identity,
        seen: Arc<Observed>,
        default: Option<ServiceName>,
        leave: CancellationToken,
        drain: CancellationToken,
    ) -> Self {
        let ((most, a_second), now) = (GIVEN_UP, Instant::now());
        let authorization = &shared.options.authorization;
        let name = authorization.is_any().then(|| identity.name()).flatten();
        Self {
            peer,
            name: name.map(|name| text::printable(&name, text::NAME).into_boxed_str()),
            verdicts: authorization.judge(identity),
            forwarded: Forwarded::new(shared.options.forwarding, identity.certificate.as_ref(), peer.0),
            usage: ConnectionUsage::default(),
            given_up: TokenBucket::new(most, a_second, now),
            seen,
            default,
            leave,
            drain,
            lookups: ClientLookups::new(now),
            share: shared.shares.of(peer.0),
            shared,
        }
    }

    /// Whether it may call a service of this name.
    pub(crate) fn may_call(&self, service: &str) -> bool {
        self.shared.options.authorization.allows(&self.verdicts, service)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Cancelled when the connection is to end.
    pub(crate) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Whether the node shuts down.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// What its calls are for that name no service.
    pub(crate) fn default_service(&self) -> Option<&ServiceName> {
        self.default.as_ref()
    }

    /// The largest headers that it takes, if it has said.
    pub(crate) fn takes(&self) -> Option<u32> {
        self.seen.takes()
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// What it has proven to be called, where some may call what others may not.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Makes the headers of one of its calls say of it what this node says, and no more.
    pub(crate) fn introduce(&self, headers: &mut HeaderMap) {
        self.forwarded.write(headers);
    }

    /// Ready when no call of it runs, or soon after: a good moment to say goodbye. Some clients (on
    /// `h2`) close at the end of the call in which they were told, whatever they have begun to send
    /// by then.
    pub(crate) async fn rests(&self) {
        let (looks, pause) = RESTS;
        for _ in 0..looks {
            if self.usage.counts().1 == 0 {
                return;
            }
            sleep(pause).await;
        }
    }

    /// Whether it gives up so many calls that it gets no further one.
    pub(crate) fn gives_up_too_much(&self, now: Instant) -> bool {
        self.given_up.is_empty(now)
    }

    /// Says goodbye when the connection is too old or has been idle for too long (`leave`: no new
    /// calls), and cuts off what runs when it does not end in time (`cut`). A task of its own, and
    /// only where there is a limit: so that what is not used costs nothing.
    pub(crate) fn enforce_limits(
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

/// Up to a tenth more or less, so that connections which came together do not all come again
/// together (gRPC's proposal A9).
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// A call that counts as use of its connection until it is dropped.
pub(crate) struct OpenCall {
    client: Arc<ClientConnection>,
    began: Instant,
    answered: bool,
}

impl OpenCall {
    pub(crate) fn begin(client: &Arc<ClientConnection>) -> Self {
        client.usage.begin();
        Self { client: Arc::clone(client), began: Instant::now(), answered: false }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.client.shared
    }

    pub(crate) fn client(&self) -> &Arc<ClientConnection> {
        &self.client
    }

    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin { peer: self.client.peer.0, client: Some(&self.client) }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Its client has waited for the answer's beginning. A call that was refused for what the
    /// client gave up makes up for nothing.
    pub(crate) fn answered(&mut self, makes_up: bool) {
        self.answered = true;
        if makes_up {
            self.client.given_up.refund();
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.client.usage.end();
        if !self.answered {
            let now = Instant::now();
            if now.duration_since(self.began) < delayed_reset::GRACE {
                self.client.given_up.spend(now);
            }
        }
    }
}
