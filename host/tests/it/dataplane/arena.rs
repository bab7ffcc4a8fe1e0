//! A node in a process of its own, so that its memory can be told from the test's, with one
//! instance behind it and one client that behaves well and calls all the while.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::transport::Endpoint;

use super::{
    process::Process,
    support::{Caller, Instance, Reply, echo, message, soon},
};

/// Never answers, and never reads its request.
pub(super) const NEVER: &str = "/hostile/Never";

/// Answers with messages of as many bytes as the path says, without end.
pub(super) fn endless(message_len: usize) -> String {
    format!("/hostile/Endless/{message_len}")
}

async fn serve(request: Request<Incoming>, never: Arc<AtomicUsize>) -> Reply {
    let path = request.uri().path();
    if path == NEVER {
        never.fetch_add(1, SeqCst);
        std::future::pending::<()>().await;
    }
    let Some(len) = path.strip_prefix("/hostile/Endless/") else { return echo("a", request).await };
    let chunk = message(&vec![7; len.parse().unwrap()]);
    let frames = tokio_stream::iter(std::iter::repeat_with(move || Ok::<_, tonic::Status>(Frame::data(chunk.clone()))));
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

pub(super) struct Arena {
    /// Where the node takes calls.
    pub(super) node: SocketAddr,
    instance: Instance,
    never: Arc<AtomicUsize>,
    process: Process,
    /// Resident bytes before the attack.
    before: u64,
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    healthy: JoinHandle<Vec<tonic::Status>>,
}

impl Arena {
    /// With an instance that takes as many calls at once as anybody begins.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With an instance that has hyper's own limits, as tonic's servers do.
    pub(super) async fn with_default_limits() -> Self {
        Self::with(|http2| *http2 = http2::Builder::new(TokioExecutor::new())).await
    }

    async fn with(configure: fn(&mut http2::Builder<TokioExecutor>)) -> Self {
        let never = Arc::<AtomicUsize>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let count = Arc::clone(&never);
        let instance = Instance::configured(listener, configure, move |request| serve(request, Arc::clone(&count)));
        let process = Process::start().await;
        let node = process.node;
        process.register("svc", instance.address).await;
        let (calls, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let channel = Endpoint::new(format!("http://{node}")).unwrap().connect().await.unwrap();
        let healthy = tokio::spawn(healthy(Caller::new(channel, Some("svc")), Arc::clone(&calls), Arc::clone(&stop)));
        let mut arena = Self { node, instance, never, process, before: 0, calls, stop, healthy };
        arena.more_calls(100).await;
        arena.before = arena.process.forget_peak();
        arena
    }

    /// Waits for so many more calls of the client that behaves well.
    pub(super) async fn more_calls(&self, n: usize) {
        let until = self.calls.load(SeqCst) + n;
        soon(async {
            while self.calls.load(SeqCst) < until && !self.healthy.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Lets the node stand still while this is done.
    pub(super) async fn standing_still(&self, meanwhile: impl Future<Output = ()>) {
        self.process.signal(Signal::STOP);
        meanwhile.await;
        self.process.signal(Signal::CONT);
    }

    /// Waits until the node's log has these words.
    pub(super) async fn logged(&self, words: &str) {
        self.process.logged(words).await;
    }

    /// How many calls have come to the instance that it never answers.
    pub(super) fn n_never(&self) -> usize {
        self.never.load(SeqCst)
    }

    /// Whether the node's log has these words.
    pub(super) fn has_logged(&self, words: &str) -> bool {
        self.process.log().contains(words)
    }

    /// With the attack still going on or just over: other calls go on, none of them has failed, and
    /// the node has not grown by more than so many bytes at any time. Returns by how much it has.
    pub(super) async fn stays_unharmed(self, limit: u64) -> u64 {
        self.more_calls(50).await;
        self.stop.store(true, SeqCst);
        let grown = self.process.grew_by_less_than(limit, self.before);
        let failed = soon(self.healthy).await.unwrap();
        assert!(failed.is_empty(), "{} calls of another client failed: {:?}", failed.len(), failed[0]);
        let log = self.process.log();
        assert!(!log.contains("panicked"), "{log}");
        assert_eq!(self.instance.n_open(), self.instance.n_connections(), "the instance has ended a connection");
        grown
    }
}

/// Calls until told to stop, or until a call fails.
async fn healthy(
    mut caller: Caller<tonic::transport::Channel>,
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<tonic::Status> {
    let mut failed = Vec::new();
    while !stop.load(SeqCst) && failed.len() < 10 {
        let number = calls.load(SeqCst).to_string();
        match caller.unary(&number).await {
            Ok(answer) => assert_eq!(answer, format!("a:{number}")),
            Err(status) => failed.push(status),
        }
        calls.fetch_add(1, SeqCst);
    }
    failed
}
