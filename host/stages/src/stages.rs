//! The stages from the registry to the data plane, joined: what a node and a client have in common.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tracing::warn;
use waymark_balancer::{Services, ServicesConfig};
use waymark_core::{exposition::Families, naming::KeyScheme};
use waymark_dataplane::{
    self as dataplane, AccessLog, Authorization, ConnectOptions, Dataplane, InboundOptions, ServerTls,
};
#[cfg(feature = "embedded")]
use waymark_embedded as embedded;
use waymark_net::address_filter::AddressFilter;
use waymark_registry::{Registry, RegistryConfig};
use waymark_runtime::{Engine, EngineConfig};

#[cfg(feature = "embedded")]
use crate::config::Embedded;
use crate::{
    certificates::Certificates,
    config::{ClientConfig, Ports, RegistrySource, ServiceConfig, TlsFiles},
    defaults::Defaults,
    error::StartError,
    load::load_key_scheme,
    metrics,
    plugins::register_plugins,
};

/// How long a registry has to answer, so that a configuration that it refuses is known before
/// anything serves. What takes longer is not waited for: the endpoints of before can be served
/// meanwhile.
const FIRST_CONTACT: Duration = Duration::from_secs(1);

/// How many configured services are begun to be followed at once.
const ADD_AT_ONCE: usize = 256;

/// They stop when they are dropped; what holds a service or the data plane keeps it.
pub struct Stages {
    /// Runs all plugins.
    pub engine: Engine,
    /// etcd's endpoints, or the embedded registry's.
    pub registry_urls: Vec<String>,
    /// Follows services, and registers instances.
    pub registry: Registry,
    /// What keys and values look like.
    pub scheme: Arc<dyn KeyScheme>,
    /// The services balanced here.
    pub services: Services,
    /// Carries calls to endpoints.
    pub dataplane: Dataplane,
    #[cfg(feature = "embedded")]
    /// The registry inside this process, if it is there.
    pub embedded: Option<embedded::Handle>,
    /// Where calls are logged, if they are.
    pub access_log: Option<AccessLog>,
    /// TLS of the node's API.
    pub admin_tls: Option<ServerTls>,
    /// One task a policy that is a file, and one a set of certificates. They end with the set.
    pub followers: JoinSet<()>,
}

impl Stages {
    /// Starts them, to call endpoints that `address_filter` lets through. `api`: TLS of the node's
    /// API, if it has one. Their metric families come beside them: a registry of families has one
    /// owner.
    pub async fn start(
        config: &ClientConfig,
        ports: &Ports,
        api: Option<&TlsFiles>,
        address_filter: AddressFilter,
    ) -> Result<(Self, Families), StartError> {
        let certificates = Certificates::load(config, ports, api)?;
        let mut metrics = metrics::families();
        let dataplane_metrics = dataplane::Metrics::register(&mut metrics);
        let access_log = config.access_log.as_ref().map(|to| {
            AccessLog::open(to, config.access_log_format, &dataplane_metrics)
                .map_err(|source| StartError::AccessLog { to: to.clone(), source })
        });
        let access_log = access_log.transpose()?;
        let plugins = EngineConfig::default();
        let engine = Engine::new(EngineConfig {
            cache_dir: config.plugin_cache.clone(),
            limits: config.limits.clone(),
            total_memory: config.plugin_memory.unwrap_or(plugins.total_memory),
            compile: config.compile.clone(),
            ..plugins
        })?;
        register_plugins(&mut metrics, &engine);
        let scheme: Arc<dyn KeyScheme> = Arc::new(load_key_scheme(&engine, &config.key_scheme).await?);
        if let Some(warning) = scheme.warning() {
            warn!(key_scheme = scheme.name(), "{warning}");
        }
        let defaults = Arc::new(Defaults::load(&engine, config).await?);

        #[cfg(feature = "embedded")]
        let mut embedded = None;
        let registry_config = match config.registry.clone() {
            RegistrySource::Etcd(config) => *config,
            #[cfg(feature = "embedded")]
            RegistrySource::Embedded(Embedded { listen, namespace, removal_damping }) => {
                let handle = embedded::Server::start(listen, embedded::Options::default()).await?;
                let url = handle.url().to_owned();
                embedded = Some(handle);
                RegistryConfig { namespace, removal_damping, ..RegistryConfig::new([url]) }
            }
        };
        let registry_urls = registry_config.endpoints.clone();
        for url in &registry_urls {
            address_filter.registry(url);
        }
        let registry_config = RegistryConfig {
            address_filter: address_filter.clone(),
            entries: config.entries.clone(),
            ..registry_config
        };
        let registry = Registry::connect(registry_config)?;
        registry.first_contact(FIRST_CONTACT).await?;
        registry.metrics().register(&mut metrics);
        let follow = {
            let (registry, scheme) = (registry.clone(), Arc::clone(&scheme));
            move |service| {
                let (registry, scheme) = (registry.clone(), Arc::clone(&scheme));
                async move { registry.subscribe(service, scheme).await }
            }
        };
        let services_config = ServicesConfig {
            zone: config.zone.as_str().into(),
            discoverable: config.discovery.discoverable.clone(),
            max_services: config.discovery.max_services,
            max_empty: config.discovery.max_empty,
            ..ServicesConfig::new(follow, {
                let defaults = Arc::clone(&defaults);
                move |service| defaults.of(service)
            })
        };
        let own_clients = |service: &ServiceConfig| Some((service.name.clone(), service.allow_clients.clone()?));
        let authorization =
            Authorization::new(ports.allow_clients.clone(), config.services.iter().filter_map(own_clients));
        let options = dataplane::Options {
            authorization,
            forwarding: ports.forwarding,
            drain_timeout: ports.drain_timeout,
            endpoint_tls: certificates.endpoints.clone(),
            connect: ConnectOptions { address_filter, ..config.connect.clone() },
            access_log: access_log.clone(),
            inbound: InboundOptions { tls: certificates.server.clone(), ..ports.inbound.clone() },
            ..dataplane::Options::default()
        };
        let dataplane = Dataplane::new(services_config, ports.routes.clone(), options, dataplane_metrics.clone());
        let services = dataplane.services().clone();
        // Many at once, so that those read together are read by one call. Owned and collected: a
        // future over a lazy iterator of borrowing ones is not `Send` in every place that wants it
        // to be.
        let add = |service: &ServiceConfig| {
            let (services, name) = (services.clone(), service.name.clone());
            async move { services.add(&name).await.map(drop) }
        };
        let adding: Vec<_> = config.services.iter().map(add).collect();
        stream::iter(adding).buffer_unordered(ADD_AT_ONCE).try_collect::<()>().await?;
        let mut followers =
            if config.follow_files { defaults.follow_files(&engine, &services, &config.zone) } else { JoinSet::new() };
        let admin_tls = certificates.admin.clone();
        certificates.spawn(&dataplane_metrics, &mut followers);
        let stages = Self {
            engine,
            registry_urls,
            registry,
            scheme,
            services,
            dataplane,
            #[cfg(feature = "embedded")]
            embedded,
            access_log,
            admin_tls,
            followers,
        };
        Ok((stages, metrics))
    }

    /// Stops what a drop would only cut off.
    pub async fn end(self) {
        if let Some(log) = &self.access_log {
            log.flush().await;
        }
        drop((self.followers, self.services, self.dataplane, self.registry));
        #[cfg(feature = "embedded")]
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.shutdown().await
        {
            warn!(%error, "the embedded registry ended badly");
        }
    }
}
