//! Callers that take what they can get: names, places, resets, small pieces, and calls in a circle.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    Scale,
    arena::{Arena, Bounds, Verdict},
    bystander::Bystander,
    frames::{Raw, block, code, flag, frame, goaway, kind, reset},
    process::Process,
    support::{Client, Instance, echo, soon},
    table::Row,
};

/// The service whose instance takes as many calls at once as servers do by default, and that
/// somebody attacks.
const SHARED: &str = "shared";

/// Never answers, and never reads its request.
const HOLD: &str = "/shared/Hold";

/// Names that differ over all attacks of this run.
fn made_up() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("made-up-{}", NEXT.fetch_add(1, SeqCst))
}

/// The `n`th stream of a client.
fn stream(n: usize) -> u32 {
    2 * n as u32 + 1
}

/// The head of a call of this service.
fn head(n: usize, service: &str, path: &str, ends: bool) -> Vec<u8> {
    let headers = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("waymark-service", service),
    ]);
    frame(kind::HEADERS, flag::END_HEADERS | if ends { flag::END_STREAM } else { 0 }, stream(n), &headers)
}

fn made_up_call(n: usize) -> Vec<u8> {
    head(n, &made_up(), "/a.B/C", true)
}

async fn until(mut done: impl FnMut() -> bool) {
    soon(async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// One name after the other in eight lines of each of eight clients, at a node that has as many
/// services as it may.
pub(crate) async fn made_up_names_one_by_one(scale: Scale) -> Result<Row, String> {
    let arena = Arena::configured("[discovery]\nmax-services = 50\nmax-empty = 20\n").await;
    arena
        .attacked(scale, Bounds::mib(48), async |arena| {
            let began = Instant::now();
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(Client::to(arena.node.node).await);
            }
            let lines = clients.iter().flat_map(|client| (0..8).map(|_| client.sender.clone()));
            let lines = lines.map(async |sender| {
                let (mut client, mut refused, mut asked) = (Client { sender }, 0, 0);
                while began.elapsed() < scale.length {
                    let request = Client::request(&made_up(), "/a.B/C").body(tonic::body::Body::empty()).unwrap();
                    let answer = client.answer(request).await;
                    refused += usize::from(answer.kind() == "too-many-unknown-services");
                    asked += 1;
                }
                (refused, asked)
            });
            let sums = futures::future::join_all(lines).await;
            let (refused, asked) = sums.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            Ok(Verdict::word(format!("{asked} names, {refused} refused")))
        })
        .await
}

/// Twenty thousand at once, from as many clients as that takes. Most wait for their turn until
/// their clients have enough.
pub(crate) async fn made_up_names_at_once(scale: Scale) -> Result<Row, String> {
    const CLIENTS: usize = 20;
    const NAMES: usize = 1000;
    let arena = Arena::with(&[]).await;
    arena
        .attacked(scale, Bounds::mib(256), async |arena| {
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                let mut client = Raw::connect(arena.node.node, &[]).await;
                client.flood_with(NAMES, made_up_call).await;
                clients.push(client);
            }
            sleep(scale.length).await;
            let began = Instant::now();
            let metrics = scrape(&arena.node).await;
            let took = began.elapsed();
            let empty =
                metrics.lines().find_map(|line| line.strip_prefix("waymark_services_empty ")?.parse::<u32>().ok());
            drop(clients);
            match empty {
                Some(empty) if empty <= 1000 => Ok(Verdict::word(format!("{empty} of them, scraped in {took:.1?}"))),
                other => Err(format!("{other:?} services are there that nobody has")),
            }
        })
        .await
}

/// What a node's metrics say.
async fn scrape(node: &Process) -> String {
    let mut stream = TcpStream::connect(node.admin).await.unwrap();
    let host = node.admin;
    let request = format!("GET /metrics HTTP/1.0\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    soon(stream.read_to_end(&mut text)).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// A service on the arena's node that is attacked itself, with a caller of its own who shall not
/// notice.
struct Shared {
    instance: Instance,
    bystander: Bystander,
}

impl Shared {
    async fn on(arena: &Arena) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let by_default = |http2: &mut http2::Builder<TokioExecutor>| *http2 = http2::Builder::new(TokioExecutor::new());
        let instance = Instance::configured(listener, by_default, |request| async {
            if request.uri().path() == HOLD {
                std::future::pending::<()>().await;
            }
            echo("s", request).await
        });
        arena.node.register(SHARED, instance.address).await;
        arena.settle(SHARED, 1).await;
        let bystander = Bystander::start(arena.node.node, SHARED);
        Self { instance, bystander }
    }

    /// What its caller noticed.
    async fn unharmed(self) -> Result<usize, String> {
        let calls = self.bystander.stop().await;
        match calls.lost.first() {
            None => Ok(calls.took.len()),
            Some(first) => {
                let (lost, all) = (calls.lost.len(), calls.took.len());
                Err(format!("{lost} of {all} calls to the attacked service itself were lost; the first: {first}"))
            }
        }
    }
}

/// Four clients hold a thousand calls each, so that every stream of the instance is taken.
pub(crate) async fn held_calls(scale: Scale) -> Result<Row, String> {
    const CALLS: usize = 1000;
    const PIECE: usize = 50;
    let arena = Arena::with(&[]).await;
    let bounds = Bounds::mib(96);
    arena
        .attacked(scale, bounds, async |arena| {
            let shared = Shared::on(arena).await;
            let mut holders = Vec::new();
            for _ in 0..4 {
                holders.push(Raw::connect(arena.node.node, &[]).await);
            }
            // Not all in one moment: that is another attack.
            for begun in (0..CALLS).step_by(PIECE) {
                for raw in &mut holders {
                    raw.flood_with(PIECE, |n| head(begun + n, SHARED, HOLD, false)).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
            // All streams of four connections by hyper's own limit.
            until(|| shared.instance.n_calls() >= 800).await;
            sleep(scale.length).await;
            let connections = shared.instance.n_connections();
            let served = shared.unharmed().await?;
            drop(holders);
            Ok(Verdict::word(format!("{served} calls beside them, {connections} connections")))
        })
        .await
}

/// The node stands still for half a second, in which the deadlines of an honest client's calls
/// pass.
pub(crate) async fn deadlines_while_the_node_stands_still(scale: Scale) -> Result<Row, String> {
    const CALLS: usize = 500;
    let arena = Arena::with(&[]).await;
    let bounds = Bounds::mib(32);
    arena
        .attacked(scale, bounds, async |arena| {
            let shared = Shared::on(arena).await;
            let mut raw = Raw::connect(arena.node.node, &[]).await;
            arena.node.signal(Signal::STOP);
            let calls = |n| head(n, SHARED, HOLD, true);
            raw.flood_with(CALLS, calls).await;
            raw.flood_with(CALLS, |n| reset(stream(n), code::CANCEL)).await;
            sleep(Duration::from_millis(500)).await;
            arena.node.signal(Signal::CONT);
            raw.write(&[head(CALLS, SHARED, "/test.Echo/Unknown", true), goaway(0, code::NO_ERROR, "")].concat())
                .await
                .map_err(|error| format!("the client's connection was ended: {error}"))?;
            let seen = raw.closed().await;
            shared.unharmed().await?;
            match (seen.answered, seen.goaway) {
                (1, None | Some((code::NO_ERROR, _))) => Ok(Verdict::word("connection kept")),
                (_, goaway) => Err(format!("the client's connection was ended: {goaway:?}")),
            }
        })
        .await
}

/// Requests in pieces of a byte, to an instance that does not read them and counts small frames.
pub(crate) async fn small_frames(scale: Scale) -> Result<Row, String> {
    const STREAMS: usize = 20;
    let arena = Arena::with(&[]).await;
    let bounds = Bounds::mib(48);
    arena
        .attacked(scale, bounds, async |arena| {
            let shared = Shared::on(arena).await;
            let mut raw = Raw::connect(arena.node.node, &[]).await;
            raw.flood_with(STREAMS, |n| head(n, SHARED, HOLD, false)).await;
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < scale.length && sent < 200_000 {
                raw.flood_with(10_000, |n| frame(kind::DATA, 0, stream(n % STREAMS), b"x")).await;
                sent += 10_000;
            }
            let ended = shared.instance.n_connections() - shared.instance.n_open();
            shared.unharmed().await?;
            match ended {
                0 => Ok(Verdict::word(format!("{sent} pieces merged"))),
                ended => Err(format!("the instance has ended {ended} connection(s)")),
            }
        })
        .await
}

/// Two nodes are one another's endpoints.
pub(crate) async fn a_circle_of_nodes(scale: Scale) -> Result<Row, String> {
    const CALLS: usize = 200;
    let arena = Arena::with(&[]).await;
    let other = Process::start().await;
    arena.node.register("circle", other.node).await;
    other.register("circle", arena.node.node).await;
    let bounds = Bounds::mib(32);
    arena
        .attacked(scale, bounds, async |arena| {
            // A route by authority: the header that names a service is taken off by the first node.
            let to_circle = |path| http::Request::post(format!("http://circle{path}"));
            let mut client = Client::to(arena.node.node).await;
            let began = Instant::now();
            let mut looped = 0;
            while began.elapsed() < scale.length && looped < CALLS {
                let request = to_circle("/a.B/C").header("content-type", "application/grpc").header("te", "trailers");
                let answer = client.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
                match [answer.kind(), answer.upstream_kind()].concat().as_str() {
                    "loop" => looped += 1,
                    // Until both have listed it.
                    "no-endpoints" if looped == 0 => sleep(Duration::from_millis(5)).await,
                    _ => return Err(format!("a call in a circle ended otherwise: {}", answer.message())),
                }
            }
            Ok(Verdict::word(format!("{looped} loops ended")))
        })
        .await
}
