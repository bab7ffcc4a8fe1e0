//! The task of one service, and the handle to it.
//!
//! ```text
//!              snapshot changed ──┐
//!   set policy, roll back ────────┴──▶ build (`builders`) ──▶ check ──▶ publish one Arc<ServiceState>
//!                                              │ refused
//!                                              ▼
//!              a command: the running generation stays, the caller learns why
//!              new endpoints: the last good policy, else the native rotation, serves them
//!
//!   too many failed or slow picks ──▶ publish the fallback that was built beside the plan, at once, also amid a build
//! ```

mod task;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use waymark_core::{model::ServiceName, policy::Policy, snapshot, traffic::Traffic};
use waymark_runtime::WasmPolicy;

use crate::{
    builders::Builders,
    capacity::Reservation,
    hash::HashKey,
    history::{History, PolicyInfo, PolicyVersion, Quarantine},
    state::ServiceState,
    upstream::AnyUpstream,
};

/// A policy that was loaded and may be given to a service.
#[derive(Clone)]
pub struct Candidate {
    /// The policy with its configuration.
    pub policy: Arc<dyn Policy>,
    /// What the history shall say of it.
    pub info: PolicyInfo,
    /// How long loading it took, for the report.
    pub load_time: Duration,
}

impl Candidate {
    /// A policy in WebAssembly, chosen by `by`.
    pub fn new(policy: WasmPolicy, by: impl Into<String>) -> Self {
        let plugin = policy.plugin();
        let info = PolicyInfo {
            name: plugin.description.name.as_str().into(),
            plugin_version: plugin.description.version.clone(),
            sha256: plugin.sha256.clone(),
            origin: plugin.origin.clone(),
            config: policy.config().to_owned(),
            allow: plugin.grants.to_string(),
            by: by.into(),
        };
        Self { load_time: plugin.load_time, policy: Arc::new(policy), info }
    }
}

/// How long the parts of a swap took.
#[derive(Debug, Clone, Copy, Default)]
pub struct SwapTimes {
    /// Compiling the component, or finding it compiled.
    pub load: Duration,
    /// Building and checking the plan.
    pub build: Duration,
    /// Publishing it.
    pub publish: Duration,
    /// Of a policy that is asked for every request: the processor time of the quickest of the picks
    /// that it was tried with.
    pub pick: Option<Duration>,
}

/// A swap that is live.
#[derive(Debug, Clone)]
pub struct Published {
    /// The version that runs now.
    pub version: u64,
    /// The generation that was published with it.
    pub generation: u64,
    /// How long it took.
    pub times: SwapTimes,
}

/// A swap that did not happen: the running policy is untouched.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The candidate failed its checks against the live endpoints.
    #[error("{service} keeps its policy: {reason}")]
    Refused {
        /// The service.
        service: ServiceName,
        /// Why.
        reason: String,
    },
    /// A rollback to a version that the history does not hold, or that never ran.
    #[error("{service} has no policy version {version} to roll back to; it can go back to: {available}")]
    NoSuchVersion {
        /// The service.
        service: ServiceName,
        /// The version asked for; 0 for "the one before".
        version: u64,
        /// The versions there are.
        available: String,
    },
    /// The service's task has ended.
    #[error(transparent)]
    Closed(#[from] ServiceClosed),
}

/// The service is not balanced on this node any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this service is not balanced on this node any more")]
pub struct ServiceClosed;

/// What a service's task is started with.
pub(super) struct ServiceSetup {
    pub(super) service: ServiceName,
    pub(super) zone: Arc<str>,
    pub(super) initial: Candidate,
    pub(super) hash_key: Option<HashKey>,
    pub(super) idempotent: bool,
    pub(super) traffic: Arc<Traffic>,
    pub(super) upstream: Arc<dyn AnyUpstream>,
    pub(super) builders: Arc<Builders>,
    pub(super) reservation: Arc<Reservation>,
    pub(super) coalesce: Duration,
    pub(super) quarantine: Quarantine,
}

enum Command {
    Set {
        candidate: Candidate,
        reply: oneshot::Sender<Result<Published, SwapError>>,
    },
    /// A policy that could not be loaded: only to be told of.
    Refuse {
        info: PolicyInfo,
        reason: String,
        reply: oneshot::Sender<()>,
    },
    RollBack {
        version: u64,
        by: String,
        reply: oneshot::Sender<Result<Published, SwapError>>,
    },
    /// Ends the task: those who follow the service hear that it is balanced no more.
    Close,
}

struct Shared {
    service: ServiceName,
    state: ArcSwap<ServiceState>,
    /// Only to subscribe by: the task has the sender, so that readers learn when it ends.
    generation: watch::Receiver<u64>,
    history: RwLock<History>,
}

impl Shared {
    fn history(&self) -> std::sync::RwLockWriteGuard<'_, History> {
        // A panic while it is held leaves at worst a line unwritten.
        self.history.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to one balanced service. Cheap to clone; the task ends when the last handle is dropped.
#[derive(Clone)]
pub struct ServiceHandle {
    shared: Arc<Shared>,
    /// Boxed, because a channel keeps room for 32 from the start, and there may be ten thousand
    /// channels.
    commands: mpsc::Sender<Box<Command>>,
}

impl ServiceHandle {
    /// Starts the task of one service.
    pub(super) fn spawn(setup: ServiceSetup, reader: snapshot::Reader) -> Self {
        let (commands, inbox) = mpsc::channel(16);
        let shared = task::spawn(setup, reader, inbox);
        Self { shared, commands }
    }

    /// Ends the service's task, whoever holds a handle. What is published stays as it is.
    pub(super) fn close(&self) {
        // With a full inbox somebody is at work on the service; then it ends with its last handle.
        let _ = self.commands.try_send(Box::new(Command::Close));
    }

    /// The service.
    pub fn name(&self) -> &ServiceName {
        &self.shared.service
    }

    /// What is published now. Keep it for the life of a request, not longer: it keeps plugin
    /// instances alive.
    pub fn state(&self) -> arc_swap::Guard<Arc<ServiceState>> {
        self.shared.state.load()
    }

    /// Follows what is published.
    pub fn subscribe(&self) -> StateReader {
        let mut generation = self.shared.generation.clone();
        generation.mark_unchanged();
        StateReader { shared: Arc::clone(&self.shared), generation }
    }

    /// The service's policies, newest first.
    pub fn history(&self) -> Vec<PolicyVersion> {
        self.shared.history.read().unwrap_or_else(PoisonError::into_inner).list()
    }

    /// Swaps the policy. Answers when the new generation is live, or with the reason why it is not.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the swap back.
    pub async fn set_policy(&self, candidate: Candidate) -> Result<Published, SwapError> {
        self.command(|reply| Command::Set { candidate, reply }).await
    }

    /// Goes back to an earlier version of the history; 0 means the one that ran before the running
    /// one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the rollback back.
    pub async fn roll_back(&self, version: u64, by: String) -> Result<Published, SwapError> {
        self.command(|reply| Command::RollBack { version, by, reply }).await
    }

    /// Puts a policy that could not be loaded into the history, as refused.
    ///
    /// # Cancel safety
    ///
    /// Safe: it is told of or it is not.
    pub async fn refuse(&self, info: PolicyInfo, reason: String) -> Result<(), ServiceClosed> {
        let (reply, noted) = oneshot::channel();
        self.commands.send(Box::new(Command::Refuse { info, reason, reply })).await.map_err(|_| ServiceClosed)?;
        noted.await.map_err(|_| ServiceClosed)
    }

    async fn command(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<Published, SwapError>>) -> Command,
    ) -> Result<Published, SwapError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Box::new(make(reply))).await.map_err(|_| ServiceClosed)?;
        answer.await.map_err(|_| ServiceClosed)?
    }
}

/// Follows what is published for one service.
pub struct StateReader {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
}

impl StateReader {
    /// What is published now.
    pub fn current(&self) -> Arc<ServiceState> {
        self.shared.state.load_full()
    }

    /// Waits for a generation that this reader has not seen yet. The one that stood when it was
    /// made counts as seen.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn changed(&mut self) -> Result<(), ServiceClosed> {
        self.generation.changed().await.map_err(|_| ServiceClosed)
    }
}
