//! A node in this process, with an instance, for targets that are protocols.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use greeter::GreeterConfig;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use waymark_node::{
    app::Node,
    config::{ClientConfig, NodeConfig, ServiceConfig},
    model::{Endpoint, ServiceName},
    registry::{Registration, RegistrationConfig},
};

/// The service that has an instance.
pub(crate) const SERVICE: &str = "svc";

/// It lives as long as the process.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) node: Node,
    _registration: Registration,
}

/// The one of this process.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (node, registration) = runtime.block_on(start());
        World { runtime, node, _registration: registration }
    })
}

async fn start() -> (Node, Registration) {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let service = ServiceName::new(SERVICE).expect("a plain name");
    let services = vec![ServiceConfig::new(service.clone())];
    let config = NodeConfig {
        listen: free,
        admin: free,
        client: ClientConfig { services, ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.expect("a node starts");
    let listener = TcpListener::bind(free).await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener").to_string();
    tokio::spawn(greeter::serve(listener, GreeterConfig::default(), std::future::pending()));
    let endpoint = Endpoint::at(address.parse().expect("an address"));
    let registering = node.registry().register(RegistrationConfig::new(service.clone(), endpoint), node.key_scheme());
    let registration = registering.await.expect("the embedded registry takes it");
    let mut state = node.services().get(SERVICE).expect("it is configured").subscribe();
    let seen = async {
        while state.current().endpoints.is_empty() {
            state.changed().await.expect("a node that runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the instance is seen");
    (node, registration)
}
