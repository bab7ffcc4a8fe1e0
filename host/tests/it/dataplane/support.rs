//! A node, instances and clients to test with.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, uri::PathAndQuery};
use http_body::{Body, Frame};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_prost::ProstCodec;
use waymark_node::{
    balancer::{Candidate, PolicyInfo, ServiceDefaults, Services, ServicesConfig},
    dataplane::{self, Dataplane, Drained, Metrics, Options, Routes},
    exposition::Families,
    model::{Endpoint, Revision, ServiceName, Update},
    policy::{BuildError, Plan, Policy, Scope},
    snapshot::{self, Writer},
    traffic::Traffic,
};

/// Far more than any test needs; a test that gets here hangs.
pub(super) const LONG: Duration = Duration::from_secs(90);

/// Waits until something has come true.
pub(super) async fn until(mut done: impl FnMut() -> bool) {
    soon(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Fails a test that hangs.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("nothing here takes this long")
}

/// What every message is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

pub(super) fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

pub(super) type Codec = ProstCodec<Text, Text>;

pub(super) type Reply = Response<tonic::body::Body>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An instance: an HTTP/2 server on a port of its own.
pub(super) struct Instance {
    pub(super) address: SocketAddr,
    pub(super) calls: Arc<AtomicUsize>,
    pub(super) connections: Arc<AtomicUsize>,
    drain: CancellationToken,
    kill: CancellationToken,
    tracker: TaskTracker,
}

impl Instance {
    /// Answers each request by `handler`.
    pub(super) async fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), handler)
    }

    pub(super) fn on<F, R>(listener: TcpListener, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        Self::configured(listener, |_| {}, handler)
    }

    /// Speaks HTTP/2 with these settings.
    pub(super) fn configured<F, R>(
        listener: TcpListener,
        configure: impl Fn(&mut http2::Builder<TokioExecutor>) + Send + Sync + 'static,
        handler: F,
    ) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).max_concurrent_streams(10_000);
        configure(&mut http2);
        let instance = Self {
            address: listener.local_addr().unwrap(),
            calls: Arc::default(),
            connections: Arc::default(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            tracker: TaskTracker::new(),
        };
        let handler: Arc<dyn Fn(Request<Incoming>) -> BoxFuture<Reply> + Send + Sync> =
            Arc::new(move |request| Box::pin(handler(request)));
        let (calls, connections) = (Arc::clone(&instance.calls), Arc::clone(&instance.connections));
        let (drain, kill, tracker) = (instance.drain.clone(), instance.kill.clone(), instance.tracker.clone());
        instance.tracker.spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = drain.cancelled() => break,
                    () = kill.cancelled() => break,
                };
                connections.fetch_add(1, SeqCst);
                let (calls, handler) = (Arc::clone(&calls), Arc::clone(&handler));
                let service = service_fn(move |request| {
                    calls.fetch_add(1, SeqCst);
                    let reply = handler(request);
                    async move { Ok::<_, Infallible>(reply.await) }
                });
                let (drain, kill, http2) = (drain.clone(), kill.clone(), http2.clone());
                tracker.spawn(async move {
                    let mut connection = std::pin::pin!(http2.serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        _ = &mut connection => return,
                        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
                        () = kill.cancelled() => return,
                    }
                    tokio::select! {
                        _ = &mut connection => {}
                        () = kill.cancelled() => {}
                    }
                });
            }
        });
        instance.tracker.close();
        instance
    }

    /// Serves the echo methods; its answers begin with `name`.
    pub(super) async fn echo(name: &'static str) -> Self {
        Self::new(move |request| echo(name, request)).await
    }

    /// Stops as a server should: no new calls, those that run end. Waits for that.
    pub(super) async fn drain(&self) {
        self.drain.cancel();
        soon(self.tracker.wait()).await;
    }

    /// Stops as a crash does. Waits until the port is closed.
    pub(super) async fn kill(&self) {
        self.kill.cancel();
        soon(self.tracker.wait()).await;
    }

    pub(super) fn n_calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Connections that are open. Its tracker also has the task that takes them.
    pub(super) fn n_open(&self) -> usize {
        self.tracker.len() - 1
    }

    pub(super) fn n_connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// The four call kinds, each answering with the instance's name and what it was sent.
pub(super) async fn echo(name: &'static str, request: Request<Incoming>) -> Reply {
    let mut grpc = tonic::server::Grpc::new(Codec::default())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let answer = move |message: &Text| text(format!("{name}:{}", message.text));
    match request.uri().path() {
        "/test.Echo/Unary" => {
            let serve = move |request: tonic::Request<Text>| async move {
                Ok::<_, tonic::Status>(tonic::Response::new(answer(request.get_ref())))
            };
            grpc.unary(tower::service_fn(serve), request).await
        }
        "/test.Echo/ClientStream" => {
            let serve = move |request: tonic::Request<tonic::Streaming<Text>>| async move {
                let mut all = String::new();
                let mut messages = request.into_inner();
                while let Some(message) = messages.message().await? {
                    all += &message.text;
                }
                Ok::<_, tonic::Status>(tonic::Response::new(answer(&text(all))))
            };
            grpc.client_streaming(tower::service_fn(serve), request).await
        }
        "/test.Echo/ServerStream" => {
            let serve = move |request: tonic::Request<Text>| async move {
                let words: Vec<_> = request.into_inner().text.split(' ').map(text).collect();
                let words = tokio_stream::iter(words).map(move |word| Ok::<_, tonic::Status>(answer(&word)));
                Ok::<_, tonic::Status>(tonic::Response::new(words))
            };
            grpc.server_streaming(tower::service_fn(serve), request).await
        }
        "/test.Echo/Bidi" => {
            let serve = move |request: tonic::Request<tonic::Streaming<Text>>| async move {
                let words = request.into_inner().map(move |word| word.map(|word| answer(&word)));
                Ok::<_, tonic::Status>(tonic::Response::new(words))
            };
            grpc.streaming(tower::service_fn(serve), request).await
        }
        path => tonic::Status::unimplemented(path).into_http(),
    }
}

/// A gRPC message's frame around some bytes.
pub(super) fn message(bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(bytes.len() as u32);
    frame.put_slice(bytes);
    frame.freeze()
}

/// A body that a test writes frame by frame.
pub(super) fn written() -> (mpsc::Sender<Frame<Bytes>>, tonic::body::Body) {
    let (tx, rx) = mpsc::channel(1);
    let frames = ReceiverStream::new(rx).map(Ok::<_, tonic::Status>);
    (tx, tonic::body::Body::new(http_body_util::StreamBody::new(frames)))
}

/// An answer of these frames.
pub(super) fn reply(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + 'static>) -> Reply {
    let frames = tokio_stream::iter(frames).map(Ok::<_, tonic::Status>);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

pub(super) fn trailers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut trailers = HeaderMap::new();
    pairs.for_each(|(name, value)| {
        trailers.append(name, value);
    });
    trailers
}

/// A native policy for tests: there is none in the product.
pub(super) struct TestPolicy(pub(super) MakePlan);

type MakePlan = Box<dyn Fn(&[Endpoint]) -> Plan + Send + Sync>;

impl TestPolicy {
    pub(super) fn rotation() -> Self {
        Self(Box::new(|endpoints| Plan::Rotation((0..endpoints.len() as u32).collect())))
    }

    pub(super) fn candidate(self) -> Candidate {
        let info = PolicyInfo {
            name: "test".into(),
            plugin_version: "0".into(),
            sha256: String::new(),
            origin: "test".into(),
            config: "{}".into(),
            allow: String::new(),
            by: "test".into(),
        };
        Candidate { policy: Arc::new(self), info, load_time: Duration::ZERO }
    }
}

impl Policy for TestPolicy {
    fn name(&self) -> &'static str {
        "test"
    }

    fn build(&self, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        Ok(self.0(endpoints))
    }
}

type Writers = Arc<Mutex<HashMap<ServiceName, Writer>>>;

/// A node whose registry is the test.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) dataplane: Dataplane,
    pub(super) services: Services,
    writers: Writers,
    metrics: Families,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<Drained>,
}

impl Node {
    pub(super) async fn new() -> Self {
        Self::with(Routes::default(), Options::default()).await
    }

    pub(super) async fn with(routes: Routes, options: Options) -> Self {
        Self::of(routes, options, Traffic::default()).await
    }

    /// A node that has this to say of all calls.
    pub(super) async fn traffic(traffic: Traffic) -> Self {
        Self::of(Routes::default(), Options::default(), traffic).await
    }

    /// A node with all of it.
    pub(super) async fn of(routes: Routes, options: Options, traffic: Traffic) -> Self {
        Self::made(routes, options, traffic, false).await
    }

    /// A node whose calls may be carried out twice.
    #[allow(dead_code, reason = "for the tests of instances that hang")]
    pub(super) async fn idempotent() -> Self {
        Self::made(Routes::default(), Options::default(), Traffic::default(), true).await
    }

    async fn made(routes: Routes, options: Options, traffic: Traffic, idempotent: bool) -> Self {
        let writers = Writers::default();
        let follow = {
            let writers = Arc::clone(&writers);
            move |service: ServiceName| {
                let (writer, reader) = snapshot::channel(service.clone());
                writers.lock().unwrap().insert(service, writer);
                std::future::ready(Ok(reader))
            }
        };
        let traffic = Arc::new(traffic);
        let defaults = move |_: &ServiceName| ServiceDefaults {
            traffic: Arc::clone(&traffic),
            idempotent,
            ..ServiceDefaults::new(TestPolicy::rotation().candidate())
        };
        let mut config = ServicesConfig::new(follow, defaults);
        config.first_list_timeout = Duration::from_millis(100);
        config.coalesce = Duration::ZERO;
        let mut families = Families::default();
        let metrics = Metrics::register(&mut families);
        let dataplane = Dataplane::new(config, routes, options, metrics);
        let services = dataplane.services().clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = oneshot::channel::<()>();
        let stop = async move {
            let _ = stop.await;
        };
        let served = tokio::spawn(dataplane::serve(listener, dataplane.clone(), stop));
        Self { address, dataplane, services, writers, metrics: families, shutdown: Some(shutdown), served }
    }

    /// Publishes these endpoints of a service, and returns once requests see them.
    pub(super) async fn set(&self, service: &str, endpoints: Vec<Endpoint>) {
        static REVISION: AtomicUsize = AtomicUsize::new(1);
        let revision = Revision(REVISION.fetch_add(1, SeqCst).try_into().unwrap());
        let name = ServiceName::new(service).unwrap();
        let handle = self.services.add(&name).await.unwrap();
        let mut reader = handle.subscribe();
        self.update(service, Update::Reset { revision, endpoints, skipped: 0 }).await;
        while reader.current().revision < revision {
            soon(reader.changed()).await.unwrap();
        }
    }

    /// The same for instances.
    pub(super) async fn serve(&self, service: &str, instances: &[&Instance]) {
        self.set(service, instances.iter().map(|instance| at(instance.address)).collect()).await;
    }

    pub(super) async fn update(&self, service: &str, update: Update) {
        let name = ServiceName::new(service).unwrap();
        self.services.add(&name).await.unwrap();
        self.writers.lock().unwrap().get_mut(&name).unwrap().apply(update);
    }

    /// Swaps a service's policy.
    pub(super) async fn policy(&self, service: &str, policy: TestPolicy) {
        self.services.get(service).unwrap().set_policy(policy.candidate()).await.unwrap();
    }

    /// A tonic client's channel to the node, for one service.
    pub(super) async fn dial(&self) -> tonic::transport::Channel {
        let uri = format!("http://{}", self.address);
        tonic::transport::Endpoint::new(uri).unwrap().connect().await.unwrap()
    }

    /// A client that sees HTTP/2 as it is.
    pub(super) async fn client(&self) -> Client {
        Client::to(self.address).await
    }

    /// What its metrics say of this series, if there is any.
    pub(super) fn metric(&self, series: &str) -> Option<u64> {
        self.figure(series)
    }

    /// The same as a number of any kind.
    pub(super) fn figure<T: std::str::FromStr>(&self, series: &str) -> Option<T> {
        let text = self.metrics.page().unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Begins the shutdown.
    pub(super) fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// How serving ended.
    pub(super) async fn stopped(self) -> Drained {
        soon(self.served).await.unwrap()
    }
}

pub(super) fn at(address: SocketAddr) -> Endpoint {
    Endpoint::at(address.to_string().parse().unwrap())
}

/// A port where nobody listens.
pub(super) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An HTTP/2 client that hides nothing.
pub(super) struct Client {
    pub(super) sender: hyper::client::conn::http2::SendRequest<tonic::body::Body>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) data: Bytes,
    pub(super) trailers: HeaderMap,
    /// Whether the head was all there was.
    pub(super) only_head: bool,
}

impl Answer {
    pub(super) async fn of<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error,
    {
        let (head, body) = response.into_parts();
        let only_head = body.is_end_stream();
        let collected = soon(http_body_util::BodyExt::collect(body)).await.unwrap();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            trailers: collected.trailers().cloned().unwrap_or_default(),
            data: collected.to_bytes(),
            only_head,
        }
    }

    fn field(&self, name: &str) -> &str {
        let map = if self.only_head { &self.headers } else { &self.trailers };
        map.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn code(&self) -> &str {
        self.field("grpc-status")
    }

    pub(super) fn kind(&self) -> &str {
        self.field("waymark-error")
    }

    /// What kind of failure a node behind the one that answers says it is.
    pub(super) fn upstream_kind(&self) -> &str {
        self.field("upstream-waymark-error")
    }

    /// The status message, decoded.
    pub(super) fn message(&self) -> String {
        let status = tonic::Status::from_header_map(if self.only_head { &self.headers } else { &self.trailers });
        status.unwrap().message().to_owned()
    }
}

impl Client {
    pub(super) async fn to(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        // As gRPC's clients do: else a request's head and its body come 40 ms apart.
        stream.set_nodelay(true).unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// A request for a service.
    pub(super) fn request(service: &str, path: &str) -> http::request::Builder {
        Request::post(format!("http://127.0.0.1{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("waymark-service", service)
    }

    pub(super) async fn send(&mut self, request: Request<tonic::body::Body>) -> Response<Incoming> {
        soon(self.sender.send_request(request)).await.unwrap()
    }

    pub(super) async fn answer(&mut self, request: Request<tonic::body::Body>) -> Answer {
        Answer::of(self.send(request).await).await
    }

    /// A unary call of the echo service.
    pub(super) async fn echo(&mut self, service: &str, word: &str) -> Answer {
        let encoded = prost::Message::encode_to_vec(&text(word));
        let body = tonic::body::Body::new(http_body_util::Full::new(message(&encoded)));
        self.answer(Self::request(service, "/test.Echo/Unary").body(body).unwrap()).await
    }
}

/// Whether a call failed in a way in which no server can have seen it: gRPC's own clients send such
/// a call again by themselves, tonic's do not.
#[allow(dead_code, reason = "for the tests of restarts")]
pub(super) fn was_not_seen(status: &tonic::Status) -> bool {
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        let unsent = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        // GOAWAY ends the streams alone that come after the last one that was processed.
        let gone = error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() && error.is_remote());
        if unsent || gone {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The four call kinds by a tonic client over any channel.
pub(super) struct Caller<T> {
    grpc: tonic::client::Grpc<T>,
    service: Option<&'static str>,
    timeout: Option<Duration>,
}

impl<T> Caller<T>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<Box<dyn Error + Send + Sync>>,
    T::Error: std::fmt::Debug,
{
    /// Calls `service`, named in the header if it is given.
    pub(super) fn new(channel: T, service: Option<&'static str>) -> Self {
        let grpc = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { grpc, service, timeout: None }
    }

    /// Gives each call a deadline.
    #[allow(dead_code, reason = "for the drills")]
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn prepare<M>(&mut self, message: M, method: &'static str) -> (tonic::Request<M>, PathAndQuery) {
        self.grpc.ready().await.map_err(|_| ()).unwrap();
        let mut request = tonic::Request::new(message);
        if let Some(service) = self.service {
            request.metadata_mut().insert("waymark-service", service.parse().unwrap());
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        (request, PathAndQuery::from_static(method))
    }

    pub(super) async fn unary(&mut self, word: impl Into<String>) -> Result<String, tonic::Status> {
        let (request, path) = self.prepare(text(word), "/test.Echo/Unary").await;
        Ok(soon(self.grpc.unary(request, path, Codec::default())).await?.into_inner().text)
    }

    pub(super) async fn client_stream(&mut self, words: &[&str]) -> Result<String, tonic::Status> {
        let words: Vec<_> = words.iter().map(|word| text(*word)).collect();
        let (request, path) = self.prepare(tokio_stream::iter(words), "/test.Echo/ClientStream").await;
        Ok(soon(self.grpc.client_streaming(request, path, Codec::default())).await?.into_inner().text)
    }

    pub(super) async fn server_stream(&mut self, words: &str) -> Result<Vec<String>, tonic::Status> {
        let (request, path) = self.prepare(text(words), "/test.Echo/ServerStream").await;
        let answer = soon(self.grpc.server_streaming(request, path, Codec::default())).await?;
        soon(answer.into_inner().map(|word: Result<Text, _>| word.map(|word| word.text)).collect()).await
    }

    pub(super) async fn bidi(
        &mut self,
        words: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<tonic::Streaming<Text>, tonic::Status> {
        let (request, path) = self.prepare(words, "/test.Echo/Bidi").await;
        Ok(soon(self.grpc.streaming(request, path, Codec::default())).await?.into_inner())
    }
}
