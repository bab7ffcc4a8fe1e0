//! Connections: endpoints that are dead, slow, going away or coming back, and the node's own
//! shutdown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http_body::Frame;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use waymark_node::{
    balancer::EndpointStatus,
    dataplane::{ConnectOptions, Drained, Options, Routes},
};

use super::support::{
    Caller, Client, Instance, LONG, Node, at, closed_port, echo, message, soon, text, trailers, until, written,
};

#[tokio::test]
async fn a_dead_endpoint_costs_no_call() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.set("svc", vec![at(closed_port().await), at(a.address), at(closed_port().await)]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for n in 0..100 {
        assert_eq!(caller.unary("x").await.unwrap(), "a:x", "call {n}");
    }
    let state = node.services.get("svc").unwrap();
    let state = state.state();
    assert_eq!(state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).count(), 2);
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_says_nothing_is_passed_over() {
    // The kernel takes connections for this port; nobody ever answers on them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        connect: ConnectOptions { timeout: Duration::from_millis(400), ..ConnectOptions::default() },
        connect_patience: Duration::from_millis(20),
        ..Options::default()
    };
    let node = Node::with(Routes::default(), options).await;
    let a = Instance::echo("a").await;
    node.set("svc", vec![at(silent.local_addr().unwrap()), at(a.address)]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..20 {
        assert_eq!(caller.unary("x").await.unwrap(), "a:x");
    }
    // Alone, it is waited for to the end of the attempt, and the answer says what is wrong with it.
    node.set("svc", vec![at(silent.local_addr().unwrap())]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!(answer.code(), "14");
    assert!(answer.message().contains("no connection within 400 ms"), "{}", answer.message());
    assert!(answer.message().contains(&silent.local_addr().unwrap().to_string()), "{}", answer.message());
}

#[tokio::test]
async fn what_does_not_speak_http2_is_named() {
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = web.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let node = Node::new().await;
    node.set("svc", vec![at(address)]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("14", "all-tried"));
    assert!(answer.message().contains("does not speak HTTP/2"), "{}", answer.message());
}

#[tokio::test]
async fn calls_at_once_wait_for_one_attempt_to_connect() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let channel = node.dataplane.channel("svc".parse().unwrap());
    let calls = (0..50).map(|_| {
        let mut caller = Caller::new(channel.clone(), None);
        async move { caller.unary("x").await.unwrap() }
    });
    futures::future::join_all(calls).await;
    assert_eq!(a.n_connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_used_again() {
    let node = Node::new().await;
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    let address = b.address;
    node.serve("svc", &[&a, &b]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    caller.unary("x").await.unwrap();
    caller.unary("x").await.unwrap();
    b.kill().await;
    for _ in 0..10 {
        assert_eq!(caller.unary("x").await.unwrap(), "a:x");
    }
    let b = Instance::on(TcpListener::bind(address).await.unwrap(), |request| echo("b", request));
    // Back-off ends by itself: no call is spent on a test.
    soon(async {
        let handle = node.services.get("svc").unwrap();
        while handle.state().endpoints.iter().any(|endpoint| endpoint.cell.is_backing_off()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = b.n_calls();
    for _ in 0..10 {
        caller.unary("x").await.unwrap();
    }
    assert_eq!(b.n_calls() - before, 5);
}

#[tokio::test]
async fn a_connection_that_went_away_in_good_order_is_replaced() {
    let node = Node::new().await;
    let first = Instance::echo("first").await;
    let address = first.address;
    node.serve("svc", &[&first]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    assert_eq!(caller.unary("x").await.unwrap(), "first:x");
    first.drain().await;
    let _second = Instance::on(TcpListener::bind(address).await.unwrap(), |request| echo("second", request));
    assert_eq!(caller.unary("x").await.unwrap(), "second:x");
}

#[tokio::test]
async fn an_endpoint_s_standing_follows_its_connection() {
    let node = Node::new().await;
    // Takes the connection and says nothing, until it is told to.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.set("svc", vec![at(silent.local_addr().unwrap())]).await;
    let state = node.services.get("svc").unwrap().state();
    let status = || state.endpoints[0].cell.status();
    assert_eq!(status(), EndpointStatus::Idle);
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let mut waiting = Caller::new(node.dial().await, Some("svc"));
    let call = tokio::spawn(async move { waiting.unary("x").await });
    until(|| status() == EndpointStatus::Connecting).await;
    let instance = Instance::on(silent, |request| echo("a", request));
    soon(call).await.unwrap().unwrap();
    assert_eq!(status(), EndpointStatus::Ready);
    instance.drain().await;
    until(|| status() == EndpointStatus::Idle).await;
    caller.unary("x").await.unwrap_err();
    assert_eq!(status(), EndpointStatus::BackingOff);
}

/// Calls without pause from several clients until told to stop; how many were made.
async fn load(node: &Node, stop: Arc<AtomicBool>) -> tokio::task::JoinSet<usize> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let mut caller = Caller::new(node.dial().await, Some("svc"));
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut calls = 0;
            while !stop.load(SeqCst) {
                let sent = format!("{client}/{calls}");
                let answer = caller.unary(sent.clone()).await;
                let answer = answer.unwrap_or_else(|status| panic!("call {sent} failed: {status:?}"));
                assert!(answer.ends_with(&sent), "{answer}");
                calls += 1;
            }
            calls
        });
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_restart_in_good_order_under_load_lose_no_call() {
    let node = Node::new().await;
    let anchor = Instance::echo("anchor").await;
    let mut other = Instance::echo("other").await;
    node.serve("svc", &[&anchor, &other]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = load(&node, Arc::clone(&stop)).await;
    for _ in 0..10 {
        let before = other.n_calls();
        until(|| other.n_calls() > before + 50).await;
        // Still registered while it goes away: the hard case.
        other.drain().await;
        other = Instance::on(TcpListener::bind(other.address).await.unwrap(), |request| echo("other", request));
        let handle = node.services.get("svc").unwrap();
        let state = handle.state();
        until(|| !state.endpoints.iter().any(|endpoint| endpoint.cell.is_backing_off())).await;
    }
    stop.store(true, SeqCst);
    let calls: usize = clients.join_all().await.into_iter().sum();
    assert!(calls > 500, "{calls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_swapped_under_load_lose_no_call() {
    let node = Node::new().await;
    let instances = [Instance::echo("a").await, Instance::echo("b").await, Instance::echo("c").await];
    node.serve("svc", &[&instances[0]]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = load(&node, Arc::clone(&stop)).await;
    for round in 0..60 {
        let (first, second) = (&instances[round % 3], &instances[(round + 1) % 3]);
        let before = first.n_calls();
        let both = [first, second];
        node.serve("svc", &both[..=round % 2]).await;
        until(|| first.n_calls() > before + 20).await;
    }
    stop.store(true, SeqCst);
    clients.join_all().await;
}

/// An HTTP/2 server that refuses the first `n` calls unseen, after it has read their first frame.
async fn refusing(n: usize, refused: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let refused = Arc::clone(&refused);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if refused.fetch_add(1, SeqCst) < n {
                        let mut body = request.into_body();
                        tokio::spawn(async move {
                            let _ = body.data().await;
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                        });
                    } else {
                        let head = http::Response::builder().header("content-type", "application/grpc");
                        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        stream.send_data(message(b""), false).unwrap();
                        stream.send_trailers(trailers(&[("grpc-status", "0")])).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_call_refused_unseen_is_sent_again_elsewhere_whole() {
    let refused = Arc::new(AtomicUsize::new(0));
    let refusing = refusing(usize::MAX, Arc::clone(&refused)).await;
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.set("svc", vec![at(refusing), at(a.address)]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..10 {
        assert_eq!(caller.unary("hello").await.unwrap(), "a:hello");
        assert_eq!(caller.client_stream(&["he", "llo"]).await.unwrap(), "a:hello");
    }
    assert!(refused.load(SeqCst) >= 10, "calls went there first");
    // What is too large to keep is not sent twice.
    let large = "x".repeat(1 << 20);
    let failed = [caller.unary(large.clone()).await, caller.unary(large).await].into_iter().filter_map(Result::err);
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].code(), tonic::Code::Unavailable);
    assert!(failed[0].message().contains("refused the call unseen"), "{}", failed[0].message());
}

#[tokio::test]
async fn a_call_refused_by_the_only_endpoint_is_sent_there_once_more_and_then_says_so() {
    let node = Node::new().await;
    let once = refusing(1, Arc::default()).await;
    node.set("svc", vec![at(once)]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    let refusing = refusing(2, Arc::default()).await;
    node.set("svc", vec![at(refusing)]).await;
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("14", "all-tried"));
    assert!(answer.message().contains("2 attempt(s)"), "{}", answer.message());
    assert!(answer.message().contains(&refusing.to_string()), "{}", answer.message());
    assert_eq!(client.echo("svc", "x").await.code(), "0", "the endpoint is not held to have failed");
}

#[tokio::test]
async fn calls_a_server_says_it_never_looked_at_are_sent_again() {
    // Says GOAWAY with last stream 0 as soon as a call has come, on its first connection only.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let frames: &[&[u8]] = &[b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"];
        tokio::io::AsyncWriteExt::write_all(&mut stream, frames[0]).await.unwrap();
        // The client's preface and settings come first, the call's headers in a later segment or
        // the same one.
        let mut read = Vec::new();
        while !read.windows(8).any(|bytes| bytes == b"waymark!") {
            tokio::io::AsyncReadExt::read_buf(&mut stream, &mut read).await.unwrap();
        }
        tokio::io::AsyncWriteExt::write_all(&mut stream, frames[1]).await.unwrap();
        let _second = Instance::on(listener, |request| echo("second", request));
        std::future::pending::<()>().await;
    });
    let node = Node::new().await;
    node.set("svc", vec![at(address)]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    assert_eq!(caller.unary("waymark!").await.unwrap(), "second:waymark!");
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_takes_nothing_new() {
    let (mut node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let idle = node.client().await;
    let (tx, rx) = mpsc::channel(1);
    tx.send(text("1")).await.unwrap();
    let mut answers = caller.bidi(ReceiverStream::new(rx)).await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, "a:1");
    node.stop();
    until(|| idle.sender.is_closed()).await;
    assert!(tokio::net::TcpStream::connect(node.address).await.is_err(), "the port is closed");
    tx.send(text("2")).await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, "a:2");
    drop(tx);
    assert_eq!(soon(answers.message()).await.unwrap(), None);
    assert_eq!(node.stopped().await, Drained { cut_off: 0 });
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_up() {
    let options = Options { drain_timeout: Duration::from_millis(50), ..Options::default() };
    let mut node = Node::with(Routes::default(), options).await;
    let a = Instance::new(|_| async {
        let (tx, body) = written();
        tokio::spawn(async move {
            tx.send(Frame::data(message(b"first"))).await.unwrap();
            tx.closed().await;
        });
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let response = client.send(Client::request("svc", "/a.B/C").body(tonic::body::Body::empty()).unwrap()).await;
    node.stop();
    assert_eq!(node.stopped().await, Drained { cut_off: 1 });
    let cut = soon(http_body_util::BodyExt::collect(response.into_body())).await;
    assert!(cut.is_err(), "the client sees that its call was cut off");
}

#[tokio::test]
async fn connections_close_when_their_endpoint_is_gone() {
    let (node, a, b) = (Node::new().await, Instance::echo("a").await, Instance::echo("b").await);
    node.serve("svc", &[&a]).await;
    Caller::new(node.dial().await, Some("svc")).unary("x").await.unwrap();
    node.serve("svc", &[&b]).await;
    // A server that has no open connection left is done at once.
    tokio::time::timeout(LONG, a.drain()).await.unwrap();
}
