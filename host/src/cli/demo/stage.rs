//! What the demo plays on: the node in this process with its registry, reached as a user reaches
//! it. Calls go to the proxy's port, policies through the API's port.

use std::net::SocketAddr;

use tokio::time::{Duration, Instant, sleep};

use super::{DemoError, ui::Ui};
use crate::{
    admin::client::{NodeClient, PolicySource, PolicyStatus, Service, SetPolicy},
    app::{AppError, Node},
    config::{ClientConfig, Embedded, NodeConfig, PluginChoice, Ports, RegistrySource, ServiceConfig},
    model::ServiceName,
    naming::Entry,
    plugin::Grants,
    registry::RegistryConfig,
    stages::load::default_plugin_cache,
};

/// The service whose calls are balanced. Not under `ayang/`, so that the study note's keys stay the
/// only ones there.
pub(super) const SERVICE: &str = "demo/greeter";

/// The zone the demo's node stands in.
pub(super) const ZONE: &str = "a";

/// How long calls may go on running when the node stops. They take milliseconds.
const DRAIN: Duration = Duration::from_secs(2);

/// How long keys of an earlier demo may still be there: that demo was killed, and its leases run
/// out.
const LEFTOVERS: Duration = Duration::from_secs(12);

/// Where a node listens by default; taken if free, so that commands need not name the node.
const DEFAULT_PORTS: [u16; 2] = [7000, 7001];

/// The node and the way to its API.
pub(super) struct Stage {
    node: Node,
    client: NodeClient,
    embedded: bool,
}

impl Stage {
    /// Starts the node, with a registry in this process if none is given.
    pub(super) async fn start(registry: Option<&[String]>) -> Result<Self, DemoError> {
        let start = async |[listen, admin]: [SocketAddr; 2]| {
            let registry = registry.map_or(RegistrySource::Embedded(Embedded::new(loopback(0))), etcd);
            // Saying hello twice does no harm, so that a call inside an instance that is killed may
            // go to another one.
            let greeter =
                ServiceConfig { idempotent: true, ..ServiceConfig::new(SERVICE.parse().expect("a plain name")) };
            let services = vec![greeter];
            Node::start(NodeConfig {
                listen,
                admin,
                client: ClientConfig { zone: ZONE.into(), registry, services, ..ClientConfig::default() },
                ..base()
            })
            .await
        };
        let node = match start(DEFAULT_PORTS.map(free_or_any)).await {
            // Somebody was faster.
            Err(AppError::Listen { .. }) => start([loopback(0); 2]).await?,
            started => started?,
        };
        // A node goes on trying when its registry is away. A demo without one shows nothing.
        if let Err(error) = node.registry().check().await {
            node.shutdown().await;
            return Err(error.into());
        }
        let client = NodeClient::connect(&node.admin_addr().to_string()).await.map_err(api("take a connection"))?;
        Ok(Self { node, client, embedded: registry.is_none() })
    }

    /// Where calls go.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.node.proxy_addr()
    }

    /// Where the API is.
    pub(super) fn admin(&self) -> SocketAddr {
        self.node.admin_addr()
    }

    /// The registry's endpoints, separated by commas.
    pub(super) fn registry(&self) -> String {
        self.node.registry_urls().join(",")
    }

    /// Whether the registry is in this process.
    pub(super) fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// A client of the node's API.
    pub(super) fn client(&self) -> NodeClient {
        self.client.clone()
    }

    /// One service as the node has it. It begins to watch it if it does not yet.
    pub(super) async fn service(&self, name: &ServiceName) -> Result<Service, DemoError> {
        self.client.service(name, true).await.map_err(api("tell of a service"))
    }

    /// Swaps a policy, as `waymark policy set` does.
    pub(super) async fn set_policy(
        &self,
        service: &ServiceName,
        source: PolicySource,
        config: &str,
    ) -> Result<PolicyStatus, DemoError> {
        let set = SetPolicy {
            service: service.clone(),
            source,
            config: config.into(),
            allow: Grants::NONE,
            by: "demo".into(),
            discover: true,
        };
        self.client.set_policy(set).await.map_err(api("take a policy"))
    }

    /// The entries under a prefix, as any etcd client would read them.
    pub(super) async fn entries(&self, prefix: &str) -> Result<Vec<Entry>, DemoError> {
        Ok(self.node.registry().entries(prefix, 100).await?)
    }

    /// Makes sure that nobody else's instances are among ours.
    pub(super) async fn wait_until_vacant(&self, prefixes: &[String], ui: &Ui) -> Result<(), DemoError> {
        let began = Instant::now();
        let mut said = false;
        loop {
            let mut keys = Vec::new();
            for prefix in prefixes {
                keys.extend(self.entries(prefix).await?.into_iter().map(|entry| entry.key));
            }
            if keys.is_empty() {
                return Ok(());
            }
            if began.elapsed() > LEFTOVERS {
                return Err(DemoError::Occupied { keys: keys.join(", ") });
            }
            if !said {
                said = true;
                ui.say(format!(
                    "The registry still has {} key(s) of an earlier demo. They go when their leases end; waiting.",
                    keys.len()
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A second node on the same registry, which reads services by their bare name.
    pub(super) async fn bare_prefix_node(&self) -> Result<Node, DemoError> {
        Ok(Node::start(NodeConfig {
            listen: loopback(0),
            admin: loopback(0),
            client: ClientConfig {
                registry: etcd(self.node.registry_urls()),
                key_scheme: PluginChoice::bundled("bare_prefix"),
                ..ClientConfig::default()
            },
            ..base()
        })
        .await?)
    }

    /// Stops the node and its registry.
    pub(super) async fn shutdown(self) {
        drop(self.client);
        self.node.shutdown().await;
    }
}

fn base() -> NodeConfig {
    NodeConfig {
        client: ClientConfig { plugin_cache: default_plugin_cache(), ..ClientConfig::default() },
        ports: Ports { drain_timeout: DRAIN, ..Ports::default() },
        ..NodeConfig::default()
    }
}

fn etcd(endpoints: &[String]) -> RegistrySource {
    RegistrySource::Etcd(Box::new(RegistryConfig::new(endpoints.iter().cloned())))
}

fn api(what: &str) -> impl FnOnce(crate::admin::ClientError) -> DemoError {
    let what = what.to_owned();
    move |source| DemoError::Api { what, source }
}

/// An address of this machine alone.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Whether nobody listens there now. Somebody may a moment later; whoever listens then says so.
pub(super) fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(loopback(port)).is_ok()
}

fn free_or_any(port: u16) -> SocketAddr {
    loopback(if is_free(port) { port } else { 0 })
}
