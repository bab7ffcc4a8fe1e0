//! Calls that are sent to a second instance although the first has not answered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use waymark_node::traffic::{Code, HedgingPolicy, MethodConfig, Methods, Repeat, Traffic};

use super::support::{Caller, Client, Instance, Node, at, closed_port, message, soon, text, written};

fn hedging(delay: Duration, non_fatal: &[Code]) -> Traffic {
    hedging_at_most(3, delay, non_fatal)
}

fn hedging_at_most(max_attempts: u32, delay: Duration, non_fatal: &[Code]) -> Traffic {
    let policy = HedgingPolicy { max_attempts, delay, non_fatal: non_fatal.iter().copied().collect() };
    let repeat = Some(Arc::new(Repeat::Hedge(policy)));
    Traffic { methods: Methods::all(MethodConfig { repeat, ..MethodConfig::default() }), ..Traffic::default() }
}

/// An instance that never answers, and tells of each call that was taken from it.
async fn stalls() -> (Instance, tokio::sync::mpsc::UnboundedReceiver<()>) {
    struct Told(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
    let instance = Instance::new(move |_request| {
        let told = Told(tx.clone());
        async move {
            let _told = told;
            std::future::pending().await
        }
    });
    (instance.await, rx)
}

#[tokio::test]
async fn a_call_that_takes_long_is_answered_by_another_instance_and_the_first_is_let_go() {
    // A third attempt, if the machine is slow, would go to the slow one again.
    let node = Node::traffic(hedging_at_most(2, Duration::from_millis(5), &[])).await;
    let ((slow, mut dropped), quick) = (stalls().await, Instance::echo("a").await);
    node.serve("svc", &[&slow, &quick]).await;
    let mut client = node.client().await;
    for _ in 0..4 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!(slow.n_calls(), 2, "every second call went there first");
    for _ in 0..2 {
        soon(dropped.recv()).await.unwrap();
    }
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    soon(async {
        while state.endpoints.iter().any(|endpoint| endpoint.cell.in_flight() > 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_failure_that_is_not_fatal_brings_the_next_attempt_forward_and_any_other_is_the_answer() {
    // So long a delay that only a failure can bring the next attempt within the test's time.
    let node = Node::traffic(hedging(Duration::from_secs(3600), &[Code::Aborted])).await;
    let aborts = Instance::new(|_| async { tonic::Status::aborted("again").into_http() }).await;
    let other = Instance::new(|_| async { tonic::Status::aborted("again").into_http() }).await;
    let serves = Instance::echo("a").await;
    node.serve("svc", &[&aborts, &other, &serves]).await;
    let mut client = node.client().await;
    for _ in 0..3 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    // When all fail so, they are asked in turn, three times in all, and the call fails as the last
    // one did.
    node.serve("svc", &[&aborts, &other]).await;
    let before = (aborts.n_calls(), other.n_calls());
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.message().as_str()), ("10", "again"));
    assert_eq!(aborts.n_calls() + other.n_calls(), before.0 + before.1 + 3);
    assert!(aborts.n_calls() > before.0 && other.n_calls() > before.1);
    let fatal = Instance::new(|_| async { tonic::Status::not_found("none").into_http() }).await;
    node.serve("svc", &[&fatal]).await;
    assert_eq!(client.echo("svc", "x").await.code(), "5");
}

#[tokio::test]
async fn a_stream_is_held_back_by_nothing() {
    // So long a delay that whatever waits for it does not come within the test's time.
    let node = Node::traffic(hedging(Duration::from_secs(3600), &[])).await;
    let a = Instance::echo("a").await;
    node.serve("svc", &[&a]).await;
    let (words, input) = tokio::sync::mpsc::channel(1);
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let mut answer = caller.bidi(tokio_stream::wrappers::ReceiverStream::new(input)).await.unwrap();
    for word in ["x", "y"] {
        words.send(text(word)).await.unwrap();
        assert_eq!(soon(answer.message()).await.unwrap(), Some(text(format!("a:{word}"))));
    }
    drop(words);
    assert_eq!(soon(answer.message()).await.unwrap(), None);
    assert_eq!(caller.unary("z".repeat(100_000)).await.unwrap().len(), 100_002);
    assert_eq!(a.n_calls(), 2);
}

#[tokio::test]
async fn a_request_that_goes_on_is_sent_to_one_instance() {
    let node = Node::traffic(hedging(Duration::from_millis(1), &[])).await;
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    node.serve("svc", &[&a, &b]).await;
    let mut client = node.client().await;
    let (words, body) = written();
    words.send(Frame::data(message(b"\x0a\x01x"))).await.unwrap();
    // Its deadline is far past the time in which it would have to be whole.
    let request = Client::request("svc", "/test.Echo/ClientStream").header("grpc-timeout", "500m").body(body);
    assert_eq!(client.answer(request.unwrap()).await.code(), "4");
    assert_eq!(a.n_calls() + b.n_calls(), 1);
}

#[tokio::test]
async fn a_request_in_pieces_is_hedged_once_it_is_whole() {
    let node = Node::traffic(hedging(Duration::from_millis(1), &[])).await;
    let ((slow, _dropped), quick) = (stalls().await, Instance::echo("a").await);
    node.serve("svc", &[&slow, &quick]).await;
    let mut client = node.client().await;
    for _ in 0..2 {
        let (words, body) = written();
        let request = Client::request("svc", "/test.Echo/Unary").body(body).unwrap();
        let pieces = async {
            for piece in message(b"\x0a\x01x").chunks(3) {
                words.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
            }
            drop(words);
        };
        let (answer, ()) = tokio::join!(client.answer(request), pieces);
        assert_eq!((answer.code(), answer.data.clone()), ("0", message(b"\x0a\x03a:x")));
    }
    assert!(slow.n_calls() > 0, "one of the two went there first");
}

#[tokio::test]
async fn a_stream_that_no_server_has_seen_is_sent_to_another() {
    let node = Node::traffic(hedging(Duration::from_secs(3600), &[])).await;
    let a = Instance::echo("a").await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..2 {
        node.set("svc", vec![at(closed_port().await), at(a.address)]).await;
        let (words, input) = tokio::sync::mpsc::channel(1);
        let mut answer = caller.bidi(tokio_stream::wrappers::ReceiverStream::new(input)).await.unwrap();
        words.send(text("x")).await.unwrap();
        assert_eq!(soon(answer.message()).await.unwrap(), Some(text("a:x")));
    }
    assert_eq!(a.n_calls(), 2);
}

/// gRFC A6 knows nothing of endpoints.
#[tokio::test]
async fn where_there_is_one_endpoint_the_hedge_goes_there() {
    let node = Node::traffic(hedging(Duration::from_millis(5), &[])).await;
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let a = Instance::new(move |request| {
        let first = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        async move { if first { std::future::pending().await } else { super::support::echo("a", request).await } }
    });
    let a = a.await;
    node.serve("svc", &[&a]).await;
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
    assert!((2..=3).contains(&a.n_calls()));
}
