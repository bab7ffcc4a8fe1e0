//! The composition root: joins the stages to a running node.

mod follow_file;
mod follow_policy;
mod follow_tls;
mod load;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    follow_file::follow,
    follow_policy::{PolicyFile, Slot},
    follow_tls::Certificates,
    load::{TrialError, try_for_nobody},
};
pub use self::{
    follow_tls::CertificateError,
    load::{PluginError, default_plugin_cache, default_state_dir, load_key_scheme, load_plugin, load_policy},
};
use crate::{
    admin::{self, Admin, AdminError, Readiness},
    balancer::{HashKey, ServiceDefaults, Services, ServicesConfig},
    config::{NodeConfig, PluginChoice, RegistrySource, ServiceConfig},
    dataplane::{self, AccessLog, AccessTarget, Channel, Dataplane, Drained, InboundOptions, TargetError},
    embedded::{self, EmbeddedError},
    model::ServiceName,
    naming::KeyScheme,
    plugin::{Engine, EngineConfig, Limits},
    policy::BuildError,
    registry::{Registry, RegistryConfig, RegistryError},
    traffic::Traffic,
};

/// How many configured services are begun to be followed at once.
const ADD_AT_ONCE: usize = 256;

/// Why a node does not start. Nothing of it runs.
#[derive(Debug, Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen for {what} on {address}{}", hint(source, flag))]
    Listen {
        /// For what.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The flag that names it.
        flag: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Unix socket cannot be listened on.
    #[error("cannot listen for gRPC calls on unix:{path}: {source}", path = path.display())]
    ListenUnix {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot write the access log to {to}: {source}; name another place with --access-log")]
    AccessLog {
        /// Where it should go.
        to: AccessTarget,
        /// Why.
        source: io::Error,
    },
    /// The configured certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The plugin engine does not run on this machine.
    #[error("cannot start the plugin engine: {0}")]
    Engine(String),
    /// A configured plugin cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A configured policy refuses its configuration.
    #[error("{whose}: {source}")]
    Policy {
        /// The service, or the default.
        whose: String,
        /// What the policy said.
        source: BuildError,
    },
    /// The registry cannot be used, and trying again would not help.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The embedded registry does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// A configured service cannot be balanced.
    #[error(transparent)]
    Service(#[from] crate::balancer::DiscoverError),
}

fn hint(source: &io::Error, flag: &str) -> String {
    if source.kind() == io::ErrorKind::AddrInUse {
        format!(": the address is in use; choose another one with {flag} (port 0 takes a free one)")
    } else {
        String::new()
    }
}

/// A running node.
pub struct Node {
    proxy: SocketAddr,
    admin: SocketAddr,
    registry_urls: Vec<String>,
    registry: Registry,
    scheme: Arc<dyn KeyScheme>,
    services: Services,
    dataplane: Dataplane,
    embedded: Option<embedded::Handle>,
    stop: CancellationToken,
    unix: Option<PathBuf>,
    access_log: Option<AccessLog>,
    /// One a listener.
    proxy_tasks: Vec<JoinHandle<Drained>>,
    admin_task: JoinHandle<Result<(), AdminError>>,
    /// One task a policy that is a file, and one a set of certificates. They end with the set.
    followers: JoinSet<()>,
}

impl Node {
    /// Starts everything and returns when calls are taken. An etcd that cannot be reached is no obstacle: the node says so and goes on
    /// trying.
    pub async fn start(config: NodeConfig) -> Result<Self, AppError> {
        // The ports first: the most common fault, and the cheapest to find.
        let proxy_listener = listen("gRPC calls", config.listen, "--listen").await?;
        let admin_listener = listen("the node's API", config.admin, "--admin").await?;
        let (proxy, admin_address) = (address(&proxy_listener, config.listen), address(&admin_listener, config.admin));
        let unix_listener = config.listen_unix.as_deref().map(|path| {
            dataplane::Listener::unix(path, config.listen_unix_mode)
                .map_err(|source| AppError::ListenUnix { path: path.to_owned(), source })
        });
        let unix_listener = unix_listener.transpose()?;
        let certificates = Certificates::load(&config)?;
        let mut metrics = admin::metrics_registry();
        let dataplane_metrics = dataplane::Metrics::register(&mut metrics);
        let access_log = config.access_log.as_ref().map(|to| {
            AccessLog::open(to, config.access_log_format, &dataplane_metrics)
                .map_err(|source| AppError::AccessLog { to: to.clone(), source })
        });
        let access_log = access_log.transpose()?;
        let engine = Engine::new(EngineConfig {
            cache_dir: config.plugin_cache.clone(),
            limits: config.limits.clone(),
            ..EngineConfig::default()
        })
        .map_err(|error| AppError::Engine(format!("{error:#}")))?;
        let scheme: Arc<dyn KeyScheme> = Arc::new(load_key_scheme(&engine, &config.key_scheme).await?);
        if let Some(warning) = scheme.warning() {
            warn!(key_scheme = scheme.name(), "{warning}");
        }
        let defaults = Arc::new(Defaults::load(&engine, &config).await?);

        let (embedded, registry_config) = match config.registry.clone() {
            RegistrySource::Etcd(config) => (None, *config),
            RegistrySource::Embedded(listen) => {
                let handle = embedded::Server::start(listen, embedded::Options::default()).await?;
                let config = RegistryConfig::new([handle.url().to_owned()]);
                (Some(handle), config)
            }
        };
        let registry_urls = registry_config.endpoints.clone();
        let registry = Registry::connect(registry_config)?;
        if let Err(error) = registry.check().await {
            if !error.is_transient() {
                return Err(error.into());
            }
            warn!(%error, "the registry cannot be reached yet; the node goes on trying");
        }

        registry.metrics().register(&mut metrics);
        let follow = {
            let (registry, scheme) = (registry.clone(), Arc::clone(&scheme));
            move |service| {
                let (registry, scheme) = (registry.clone(), Arc::clone(&scheme));
                async move { registry.subscribe(service, scheme).await }
            }
        };
        let services = Services::new(ServicesConfig {
            zone: config.zone.as_str().into(),
            ..ServicesConfig::new(follow, {
                let defaults = Arc::clone(&defaults);
                move |service| defaults.of(service)
            })
        });
        // Many at once, so that those read together are read by one call.
        // Owned and collected: a future over a lazy iterator of borrowing ones is not `Send` in every place that wants it to be.
        let add = |service: &ServiceConfig| {
            let (services, name) = (services.clone(), service.name.clone());
            async move { services.add(&name).await.map(drop) }
        };
        let adding: Vec<_> = config.services.iter().map(add).collect();
        stream::iter(adding).buffer_unordered(ADD_AT_ONCE).try_collect::<()>().await?;
        let mut followers =
            if config.follow_files { defaults.follow_files(&engine, &services, &config.zone) } else { JoinSet::new() };
        let options = dataplane::Options {
            drain_timeout: config.drain_timeout,
            endpoint_tls: certificates.endpoints.clone(),
            connect: config.connect.clone(),
            access_log: access_log.clone(),
            inbound: InboundOptions { tls: certificates.server.clone(), ..config.inbound.clone() },
            ..dataplane::Options::default()
        };
        certificates.spawn(&dataplane_metrics, &mut followers);
        let dataplane = Dataplane::new(services.clone(), config.routes.clone(), options, dataplane_metrics);

        let stop = CancellationToken::new();
        let listeners = [Some(proxy_listener.into()), unix_listener].into_iter().flatten();
        let serve = |listener: dataplane::Listener| {
            tokio::spawn(dataplane::serve(listener, dataplane.clone(), stop.clone().cancelled_owned()))
        };
        let proxy_tasks = listeners.map(serve).collect();
        let front = Admin {
            metrics,
            readiness: Readiness::default().with_services(config.services.iter().map(|service| service.name.clone())),
            component_size: config.largest_component(),
            ..Admin::new(services.clone(), engine)
        };
        let admin_task = tokio::spawn(admin::serve(admin_listener, front, stop.clone().cancelled_owned()));
        info!(%proxy, admin = %admin_address, registry = registry_urls.join(","), "node is up");
        Ok(Self {
            proxy,
            admin: admin_address,
            registry_urls,
            registry,
            scheme,
            services,
            dataplane,
            embedded,
            stop,
            unix: config.listen_unix,
            access_log,
            proxy_tasks,
            admin_task,
            followers,
        })
    }

    /// Where gRPC calls come in.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The Unix socket where gRPC calls come in too, if there is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix.as_deref()
    }

    /// Where its calls are logged, if they are.
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }

    /// Where the node's API, health, metrics and dashboard are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// etcd's endpoints, or the embedded registry's.
    pub fn registry_urls(&self) -> &[String] {
        &self.registry_urls
    }

    /// The registry, for registering instances from this process.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The key scheme in use.
    pub fn key_scheme(&self) -> Arc<dyn KeyScheme> {
        Arc::clone(&self.scheme)
    }

    /// The services balanced here.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// A channel to one service: the node's balancer in process, for any tonic client.
    pub fn channel(&self, service: ServiceName) -> Channel {
        self.dataplane.channel(service)
    }

    /// A channel to the service that a gRPC target names: `waymark:///ayang/server1`, `etcd:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        self.dataplane.dial(target)
    }

    /// Stops: takes no more calls, finishes what runs within the drain timeout, then closes everything. Returns how that went.
    ///
    /// # Cancel safety
    ///
    /// Once begun the shutdown goes on; only its end is not waited for.
    pub async fn shutdown(self) -> Drained {
        self.stop.cancel();
        let mut drained = Drained { cut_off: 0 };
        for task in self.proxy_tasks {
            match task.await {
                Ok(one) => drained.cut_off += one.cut_off,
                Err(panic) => warn!(%panic, "the data plane ended badly"),
            }
        }
        if let Some(log) = &self.access_log {
            log.flush().await;
        }
        match self.admin_task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the admin server ended badly"),
            Err(panic) => warn!(%panic, "the admin server ended badly"),
        }
        drop(self.followers);
        drop(self.services);
        drop(self.dataplane);
        drop(self.registry);
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.shutdown().await
        {
            warn!(%error, "the embedded registry ended badly");
        }
        drained
    }
}

async fn listen(what: &'static str, address: SocketAddr, flag: &'static str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { what, address, flag, source })
}

/// The port that was taken, where any was asked for.
fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// What each service begins with, loaded and tried before anything starts.
struct Defaults {
    policy: Arc<Slot>,
    hash_key: Option<HashKey>,
    limits: Limits,
    traffic: Arc<Traffic>,
    services: HashMap<ServiceName, Own>,
}

/// What one service has of its own.
struct Own {
    policy: Option<Arc<Slot>>,
    hash_key: Option<HashKey>,
    idempotent: bool,
    limits: Option<Limits>,
    traffic: Option<Arc<Traffic>>,
}

impl Defaults {
    async fn load(engine: &Engine, config: &NodeConfig) -> Result<Self, AppError> {
        let zone: Arc<str> = config.zone.as_str().into();
        let load = async |choice: &PluginChoice, limits: &Limits, whose: String| -> Result<Arc<Slot>, AppError> {
            let candidate = load_policy(engine, choice, limits.clone(), "configuration").await?;
            match try_for_nobody(&candidate, &zone).await {
                Ok(()) => Ok(Slot::new(choice.clone(), limits.clone(), candidate)),
                Err(TrialError::Build(source)) => Err(AppError::Policy { whose, source }),
                Err(TrialError::Host(reason)) => Err(AppError::Engine(reason)),
            }
        };
        let policy = load(&config.policy, &config.limits, "the default policy".into()).await?;
        let mut services = HashMap::new();
        for service in &config.services {
            let whose = || format!("service {}", service.name);
            let policy = match (&service.policy, &service.limits) {
                (Some(choice), limits) => Some(load(choice, limits.as_ref().unwrap_or(&config.limits), whose()).await?),
                // The default policy, under limits of the service's own.
                (None, Some(limits)) => Some(load(&config.policy, limits, whose()).await?),
                (None, None) => None,
            };
            let (hash_key, limits) = (service.hash_key.clone(), service.limits.clone());
            let traffic = service.traffic.clone().map(Arc::new);
            let own = Own { policy, hash_key, idempotent: service.idempotent, limits, traffic };
            services.insert(service.name.clone(), own);
        }
        Ok(Self {
            policy,
            hash_key: config.hash_key.clone(),
            limits: config.limits.clone(),
            traffic: Arc::new(config.traffic.clone()),
            services,
        })
    }

    fn of(&self, service: &ServiceName) -> ServiceDefaults {
        let own = self.services.get(service);
        ServiceDefaults {
            policy: self.slot(service).candidate(),
            hash_key: own.and_then(|own| own.hash_key.clone()).or_else(|| self.hash_key.clone()),
            idempotent: own.is_some_and(|own| own.idempotent),
            limits: own.and_then(|own| own.limits.clone()).unwrap_or_else(|| self.limits.clone()),
            traffic: Arc::clone(own.and_then(|own| own.traffic.as_ref()).unwrap_or(&self.traffic)),
        }
    }

    /// Where a service's first policy comes from.
    fn slot(&self, service: &ServiceName) -> &Arc<Slot> {
        self.services.get(service).and_then(|own| own.policy.as_ref()).unwrap_or(&self.policy)
    }

    /// Follows each policy that is a file.
    fn follow_files(self: &Arc<Self>, engine: &Engine, services: &Services, zone: &str) -> JoinSet<()> {
        let own = self.services.values().filter_map(|own| own.policy.as_ref());
        let mut followers = JoinSet::new();
        for slot in own.chain([&self.policy]) {
            let Some(path) = slot.file().map(ToOwned::to_owned) else { continue };
            let (defaults, of) = (Arc::clone(self), Arc::clone(slot));
            let file = PolicyFile {
                engine: engine.clone(),
                services: services.clone(),
                slot: Arc::clone(slot),
                concerns: Box::new(move |service| Arc::ptr_eq(defaults.slot(service), &of)),
                zone: zone.into(),
            };
            let handled = slot.candidate().info.sha256;
            followers.spawn(follow(file, vec![path], handled));
        }
        followers
    }
}
