//! A whole node: embedded registry, registered Greeter servers, the proxy, and policies swapped
//! under load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use greeter::{
    GreeterConfig, INSTANCE_HEADER,
    hello::{HelloRequest, greeter1_client::Greeter1Client, greeter2_client::Greeter2Client},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Request, Status, transport::Channel};
use waymark::Client;
use waymark_node::{
    admin::client::{NodeClient, PolicySource, SetPolicy},
    app::Node,
    balancer::{Discoverable, Pattern},
    config::{ClientConfig, Discovery, NodeConfig, PluginChoice, Ports, ServiceConfig},
    model::{Endpoint, Locality, ServiceName},
    plugin::{Grants, Limits, bundled},
    registry::{Registration, RegistrationConfig},
};

pub(crate) const SERVICE: &str = "ayang/server1";

pub(crate) fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

async fn node(key_scheme: &str) -> Node {
    let greeter = ServiceConfig { idempotent: true, ..ServiceConfig::new(service(SERVICE)) };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig {
            zone: "a".into(),
            key_scheme: PluginChoice::bundled(key_scheme),
            services: vec![greeter],
            ..ClientConfig::default()
        },
        ports: Ports { drain_timeout: Duration::from_secs(5), ..Ports::default() },
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

/// A Greeter server with its registration. It has a runtime of its own, so that it can crash with
/// all its connections.
pub(crate) struct Server {
    address: SocketAddr,
    registration: Registration,
    runtime: Option<Runtime>,
}

impl Server {
    pub(crate) async fn start(node: &Node, name: &str, zone: &str, weight: u32) -> Self {
        Self::slow(node, name, zone, weight, Duration::ZERO).await
    }

    async fn slow(node: &Node, name: &str, zone: &str, weight: u32, delay: Duration) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(free()).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let config = GreeterConfig { delay, ..GreeterConfig::default() };
            greeter::serve(listener, config, std::future::pending()).await.unwrap();
        });
        let address = address.await.unwrap();
        let endpoint =
            Endpoint { locality: Locality::zone(zone), weight, ..Endpoint::at(address.to_string().parse().unwrap()) };
        let config = RegistrationConfig::new(service(name), endpoint);
        let registration = node.registry().register(config, node.key_scheme()).await.unwrap();
        registration.registered().await.unwrap();
        Self { address, registration, runtime: Some(runtime) }
    }

    /// Gone without a word to the registry: its key stays.
    pub(crate) fn crash(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

pub(crate) async fn dial(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.proxy_addr())).unwrap().connect().await.unwrap()
}

fn request(name: &str) -> Request<HelloRequest> {
    let mut request = Request::new(HelloRequest { name: "hello".into() });
    request.metadata_mut().insert("waymark-service", name.parse().unwrap());
    request
}

/// Calls once and says who answered.
pub(crate) async fn call(client: &mut Greeter1Client<Channel>, name: &str) -> Result<String, Status> {
    let response = client.say_hello1(request(name)).await?;
    assert_eq!(response.get_ref().reply, "server1:hello");
    Ok(response.metadata().get(INSTANCE_HEADER).unwrap().to_str().unwrap().to_owned())
}

/// Waits until the node sees this many endpoints.
pub(crate) async fn sees(node: &Node, name: &str, n: usize) {
    let handle = node.services().discover(&service(name)).await.unwrap();
    let mut reader = handle.subscribe();
    let seen = async {
        while reader.current().endpoints.len() != n {
            reader.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(30), seen).await.unwrap();
}

fn set(source: PolicySource, n: usize) -> SetPolicy {
    SetPolicy {
        service: service(SERVICE),
        source,
        config: String::new(),
        allow: Grants::NONE,
        by: format!("swap {n}"),
        discover: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_fail_no_call() {
    let node = node("etcd_naming").await;
    let mut servers = Vec::new();
    for (zone, weight) in [("a", 1), ("a", 2), ("b", 3)] {
        servers.push(Server::start(&node, SERVICE, zone, weight).await);
    }
    sees(&node, SERVICE, 3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let channel = dial(&node).await;
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (stop, calls, mut client) = (Arc::clone(&stop), Arc::clone(&calls), Greeter1Client::new(channel.clone()));
        callers.push(tokio::spawn(async move {
            while !stop.load(SeqCst) {
                call(&mut client, SERVICE).await?;
                calls.fetch_add(1, SeqCst);
            }
            Ok::<_, Status>(())
        }));
    }
    let admin = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    let from_disk = bundled::ALL.iter().find(|plugin| plugin.name == "least_request").unwrap().bytes.to_vec();
    for n in 0..100 {
        let before = calls.load(SeqCst);
        let source = match n % 4 {
            0 => PolicySource::Bundled("weighted".into()),
            1 => PolicySource::Bundled("zone_aware".into()),
            2 => PolicySource::Component { bytes: from_disk.clone(), origin: "least_request.wasm".into() },
            _ => PolicySource::Bundled("round_robin".into()),
        };
        let status = if n % 10 == 9 {
            admin.roll_back(&service(SERVICE), 0, "test").await.unwrap()
        } else {
            admin.set_policy(set(source, n)).await.unwrap()
        };
        assert!(!status.running.name.is_empty());
        // Calls are made on every generation.
        while calls.load(SeqCst) < before + 8 && !callers.iter().any(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(calls.load(SeqCst) > 800);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_own_limits_hold_for_a_policy_that_is_set() {
    let config = ServiceConfig::new(service("strict"));
    let limits = Limits { component_size: 10_000, ..Limits::default() };
    let strict = ServiceConfig { limits: Some(limits), policy: Some(PluginChoice::bundled("round_robin")), ..config };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig { services: vec![strict], ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    // What is bundled has to keep to them as well.
    let error = Node::start(config.clone()).await.map(drop).unwrap_err();
    assert!(chain(&error).contains("over the limit of 10000"), "{}", chain(&error));

    let mut config = config;
    config.client.services[0].limits = Some(Limits { component_size: 40_000, ..Limits::default() });
    let node = Node::start(config).await.unwrap();
    let admin = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    let bytes = bundled::ALL.iter().find(|plugin| plugin.name == "zone_aware").unwrap().bytes.to_vec();
    let set = |name: &str| {
        let source = PolicySource::Component { bytes: bytes.clone(), origin: "zone_aware.wasm".into() };
        SetPolicy { service: service(name), ..set(source, 1) }
    };
    let refused = admin.set_policy(set("strict")).await.unwrap_err().to_string();
    assert!(refused.contains("over the limit of 40000"), "{refused}");
    assert_eq!(admin.set_policy(set("free")).await.unwrap().running.name, "zone_aware");
    assert_eq!(admin.policy(&service("strict")).await.unwrap().running.name, "round_robin");
    node.shutdown().await;
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_call_and_its_key_goes_with_its_registration() {
    let node = node("etcd_naming").await;
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(&node, SERVICE, "a", 1).await);
    }
    sees(&node, SERVICE, 3).await;
    let mut client = Greeter1Client::new(dial(&node).await);
    let mut answered = BTreeMap::new();
    for _ in 0..30 {
        *answered.entry(call(&mut client, SERVICE).await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(answered.into_values().collect::<Vec<_>>(), [10, 10, 10], "round robin is exact");
    let address = servers[0].address.to_string();
    servers[0].crash();
    for _ in 0..200 {
        assert_ne!(call(&mut client, SERVICE).await.unwrap(), address);
    }
    servers[0].registration.pause().await.unwrap();
    sees(&node, SERVICE, 2).await;
    for _ in 0..20 {
        call(&mut client, SERVICE).await.unwrap();
    }
    let fresh = Server::start(&node, SERVICE, "a", 1).await;
    sees(&node, SERVICE, 3).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(call(&mut client, SERVICE).await.unwrap());
    }
    assert!(names.contains(&fresh.address.to_string()), "{names:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_inside_a_killed_instance_of_an_idempotent_service_is_answered_by_another() {
    let node = node("etcd_naming").await;
    let mut victim = Server::slow(&node, SERVICE, "a", 1, Duration::from_secs(60)).await;
    let _other = Server::start(&node, SERVICE, "a", 1).await;
    sees(&node, SERVICE, 2).await;
    let channel = dial(&node).await;
    // Of two calls, one is inside the slow one.
    let calls = [(); 2].map(|()| {
        let mut client = Greeter1Client::new(channel.clone());
        tokio::spawn(async move { call(&mut client, SERVICE).await })
    });
    let state = Arc::clone(&node.services().get(SERVICE).unwrap().state());
    let address = victim.address.to_string();
    let inside = state.endpoints.iter().find(|endpoint| endpoint.endpoint.address.as_str() == address).unwrap();
    while inside.cell.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    victim.crash();
    for answered in calls {
        assert_ne!(answered.await.unwrap().unwrap(), address);
    }
    node.shutdown().await;
}

/// What the study note is about: a bare prefix matches a service's neighbour too.
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_prefix_mixes_two_services_and_etcd_naming_does_not() {
    let node = node("bare_prefix").await;
    for (name, serving) in [("ayang/server1", greeter::Serving::One), ("ayang/server2", greeter::Serving::Two)] {
        let listener = TcpListener::bind(free()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = GreeterConfig { serving, ..GreeterConfig::default() };
        tokio::spawn(greeter::serve(listener, config, std::future::pending()));
        let config = RegistrationConfig::new(service(name), Endpoint::at(address.to_string().parse().unwrap()));
        let registration = node.registry().register(config, node.key_scheme()).await.unwrap();
        registration.registered().await.unwrap();
        registration.orphan();
    }
    sees(&node, "ayang/server", 2).await;
    let mut client = Greeter1Client::new(dial(&node).await);
    let mut codes = Vec::new();
    for _ in 0..10 {
        codes.push(client.say_hello1(request("ayang/server")).await.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::Unimplemented).count(), 5, "{codes:?}");
    let proper = Node::start(NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig {
            registry: waymark_node::config::RegistrySource::Etcd(Box::new(
                waymark_node::registry::RegistryConfig::new(node.registry_urls().to_vec()),
            )),
            ..ClientConfig::default()
        },
        ..NodeConfig::default()
    })
    .await
    .unwrap();
    let status = Greeter1Client::new(dial(&proper).await).say_hello1(request("ayang/server")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "no instance is registered under exactly that name");
    let mut two = Greeter2Client::new(dial(&proper).await);
    for _ in 0..4 {
        let reply = two.say_hello2(request("ayang/server2")).await.unwrap();
        assert_eq!(reply.get_ref().reply, "server2:hello");
    }
    proper.shutdown().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channel_in_process_is_the_same_balancer() {
    let node = node("etcd_naming").await;
    let servers = [Server::start(&node, SERVICE, "a", 3).await, Server::start(&node, SERVICE, "a", 1).await];
    sees(&node, SERVICE, 2).await;
    let admin = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    admin.set_policy(set(PolicySource::Bundled("weighted".into()), 0)).await.unwrap();
    let mut client = Greeter1Client::new(node.channel(service(SERVICE)));
    let mut first = 0;
    for _ in 0..40 {
        let response = client.say_hello1(HelloRequest { name: "hello".into() }).await.unwrap();
        let instance = response.metadata().get(INSTANCE_HEADER).unwrap().to_str().unwrap().to_owned();
        first += usize::from(instance == servers[0].address.to_string());
    }
    assert_eq!(first, 30);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_balances_its_own_calls_without_a_port() {
    let node = node("etcd_naming").await;
    let servers = [Server::start(&node, SERVICE, "a", 3).await, Server::start(&node, SERVICE, "a", 1).await];
    let config = ClientConfig { policy: PluginChoice::bundled("weighted"), ..ClientConfig::etcd(node.registry_urls()) };
    let client = Client::start(config).await.unwrap();
    let channel = client.dial(&format!("etcd:///{SERVICE}")).unwrap();
    let mut greeter = Greeter1Client::new(channel);
    let mut call = async || {
        let response = greeter.say_hello1(HelloRequest { name: "hello".into() }).await.unwrap();
        response.metadata().get(INSTANCE_HEADER).unwrap().to_str().unwrap().to_owned()
    };
    // The first call is for a service that nobody followed yet.
    let mut first = 0;
    for _ in 0..40 {
        first += usize::from(call().await == servers[0].address.to_string());
    }
    assert_eq!(first, 30);
    assert!(client.dial("dns:///a").is_err());
    let page = client.metrics().unwrap();
    assert!(page.contains("waymark_picks_total") && page.contains(SERVICE), "{page}");
    // Its end is not that of its channels.
    client.shutdown().await;
    call().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_node_from_starting_is_named() {
    let taken = TcpListener::bind(free()).await.unwrap();
    let start = async |config: NodeConfig| Node::start(config).await.map(|_| ()).unwrap_err().to_string();
    let base = || NodeConfig { listen: free(), admin: free(), ..NodeConfig::default() };
    let listen = taken.local_addr().unwrap();
    let error = start(NodeConfig { listen, ..base() }).await;
    assert!(error.contains("in use") && error.contains("--listen"), "{error}");
    let policy = PluginChoice { config: r#"{"choice_count": 1000}"#.into(), ..PluginChoice::bundled("least_request") };
    let error = start(NodeConfig { client: ClientConfig { policy, ..ClientConfig::default() }, ..base() }).await;
    assert!(error.contains("choice_count"), "{error}");
    let error = start(NodeConfig {
        client: ClientConfig { policy: PluginChoice::bundled("nope"), ..ClientConfig::default() },
        ..base()
    })
    .await;
    assert!(error.contains("nope") && error.contains("round_robin"), "{error}");
    let missing = PluginChoice { plugin: "./missing.wasm".parse().unwrap(), ..PluginChoice::bundled("") };
    let error =
        start(NodeConfig { client: ClientConfig { policy: missing, ..ClientConfig::default() }, ..base() }).await;
    assert!(error.contains("missing.wasm"), "{error}");
}

#[tokio::test]
async fn callers_bring_about_only_the_services_that_they_may() {
    let patterns = vec![Pattern::parse("ayang/").unwrap()];
    let discovery = Discovery { discoverable: Discoverable::Listed(patterns), max_empty: 2, ..Discovery::default() };
    let services = vec![ServiceConfig::new(service("configured"))];
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig { services, discovery, ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let mut greeter = Greeter1Client::new(dial(&node).await);
    let mut call = async |name: &str| {
        let status = greeter.say_hello1(request(name)).await.unwrap_err();
        let kind = status.metadata().get("waymark-error").unwrap().to_str().unwrap().to_owned();
        (status.code(), kind, status.message().to_owned())
    };
    let (code, kind, message) = call("billing").await;
    assert_eq!((code, &*kind), (Code::PermissionDenied, "service-not-allowed"));
    assert!(message.contains("billing") && message.contains("[discovery] allow"), "{message}");
    for name in ["configured", "ayang/a", "ayang/b", "ayang/c"] {
        let (code, kind, _) = call(name).await;
        assert_eq!((code, &*kind), (Code::Unavailable, "no-endpoints"), "{name}");
    }
    let names: Vec<_> = node.services().list().iter().map(|handle| handle.name().to_string()).collect();
    assert_eq!(names, ["ayang/b", "ayang/c", "configured"]);
    let metrics = crate::tls_files::metrics(&node).await;
    assert!(metrics.contains("waymark_services_empty 2") && metrics.contains("waymark_services_displaced_total 1"));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_says_what_was_there_and_which_key_scheme_could_not_read_it() {
    let node = node("etcd_naming").await;
    let mut etcd = etcd_client::Client::connect(node.registry_urls(), None).await.unwrap();
    etcd.put("garbled/127.0.0.1:1", "no JSON", None).await.unwrap();
    let status = Greeter1Client::new(dial(&node).await).say_hello1(request("garbled")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    for words in ["service garbled", "no instance", "1 that the key scheme etcd_naming cannot read"] {
        assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
    }
    node.shutdown().await;
}
