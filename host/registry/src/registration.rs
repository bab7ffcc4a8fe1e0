//! An instance's claim in the registry, as its owner sees it. The work is done by `session`.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use waymark_core::model::{Endpoint, LeaseId, Revision, ServiceName, Ttl};
use waymark_net::health::CheckConfig;

use super::error::{Cause, RegistryError, chain};

/// What to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationConfig {
    /// The service.
    pub service: ServiceName,
    /// The instance. Its address is what clients will dial, so a wildcard is refused.
    pub endpoint: Endpoint,
    /// How long the entry outlives us at most. Default: [`Ttl::DEFAULT`]. etcd may grant more:
    /// under its own minimum (2 s by default) it grants that.
    pub ttl: Ttl,
    /// How to tell whether the instance is fit to serve: it is registered while it is. Default:
    /// none, it is registered at once.
    pub check: Option<CheckConfig>,
}

impl RegistrationConfig {
    /// With the default TTL, and no check.
    pub fn new(service: ServiceName, endpoint: Endpoint) -> Self {
        Self { service, endpoint, ttl: Ttl::DEFAULT, check: None }
    }
}

/// Where a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationState {
    /// On its way: no lease yet, or a lease and nothing written under it. Nothing has gone wrong.
    Registering,
    /// Others see the instance.
    Registered {
        /// The lease that keeps it there.
        lease: LeaseId,
        /// The lease's time to live as etcd granted it.
        ttl: Ttl,
        /// Where its entries were last written.
        revision: Revision,
    },
    /// Something went wrong, and it is being tried again. Others may still see the instance until
    /// its last lease ends.
    Lost {
        /// The last failure.
        reason: Arc<str>,
        /// When the first failure since it was last registered was seen.
        since: Instant,
    },
    /// The registry answers and does not take it, and waiting alone does not change that. What
    /// stood there before goes on standing.
    Refused {
        /// Why, in its words.
        reason: Arc<str>,
        /// Whether somebody else may mend it, such as by a permission: then it is tried again now
        /// and then. Otherwise it is not, before what is to be registered changes or the registry
        /// comes back from an outage.
        again: bool,
    },
    /// Not fit to serve, so that nobody sees it (or, where etcd cannot be reached, until its last
    /// lease ends).
    Unfit {
        /// What its check says.
        reason: Arc<str>,
    },
    /// Taken back on request, until it is resumed.
    Paused,
    /// Over: deregistered, or orphaned.
    Ended,
}

/// What the session is told.
#[derive(Debug)]
pub(super) enum Command {
    Pause(oneshot::Sender<Result<(), RegistryError>>),
    Resume,
    SetWeight(u32),
    Deregister(oneshot::Sender<Result<(), RegistryError>>),
    Orphan,
}

/// Keeps an instance registered, for ever, whatever happens to etcd.
///
/// Dropping it deregisters in the background, as well as that goes: if the runtime ends first, the
/// entry goes away when its lease expires. Call [`deregister`](Self::deregister) on shutdown to be
/// sure, or [`orphan`](Self::orphan) to leave the entry to its lease.
pub struct Registration {
    service: ServiceName,
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<RegistrationState>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("service", &self.service)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Registration {
    pub(super) fn new(
        service: ServiceName,
        commands: mpsc::UnboundedSender<Command>,
        state: watch::Receiver<RegistrationState>,
    ) -> Self {
        Self { service, commands, state }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Where it stands now.
    pub fn state(&self) -> RegistrationState {
        self.state.borrow().clone()
    }

    /// Waits until it stands elsewhere than when this was last called, and says where. Several
    /// changes may pass as one.
    ///
    /// # Cancel safety
    ///
    /// Safe: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Result<RegistrationState, RegistryError> {
        self.state.changed().await.map_err(|_| self.ended())?;
        Ok(self.state.borrow_and_update().clone())
    }

    /// Waits until others see the instance.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn registered(&self) -> Result<LeaseId, RegistryError> {
        let mut states = self.state.clone();
        let done = |state: &RegistrationState| {
            matches!(state, RegistrationState::Registered { .. } | RegistrationState::Ended)
        };
        match states.wait_for(done).await.as_deref() {
            Ok(RegistrationState::Registered { lease, .. }) => Ok(*lease),
            _ => Err(self.ended()),
        }
    }

    /// Takes the instance out, without ending the registration: to drain it, or while it is not fit
    /// to serve. Returns once etcd has taken it out, or with an error when that did not work in
    /// time; it stays paused either way.
    ///
    /// # Cancel safety
    ///
    /// Given up, it is paused nevertheless.
    pub async fn pause(&self) -> Result<(), RegistryError> {
        self.ask(Command::Pause).await
    }

    /// Registers it again after [`pause`](Self::pause), in the background.
    pub fn resume(&self) {
        // Without a session there is nothing to resume, and `state` says so.
        let _ = self.commands.send(Command::Resume);
    }

    /// Registers it with this weight from now on, in the background; 0 has most policies send it
    /// nothing. An operator may do the same by writing the instance's entry: the last word counts.
    pub fn set_weight(&self, weight: u32) {
        // Without a session there is nothing to change, and `state` says so.
        let _ = self.commands.send(Command::SetWeight(weight));
    }

    /// Takes the instance out and ends the registration. Bounded in time by the TTL and 3 s,
    /// whatever etcd does: after an error, the entry goes away when its lease expires.
    ///
    /// # Cancel safety
    ///
    /// Given up, it deregisters in the background nevertheless.
    pub async fn deregister(self) -> Result<(), RegistryError> {
        self.ask(Command::Deregister).await
    }

    /// Ends the registration and leaves the entry to its lease: others see the instance for up to a
    /// TTL more.
    pub fn orphan(self) {
        let _ = self.commands.send(Command::Orphan);
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), RegistryError>>) -> Command,
    ) -> Result<(), RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| self.ended())?;
        answer.await.map_err(|_| self.ended())?
    }

    fn ended(&self) -> RegistryError {
        RegistryError::Ended { service: self.service.clone() }
    }
}

/// How long a revoke may take: shutdown must not hang on etcd, and once the TTL is over there is
/// nothing to revoke.
pub(super) fn revoke_bound(ttl: Ttl) -> Duration {
    ttl.as_duration().min(Duration::from_secs(3))
}

/// Bounds a revoke, and says what remains where it does not work.
pub(super) async fn bounded<E: std::error::Error + 'static>(
    service: &ServiceName,
    ttl: Ttl,
    revoking: impl Future<Output = Result<(), E>>,
) -> Result<(), RegistryError> {
    let bound = revoke_bound(ttl);
    let source = match timeout(bound, revoking).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => Cause::new(chain(&error)),
        Err(_) => Cause::new(format!("no answer within {bound:?}")),
    };
    Err(RegistryError::NotRevoked { service: service.clone(), within: ttl.as_duration(), source })
}
