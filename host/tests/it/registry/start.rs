//! Nodes that start while their registry is not as it should be.

use std::{net::SocketAddr, path::Path, time::Duration};

use greeter::{GreeterConfig, hello::greeter1_client::Greeter1Client};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use waymark_node::{
    app::{AppError, Node},
    config::{ClientConfig, NodeConfig, Ports, RegistrySource, ServiceConfig},
    registry::{RegistryConfig, RegistryError},
    stages::StartError,
};

use super::fixture::{Gate, PATIENCE};
use crate::{
    embedded::fixture::{LOOPBACK, Registry as Server},
    node::{call, dial, service},
};

/// Sooner than any call to the registry would be given up.
const SOON: Duration = Duration::from_millis(2500);

fn config(endpoint: &str, state: &Path) -> NodeConfig {
    let registry = RegistryConfig { state_dir: Some(state.into()), ..RegistryConfig::new([endpoint]) };
    NodeConfig {
        listen: LOOPBACK,
        admin: LOOPBACK,
        client: ClientConfig {
            registry: RegistrySource::Etcd(Box::new(registry)),
            services: vec![ServiceConfig::new(service("svc"))],
            ..ClientConfig::default()
        },
        ports: Ports { drain_timeout: Duration::from_secs(1), ..Ports::default() },
        ..NodeConfig::default()
    }
}

async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(greeter::serve(listener, GreeterConfig::default(), std::future::pending()));
    address
}

async fn is_kept(state: &Path) {
    let kept = |folder: std::fs::DirEntry| {
        let mut files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
        files.any(|name| name.to_string_lossy().ends_with(".endpoints"))
    };
    let waiting = async {
        while !std::fs::read_dir(state).is_ok_and(|mut folders| folders.any(|folder| kept(folder.unwrap()))) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("kept in time");
}

/// A registry behind a gate, and a folder in which a node has kept what it knew of it: that this
/// address serves.
async fn known() -> (Server, Gate, tempfile::TempDir, SocketAddr) {
    let mut server = Server::embedded().await;
    let gate = Gate::before(server.url.trim_start_matches("http://").parse().unwrap()).await;
    let address = greeter().await;
    server.client.put(format!("svc/{address}"), format!(r#"{{"Addr":"{address}"}}"#), None).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let node = Node::start(config(&gate.url, state.path())).await.unwrap();
    is_kept(state.path()).await;
    node.shutdown().await;
    (server, gate, state, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_what_it_knew_whatever_answers_in_place_of_its_registry() {
    type Fault = fn(&Gate);
    let faults: [(&str, Fault); 6] = [
        ("it takes connections and says nothing", Gate::hang),
        ("it closes each connection", Gate::shut),
        ("it closes each connection on which something is asked", |gate| gate.answer(b"")),
        ("a balancer has nobody", |gate| {
            gate.answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }),
        ("a web server does not know", |gate| gate.answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
        ("something else answers", |gate| gate.answer(b"\x00\x01garbage that nobody asked for\xff\xfe")),
    ];
    let (_server, gate, state, address) = known().await;
    for (what, fault) in faults {
        fault(&gate);
        let began = Instant::now();
        let node = Node::start(config(&gate.url, state.path())).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut client = Greeter1Client::new(dial(&node).await);
        let answered = call(&mut client, "svc").await.unwrap_or_else(|status| panic!("{what}: {status}"));
        assert_eq!(answered, address.to_string(), "{what}");
        assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
        let state = node.services().get("svc").unwrap().state().stale.as_ref().unwrap().reason.to_string();
        assert!(state.contains("kept on disk"), "{what}: {state}");
        // And it finds it when it is there.
        gate.open();
        let mut reader = node.services().get("svc").unwrap().subscribe();
        let listed = async {
            while !reader.current().listed {
                reader.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, listed).await.unwrap_or_else(|_| panic!("{what}: not listed"));
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knew_nothing_starts_too_and_says_not_yet() {
    let gate = Gate::before(LOOPBACK).await;
    gate.hang();
    let state = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let node = Node::start(config(&gate.url, state.path())).await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let mut client = Greeter1Client::new(dial(&node).await);
    let status = call(&mut client, "svc").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waiting_does_not_mend_still_ends_the_start() {
    let gate = Gate::before(LOOPBACK).await;
    // A TLS server's alert to cleartext.
    gate.answer(&[21, 3, 1, 0, 2, 2, 22]);
    let state = tempfile::tempdir().unwrap();
    let Err(error) = Node::start(config(&gate.url, state.path())).await else { panic!("it wants TLS") };
    assert!(matches!(error, AppError::Stages(StartError::Registry(RegistryError::WantsTls { .. }))), "{error:?}");
}
