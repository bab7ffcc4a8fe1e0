//! `waymark node` as a program, with calls: signals, exit codes, the access log, memory.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    process::Process,
    support::{Answer, Client, Instance, echo, message, reply, soon, trailers, until},
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_node_that_is_told_to_end_finishes_what_runs_and_takes_nothing_new() {
    let (release, released) = watch::channel(false);
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let instance = Instance::new(move |request| {
        let (mut released, arrived) = (released.clone(), arrived.clone());
        async move {
            if request.uri().path() == "/test.Slow/Call" {
                arrived.send(()).unwrap();
                released.wait_for(|released| *released).await.unwrap();
                return reply([Frame::data(message(b"late")), Frame::trailers(trailers(&[("grpc-status", "0")]))]);
            }
            echo("a", request).await
        }
    });
    let instance = instance.await;
    let mut process = Process::start().await;
    process.register("svc", instance.address).await;
    let mut client = Client::to(process.node).await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    let mut other = Client::to(process.node).await;
    let slow = tokio::spawn(async move {
        let request = Client::request("svc", "/test.Slow/Call").body(tonic::body::Body::empty()).unwrap();
        (other.answer(request).await, other)
    });
    soon(arrivals.recv()).await.unwrap();
    process.signal(Signal::TERM);
    process.logged("draining").await;
    let refused = TcpStream::connect(process.node).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // On a connection that is there already, a call is answered well or is not taken at all: then
    // the instance has not seen it.
    let (before, mut answered) = (instance.n_calls(), 0);
    soon(async {
        loop {
            let request = Client::request("svc", "/test.Echo/Unary")
                .body(tonic::body::Body::new(http_body_util::Full::new(message(&[]))));
            let Ok(response) = client.sender.send_request(request.unwrap()).await else { break };
            assert_eq!(Answer::of(response).await.code(), "0");
            answered += 1;
        }
    })
    .await;
    assert_eq!(instance.n_calls() - before, answered);
    assert!(!slow.is_finished(), "it is what is waited for");
    release.send(true).unwrap();
    let (answer, _connection) = soon(slow).await.unwrap();
    assert_eq!((answer.code(), answer.data.clone()), ("0", message(b"late")));
    assert_eq!(process.exit_code().await, 0, "{}", process.log());
}

#[tokio::test]
async fn a_node_whose_calls_do_not_end_in_time_says_so_by_its_exit_code() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let instance = Instance::new(move |_| {
        arrived.send(()).unwrap();
        std::future::pending()
    });
    let instance = instance.await;
    let folder = tempfile::tempdir().unwrap();
    let (config, log) = (folder.path().join("waymark.toml"), folder.path().join("access.log"));
    fs::write(&config, format!("drain-timeout-s = 0\naccess-log = {log:?}\naccess-log-format = \"text\"")).unwrap();
    let mut process = Process::with(&["--config", config.to_str().unwrap()]).await;
    process.register("svc", instance.address).await;
    let mut client = Client::to(process.node).await;
    let request = Client::request("svc", "/test.Slow/Call").body(tonic::body::Body::empty()).unwrap();
    let cut_off = tokio::spawn(async move { client.sender.send_request(request).await });
    soon(arrivals.recv()).await.unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 1, "{}", process.log());
    soon(cut_off).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn the_access_log_is_followed_and_written_to_its_end() {
    let instance = Instance::echo("a").await;
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut process = Process::with(&["--access-log", path.to_str().unwrap(), "--access-log-format", "text"]).await;
    process.register("svc", instance.address).await;
    let mut client = Client::to(process.node).await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    let lines = |path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    until(|| !lines(&path).is_empty()).await;
    fs::rename(&path, &moved).unwrap();
    process.signal(Signal::HUP);
    until(|| path.exists()).await;
    for _ in 0..50 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 0, "{}", process.log());
    let (old, new) = (lines(&moved), lines(&path));
    assert_eq!((old.len(), new.len()), (1, 50));
    let said = format!(" service=svc path=/test.Echo/Unary endpoint={} code=OK attempts=1 ", instance.address);
    assert!(old.iter().chain(&new).all(|line| line.contains(&said)), "{old:?} {new:?}");
}

#[tokio::test]
async fn a_place_where_no_access_log_can_be_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--access-log", path])
        .output();
    let output = soon(output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(path) && said.contains("--access-log"), "{said}");
}

/// Frames of messages of 64 KiB, so many bytes in all, counted when they are asked for.
fn many(bytes: usize, taken: &Arc<AtomicUsize>) -> impl Iterator<Item = Frame<Bytes>> + Send + use<> {
    let (chunk, taken) = (message(&vec![7; 64 << 10]), Arc::clone(taken));
    std::iter::repeat_n(chunk, bytes >> 16).map(move |chunk| {
        taken.fetch_add(chunk.len(), SeqCst);
        Frame::data(chunk)
    })
}

/// Reads a body to its end, a MiB every 20 ms, with never more than `lead` bytes taken from its
/// source and not read yet.
async fn read_slowly<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(
    mut body: B,
    taken: &AtomicUsize,
    lead: usize,
) -> (usize, Option<http::HeaderMap>) {
    let (mut read, mut next_pause) = (0, MIB);
    loop {
        let Some(frame) = soon(body.frame()).await else { return (read, None) };
        match frame.unwrap().into_data() {
            Ok(data) => read += data.len(),
            Err(frame) => return (read, frame.into_trailers().ok()),
        }
        if read > next_pause {
            next_pause += MIB;
            sleep(Duration::from_millis(20)).await;
            let ahead = taken.load(SeqCst).saturating_sub(read);
            assert!(ahead < lead, "{ahead} bytes are on the way");
        }
    }
}

/// What passes in each direction, and how much of it may be in the node's memory.
const STREAMED: usize = 64 * MIB;
const MOST: u64 = 16 * MIB as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_passes_at_the_pace_of_its_reader_in_little_memory() {
    let taken = Arc::<AtomicUsize>::default();
    let source = Arc::clone(&taken);
    let instance = Instance::new(move |_| {
        let last = Frame::trailers(trailers(&[("grpc-status", "0")]));
        let answer = reply(many(STREAMED, &source).chain([last]));
        async move { answer }
    });
    let instance = instance.await;
    let process = Process::start().await;
    process.register("svc", instance.address).await;
    let stream = TcpStream::connect(process.node).await.unwrap();
    let mut http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http2.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    let (mut sender, connection) = http2.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let before = process.forget_peak();
    let request = Client::request("svc", "/test.Echo/Long").body(tonic::body::Body::empty()).unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    let (read, trailers) = read_slowly(answer.into_body(), &taken, 2 * MIB).await;
    assert_eq!((read, trailers.unwrap()["grpc-status"].to_str().unwrap()), (taken.load(SeqCst), "0"));
    assert!(read > STREAMED);
    process.grew_by_less_than(MOST, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_passes_at_the_pace_of_its_reader_in_little_memory() {
    let taken = Arc::<AtomicUsize>::default();
    let source = Arc::clone(&taken);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let small = |http2: &mut hyper::server::conn::http2::Builder<TokioExecutor>| {
        http2.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    };
    let instance = Instance::configured(listener, small, move |request| {
        let source = Arc::clone(&source);
        async move {
            let (read, _) = read_slowly(request.into_body(), &source, 4 * MIB).await;
            let told = Frame::data(message(read.to_string().as_bytes()));
            reply([told, Frame::trailers(trailers(&[("grpc-status", "0")]))])
        }
    });
    let process = Process::start().await;
    process.register("svc", instance.address).await;
    let mut client = Client::to(process.node).await;
    let before = process.forget_peak();
    let frames = tokio_stream::iter(many(STREAMED, &taken).map(Ok::<_, tonic::Status>));
    let body = tonic::body::Body::new(StreamBody::new(frames));
    let request = Client::request("svc", "/test.Echo/Long").body(body).unwrap();
    let answer = client.answer(request).await;
    let sent = taken.load(SeqCst);
    assert_eq!((answer.code(), answer.data.clone()), ("0", message(sent.to_string().as_bytes())));
    assert!(sent > STREAMED);
    process.grew_by_less_than(MOST, before);
}
