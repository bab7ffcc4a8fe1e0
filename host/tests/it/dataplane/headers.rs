//! Headers and trailers of any size: whole, or one error for that call alone. What is over a limit
//! costs no other call of the connections that it came on or went out on, and nothing is ever cut
//! in silence.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;
use waymark_node::dataplane::{ConnectOptions, InboundOptions, Options, Routes};

use super::support::{Answer, Client, Instance, Node, Reply, message, reply, soon, trailers};

/// A field of so many bytes.
fn big(size: usize) -> HeaderMap {
    let mut fields = trailers(&[("grpc-status", "0")]);
    fields.insert("x-big", "b".repeat(size).parse().unwrap());
    fields
}

/// `/head/N` and `/trailers/N` answer with a field of so many bytes, there or there; `/ticks` says
/// something whenever its caller does; what else is called answers with how large the caller's own
/// field was.
async fn answer<B>(request: Request<B>) -> Reply
where
    B: http_body::Body<Data = Bytes> + Send + 'static + Unpin,
    B::Error: std::error::Error + Send + Sync,
{
    let path = request.uri().path().to_owned();
    let size = || path.rsplit('/').next().unwrap().parse().unwrap();
    if path.starts_with("/trailers/") {
        return reply([Frame::data(message(b"well")), Frame::trailers(big(size()))]);
    }
    if path.starts_with("/head/") {
        let mut response = reply([Frame::data(message(b"well")), Frame::trailers(trailers(&[("grpc-status", "0")]))]);
        response.headers_mut().insert("x-big", big(size())["x-big"].clone());
        return response;
    }
    if path == "/ticks" {
        let said = http_body_util::BodyStream::new(request.into_body()).map(|frame| {
            let data = frame.ok().and_then(|frame| frame.into_data().ok()).unwrap_or_default();
            Ok::<_, tonic::Status>(Frame::data(data))
        });
        let end = tokio_stream::once(Ok(Frame::trailers(trailers(&[("grpc-status", "0")]))));
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(said.chain(end)));
        return Response::builder().header("content-type", "application/grpc").body(body).unwrap();
    }
    let len = request.headers().get("x-big").map_or(0, http::HeaderValue::len);
    reply([Frame::data(message(len.to_string().as_bytes())), Frame::trailers(trailers(&[("grpc-status", "0")]))])
}

/// A client that takes headers of so many bytes.
async fn client(node: &Node, takes: u32) -> Client {
    let stream = TcpStream::connect(node.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = http2.max_header_list_size(takes).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Client { sender }
}

/// A call that is there before another one fails, and has to be there after it.
struct Bystander {
    say: tokio::sync::mpsc::Sender<Frame<Bytes>>,
    heard: hyper::body::Incoming,
}

impl Bystander {
    async fn new(client: &mut Client) -> Self {
        let (say, body) = super::support::written();
        let request = Client::request("svc", "/ticks").body(body).unwrap();
        say.send(Frame::data(message(b"first"))).await.unwrap();
        let heard = client.send(request).await.into_body();
        let mut bystander = Self { say, heard };
        bystander.hears(b"first").await;
        bystander
    }

    async fn hears(&mut self, words: &[u8]) {
        let frame = soon(http_body_util::BodyExt::frame(&mut self.heard)).await.expect("the stream goes on");
        assert_eq!(frame.unwrap().into_data().unwrap(), message(words));
    }

    async fn answers_whole(mut self) {
        self.say.send(Frame::data(message(b"last"))).await.expect("the stream goes on");
        self.hears(b"last").await;
        drop(self.say);
        let end = http_body_util::BodyExt::collect(self.heard).await.unwrap();
        assert_eq!(end.trailers().unwrap()["grpc-status"], "0");
    }
}

fn options(clients_kib: u32, endpoints_kib: u32) -> Options {
    Options {
        inbound: InboundOptions { max_header_bytes: clients_kib << 10, ..InboundOptions::default() },
        connect: ConnectOptions {
            max_header_bytes: endpoints_kib << 10,
            // One for all, so that what one call does to it shows.
            max_connections: 1,
            ..ConnectOptions::default()
        },
        ..Options::default()
    }
}

async fn call(client: &mut Client, path: &str, size: Option<usize>) -> Answer {
    let mut request = Client::request("svc", path);
    if let Some(size) = size {
        request = request.header("x-big", "b".repeat(size));
    }
    let body = tonic::body::Body::new(http_body_util::Full::new(message(b"")));
    client.answer(request.body(body).unwrap()).await
}

#[track_caller]
fn refused(answer: &Answer, says: &[&str]) {
    assert_eq!((answer.code(), answer.kind()), ("8", "headers-too-large"), "{}", answer.message());
    for words in says {
        assert!(answer.message().contains(words), "{words:?} is not in {:?}", answer.message());
    }
    assert!(answer.message().len() < 500, "{}", answer.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_fails_alone() {
    let (node, a) = (Node::with(Routes::default(), options(64, 64)).await, Instance::new(answer).await);
    node.serve("svc", &[&a]).await;
    let mut client = client(&node, 16 << 20).await;
    let sizes = [66_000, 100_000, 200_000, 1_000_000, 3_000_000];
    for (n, size) in sizes.into_iter().enumerate() {
        let bystander = Bystander::new(&mut client).await;
        refused(&call(&mut client, &format!("/trailers/{size}"), None).await, &["trailers", &a.address.to_string()]);
        let head = call(&mut client, &format!("/head/{size}"), None).await;
        refused(&head, &["headers", "`max-header-kib` of [endpoints]", "65536"]);
        bystander.answers_whole().await;
        assert_eq!(a.n_connections(), 1, "{size} bytes");
        let counted = node.metric("dataplane_failures_total{reason=\"headers-too-large\"}");
        assert_eq!(counted, Some(2 * (n as u64 + 1)));
    }
    for fits in [1, 65_000] {
        let answer = call(&mut client, &format!("/trailers/{fits}"), None).await;
        assert_eq!((answer.code(), answer.trailers["x-big"].len()), ("0", fits));
        assert_eq!(call(&mut client, &format!("/head/{fits}"), None).await.headers["x-big"].len(), fits);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_fails_alone() {
    let (node, a) = (Node::with(Routes::default(), options(64, 64)).await, Instance::new(answer).await);
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    for size in [66_000, 100_000, 200_000, 1_000_000, 2_000_000] {
        let bystander = Bystander::new(&mut client).await;
        let answer = call(&mut client, "/size", Some(size)).await;
        refused(&answer, &["headers of the call", "`max-header-kib` of [clients]", "65536"]);
        bystander.answers_whole().await;
    }
    assert_eq!(node.metric("dataplane_failures_total{reason=\"headers-too-large\"}"), Some(5));
    assert_eq!(node.metric("dataplane_requests_total{service=\"\",code=\"RESOURCE_EXHAUSTED\"}"), Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_what_they_are_set_to_both_ways() {
    let a = Instance::configured(
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        |http2| _ = http2.max_header_list_size(16 << 20),
        answer,
    );
    let node = Node::with(Routes::default(), options(1024, 2048)).await;
    node.serve("svc", &[&a]).await;
    let mut client = client(&node, 16 << 20).await;
    let whole = call(&mut client, "/size", Some(1_000_000)).await;
    assert_eq!((whole.code(), &whole.data[5..]), ("0", &b"1000000"[..]));
    refused(&call(&mut client, "/size", Some(1_100_000)).await, &["1048576"]);
    let whole = call(&mut client, "/trailers/2000000", None).await;
    assert_eq!((whole.code(), whole.trailers["x-big"].len()), ("0", 2_000_000));
    refused(&call(&mut client, "/trailers/2100000", None).await, &["2097152"]);
    assert_eq!(call(&mut client, "/head/2000000", None).await.headers["x-big"].len(), 2_000_000);
}

/// Clients on `h2` cut trailers that are over what they take, and end the connection over four
/// times of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_it_takes_is_heeded() {
    let (node, a) = (Node::with(Routes::default(), options(64, 1024)).await, Instance::new(answer).await);
    node.serve("svc", &[&a]).await;
    let mut client = client(&node, 8 << 10).await;
    for size in [8_200, 20_000, 100_000] {
        let bystander = Bystander::new(&mut client).await;
        refused(&call(&mut client, &format!("/trailers/{size}"), None).await, &["trailers", "8192 that the client"]);
        refused(&call(&mut client, &format!("/head/{size}"), None).await, &["headers", "8192 that the client"]);
        bystander.answers_whole().await;
    }
    let answer = call(&mut client, "/trailers/8000", None).await;
    assert_eq!((answer.code(), answer.trailers["x-big"].len()), ("0", 8000));
}

/// Instances on `h2` end the connection over four times of what they take, those on Netty over a
/// quarter more; and it is everybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_says_it_takes_is_heeded() {
    let a = Instance::configured(
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        |http2| _ = http2.max_header_list_size(8 << 10),
        answer,
    );
    let node = Node::with(Routes::default(), options(64, 64)).await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    for size in [8_200, 20_000, 60_000] {
        let bystander = Bystander::new(&mut client).await;
        let answer = call(&mut client, "/size", Some(size)).await;
        refused(&answer, &["headers of the call", &format!("8192 that the instance at {}", a.address)]);
        bystander.answers_whole().await;
        assert_eq!(a.n_connections(), 1, "{size} bytes");
    }
    // Trailers of a request, which gRPC has none of, are no way round it.
    let bystander = Bystander::new(&mut client).await;
    let frames = tokio_stream::iter([Frame::data(message(b"")), Frame::trailers(big(60_000))]);
    let frames = frames.map(Ok::<_, tonic::Status>);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    let answer = client.answer(Client::request("svc", "/size").body(body).unwrap()).await;
    assert!(answer.code() != "0" || answer.data.len() > 5, "{answer:?}");
    bystander.answers_whole().await;
    assert_eq!(a.n_connections(), 1);
    let fits = call(&mut client, "/size", Some(7_000)).await;
    assert_eq!((fits.code(), &fits.data[5..]), ("0", &b"7000"[..]));
}
