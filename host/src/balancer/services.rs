//! The services that this node balances, by name.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use dashmap::DashMap;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::time::Instant;

use super::{
    hash::HashKey,
    history::Quarantine,
    service::{Candidate, ServiceHandle, ServiceSetup},
    state::ServiceState,
};
use crate::{model::ServiceName, naming::NamingError, plugin::Limits, snapshot, traffic::Traffic};

/// Sees to it that each endpoint of this state is checked from now on, if it is not yet. Told of every generation of a service whose
/// [`Traffic::health`] asks for checks; must not block.
pub type Checker = dyn Fn(&ServiceState) + Send + Sync;

/// Hears that a service is balanced no more; must not block.
pub type Forgetter = dyn Fn(&ServiceName) + Send + Sync;

/// What a service begins with.
pub struct ServiceDefaults {
    /// Its first policy.
    pub policy: Candidate,
    /// What of a request is its key, for policies that hash.
    pub hash_key: Option<HashKey>,
    /// Whether its calls may be carried out twice; see [`ServiceState::idempotent`](super::ServiceState::idempotent).
    pub idempotent: bool,
    /// What its policies may take and how often they may fail. The limits of the first policy are its own.
    pub limits: Limits,
    /// What is said of its calls.
    pub traffic: Arc<Traffic>,
}

impl ServiceDefaults {
    /// A service that begins with this policy, and has nothing else of its own.
    pub fn new(policy: Candidate) -> Self {
        Self { policy, hash_key: None, idempotent: false, limits: Limits::default(), traffic: Arc::default() }
    }
}

/// The reader of a service that is followed from now on.
pub type Following = BoxFuture<'static, Result<snapshot::Reader, NamingError>>;

/// How a node balances its services.
pub struct ServicesConfig {
    /// Starts to follow a service in the registry.
    pub follow: Box<dyn Fn(ServiceName) -> Following + Send + Sync>,
    /// What a service begins with.
    pub defaults: Box<dyn Fn(&ServiceName) -> ServiceDefaults + Send + Sync>,
    /// The zone this node stands in; empty when unknown.
    pub zone: Arc<str>,
    /// The most services at once. Default 10,000: names come from callers, and each costs a task and a watch.
    pub max_services: usize,
    /// How long a caller waits for a service's first list. Default 5 s.
    pub first_list_timeout: Duration,
    /// The shortest time between two builds for one service. Default 50 ms.
    pub coalesce: Duration,
}

impl ServicesConfig {
    /// The defaults, around what has none.
    pub fn new<F>(
        follow: impl Fn(ServiceName) -> F + Send + Sync + 'static,
        defaults: impl Fn(&ServiceName) -> ServiceDefaults + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<snapshot::Reader, NamingError>> + Send + 'static,
    {
        Self {
            follow: Box::new(move |service| Box::pin(follow(service))),
            defaults: Box::new(defaults),
            zone: Arc::default(),
            max_services: 10_000,
            first_list_timeout: Duration::from_secs(5),
            coalesce: Duration::from_millis(50),
        }
    }
}

/// Why a service cannot be balanced here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiscoverError {
    /// The key scheme cannot name it. Do not retry.
    #[error(transparent)]
    Naming(#[from] NamingError),
    /// There are too many already. Retry when some have gone.
    #[error("this node balances {limit} services already, its limit; {service} was not added")]
    TooMany {
        /// The service asked for.
        service: ServiceName,
        /// The limit in force.
        limit: usize,
    },
}

/// How long a service that has no endpoints is kept for those who ask again.
const KEEP_EMPTY: Duration = Duration::from_secs(60);

/// The services that this node balances. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServicesConfig,
    map: DashMap<ServiceName, Slot>,
    checker: Arc<OnceLock<Box<Checker>>>,
    forgetters: Mutex<Vec<Box<Forgetter>>>,
}

struct Slot {
    handle: ServiceHandle,
    since: Instant,
}

impl Services {
    /// No services yet.
    pub fn new(config: ServicesConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                map: DashMap::new(),
                checker: Arc::default(),
                forgetters: Mutex::default(),
            }),
        }
    }

    /// Has endpoints checked by this one, those that are published already too. Only the first one is heard: an endpoint has one check.
    pub fn check_by(&self, checker: impl Fn(&ServiceState) + Send + Sync + 'static) {
        if self.inner.checker.set(Box::new(checker)).is_err() {
            return;
        }
        let Some(checker) = self.inner.checker.get() else { return };
        // What is published after this was set is told by the service's task.
        for handle in self.list() {
            let state = handle.state();
            if state.traffic.health.is_some() {
                checker(&state);
            }
        }
    }

    /// Tells this one of each service that is balanced no more, so that it can forget what it keeps for it.
    pub fn forget_by(&self, forgetter: impl Fn(&ServiceName) + Send + Sync + 'static) {
        self.forgetters().push(Box::new(forgetter));
    }

    fn forgetters(&self) -> MutexGuard<'_, Vec<Box<Forgetter>>> {
        // A panic while it is held leaves the list whole.
        self.inner.forgetters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service that is balanced already.
    pub fn get(&self, name: &str) -> Option<ServiceHandle> {
        self.inner.map.get(name).map(|slot| slot.handle.clone())
    }

    /// What policies of this service may take.
    pub fn limits(&self, name: &ServiceName) -> Limits {
        (self.inner.config.defaults)(name).limits
    }

    /// All services, sorted by name.
    pub fn list(&self) -> Vec<ServiceHandle> {
        let mut list: Vec<_> = self.inner.map.iter().map(|slot| slot.handle.clone()).collect();
        list.sort_by(|a, b| a.name().cmp(b.name()));
        list
    }

    /// Balances a service from now on, if it is not balanced yet.
    ///
    /// # Cancel safety
    ///
    /// Safe: the service was added or it was not.
    pub async fn add(&self, name: &ServiceName) -> Result<ServiceHandle, DiscoverError> {
        if let Some(handle) = self.get(name.as_str()) {
            return Ok(handle);
        }
        self.make_room(name)?;
        let config = &self.inner.config;
        let reader = (config.follow)(name.clone()).await?;
        match self.inner.map.entry(name.clone()) {
            // Somebody else was faster; what we began to follow ends with its reader.
            dashmap::Entry::Occupied(slot) => Ok(slot.get().handle.clone()),
            dashmap::Entry::Vacant(slot) => {
                let defaults = (config.defaults)(name);
                let setup = ServiceSetup {
                    service: name.clone(),
                    zone: Arc::clone(&config.zone),
                    initial: defaults.policy,
                    hash_key: defaults.hash_key,
                    idempotent: defaults.idempotent,
                    traffic: defaults.traffic,
                    checker: Arc::clone(&self.inner.checker),
                    coalesce: config.coalesce,
                    quarantine: Quarantine {
                        failures: defaults.limits.quarantine_failures.max(1),
                        window: defaults.limits.quarantine_window,
                    },
                };
                let handle = ServiceHandle::spawn(setup, reader);
                slot.insert(Slot { handle: handle.clone(), since: Instant::now() });
                Ok(handle)
            }
        }
    }

    /// Balances a service and waits, within bounds, until the registry has said what it has. The state tells whether it has.
    ///
    /// # Cancel safety
    ///
    /// Safe: the service stays.
    pub async fn discover(&self, name: &ServiceName) -> Result<ServiceHandle, DiscoverError> {
        let handle = self.add(name).await?;
        let mut reader = handle.subscribe();
        let settled = async {
            while {
                let state = reader.current();
                !state.listed && state.stale.is_none()
            } {
                if reader.changed().await.is_err() {
                    return;
                }
            }
        };
        // Past the bound the state still says that nothing was listed, and errors say so.
        let _ = tokio::time::timeout(self.inner.config.first_list_timeout, settled).await;
        Ok(handle)
    }

    /// Stops balancing a service: its task ends with the last request.
    pub fn remove(&self, name: &ServiceName) -> bool {
        let removed = self.inner.map.remove(name).is_some();
        if removed {
            self.forgetters().iter().for_each(|forget| forget(name));
        }
        removed
    }

    /// At the limit, forgets services that turned out to have no endpoints.
    fn make_room(&self, name: &ServiceName) -> Result<(), DiscoverError> {
        let limit = self.inner.config.max_services;
        if self.inner.map.len() >= limit {
            let is_idle = |slot: &Slot| {
                let state = slot.handle.state();
                state.listed && state.endpoints.is_empty() && slot.since.elapsed() >= KEEP_EMPTY
            };
            let idle = self.inner.map.iter().filter(|slot| is_idle(slot)).map(|slot| slot.key().clone());
            // Collected first: the map is locked while it is walked.
            for name in idle.collect::<Vec<_>>() {
                self.remove(&name);
            }
        }
        if self.inner.map.len() >= limit {
            return Err(DiscoverError::TooMany { service: name.clone(), limit });
        }
        Ok(())
    }
}
