//! The stages from the registry to the data plane, joined: what a [`Node`](super::Node) and a [`Client`](super::Client) have in common.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use prometheus_client::registry::Registry as Metrics;
use tokio::task::JoinSet;
use tracing::warn;

use super::{AppError, defaults::Defaults, follow_tls::Certificates, load::load_key_scheme};
use crate::{
    admin,
    balancer::{Services, ServicesConfig},
    config::{NodeConfig, RegistrySource, ServiceConfig},
    dataplane::{self, AccessLog, Dataplane, InboundOptions},
    embedded,
    naming::KeyScheme,
    plugin::{Engine, EngineConfig},
    registry::{Registry, RegistryConfig},
};

/// How many configured services are begun to be followed at once.
const ADD_AT_ONCE: usize = 256;

/// They stop when they are dropped; what holds a service or the data plane keeps it.
pub(super) struct Stages {
    pub(super) engine: Engine,
    pub(super) registry_urls: Vec<String>,
    pub(super) registry: Registry,
    pub(super) scheme: Arc<dyn KeyScheme>,
    pub(super) services: Services,
    pub(super) dataplane: Dataplane,
    pub(super) embedded: Option<embedded::Handle>,
    pub(super) access_log: Option<AccessLog>,
    /// One task a policy that is a file, and one a set of certificates. They end with the set.
    pub(super) followers: JoinSet<()>,
}

impl Stages {
    /// Starts them. Their metric families come beside them: a registry of families has one owner.
    pub(super) async fn start(config: &NodeConfig) -> Result<(Self, Metrics), AppError> {
        let certificates = Certificates::load(config)?;
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
        let defaults = Arc::new(Defaults::load(&engine, config).await?);

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
        let stages =
            Self { engine, registry_urls, registry, scheme, services, dataplane, embedded, access_log, followers };
        Ok((stages, metrics))
    }

    /// Stops what a drop would only cut off.
    pub(super) async fn end(self) {
        if let Some(log) = &self.access_log {
            log.flush().await;
        }
        drop((self.followers, self.services, self.dataplane, self.registry));
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.shutdown().await
        {
            warn!(%error, "the embedded registry ended badly");
        }
    }
}
