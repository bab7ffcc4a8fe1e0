//! Streams: cancellation, back-pressure, what breaks in the middle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::support::{Answer, Caller, Client, Instance, Node, message, reply, soon, text, trailers, written};

/// Tells when it is dropped.
struct Told(Option<oneshot::Sender<()>>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

/// An instance whose calls tell when they have begun and when they were cancelled.
async fn told() -> (Instance, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let instance = Instance::new(move |request| {
        let (dropped, told) = oneshot::channel();
        tx.send(told).unwrap();
        async move {
            let told = Told(Some(dropped));
            if request.uri().path() == "/a.B/Never" {
                std::future::pending::<()>().await;
            }
            let (tx, body) = written();
            tokio::spawn(async move {
                let _told = told;
                tx.send(Frame::data(message(b"first"))).await.unwrap();
                tx.closed().await;
            });
            http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    })
    .await;
    (instance, rx)
}

#[tokio::test]
async fn a_client_that_gives_up_cancels_the_call_at_the_instance() {
    let (a, mut calls) = told().await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;

    // Before the answer, with the request sent whole.
    let request = Client::request("svc", "/a.B/Never").body(tonic::body::Body::empty()).unwrap();
    let call = client.sender.send_request(request);
    let call = tokio::spawn(call);
    let cancelled = soon(calls.recv()).await.unwrap();
    call.abort();
    soon(cancelled).await.unwrap();

    // Before the answer, with the request still open.
    let (_tx, body) = written();
    let call = tokio::spawn(client.sender.send_request(Client::request("svc", "/a.B/Never").body(body).unwrap()));
    let cancelled = soon(calls.recv()).await.unwrap();
    call.abort();
    soon(cancelled).await.unwrap();

    // In the middle of the answer, with the request sent whole, and with the request still open.
    let stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let (mut raw, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for whole in [true, false] {
        let request = Client::request("svc", "/a.B/Half").body(()).unwrap();
        let (response, mut rest) = raw.send_request(request, whole).unwrap();
        let mut body = soon(response).await.unwrap().into_body();
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), message(b"first"));
        let cancelled = soon(calls.recv()).await.unwrap();
        rest.send_reset(h2::Reason::CANCEL);
        soon(cancelled).await.unwrap();
    }
    let state = node.services.get("svc").unwrap();
    let state = state.state();
    soon(async {
        // The instance learns of it before the node's own books are closed.
        while state.endpoints[0].cell.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((state.endpoints[0].cell.calls(), state.endpoints[0].cell.failures()), (4, 0));
    assert_eq!(a.n_connections(), 1, "to cancel a call costs no connection");
}

#[tokio::test]
async fn dropping_a_call_on_a_channel_cancels_it() {
    let (a, mut calls) = told().await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut channel = node.dataplane.channel("svc".parse().unwrap());
    let request = Client::request("svc", "/a.B/Never").body(tonic::body::Body::empty()).unwrap();
    let call = tokio::spawn(tower_service::Service::call(&mut channel, request));
    let cancelled = soon(calls.recv()).await.unwrap();
    call.abort();
    soon(cancelled).await.unwrap();
}

#[tokio::test]
async fn a_deadline_over_an_open_request_cancels_it_at_the_instance() {
    let (a, mut calls) = told().await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let (tx, body) = written();
    let request = Client::request("svc", "/a.B/Half").header("grpc-timeout", "100m").body(body).unwrap();
    let response = node.client().await.send(request).await;
    let answer = Answer::of(response).await;
    assert_eq!((answer.code(), answer.kind()), ("4", "deadline-exceeded"));
    soon(soon(calls.recv()).await.unwrap()).await.unwrap();
    drop(tx);
}

/// How many bytes a writer gets rid of before it is held up.
async fn fill(tx: &mpsc::Sender<Frame<Bytes>>, chunk: &Bytes, sent: &AtomicUsize) {
    // Nothing tells that a window is full but that it stays full.
    while let Ok(done) = tokio::time::timeout(Duration::from_millis(500), tx.send(Frame::data(chunk.clone()))).await {
        done.unwrap();
        let sent = sent.fetch_add(chunk.len(), SeqCst) + chunk.len();
        assert!(sent < 64 << 20, "nobody holds the writer back");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back() {
    let (held, mut is_held) = mpsc::channel(1);
    let a = Instance::new(move |_| {
        let (tx, body) = written();
        let held = held.clone();
        tokio::spawn(async move {
            let (chunk, sent) = (message(&[7; 16 << 10]), AtomicUsize::new(0));
            fill(&tx, &chunk, &sent).await;
            held.send(sent.load(SeqCst)).await.unwrap();
            tx.send(Frame::trailers(trailers(&[("grpc-status", "0")]))).await.unwrap();
        });
        async move { http::Response::builder().header("content-type", "application/grpc").body(body).unwrap() }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let response = client.send(Client::request("svc", "/a.B/C").body(tonic::body::Body::empty()).unwrap()).await;
    let sent = soon(is_held.recv()).await.unwrap();
    // The client's window (2 MiB in hyper), the node's (1 MiB), and what the three senders have in
    // hand.
    assert!(sent < 8 << 20, "{sent} bytes went out unread");
    let answer = Answer::of(response).await;
    assert_eq!((answer.code(), answer.data.len()), ("0", sent), "and nothing is lost");
}

#[tokio::test]
async fn an_instance_that_does_not_read_holds_the_client_back() {
    let go_on = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&go_on);
    let a = Instance::new(move |request| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            let len = request.into_body().collect().await.unwrap().to_bytes().len();
            let mut end = trailers(&[("grpc-status", "0")]);
            end.insert("x-len", len.into());
            reply([Frame::trailers(end)])
        }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let (tx, body) = written();
    let call = tokio::spawn(client.sender.send_request(Client::request("svc", "/a.B/C").body(body).unwrap()));
    let sent = AtomicUsize::new(0);
    fill(&tx, &message(&[7; 16 << 10]), &sent).await;
    assert!(sent.load(SeqCst) < 8 << 20, "{sent:?} bytes went out unread");
    drop(tx);
    go_on.notify_one();
    let answer = Answer::of(soon(call).await.unwrap().unwrap()).await;
    assert_eq!(answer.trailers["x-len"], sent.load(SeqCst).to_string());
}

#[tokio::test]
async fn a_held_back_answer_does_not_hold_back_the_request() {
    // An instance that writes without end and reads to the end, each for itself.
    let (tx_read, mut all_read) = mpsc::channel(1);
    let a = Instance::new(move |request| {
        let tx_read = tx_read.clone();
        let (tx, body) = written();
        tokio::spawn(async move {
            let chunk = message(&[7; 16 << 10]);
            while tx.send(Frame::data(chunk.clone())).await.is_ok() {}
        });
        tokio::spawn(async move {
            let len = request.into_body().collect().await.unwrap().to_bytes().len();
            tx_read.send(len).await.unwrap();
        });
        async move { http::Response::builder().header("content-type", "application/grpc").body(body).unwrap() }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let (tx, body) = written();
    let response = client.send(Client::request("svc", "/a.B/C").body(body).unwrap()).await;
    let chunk = message(&[7; 16 << 10]);
    for _ in 0..1000 {
        soon(tx.send(Frame::data(chunk.clone()))).await.unwrap();
    }
    drop(tx);
    assert_eq!(soon(all_read.recv()).await, Some(1000 * chunk.len()));
    drop(response);
}

#[tokio::test]
async fn a_call_that_breaks_in_the_middle_ends_with_a_status_that_says_how() {
    let (tx_body, mut bodies) = mpsc::unbounded_channel();
    let a = Instance::new(move |_| {
        let (tx, body) = written();
        tx_body.send(tx).unwrap();
        async move { http::Response::builder().header("content-type", "application/grpc").body(body).unwrap() }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let request = || Client::request("svc", "/a.B/C").body(tonic::body::Body::empty()).unwrap();

    let response = client.send(request()).await;
    let tx = soon(bodies.recv()).await.unwrap();
    tx.send(Frame::data(message(b"first"))).await.unwrap();
    a.kill().await;
    let answer = Answer::of(response).await;
    assert_eq!((answer.code(), answer.kind()), ("14", "endpoint-lost"));
    assert!(answer.message().contains(&a.address.to_string()), "{}", answer.message());
    let handle = node.services.get("svc").unwrap();
    assert_eq!(handle.state().endpoints[0].cell.failures(), 1);
}

#[tokio::test]
async fn a_reset_by_the_instance_becomes_a_status() {
    // A body that fails makes hyper reset its stream with INTERNAL_ERROR.
    let a = Instance::new(|_| async {
        let frames = [Ok(Frame::data(message(b"first"))), Err(tonic::Status::internal("broken"))];
        let body = http_body_util::StreamBody::new(tokio_stream::iter(frames));
        let body = tonic::body::Body::new(body);
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("13", "endpoint-reset"));
}

#[tokio::test]
async fn a_stream_on_an_endpoint_that_left_the_service_goes_on_to_its_end() {
    let (node, a, b) = (Node::new().await, Instance::echo("a").await, Instance::echo("b").await);
    node.serve("svc", &[&a]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let (tx, rx) = mpsc::channel(1);
    tx.send(text("1")).await.unwrap();
    let mut answers = caller.bidi(ReceiverStream::new(rx)).await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, "a:1");
    node.serve("svc", &[&b]).await;
    assert_eq!(caller.unary("x").await.unwrap(), "b:x");
    tx.send(text("2")).await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, "a:2");
    drop(tx);
    assert_eq!(soon(answers.message()).await.unwrap(), None);
    // Its connection closes with its last call, which `drain` would wait for in vain otherwise.
    a.drain().await;
}
