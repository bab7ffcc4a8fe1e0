//! Limits of connections: how many streams, how many connections, how old, how long unused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http_body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use waymark_node::dataplane::{ConnectOptions, InboundOptions, Options, Routes};

use super::support::{
    Answer, Caller, Client, Instance, Node, Reply, Text, at, echo, message, reply, soon, text, trailers, until,
};

/// A call that runs, with its first message answered.
struct Talk {
    caller: Caller<Channel>,
    messages: mpsc::Sender<Text>,
    answers: Streaming<Text>,
}

impl Talk {
    async fn begin(node: &Node) -> Self {
        let mut caller = Caller::new(node.dial().await, Some("svc"));
        let (messages, rx) = mpsc::channel(1);
        messages.send(text("1")).await.unwrap();
        let mut answers = caller.bidi(ReceiverStream::new(rx)).await.unwrap();
        assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, "a:1");
        Self { caller, messages, answers }
    }

    /// A second message is answered, and the call ends well.
    async fn go_on_to_the_end(mut self) {
        self.messages.send(text("2")).await.unwrap();
        assert_eq!(soon(self.answers.message()).await.unwrap().unwrap().text, "a:2");
        drop(self.messages);
        assert_eq!(soon(self.answers.message()).await.unwrap(), None);
    }
}

/// An instance that allows so many streams a connection, and answers a call for each permit.
struct Holding {
    instance: Instance,
    permits: Arc<Semaphore>,
}

fn ok() -> Reply {
    reply([Frame::data(message(b"")), Frame::trailers(trailers(&[("grpc-status", "0")]))])
}

impl Holding {
    async fn new(streams: u32) -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let wait = Arc::clone(&permits);
        let handler = move |_| {
            let wait = Arc::clone(&wait);
            async move {
                wait.acquire().await.unwrap().forget();
                ok()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Instance::configured(listener, move |http2| _ = http2.max_concurrent_streams(streams), handler);
        Self { instance, permits }
    }

    /// Calls that are answered when they are permitted to be.
    async fn calls(&self, node: &Node, n: usize) -> Vec<JoinHandle<Answer>> {
        let mut calls = Vec::new();
        for _ in 0..n {
            let mut client = node.client().await;
            calls.push(tokio::spawn(async move { client.echo("svc", "x").await }));
        }
        calls
    }
}

fn connect(max_connections: usize) -> Options {
    let connect = ConnectOptions { max_connections, ..ConnectOptions::default() };
    Options { connect, ..Options::default() }
}

#[tokio::test]
async fn when_every_stream_of_a_connection_is_taken_another_one_is_made() {
    let holding = Holding::new(2).await;
    let node = Node::with(Routes::default(), connect(4)).await;
    node.serve("svc", &[&holding.instance]).await;
    let calls = holding.calls(&node, 7).await;
    until(|| holding.instance.n_calls() == 7).await;
    assert_eq!(holding.instance.n_connections(), 4);
    holding.permits.add_permits(7);
    for call in calls {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
    // With room again, calls share the first.
    holding.permits.add_permits(1);
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
    assert_eq!(holding.instance.n_connections(), 4);
}

#[tokio::test]
async fn calls_over_all_limits_wait_for_those_that_run_and_none_is_forgotten() {
    let holding = Holding::new(1).await;
    let node = Node::with(Routes::default(), connect(2)).await;
    node.serve("svc", &[&holding.instance]).await;
    let calls = holding.calls(&node, 20).await;
    until(|| holding.instance.n_calls() == 2).await;
    holding.permits.add_permits(20);
    for call in calls {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
    assert_eq!((holding.instance.n_calls(), holding.instance.n_connections()), (20, 2));
}

#[tokio::test]
async fn a_call_that_gives_up_waiting_for_a_stream_leaves_it_to_the_next() {
    let holding = Holding::new(1).await;
    let node = Node::with(Routes::default(), connect(1)).await;
    node.serve("svc", &[&holding.instance]).await;
    let calls = holding.calls(&node, 1).await;
    until(|| holding.instance.n_calls() == 1).await;
    let request = Client::request("svc", "/a.B/C").header("grpc-timeout", "50m");
    let answer = node.client().await.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
    assert_eq!((answer.code(), answer.kind()), ("4", "deadline-exceeded"));
    assert!(answer.message().contains("free stream"), "{}", answer.message());
    let more = holding.calls(&node, 3).await;
    holding.permits.add_permits(4);
    for call in calls.into_iter().chain(more) {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_stream_no_longer_than_a_call_may_and_that_is_told_and_counted() {
    let holding = Holding::new(1).await;
    let options = Options { queue_timeout: Duration::from_millis(300), ..connect(1) };
    let node = Node::with(Routes::default(), options).await;
    node.serve("svc", &[&holding.instance]).await;
    let first = holding.calls(&node, 1).await;
    until(|| holding.instance.n_calls() == 1).await;
    let figure = |name: &str| node.metric(&format!("dataplane_{name}{{service=\"svc\"}}"));
    assert_eq!(figure("stream_waiting"), None, "what nobody waits for has no figures");
    let second = holding.calls(&node, 1).await;
    until(|| figure("stream_waiting") == Some(1)).await;
    for call in second {
        let refused = soon(call).await.unwrap();
        assert_eq!((refused.code(), refused.kind()), ("14", "queue-timeout"), "{}", refused.message());
        assert!(refused.message().contains("no free stream at the instance at"), "{}", refused.message());
        assert!(refused.message().contains("the call waited 0.3 s, the longest it may"), "{}", refused.message());
    }
    assert_eq!((figure("stream_waiting"), figure("stream_refused_total")), (Some(0), Some(1)));
    let waited = || node.figure::<f64>("dataplane_stream_waited_seconds_total{service=\"svc\"}").unwrap();
    assert!((0.3..10.0).contains(&waited()), "{}", waited());
    // One that gets its stream in time has waited, too, and is not refused.
    let third = holding.calls(&node, 1).await;
    until(|| figure("stream_waiting") == Some(1)).await;
    let before = waited();
    holding.permits.add_permits(2);
    for call in first.into_iter().chain(third) {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
    assert_eq!((figure("stream_waiting"), figure("stream_refused_total")), (Some(0), Some(1)));
    assert!(waited() > before);
}

#[tokio::test]
async fn a_call_for_a_full_endpoint_goes_to_another_one() {
    let (holding, other) = (Holding::new(1).await, Instance::echo("other").await);
    let options = Options { connect_patience: Duration::from_millis(20), ..connect(1) };
    let node = Node::with(Routes::default(), options).await;
    node.serve("svc", &[&holding.instance]).await;
    let calls = holding.calls(&node, 1).await;
    until(|| holding.instance.n_calls() == 1).await;
    node.serve("svc", &[&holding.instance, &other]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..4 {
        assert_eq!(caller.unary("x").await.unwrap(), "other:x");
    }
    holding.permits.add_permits(1);
    for call in calls {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_further_connection_is_as_ready_as_before() {
    // One stream, one connection: the port is closed behind it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, mut held) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut http2 = h2::server::Builder::new();
        let mut connection = http2.max_concurrent_streams(1).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let answer = move || {
                let head = http::Response::builder().header("grpc-status", "0").body(()).unwrap();
                respond.send_response(head, true).unwrap();
            };
            tx.send(answer).map_err(drop).unwrap();
        }
    });
    let node = Node::with(Routes::default(), connect(4)).await;
    node.set("svc", vec![at(address)]).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        let mut client = node.client().await;
        calls.push(tokio::spawn(async move { client.echo("svc", "x").await }));
    }
    for _ in 0..3 {
        let mut answer = soon(held.recv()).await.unwrap();
        assert!(!node.services.get("svc").unwrap().state().endpoints[0].cell.is_backing_off());
        answer();
    }
    for call in calls {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
}

#[tokio::test]
async fn a_connection_that_says_goodbye_is_replaced_while_its_calls_run_to_their_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let (goodbye, mut told) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let serve = |stream| {
            let service = hyper::service::service_fn(|request| async {
                Ok::<_, std::convert::Infallible>(echo("a", request).await)
            });
            let http2 = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            http2.serve_connection(hyper_util::rt::TokioIo::new(stream), service)
        };
        let (first, _) = listener.accept().await.unwrap();
        count.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(serve(first));
            tokio::select! {
                _ = &mut connection => return,
                _ = told.recv() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, SeqCst);
            tokio::spawn(serve(stream));
        }
    });
    let node = Node::new().await;
    node.set("svc", vec![at(address)]).await;
    let mut talk = Talk::begin(&node).await;
    goodbye.send(()).await.unwrap();
    // From some call on, the next connection is used; none fails.
    soon(async {
        while connections.load(SeqCst) == 1 {
            assert_eq!(talk.caller.unary("x").await.unwrap(), "a:x");
        }
    })
    .await;
    talk.go_on_to_the_end().await;
}

#[tokio::test]
async fn an_unused_connection_to_an_endpoint_is_closed_and_made_again_when_it_is_needed() {
    let connect = ConnectOptions { idle_timeout: Some(Duration::from_millis(40)), ..ConnectOptions::default() };
    let node = Node::with(Routes::default(), Options { connect, ..Options::default() }).await;
    let a = Instance::echo("a").await;
    node.serve("svc", &[&a]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for n in 1..=3 {
        assert_eq!(caller.unary("x").await.unwrap(), "a:x");
        assert_eq!(a.n_connections(), n);
        until(|| a.n_open() == 0).await;
    }
    assert!(!node.services.get("svc").unwrap().state().endpoints[0].cell.is_backing_off());
}

/// A node whose clients' connections have these limits, and an instance behind it.
async fn inbound(inbound: InboundOptions) -> (Node, Instance) {
    let node = Node::with(Routes::default(), Options { inbound, ..Options::default() }).await;
    let a = Instance::echo("a").await;
    node.serve("svc", &[&a]).await;
    (node, a)
}

#[tokio::test]
async fn a_client_connection_of_its_age_takes_nothing_new_and_finishes_what_runs() {
    // Long enough for the call to begin, on a busy machine too.
    let max_age = Some(Duration::from_millis(800));
    let (node, _a) = inbound(InboundOptions { max_age, ..InboundOptions::default() }).await;
    let talk = Talk::begin(&node).await;
    // Two lives of later connections, each a tenth longer or shorter: the caller's is of its age by
    // then.
    for _ in 0..2 {
        let unused = node.client().await;
        until(|| unused.sender.is_closed()).await;
    }
    talk.go_on_to_the_end().await;
}

#[tokio::test]
async fn calls_that_run_on_past_the_grace_of_their_connection_are_cut_off() {
    let (max_age, max_age_grace) = (Some(Duration::from_millis(800)), Some(Duration::from_millis(50)));
    let options = InboundOptions { max_age, max_age_grace, ..InboundOptions::default() };
    let (node, _a) = inbound(options).await;
    let mut talk = Talk::begin(&node).await;
    assert!(soon(talk.answers.message()).await.is_err());
}

#[tokio::test]
async fn an_unused_client_connection_is_closed_and_one_with_a_call_is_not() {
    let idle_timeout = Some(Duration::from_millis(200));
    let (node, _a) = inbound(InboundOptions { idle_timeout, ..InboundOptions::default() }).await;
    let talk = Talk::begin(&node).await;
    for _ in 0..3 {
        let unused = node.client().await;
        until(|| unused.sender.is_closed()).await;
    }
    talk.go_on_to_the_end().await;
}

/// Frames of HTTP/2, as they are on the wire.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn a_client_is_told_how_many_streams_it_may_open_and_held_to_it() {
    let (node, holding) = {
        let options = InboundOptions { max_concurrent_streams: 2, ..InboundOptions::default() };
        let node = Node::with(Routes::default(), Options { inbound: options, ..Options::default() }).await;
        let holding = Holding::new(100).await;
        node.serve("svc", &[&holding.instance]).await;
        (node, holding)
    };
    // POST http / with the two headers that make it a call for `svc`, all without HPACK's tables or
    // Huffman's code.
    let mut head = vec![0x83, 0x86, 0x84];
    for (name, value) in [("content-type", "application/grpc"), ("waymark-service", "svc")] {
        head.push(0);
        for text in [name, value] {
            head.push(text.len() as u8);
            head.extend(text.as_bytes());
        }
    }
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    for stream in [1, 3, 5] {
        sent.extend(frame(1, 0x5, stream, &head));
    }
    stream.write_all(&sent).await.unwrap();
    let (mut announced, mut refused) = (None, None);
    soon(async {
        while refused.is_none() {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            match head[3] {
                // SETTINGS that are no acknowledgement: pairs of six bytes, 3 is
                // MAX_CONCURRENT_STREAMS.
                4 if head[4] == 0 => announced = payload.chunks(6).find(|pair| pair[1] == 3).map(|pair| pair[5]),
                3 => refused = Some((head[8], payload[3])),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(announced, Some(2));
    // REFUSED_STREAM: the call may be sent again.
    assert_eq!(refused, Some((5, 7)));
    until(|| holding.instance.n_calls() == 2).await;
    holding.permits.add_permits(2);
}

/// An instance that allows so many streams a connection and never answers `/hold`.
async fn half_asleep(streams: u32) -> Instance {
    let handler = |request: http::Request<hyper::body::Incoming>| async {
        if request.uri().path() == "/a.B/Hold" {
            std::future::pending::<()>().await;
        }
        echo("a", request).await
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Instance::configured(listener, move |http2| _ = http2.max_concurrent_streams(streams), handler)
}

#[tokio::test]
async fn clients_that_hold_their_calls_leave_places_to_others() {
    const STREAMS: usize = 16;
    let (node, a) = (Node::with(Routes::default(), connect(3)).await, half_asleep(STREAMS as u32).await);
    node.serve("svc", &[&a]).await;
    // Each would take more than there is.
    let mut holders = Vec::new();
    for _ in 0..4 {
        let client = node.client().await;
        for _ in 0..3 * STREAMS {
            let mut sender = client.sender.clone();
            let request = Client::request("svc", "/a.B/Hold").body(tonic::body::Body::empty()).unwrap();
            holders.push(tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                sender.send_request(request).await
            })));
        }
    }
    until(|| a.n_calls() >= 2 * STREAMS).await;
    let mut bystander = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..50 {
        assert_eq!(bystander.unary("x").await.unwrap(), "a:x");
    }
    let held = a.n_calls() - 50;
    assert!((2 * STREAMS..=2 * STREAMS + 8).contains(&held), "{held} are held: an eighth of the reserve is each one's");
    assert_eq!(a.n_connections(), 3);
    // A client of whose many calls each waits for a place gets some as its own end.
    let client = node.client().await;
    let many = (0..100).map(|_| {
        let mut client = Client { sender: client.sender.clone() };
        async move { client.echo("svc", "x").await }
    });
    for answer in soon(futures::future::join_all(many)).await {
        assert_eq!(answer.code(), "0");
    }
}

#[tokio::test]
async fn with_one_connection_to_an_endpoint_nothing_is_in_reserve() {
    let (node, a) = (Node::with(Routes::default(), connect(1)).await, half_asleep(1).await);
    node.serve("svc", &[&a]).await;
    let mut holder = node.client().await.sender;
    let request = Client::request("svc", "/a.B/Hold").body(tonic::body::Body::empty()).unwrap();
    let held = tokio::spawn(async move { holder.send_request(request).await });
    until(|| a.n_calls() == 1).await;
    let mut other = node.client().await;
    let waiting = tokio::spawn(async move { other.echo("svc", "x").await });
    tokio::task::yield_now().await;
    assert_eq!(a.n_connections(), 1);
    held.abort();
    assert_eq!(soon(waiting).await.unwrap().code(), "0");
    assert_eq!(a.n_connections(), 1);
}

#[tokio::test]
async fn a_call_on_which_nothing_moves_is_ended_where_that_has_a_limit() {
    let stream_idle_timeout = Some(Duration::from_millis(300));
    let options =
        Options { inbound: InboundOptions { stream_idle_timeout, ..InboundOptions::default() }, ..Options::default() };
    let (node, a) = (Node::with(Routes::default(), options).await, half_asleep(100).await);
    node.serve("svc", &[&a]).await;
    // Before the answer and amid it.
    let request = Client::request("svc", "/a.B/Hold").body(tonic::body::Body::empty()).unwrap();
    let answer = node.client().await.answer(request).await;
    assert_eq!((answer.code(), answer.kind()), ("4", "stream-idle"));
    assert!(answer.message().contains("stream-idle-timeout-s"), "{}", answer.message());
    let mut talk = Talk::begin(&node).await;
    let status = soon(talk.answers.message()).await.unwrap_err();
    assert_eq!(status.metadata().get("waymark-error").unwrap(), "stream-idle", "{status:?}");
    assert_eq!(node.metric("dataplane_failures_total{reason=\"stream-idle\"}"), Some(2));
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    until(|| state.endpoints[0].cell.in_flight() == 0).await;
}
