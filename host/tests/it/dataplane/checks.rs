//! Endpoints that are checked before and while they get calls.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tonic::{Status, server::NamedService};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service as _;
use waymark_node::{
    balancer::{EndpointCell, Health},
    dataplane::WaitForReady,
    health::{Check, CheckConfig},
    model::ServiceName,
    traffic::Traffic,
};

use super::support::{Caller, Instance, LONG, Node, Reply, at, closed_port, echo, soon, until};

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What the instances serve, by name.
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

/// An echo with gRPC's health service.
async fn with_health(listener: TcpListener, name: &'static str, status: ServingStatus) -> (Instance, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(Echo::NAME, status).await;
    let serve = move |request: Request<Incoming>| {
        let mut health = health.clone();
        async move {
            if request.uri().path() == WATCH {
                let answered: Result<Reply, Infallible> = health.call(request).await;
                return answered.unwrap();
            }
            echo(name, request).await
        }
    };
    (Instance::on(listener, serve), reporter)
}

async fn port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn node(check: CheckConfig) -> Node {
    Node::traffic(Traffic { health: Some(check), ..Traffic::default() }).await
}

/// Watches with all the patience that a test has.
fn watching() -> CheckConfig {
    CheckConfig { timeout: LONG, ..CheckConfig::new(Check::Grpc(Echo::NAME.into())) }
}

fn cell(node: &Node, address: SocketAddr) -> Arc<EndpointCell> {
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    let found = state.endpoints.iter().find(|one| one.endpoint.address.as_str() == address.to_string());
    Arc::clone(&found.unwrap().cell)
}

async fn becomes(node: &Node, address: SocketAddr, health: Health) {
    until(|| cell(node, address).health() == health).await;
}

#[tokio::test]
async fn an_instance_that_is_not_serving_gets_no_calls_until_it_is() {
    let node = node(watching()).await;
    let (a, of_a) = with_health(port().await, "a", ServingStatus::Serving).await;
    let (b, of_b) = with_health(port().await, "b", ServingStatus::NotServing).await;
    node.serve("svc", &[&a, &b]).await;
    let mut client = node.client().await;
    // The first one waits for the checks.
    for _ in 0..20 {
        assert!(client.echo("svc", "x").await.data.ends_with(b"a:x"));
    }
    becomes(&node, b.address, Health::Unhealthy).await;
    of_b.set_service_status(Echo::NAME, ServingStatus::Serving).await;
    soon(async { while !client.echo("svc", "x").await.data.ends_with(b"b:x") {} }).await;
    // The checks run on the connections that calls use.
    assert_eq!((a.n_connections(), b.n_connections()), (1, 1));

    for reporter in [&of_a, &of_b] {
        reporter.set_service_status(Echo::NAME, ServingStatus::NotServing).await;
    }
    becomes(&node, a.address, Health::Unhealthy).await;
    becomes(&node, b.address, Health::Unhealthy).await;
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("14", "none-healthy"));
    let message = answer.message();
    assert!(message.contains("2 fail(s) the health check"), "{message}");
    assert!(message.contains(": the health of test.Echo is NOT_SERVING"), "{message}");

    let channel = node.dataplane.channel(ServiceName::new("svc").unwrap());
    let patient = tower::util::MapRequest::new(channel, |mut request: Request<tonic::body::Body>| {
        request.extensions_mut().insert(WaitForReady(true));
        request
    });
    let waiting = tokio::spawn(async move { Caller::new(patient, None).unary("y").await });
    until(|| node.services.get("svc").unwrap().state().limiter.pending() == 1).await;
    of_b.set_service_status(Echo::NAME, ServingStatus::Serving).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap(), "b:y");
}

#[tokio::test]
async fn an_instance_without_the_health_service_is_used() {
    let node = node(watching()).await;
    let plain = Instance::echo("a").await;
    node.serve("svc", &[&plain]).await;
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
    assert_eq!((cell(&node, plain.address).health(), plain.n_calls()), (Health::Healthy, 2));
}

#[tokio::test]
async fn a_watch_that_fails_is_begun_again_and_the_instance_not_used_meanwhile() {
    let (_, health) = tonic_health::server::health_reporter();
    let watches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&watches);
    let instance = Instance::new(move |request| {
        let (mut health, counted) = (health.clone(), Arc::clone(&counted));
        async move {
            match request.uri().path() {
                WATCH if counted.fetch_add(1, SeqCst) < 2 => Status::internal("not yet").into_http(),
                // Its second service, the empty name, is SERVING.
                WATCH => health.call(request).await.unwrap(),
                _ => echo("a", request).await,
            }
        }
    })
    .await;
    let node = node(CheckConfig { check: Check::Grpc(String::new()), ..watching() }).await;
    node.serve("svc", &[&instance]).await;
    let mut client = node.client().await;
    let refused = client.echo("svc", "x").await;
    assert_eq!(refused.kind(), "none-healthy");
    assert!(refused.message().contains("watching the health of its server failed: Internal: not yet"));
    soon(async { while client.echo("svc", "x").await.code() != "0" {} }).await;
    assert_eq!(watches.load(SeqCst), 3);
}

#[tokio::test]
async fn an_instance_that_does_not_say_how_it_is_gets_no_calls() {
    let node = node(CheckConfig { timeout: Duration::from_millis(20), ..watching() }).await;
    let silent = Instance::new(|request| async move {
        match request.uri().path() {
            WATCH => std::future::pending().await,
            _ => echo("a", request).await,
        }
    })
    .await;
    node.serve("svc", &[&silent]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!(answer.kind(), "none-healthy");
    assert!(answer.message().contains("no answer about the health of test.Echo within 20 ms"), "{}", answer.message());
}

#[tokio::test]
async fn a_watch_holds_up_no_drain_and_begins_anew_with_the_next_connection() {
    let node = node(watching()).await;
    let listener = port().await;
    let address = listener.local_addr().unwrap();
    let (first, _reporter) = with_health(listener, "first", ServingStatus::Serving).await;
    node.serve("svc", &[&first]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    // It waits until no call runs.
    first.drain().await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (second, reporter) = with_health(listener, "second", ServingStatus::NotServing).await;
    becomes(&node, address, Health::Unhealthy).await;
    reporter.set_service_status(Echo::NAME, ServingStatus::Serving).await;
    soon(async { while !client.echo("svc", "x").await.data.ends_with(b"second:x") {} }).await;
    assert_eq!(second.n_connections(), 1);
}

#[tokio::test]
async fn a_port_that_takes_no_connection_fails_a_tcp_check_before_a_call_meets_it() {
    let check = CheckConfig { interval: Duration::from_millis(5), fall: 1, ..CheckConfig::new(Check::Tcp) };
    let node = node(check).await;
    let closed = closed_port().await;
    let open = Instance::echo("a").await;
    node.set("svc", vec![at(closed), at(open.address)]).await;
    becomes(&node, closed, Health::Unhealthy).await;
    let mut client = node.client().await;
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert!(cell(&node, closed).calls() == 0 && !cell(&node, closed).is_backing_off());
    let _back = Instance::on(TcpListener::bind(closed).await.unwrap(), |request| echo("b", request));
    becomes(&node, closed, Health::Healthy).await;
    soon(async { while !client.echo("svc", "x").await.data.ends_with(b"b:x") {} }).await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_holds_up_no_call_by_its_check() {
    let node = node(watching()).await;
    node.set("svc", vec![at(closed_port().await)]).await;
    assert_eq!(node.client().await.echo("svc", "x").await.kind(), "none-reachable");
}
