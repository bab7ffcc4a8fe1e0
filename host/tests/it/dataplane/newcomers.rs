//! Endpoints that nobody can connect to, and that say nothing of it: their packets are dropped, or
//! they take a connection and are silent. Calls that others can serve must not pay for them.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};
use waymark_node::balancer::EndpointStatus;

use super::support::{Caller, Instance, LONG, Node, at, closed_port, echo, until};

/// A port at which nobody can be reached, at any address of loopback, for as long as it is kept.
struct Hole {
    port: u16,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Hole {
    /// Takes connections, and says nothing on them.
    async fn mute() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        Self { port: listener.local_addr().unwrap().port(), _listener: listener, _queue: Vec::new() }
    }

    /// Drops whatever comes: its queue is full.
    async fn dropping() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut queue = Vec::new();
        // The first that nobody answers.
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(("127.0.0.1", port))).await
        {
            queue.push(connected.unwrap());
        }
        Self { port, _listener: listener, _queue: queue }
    }

    /// One of many addresses there.
    fn at(&self, n: u8) -> SocketAddr {
        ([127, 9, 1, n], self.port).into()
    }
}

/// How many calls were begun at an endpoint.
fn calls(node: &Node, address: SocketAddr) -> u64 {
    let state = node.services.get("svc").unwrap().state();
    let found = state.endpoints.iter().find(|state| state.endpoint.address.as_str() == address.to_string());
    found.unwrap().cell.calls()
}

fn status(node: &Node, address: SocketAddr) -> EndpointStatus {
    let state = node.services.get("svc").unwrap().state();
    let found = state.endpoints.iter().find(|state| state.endpoint.address.as_str() == address.to_string());
    found.unwrap().cell.status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_cannot_be_reached_cost_no_call_that_others_can_serve() {
    for hole in [Hole::dropping().await, Hole::mute().await] {
        let node = Node::new().await;
        let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
        let mut endpoints: Vec<_> = (1..=60).map(|n| at(hole.at(n))).collect();
        // In the middle, where calls in their order come last.
        endpoints.splice(30..30, [at(a.address), at(b.address)]);
        node.set("svc", endpoints).await;
        let channel = node.dataplane.channel("svc".parse().unwrap());
        let began = Instant::now();
        let first = (0..30).map(|_| {
            let mut caller = Caller::new(channel.clone(), None);
            async move { caller.unary("x").await.unwrap() }
        });
        join_all(first).await;
        assert!(began.elapsed() < Duration::from_secs(2), "the first calls took {:?}", began.elapsed());
        let mut caller = Caller::new(channel, None);
        let began = Instant::now();
        for _ in 0..100 {
            caller.unary("x").await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(8), "the next 100 took {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_gets_calls_once_it_has_been_connected_to() {
    for hole in [Hole::dropping().await, Hole::mute().await] {
        let node = Node::new().await;
        let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
        node.serve("svc", &[&a, &b]).await;
        let mut caller = Caller::new(node.dial().await, Some("svc"));
        for _ in 0..4 {
            caller.unary("x").await.unwrap();
        }
        let newcomer = hole.at(1);
        node.set("svc", vec![at(newcomer), at(a.address), at(b.address)]).await;
        for _ in 0..100 {
            caller.unary("x").await.unwrap();
        }
        // One waits for a moment, since most newcomers are connected to in one.
        assert_eq!((calls(&node, newcomer), status(&node, newcomer)), (1, EndpointStatus::Connecting));
    }
    // One that can be reached gets its share from the beginning.
    let node = Node::new().await;
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    node.serve("svc", &[&a]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    caller.unary("x").await.unwrap();
    node.serve("svc", &[&a, &b]).await;
    until(|| {
        let state = node.services.get("svc").unwrap().state();
        state.endpoints.len() == 2
    })
    .await;
    for _ in 0..20 {
        caller.unary("x").await.unwrap();
    }
    assert_eq!(b.n_calls(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_endpoint_goes_to_another_as_soon_as_that_is_connected_to() {
    let hole = Hole::mute().await;
    let node = Node::new().await;
    let late = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.set("svc", vec![at(hole.at(1)), at(late.local_addr().unwrap())]).await;
    let channel = node.dataplane.channel("svc".parse().unwrap());
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let mut caller = Caller::new(channel.clone(), None);
            tokio::spawn(async move { caller.unary("x").await })
        })
        .collect();
    // Both are being connected to, whichever the calls were for.
    until(|| {
        let state = node.services.get("svc").unwrap().state();
        state.endpoints.iter().all(|state| state.cell.status() == EndpointStatus::Connecting)
    })
    .await;
    let _late = Instance::on(late, |request| echo("late", request));
    let began = Instant::now();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap(), "late:x");
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_nobody_can_be_reached_that_is_said_as_soon_as_it_is_known() {
    let node = Node::new().await;
    let mut endpoints = Vec::new();
    for _ in 0..40 {
        endpoints.push(at(closed_port().await));
    }
    node.set("svc", endpoints).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let status = tokio::time::timeout(LONG, caller.unary("x")).await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("cannot connect"), "{}", status.message());
}
