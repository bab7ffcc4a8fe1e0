//! Calls of this process, balanced here: a node without its ports.

use std::fmt;

use waymark_balancer::Services;
use waymark_core::model::ServiceName;
use waymark_dataplane::{Channel, TargetError};
use waymark_net::address_filter::{AddressFilter, Allow};
use waymark_registry::Registry;
use waymark_stages::{
    Stages, StartError,
    config::{ClientConfig, Ports},
    metrics::Metrics,
};

/// Discovery and balancing for the calls of this program: all that a node does, but nothing
/// listens. One for a process is enough: its channels share connections, load figures and policies.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use waymark::{Client, ClientConfig, PluginChoice};
///
/// // Every setting of waymark.toml but its ports.
/// let mut config = ClientConfig::etcd(["http://127.0.0.1:2379"]);
/// config.policy = PluginChoice::bundled("least_request");
/// let client = Client::start(config).await?;
/// let channel = client.dial("etcd:///ayang/server1")?;
/// // Greeter1Client::new(channel), or any other tonic client.
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// Channels that were dialed may outlive it; policies and certificates in files are followed until
/// it is dropped.
pub struct Client {
    stages: Stages,
    metrics: Metrics,
}

impl Client {
    /// Starts. An etcd that cannot be reached is no obstacle: calls wait for it up to their
    /// deadlines.
    ///
    /// # Errors
    ///
    /// A plugin or a certificate cannot be loaded, the registry refuses the user, or a configured
    /// service has no name that the key scheme could have.
    pub async fn start(config: ClientConfig) -> Result<Self, StartError> {
        // Its calls come from this machine.
        let address_filter = AddressFilter::new(config.allow.clone().unwrap_or_else(Allow::here));
        let (stages, metrics) = Stages::start(&config, &Ports::default(), None, address_filter).await?;
        let metrics = Metrics::new(metrics, stages.services.clone());
        Ok(Self { stages, metrics })
    }

    /// A channel to the service that a gRPC target names: `etcd:///ayang/server1`,
    /// `waymark:///ayang/server1`, or the bare name.
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
