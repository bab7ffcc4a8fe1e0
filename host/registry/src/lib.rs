//! Who serves what, kept in etcd: following services, and registering instances.
//!
//! [`Registry`] is the whole interface. It speaks the etcd v3 protocol to a real etcd and to the
//! embedded one alike, and is the only module that names `etcd_client`. What keys and values look
//! like is the [`KeyScheme`]'s business; what becomes of the endpoints is the reader's.
//!
//! ```text
//!   subscribe ──▶ follow ──(list)──▶ etcd ◀──(one watch stream)── watch_mux ◀── session ◀── register
//!                   │  ▲               ▲                              │            │
//!                 codec└─── notices ───┼──────────────────────────────┴────────────┘
//!                   ▼                  │ client: endpoints, failover, TLS, authentication, namespace
//!                snapshot              └ fake, in tests
//! ```
//!
//! - `etcd` is what we need of etcd, as a trait; `client` is that over the network,
//!   `endpoint_probe` its answer to "what is wrong?".
//! - `watch_mux` is the one watch stream of the process, whatever the number of services.
//! - `service_watch` keeps one service's snapshot, with `list` to read it whole, `decode` to ask
//!   the key scheme, in turns with all other services, and `codec` for the memory from keys to
//!   instances.
//! - `publish` stands between it and the readers: `removal_damping` holds back a mass
//!   disappearance, `disk_cache` keeps what is known on disk, for the registry that said it
//!   (`identity`); `reconnect_grace` holds back what an outage took.
//! - `session` keeps one instance registered; `registration` is its handle.
//!
//! # Recovery
//!
//! Nothing here ends because etcd did. Losing it marks snapshots stale and keeps their endpoints;
//! streams resume after the last revision seen; compacted history, another cluster or a store that
//! went back mean that a service is listed again and swapped whole; a lost lease is replaced and
//! its entries are written again. Each of these is a state with its diagram in the file that has
//! it.
#![forbid(unsafe_code)]

mod client;
mod codec;
mod config;
mod decode;
mod disk_cache;
mod endpoint_probe;
mod error;
mod etcd;
#[cfg(test)]
mod fake;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod jitter;
mod list;
mod metrics;
mod publish;
mod reconnect_grace;
mod registration;
mod removal_damping;
mod routable_host;
mod service_watch;
mod session;
mod watch_mux;
mod work_queue;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::Instrument as _;
use waymark_core::{
    backoff::Backoff,
    model::{LeaseId, Revision, ServiceName},
    naming::{Entry, KeyScheme, NamingError, check_advertised},
    snapshot::{self, Reader},
};

use self::{
    client::EtcdClient,
    decode::DecodeQueues,
    disk_cache::{CacheKey, DiskCache},
    error::CallError,
    etcd::{Etcd, Range},
    identity::Identity,
    list::Lister,
    publish::{Publisher, ServiceCache},
    removal_damping::RemovalDamper,
    service_watch::ServiceWatcher,
    session::{Encoder, Session},
    watch_mux::{WatchMux, WatchMuxConfig},
    work_queue::WorkQueue,
};
pub use self::{
    config::{EntryLimits, Password, RegistryConfig, TlsConfig, User},
    error::{Cause, RegistryError},
    metrics::Metrics,
    registration::{Registration, RegistrationConfig, RegistrationState},
    removal_damping::RemovalDamping,
};

/// The watch stream is one for the whole process, so it may knock more often than a thousand
/// registrations may; they wait for it to come back. Half a second of the one in which all must be
/// right again.
const WATCH_BACKOFF_CAP: Duration = Duration::from_millis(500);

/// The registry, for as many services and instances as one likes. Cheap to clone; all clones share
/// one watch stream and one connection an endpoint. Its tasks end when the last clone, reader and
/// registration are dropped.
#[derive(Clone)]
pub struct Registry {
    etcd: Arc<dyn Etcd>,
    mux: WatchMux,
    lister: Lister,
    queues: DecodeQueues,
    identity: Identity,
    disk_cache: Option<(Arc<DiskCache>, WorkQueue)>,
    config: Arc<RegistryConfig>,
    metrics: Metrics,
}

/// An etcd that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The endpoint that did.
    pub endpoint: String,
    /// Its cluster; 0 where the user may not read enough to learn it.
    pub cluster: u64,
    /// Its store's revision; 0 likewise.
    pub revision: Revision,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Registry {
    /// Takes the configuration. Nothing is sent yet: an etcd that is away now is found when it
    /// comes. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used, whatever etcd does: no endpoint, or one that is none.
    pub fn connect(config: RegistryConfig) -> Result<Self, RegistryError> {
        let config = Arc::new(config);
        let etcd = Arc::new(EtcdClient::new(Arc::clone(&config))?);
        Ok(Self::over(etcd, config))
    }

    fn over(etcd: Arc<dyn Etcd>, config: Arc<RegistryConfig>) -> Self {
        let metrics = Metrics::default();
        let mux_config = WatchMuxConfig {
            idle_timeout: config.idle_timeout,
            backoff_base: config.backoff_base,
            backoff_cap: config.backoff_cap.min(WATCH_BACKOFF_CAP),
            has_user: config.user.is_some(),
        };
        let mux = WatchMux::spawn(Arc::clone(&etcd), mux_config, metrics.clone());
        let lister = Lister::spawn(Arc::clone(&etcd), config.page_size);
        let identity = Identity::new(&config.endpoints, config.tls.is_some());
        let disk_cache = config.state_dir.clone().map(|path| {
            let dir = DiskCache::new(path, identity.clone(), config.state_max_age);
            (Arc::new(dir), WorkQueue::single())
        });
        Self { etcd, mux, lister, queues: DecodeQueues::new(), identity, disk_cache, config, metrics }
    }

    /// What this handle and its clones count.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The address by which this machine reaches the registry, for instances that are to be reached
    /// at this machine. Nothing is sent; it may block while a host name is looked up.
    ///
    /// # Errors
    ///
    /// No endpoint's host is known, or there is no way to any.
    pub fn routable_host(&self) -> io::Result<IpAddr> {
        let mut last = io::Error::other("no registry endpoint is configured");
        for endpoint in &self.config.endpoints {
            match routable_host::routable_host(endpoint) {
                Ok(ip) => return Ok(ip),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Does one cheap round trip, and finds out what is wrong where that fails: bounded by the
    /// request timeout and two connect timeouts.
    ///
    /// # Errors
    ///
    /// Of all endpoints' failures the one that says most about what to mend. None of them keeps the
    /// background tasks from trying on.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn check(&self) -> Result<Answered, RegistryError> {
        let (endpoint, header) = self.etcd.check().await?;
        self.identity.answered(header.cluster);
        Ok(Answered { endpoint, cluster: header.cluster, revision: header.revision })
    }

    /// As [`Self::check`], for whoever is to run whether or not the registry does: waits for its
    /// answer for `within` at most, and then no longer. `Ok(None)`: it does not answer, or not as
    /// it should, and may do so later; the log says why, as soon as that is known.
    ///
    /// # Errors
    ///
    /// Waiting does not mend it ([`RegistryError::may_pass`]).
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn first_contact(&self, within: Duration) -> Result<Option<Answered>, RegistryError> {
        let registry = self.clone();
        let mut checking = tokio::spawn(async move { registry.check().await });
        let Ok(checked) = timeout(within, &mut checking).await else {
            tracing::warn!(within_seconds = within.as_secs_f64(), "the registry does not answer yet; trying on");
            tokio::spawn(async move {
                match checking.await {
                    Ok(Ok(Answered { endpoint, .. })) => tracing::info!(endpoint, "the registry answers"),
                    Ok(Err(error)) if error.may_pass() => {
                        tracing::warn!(error = error::chain(&error), "the registry cannot be reached yet; trying on");
                    }
                    Ok(Err(error)) => tracing::error!(
                        error = error::chain(&error),
                        "the registry cannot be used like this; nothing is listed before that is mended"
                    ),
                    // It is ending.
                    Err(_) => {}
                }
            });
            return Ok(None);
        };
        match checked {
            Ok(Ok(answered)) => Ok(Some(answered)),
            Ok(Err(error)) if error.may_pass() => {
                tracing::warn!(error = error::chain(&error), "the registry cannot be reached yet; trying on");
                Ok(None)
            }
            Ok(Err(error)) => Err(error),
            // It is ending.
            Err(_) => Ok(None),
        }
    }

    /// Reads the first `limit` entries under a prefix as they stand in etcd, whoever wrote them.
    /// For people who want to see them: whoever wants endpoints subscribes.
    ///
    /// # Errors
    ///
    /// etcd cannot be reached, or refuses.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn entries(&self, prefix: &str, limit: u32) -> Result<Vec<Entry>, RegistryError> {
        let page = self.etcd.range(Range::prefix(prefix), None, limit).await.map_err(|error| match error {
            CallError::Failed(error) => error,
            // Neither is an answer to reading the newest revision; said nevertheless, should etcd
            // give it.
            other => RegistryError::Refused {
                endpoint: self.config.endpoints.join(","),
                what: format!("read the keys under {prefix}"),
                message: other.to_string(),
            },
        })?;
        let text = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned();
        Ok(page.kvs.into_iter().map(|kv| Entry { key: text(kv.key), value: kv.value }).collect())
    }

    /// Follows a service until the last clone of the reader is dropped. The reader's first snapshot
    /// is empty and not `listed`; see [`Reader::settled`].
    ///
    /// # Errors
    ///
    /// The key scheme does not say where the service's keys are. Losing etcd, now or later, is no
    /// error: it is in the snapshot.
    ///
    /// # Cancel safety
    ///
    /// Nothing is followed when the future is dropped.
    pub async fn subscribe(&self, service: ServiceName, scheme: Arc<dyn KeyScheme>) -> Result<Reader, NamingError> {
        let prefixes = self.prefixes(&service, &scheme).await?;
        let ranges = outermost(&prefixes).into_iter().map(|prefix| Range::prefix(prefix.as_bytes())).collect();
        let (writer, reader) = snapshot::channel(service.clone());
        let cache = self.disk_cache.as_ref().map(|(dir, queue)| {
            let key = CacheKey {
                service: service.to_string(),
                key_scheme: scheme.name().to_owned(),
                namespace: self.config.namespace.clone().unwrap_or_default(),
            };
            ServiceCache::new(
                Arc::clone(dir),
                key,
                self.identity.clone(),
                queue.clone(),
                self.config.address_filter.clone(),
            )
        });
        let damper = RemovalDamper::new(self.config.removal_damping);
        let publisher = Publisher::new(service.clone(), writer, damper, cache, self.metrics.clone());
        let span = tracing::info_span!("watch", %service);
        let service_watch = ServiceWatcher {
            service,
            reader: decode::Reader {
                scheme,
                queues: self.queues.clone(),
                limits: self.config.entries.clone(),
                address_filter: self.config.address_filter.clone(),
                metrics: self.metrics.clone(),
            },
            ranges,
            lister: self.lister.clone(),
            mux: self.mux.clone(),
            identity: self.identity.clone(),
            backoff: self.backoff(),
            metrics: self.metrics.clone(),
        };
        tokio::spawn(service_watch.run(publisher).instrument(span));
        Ok(reader)
    }

    /// Registers an instance and keeps it registered; see [`Registration::registered`] to wait for
    /// it.
    ///
    /// # Errors
    ///
    /// What cannot be registered at all: a wildcard address, or an instance that the key scheme
    /// refuses or would write where no reader looks. Losing etcd, now or later, is no error: it is
    /// in the registration's state.
    ///
    /// # Cancel safety
    ///
    /// Nothing is registered when the future is dropped.
    pub async fn register(
        &self,
        config: RegistrationConfig,
        scheme: Arc<dyn KeyScheme>,
    ) -> Result<Registration, RegistryError> {
        check_advertised(&config.endpoint.address).map_err(RegistryError::Advertised)?;
        let prefixes = self.prefixes(&config.service, &scheme).await.map_err(RegistryError::Naming)?.into();
        let (service, ttl) = (config.service.clone(), config.ttl);
        let span = tracing::info_span!("registration", %service, instance = %config.endpoint.id);
        let encoder = Encoder { config, scheme, prefixes };
        // A trial, with a lease that is none: what is refused for good is refused here and not by a
        // task later.
        encoder.encode(LeaseId(1), ttl).await?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (told, state) = watch::channel(RegistrationState::Registering);
        let session = Session::new(
            encoder,
            Arc::clone(&self.etcd),
            self.mux.clone(),
            self.backoff(),
            told,
            self.metrics.session(),
        );
        tokio::spawn(session.run(inbox).instrument(span));
        Ok(Registration::new(service, commands, state))
    }

    /// Asks the key scheme where the service's keys are, where it may block.
    async fn prefixes(&self, service: &ServiceName, scheme: &Arc<dyn KeyScheme>) -> Result<Vec<String>, NamingError> {
        let fail = |reason: &str| {
            Err(NamingError::Failed {
                scheme: scheme.name().to_owned(),
                call: "prefixes",
                reason: reason.to_owned(),
                overran: false,
            })
        };
        let (asked, about) = (Arc::clone(scheme), service.clone());
        let Ok(prefixes) = self.queues.all.run(move || asked.prefixes(&about)).await else {
            return fail("it panicked");
        };
        let prefixes = prefixes?;
        if prefixes.is_empty() {
            return fail("it named no prefix");
        }
        if prefixes.iter().any(String::is_empty) {
            return fail("it named an empty prefix, which covers every key of every service");
        }
        Ok(prefixes)
    }

    fn backoff(&self) -> Backoff {
        Backoff::equal_jitter(self.config.backoff_base, self.config.backoff_cap)
    }
}

/// Those that lie under no other: every key is then watched once.
fn outermost(prefixes: &[String]) -> Vec<&str> {
    let mut kept: Vec<&str> = Vec::new();
    for prefix in prefixes {
        if !kept.iter().any(|outer| prefix.starts_with(outer)) {
            kept.retain(|inner| !inner.starts_with(prefix.as_str()));
            kept.push(prefix);
        }
    }
    kept
}
