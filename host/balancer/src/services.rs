//! The services that this node balances, by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dashmap::DashMap;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};
use waymark_core::{model::ServiceName, naming::NamingError, snapshot, traffic::Traffic};
use waymark_runtime::Limits;

use crate::{
    builders::Builders,
    capacity::{AtCapacity, Capacity, Census, Reservation},
    changes::{Followers, ServiceChanges},
    discovery::Discoverable,
    hash::HashKey,
    history::Quarantine,
    service::{Candidate, ServiceHandle, ServiceSetup},
    upstream::{AnyUpstream, NoUpstream, Upstream},
};

/// What a service begins with.
pub struct ServiceDefaults {
    /// Its first policy.
    pub policy: Candidate,
    /// What of a request is its key, for policies that hash.
    pub hash_key: Option<HashKey>,
    /// Whether its calls may be carried out twice; see
    /// [`ServiceState::idempotent`](super::ServiceState::idempotent).
    pub idempotent: bool,
    /// What its policies may take and how often they may fail. The limits of the first policy are
    /// its own.
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
    /// What a service begins with. Asked while no other service is added, removed or listed, so
    /// that it must not do any of these itself.
    pub defaults: Box<dyn Fn(&ServiceName) -> ServiceDefaults + Send + Sync>,
    /// The zone this node stands in; empty when unknown.
    pub zone: Arc<str>,
    /// Which services callers may bring about by naming them. Default: any.
    pub discoverable: Discoverable,
    /// The most services at once. Default 10,000: names come from callers, and each costs a task
    /// and a watch.
    pub max_services: usize,
    /// How many of them may be services that callers brought about and that never had an endpoint.
    /// Default 1,000. The oldest of them goes when another comes, so that made-up names only ever
    /// displace made-up names.
    pub max_empty: usize,
    /// How long a caller waits for a service's first list; a deadline that comes first wins, and so
    /// does the word that the registry does not answer, which its own time limit brings in seconds.
    /// Default 2 min: while a list comes in, waiting helps, and one of 100,000 instances takes a
    /// busy node well over the 5 s that this was once.
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
            discoverable: Discoverable::All,
            max_services: 10_000,
            max_empty: 1_000,
            first_list_timeout: Duration::from_mins(2),
            coalesce: Duration::from_millis(50),
        }
    }
}

/// Why a service cannot be balanced here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// The key scheme cannot name it. Do not retry.
    #[error(transparent)]
    Naming(#[from] NamingError),
    /// Callers may not bring it about here. Do not retry.
    #[error(
        "this node balances only services that its configuration names, and {service} is none of them (`[[service]]`, or `[discovery] allow`)"
    )]
    NotAllowed {
        /// The service asked for.
        service: ServiceName,
    },
    /// There are too many already. Retry when some have gone.
    #[error(
        "this node balances {limit} services already, its limit (`[discovery] max-services`), and each has endpoints or is configured; {service} was not added"
    )]
    TooMany {
        /// The service asked for.
        service: ServiceName,
        /// The limit in force.
        limit: usize,
    },
}

/// How many services that callers named are begun at once; further ones wait for their turn. Each
/// is some milliseconds of work in a few tasks, so that more at once are no faster, and would only
/// keep served calls waiting.
const BEGUN_AT_ONCE: usize = 32;

/// How long a turn lasts at most. A registry that does not answer is waited for without one.
const TURN: Duration = Duration::from_millis(250);

/// The services that this node balances. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServicesConfig,
    map: DashMap<ServiceName, Balanced>,
    /// Locked while `map` changes; calls read that without.
    followers: Mutex<Followers>,
    capacity: Arc<Capacity>,
    /// Services that are being begun: whoever asks for one of them waits for the same beginning.
    begun: Mutex<HashMap<ServiceName, Beginning>>,
    turns: Semaphore,
    builders: Arc<Builders>,
    upstream: Arc<dyn AnyUpstream>,
}

/// A service that is balanced.
struct Balanced {
    handle: ServiceHandle,
    reservation: Arc<Reservation>,
}

type Beginning = Arc<OnceCell<Result<ServiceHandle, DiscoverError>>>;

/// One of those who wait for a service to be begun. The last of them takes the beginning away.
struct Waiter<'a> {
    inner: &'a Inner,
    name: &'a ServiceName,
    beginning: Beginning,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut begun = self.inner.begun();
        // This one's, and the map's. Nobody else can come by one while the map is locked.
        if Arc::strong_count(&self.beginning) == 2 {
            begun.remove(self.name);
        }
    }
}

impl Services {
    /// No services yet, and nobody who carries calls to their endpoints: for picks alone.
    pub fn new(config: ServicesConfig) -> Self {
        Self::with_upstream(config, Arc::new(NoUpstream))
    }

    /// No services yet. `upstream` will connect to their endpoints, check them, and forget them.
    pub fn with_upstream<U: Upstream>(config: ServicesConfig, upstream: Arc<U>) -> Self {
        let capacity = Capacity::new(config.max_services, config.max_empty);
        Self {
            inner: Arc::new(Inner {
                config,
                map: DashMap::new(),
                followers: Mutex::default(),
                capacity,
                begun: Mutex::default(),
                turns: Semaphore::new(BEGUN_AT_ONCE),
                builders: Arc::new(Builders::of_machine()),
                upstream,
            }),
        }
    }

    /// A service that is balanced already.
    pub fn get(&self, name: &str) -> Option<ServiceHandle> {
        self.inner.map.get(name).map(|balanced| balanced.handle.clone())
    }

    /// What policies of this service may take.
    pub fn limits(&self, name: &ServiceName) -> Limits {
        (self.inner.config.defaults)(name).limits
    }

    /// Builds of plans that wait for one of the threads that build.
    pub fn builds_waiting(&self) -> u64 {
        self.inner.builders.waiting()
    }

    /// All services, sorted by name: one that has asked what it begins with is among them. To
    /// follow which there are, see [`Self::changes`].
    pub fn list(&self) -> Vec<ServiceHandle> {
        let _unchanged = self.inner.followers();
        self.inner.list()
    }

    /// Follows which services there are: first those that there are now, by name, then each that
    /// comes or goes. However slowly it is read nothing is lost, but what came and went meanwhile
    /// is not told. It keeps neither the services nor any of them alive.
    pub fn changes(&self) -> ServiceChanges {
        let mut followers = self.inner.followers();
        followers.follow(&self.inner.list())
    }

    /// How many there are.
    pub fn census(&self) -> Census {
        self.inner.capacity.census()
    }

    /// Balances a service from now on, if it is not balanced yet: one that whoever runs the node
    /// named, so that it stays until it is removed.
    ///
    /// # Errors
    ///
    /// The key scheme cannot name it, or there are as many as may be and none of them can go.
    ///
    /// # Cancel safety
    ///
    /// Safe: the service was added or it was not.
    pub async fn add(&self, name: &ServiceName) -> Result<ServiceHandle, DiscoverError> {
        if let Some(handle) = self.pin(name) {
            return Ok(handle);
        }
        let handle = self.begin(name, true).await?;
        // A caller may have been the one that began it.
        Ok(self.pin(name).unwrap_or(handle))
    }

    fn pin(&self, name: &ServiceName) -> Option<ServiceHandle> {
        let balanced = self.inner.map.get(name)?;
        balanced.reservation.pin();
        Some(balanced.handle.clone())
    }

    /// Whether callers may bring this service about.
    ///
    /// # Errors
    ///
    /// They may not.
    pub fn check_discoverable(&self, name: &ServiceName) -> Result<(), DiscoverError> {
        if self.inner.config.discoverable.covers(name.as_str()) {
            Ok(())
        } else {
            Err(DiscoverError::NotAllowed { service: name.clone() })
        }
    }

    /// Balances a service that a caller named, and waits, within bounds, until the registry has
    /// said what it has. The state tells whether it has. Of those who ask for a new service at
    /// once, one begins it. Only so many are begun at once; who comes later waits for a turn.
    ///
    /// # Errors
    ///
    /// Callers may not bring it about, the key scheme cannot name it, or there are as many as may
    /// be and none of them can go.
    ///
    /// # Cancel safety
    ///
    /// Safe: the service stays.
    pub async fn discover(&self, name: &ServiceName) -> Result<ServiceHandle, DiscoverError> {
        if let Some(handle) = self.get(name.as_str()) {
            settled(&handle, Instant::now() + self.inner.config.first_list_timeout).await;
            return Ok(handle);
        }
        self.check_discoverable(name)?;
        let turn = self.inner.turns.acquire().await.expect("the turns are never closed");
        let handle = self.begin(name, false).await?;
        let now = Instant::now();
        let until = now + self.inner.config.first_list_timeout;
        settled(&handle, until.min(now + TURN)).await;
        drop(turn);
        settled(&handle, until).await;
        Ok(handle)
    }

    /// Begins to balance a service, or waits for whoever does so already.
    async fn begin(&self, name: &ServiceName, pinned: bool) -> Result<ServiceHandle, DiscoverError> {
        let beginning = Arc::clone(self.inner.begun().entry(name.clone()).or_default());
        let waiter = Waiter { inner: &self.inner, name, beginning };
        waiter.beginning.get_or_init(|| self.begin_alone(name, pinned)).await.clone()
    }

    async fn begin_alone(&self, name: &ServiceName, pinned: bool) -> Result<ServiceHandle, DiscoverError> {
        if let Some(handle) = self.get(name.as_str()) {
            return Ok(handle);
        }
        // Before anything is waited for: however many come at once, no more are begun than may be.
        let (reservation, displaced) = self.inner.capacity.reserve(name, pinned).map_err(|AtCapacity { limit }| {
            let service = name.clone();
            DiscoverError::TooMany { service, limit }
        })?;
        for reservation in &displaced {
            self.displace(reservation);
        }
        let config = &self.inner.config;
        let reader = (config.follow)(name.clone()).await?;
        // From here on: who changes what services begin with and then lists them finds this one.
        let mut followers = self.inner.followers();
        let defaults = (config.defaults)(name);
        let setup = ServiceSetup {
            service: name.clone(),
            zone: Arc::clone(&config.zone),
            initial: defaults.policy,
            hash_key: defaults.hash_key,
            idempotent: defaults.idempotent,
            traffic: defaults.traffic,
            upstream: Arc::clone(&self.inner.upstream),
            builders: Arc::clone(&self.inner.builders),
            reservation: Arc::clone(&reservation),
            coalesce: config.coalesce,
            quarantine: Quarantine {
                failures: defaults.limits.quarantine_failures.max(1),
                window: defaults.limits.quarantine_window,
                cpu_percent: defaults.limits.pick_share,
            },
        };
        let handle = ServiceHandle::spawn(setup, reader);
        self.inner.map.insert(name.clone(), Balanced { handle: handle.clone(), reservation: Arc::clone(&reservation) });
        followers.added(&handle);
        drop(followers);
        reservation.allow_displacing();
        Ok(handle)
    }

    /// Stops balancing a service: its task ends with the last request.
    pub fn remove(&self, name: &ServiceName) -> bool {
        let removed = self.inner.take_out(name, |_| true);
        if let Some((name, balanced)) = &removed {
            balanced.reservation.release();
            self.inner.upstream.forget(name);
        }
        removed.is_some()
    }

    /// Forgets a service that was displaced. Calls that wait for its endpoints hear of it.
    fn displace(&self, reservation: &Arc<Reservation>) {
        let removed =
            self.inner.take_out(reservation.name(), |balanced| Arc::ptr_eq(&balanced.reservation, reservation));
        if let Some((name, balanced)) = removed {
            balanced.handle.close();
            self.inner.upstream.forget(&name);
        }
    }
}

impl Inner {
    fn followers(&self) -> MutexGuard<'_, Followers> {
        // A panic while it is held, in what a service begins with, leaves it as it was.
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> Vec<ServiceHandle> {
        let mut list: Vec<_> = self.map.iter().map(|balanced| balanced.handle.clone()).collect();
        list.sort_by(|a, b| a.name().cmp(b.name()));
        list
    }

    /// Takes a service out of the map, if it is there and is the one that is meant.
    fn take_out(&self, name: &ServiceName, meant: impl FnOnce(&Balanced) -> bool) -> Option<(ServiceName, Balanced)> {
        let mut followers = self.followers();
        let removed = self.map.remove_if(name, |_, balanced| meant(balanced))?;
        followers.removed(name);
        Some(removed)
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<ServiceName, Beginning>> {
        // Nothing that runs under it can panic half-way.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the registry has said what the service has, or until then.
async fn settled(handle: &ServiceHandle, until: Instant) {
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
    let _ = tokio::time::timeout_at(until, settled).await;
}
