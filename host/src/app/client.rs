//! Calls of this process, balanced here: a node without its ports.

use std::fmt;

use super::{AppError, stages::Stages};
use crate::{
    admin,
    balancer::Services,
    config::{NodeConfig, RegistrySource},
    dataplane::{Channel, TargetError},
    model::ServiceName,
    registry::{Registry, RegistryConfig},
};

/// Discovery and balancing for the calls of this program: all that a [`Node`](super::Node) does, but nothing listens. One for a process
/// is enough: its channels share connections, load figures and policies.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use waymark::{Client, config::{NodeConfig, PluginChoice}};
///
/// // Every setting of waymark.toml but its ports.
/// let config = NodeConfig { policy: PluginChoice::bundled("least_request"), ..Client::config(["http://127.0.0.1:2379"]) };
/// let client = Client::start(config).await?;
/// let channel = client.dial("etcd:///ayang/server1")?;
/// // Greeter1Client::new(channel), or any other tonic client.
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// Channels that were dialed may outlive it; policies and certificates in files are followed until it is dropped.
pub struct Client {
    stages: Stages,
    metrics: admin::Metrics,
}

impl Client {
    /// The configuration of a client of this etcd, with all else as it is by default.
    pub fn config(endpoints: impl IntoIterator<Item = impl Into<String>>) -> NodeConfig {
        let registry = RegistryConfig::new(endpoints.into_iter().map(Into::into));
        NodeConfig { registry: RegistrySource::Etcd(Box::new(registry)), ..NodeConfig::default() }
    }

    /// Starts with what this configuration says of the registry, services, plugins, endpoints and calls; what it says of ports and of
    /// their clients is not used. An etcd that cannot be reached is no obstacle: calls wait for it up to their deadlines.
    ///
    /// # Errors
    ///
    /// A plugin or a certificate cannot be loaded, the registry refuses the user, or a configured service has no name that the key scheme
    /// could have.
    pub async fn start(config: NodeConfig) -> Result<Self, AppError> {
        // Certificates for clients are files that need not be there.
        let config = NodeConfig { tls: None, ..config };
        let (stages, metrics) = Stages::start(&config).await?;
        let metrics = admin::Metrics::new(metrics, stages.services.clone());
        Ok(Self { stages, metrics })
    }

    /// A channel to the service that a gRPC target names: `etcd:///ayang/server1`, `waymark:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        self.stages.dataplane.dial(target)
    }

    /// A channel to this service.
    pub fn channel(&self, service: ServiceName) -> Channel {
        self.stages.dataplane.channel(service)
    }

    /// The services balanced here: their endpoints, and policies to swap.
    pub fn services(&self) -> &Services {
        &self.stages.services
    }

    /// The registry, for registering instances from this process.
    pub fn registry(&self) -> &Registry {
        &self.stages.registry
    }

    /// What a node serves as `/metrics`, in the OpenMetrics format, for the program's own page.
    pub fn metrics(&self) -> Result<String, fmt::Error> {
        self.metrics.encode()
    }

    /// Stops: writes what is left of the access log, and ends an embedded registry.
    pub async fn shutdown(self) {
        self.stages.end().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("registry", &self.stages.registry_urls).finish_non_exhaustive()
    }
}
