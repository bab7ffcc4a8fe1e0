//! Instances that misbehave by script. The caller learns what became of its call, other instances
//! and their calls do not suffer, and the node goes on using what still works.
//!
//! Refused calls, GOAWAY with an earlier last stream, silence before the settings and what is no
//! HTTP/2 are in `connections.rs`; calls that break in the middle when an instance dies, and
//! instances that are held back, in `streams.rs`.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    frames::{
        Frame, NEWEST, PREFACE, block, code, flag, frame, goaway, indexed_literal, kind, literal, reset, setting,
        settings, window_update,
    },
    support::{Answer, Client, Instance, Node, at, message, soon},
};

/// What a script writes, given the stream of the call.
type Script = fn(u32) -> Vec<u8>;

/// What an instance does once its script is written.
#[derive(Clone, Copy)]
enum Then {
    /// Nothing; the connection stays.
    Stay,
    /// Closes in good order.
    Close,
    /// Closes so that the other side's system says "connection reset".
    Abort,
}

/// An instance that keeps to its script with the first call of each connection, and answers no
/// other.
struct Scripted {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Scripted {
    async fn new(script: Script, then: Then) -> Self {
        Self::with_settings(settings(&[]), script, then).await
    }

    async fn with_settings(said: Vec<u8>, script: Script, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(play(stream, said.clone(), script, then));
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
        Self { address, _stop: stop }
    }
}

async fn play(mut stream: TcpStream, said: Vec<u8>, script: Script, then: Then) -> std::io::Result<()> {
    stream.write_all(&said).await?;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    assert_eq!(preface, PREFACE);
    let call = loop {
        let frame = Frame::read(&mut stream).await?;
        if frame.kind == kind::HEADERS {
            break frame.stream;
        }
    };
    stream.write_all(&script(call)).await?;
    match then {
        Then::Stay => while Frame::read(&mut stream).await.is_ok() {},
        Then::Close => {
            stream.shutdown().await?;
            while stream.read(&mut preface).await? > 0 {}
        }
        Then::Abort => reset_on_close(&stream)?,
    }
    Ok(())
}

/// Lets the socket be reset when it is closed.
fn reset_on_close(stream: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn headers(stream: u32, flags: u8, list: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block(list))
}

/// The head of a gRPC answer, with more headers.
fn head_with(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, 0, &[&[(":status", "200"), ("content-type", "application/grpc")], more].concat())
}

fn head(stream: u32) -> Vec<u8> {
    head_with(stream, &[])
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

/// Headers, or trailers, in frames of the usual size; the last one says that it is, if they have an
/// end. What is a head goes on with nothing.
fn in_pieces(stream: u32, block: &[u8], ends: bool) -> Vec<u8> {
    const SIZE: usize = 16 << 10;
    let mut bytes = Vec::with_capacity(block.len() + block.len() / SIZE * 9 + 64);
    let n = block.len().div_ceil(SIZE);
    for (index, piece) in block.chunks(SIZE).enumerate() {
        let (kind, end_stream) = if index == 0 { (kind::HEADERS, flag::END_STREAM) } else { (kind::CONTINUATION, 0) };
        let end = if ends && index + 1 == n { flag::END_HEADERS } else { 0 };
        bytes.extend(frame(kind, end_stream | end, stream, piece));
    }
    bytes
}

/// The start of an answer: its head, and some of a message.
fn half(stream: u32) -> Vec<u8> {
    [head(stream), data(stream, 0, &[0, 0, 0, 0, 100, 1, 2, 3])].concat()
}

fn ok(stream: u32) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &[("grpc-status", "0")])
}

fn whole(stream: u32) -> Vec<u8> {
    [head(stream), data(stream, 0, &message(b"")), ok(stream)].concat()
}

/// How the call ends: `grpc-status`, `waymark-error`, and words of the message.
struct Ends(&'static str, &'static str, &'static str);

const LOST: Ends = Ends("14", "endpoint-lost", "was lost after the request was sent");
const BAD: Ends = Ends("13", "bad-answer", "broke the rules of HTTP/2");

/// What instances do, and what their callers get.
const SCRIPTS: &[(&str, Script, Then, Ends)] = &[
    ("resets: cancelled", |s| reset(s, code::CANCEL), Then::Stay, Ends("1", "endpoint-reset", "reset the call")),
    (
        "resets: internal",
        |s| reset(s, code::INTERNAL_ERROR),
        Then::Stay,
        Ends("13", "endpoint-reset", "reset the call"),
    ),
    (
        "resets: protocol",
        |s| reset(s, code::PROTOCOL_ERROR),
        Then::Stay,
        Ends("13", "endpoint-reset", "reset the call"),
    ),
    ("resets: calm", |s| reset(s, code::ENHANCE_YOUR_CALM), Then::Stay, Ends("8", "endpoint-reset", "reset the call")),
    ("resets: security", |s| reset(s, 12), Then::Stay, Ends("7", "endpoint-reset", "reset the call")),
    ("resets: an unknown code", |s| reset(s, 0xfffe), Then::Stay, Ends("13", "endpoint-reset", "reset the call")),
    (
        "resets after the head",
        |s| [head(s), reset(s, code::CANCEL)].concat(),
        Then::Stay,
        Ends("1", "endpoint-reset", ""),
    ),
    (
        "resets in the body",
        |s| [half(s), reset(s, code::INTERNAL_ERROR)].concat(),
        Then::Stay,
        Ends("13", "endpoint-reset", ""),
    ),
    ("closes", |_| vec![], Then::Close, LOST),
    ("closes after the head", head, Then::Close, LOST),
    ("closes in the body", half, Then::Close, LOST),
    ("aborts", |_| vec![], Then::Abort, LOST),
    ("aborts in the body", half, Then::Abort, LOST),
    ("half a frame, and closes", |s| head(s)[..12].to_vec(), Then::Close, LOST),
    ("goes away: no error, call kept, and closes", |s| goaway(s, code::NO_ERROR, ""), Then::Close, LOST),
    ("goes away: calm, call kept", |s| goaway(s, code::ENHANCE_YOUR_CALM, "too_many_pings"), Then::Close, LOST),
    (
        "goes away: internal, in the body",
        |s| [half(s), goaway(s, code::INTERNAL_ERROR, "bug")].concat(),
        Then::Close,
        LOST,
    ),
    (
        "content-length too small",
        |s| [head_with(s, &[("content-length", "2")]), data(s, 0, &message(b"more")), ok(s)].concat(),
        Then::Stay,
        BAD,
    ),
    (
        "content-length too large",
        |s| [head_with(s, &[("content-length", "99")]), data(s, 0, &message(b"")), ok(s)].concat(),
        Then::Stay,
        BAD,
    ),
    (
        "two content-lengths",
        |s| {
            [head_with(s, &[("content-length", "5"), ("content-length", "6")]), data(s, 0, &message(b"")), ok(s)]
                .concat()
        },
        Then::Stay,
        BAD,
    ),
    ("no :status", |s| headers(s, 0, &[("content-type", "application/grpc")]), Then::Stay, BAD),
    ("an upper-case header", |s| headers(s, 0, &[(":status", "200"), ("X-Big", "1")]), Then::Stay, BAD),
    ("a connection header", |s| head_with(s, &[("connection", "close")]), Then::Stay, BAD),
    (
        "pseudo-headers in the trailers",
        |s| [head(s), headers(s, flag::END_STREAM, &[(":status", "200")])].concat(),
        Then::Stay,
        BAD,
    ),
    ("a window that overflows", |_| window_update(0, (1 << 31) - 1), Then::Stay, LOST),
    ("headers that are no HPACK", |s| frame(kind::HEADERS, flag::END_HEADERS, s, &[0x80; 9]), Then::Stay, LOST),
    ("data before the head", |s| data(s, 0, b"x"), Then::Stay, BAD),
    (
        "a push",
        |s| frame(5, flag::END_HEADERS, s, &[&2u32.to_be_bytes()[..], &block(&[(":path", "/")])].concat()),
        Then::Stay,
        LOST,
    ),
    ("data on a stream that nobody opened", |_| data(99, 0, b"x"), Then::Stay, LOST),
    (
        "more than the window lets in",
        |s| [head(s), vec![data(s, 0, &[0; 16 << 10]); 1000].concat()].concat(),
        Then::Stay,
        BAD,
    ),
    ("settings that are none", |_| settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]), Then::Stay, LOST),
    (
        "a head that is too large",
        |s| in_pieces(s, &[block(&[(":status", "200")]), literal("x-large", &vec![b'x'; 400 << 10])].concat(), true),
        Then::Stay,
        Ends("8", "headers-too-large", "the headers that"),
    ),
    (
        "trailers of which HTTP/2 leaves out what is too large",
        |s| {
            let trailers = [block(&[("grpc-status", "0")]), literal("x-large", &vec![b'x'; 17 << 20])].concat();
            [head(s), in_pieces(s, &trailers, true)].concat()
        },
        Then::Stay,
        Ends("8", "headers-too-large", "the trailers that"),
    ),
    (
        "trailers of which HTTP/2 leaves out what is too much",
        |s| {
            let field = indexed_literal("x", &[b'x'; 4000]);
            let trailers = [block(&[("grpc-status", "0")]), field, vec![NEWEST; 6000]].concat();
            [head(s), in_pieces(s, &trailers, true)].concat()
        },
        Then::Stay,
        Ends("8", "headers-too-large", "the trailers that"),
    ),
    (
        "trailers with more names than there may be",
        |s| {
            let names = (0..30_000).flat_map(|n| literal(&format!("x{n}"), b"")).collect::<Vec<_>>();
            [head(s), in_pieces(s, &[block(&[("grpc-status", "0")]), names].concat(), true)].concat()
        },
        Then::Stay,
        Ends("8", "headers-too-large", "the trailers that"),
    ),
    (
        "a head without end",
        |s| in_pieces(s, &[block(&[(":status", "200")]), literal("x-large", &vec![b'x'; 22 << 20])].concat(), false),
        Then::Stay,
        LOST,
    ),
    (
        "endless CONTINUATION",
        |s| {
            [
                frame(kind::HEADERS, 0, s, &block(&[(":status", "200")])),
                frame(kind::CONTINUATION, 0, s, &[]).repeat(10_000),
            ]
            .concat()
        },
        Then::Stay,
        LOST,
    ),
    ("stalls", |_| vec![], Then::Stay, Ends("4", "deadline-exceeded", "waiting for the answer")),
    ("stalls after the head", head, Then::Stay, Ends("4", "deadline-exceeded", "was sending its answer")),
    ("stalls in the body", half, Then::Stay, Ends("4", "deadline-exceeded", "was sending its answer")),
    (
        "goes away: no error, call kept, and stalls",
        |s| goaway(s, code::NO_ERROR, ""),
        Then::Stay,
        Ends("4", "deadline-exceeded", "waiting for"),
    ),
    (
        "interim answers without end",
        |s| headers(s, 0, &[(":status", "103")]).repeat(1000),
        Then::Stay,
        Ends("4", "deadline-exceeded", "waiting for"),
    ),
    (
        "settings, pings and what nobody knows, without end",
        |s| {
            [
                settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]).repeat(10_000),
                frame(kind::PING, 0, 0, &[1; 8]).repeat(10_000),
                frame(0xfa, 0, s, b"?").repeat(10_000),
                frame(kind::PRIORITY, 0, s, &[0, 0, 0, 0, 1]).repeat(10_000),
            ]
            .concat()
        },
        Then::Stay,
        Ends("4", "deadline-exceeded", "waiting for the answer"),
    ),
    (
        "a status of its own, beside nonsense",
        |s| {
            [
                frame(0xfa, 0xff, s, b"?"),
                window_update(s, 1),
                headers(s, 0, &[(":status", "103")]),
                head(s),
                data(s, 0, &[]),
                headers(s, flag::END_STREAM, &[("grpc-status", "9"), ("grpc-message", "mine")]),
            ]
            .concat()
        },
        Then::Stay,
        Ends("9", "", "mine"),
    ),
    (
        "a good answer, then goes away",
        |s| [whole(s), goaway(s, code::NO_ERROR, "")].concat(),
        Then::Close,
        Ends("0", "", ""),
    ),
    (
        "goes away, then a good answer",
        |s| [goaway(s, code::NO_ERROR, ""), whole(s)].concat(),
        Then::Close,
        Ends("0", "", ""),
    ),
    (
        "an answer that asks for no more of the request",
        |s| [whole(s), reset(s, code::NO_ERROR)].concat(),
        Then::Stay,
        Ends("0", "", ""),
    ),
];

async fn call(client: &mut Client, service: &str, timeout: &str) -> Answer {
    let body = tonic::body::Body::new(http_body_util::Full::new(message(b"")));
    let request = Client::request(service, "/test.Echo/Unary").header("grpc-timeout", timeout).body(body);
    client.answer(request.unwrap()).await
}

/// All scripts at once on one node, beside a service whose calls all succeed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_misbehaviour_ends_its_call_with_its_status_and_nothing_else() {
    let (node, good) = (Node::new().await, Instance::echo("good").await);
    node.serve("good", &[&good]).await;
    let calling = tokio::spawn({
        let mut client = node.client().await;
        async move {
            loop {
                let answer = client.echo("good", "x").await;
                assert_eq!(answer.code(), "0", "{answer:?}");
            }
        }
    });
    let mut wrong = Vec::new();
    for (what, script, then, Ends(code, kind, says)) in SCRIPTS {
        let instance = Scripted::new(*script, *then).await;
        node.set("bad", vec![at(instance.address)]).await;
        let mut client = node.client().await;
        let timeout = if *code == "4" { "500m" } else { "20S" };
        let answer = call(&mut client, "bad", timeout).await;
        let message = answer.message();
        let blames = kind.is_empty() || message.contains(&instance.address.to_string());
        if (answer.code(), answer.kind()) != (code, kind) || !message.contains(says) || !blames {
            wrong.push(format!("{what}: {} {} {message:?}, not {code} {kind} {says:?}", answer.code(), answer.kind()));
        }
        // The connection to the node is as good as before.
        assert_eq!(client.echo("good", "x").await.code(), "0", "after {what}");
    }
    assert!(!calling.is_finished(), "{:?}", calling.await);
    calling.abort();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What an instance does to one call costs others on the same connection nothing where HTTP/2
/// allows that, and the next calls go to another instance where it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_misbehaviour_calls_go_on_elsewhere() {
    let good = Instance::echo("good").await;
    for (what, script, then, _) in SCRIPTS {
        let node = Node::new().await;
        let instance = Scripted::new(*script, *then).await;
        node.set("svc", vec![at(instance.address), at(good.address)]).await;
        let mut client = node.client().await;
        let mut answered = 0;
        for _ in 0..6 {
            answered += usize::from(call(&mut client, "svc", "300m").await.code() == "0");
        }
        assert!(answered >= 3, "{what}: {answered} of 6 calls were answered");
    }
}

#[tokio::test]
async fn an_instance_that_allows_no_call_counts_as_unreachable() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    let none = Scripted::with_settings(settings(&[(3, 0)]), |_| vec![], Then::Stay).await;
    node.set("svc", vec![at(none.address), at(a.address)]).await;
    let mut client = node.client().await;
    for _ in 0..4 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
}

#[tokio::test]
async fn an_instance_that_opens_no_window_holds_its_request_back_to_the_deadline() {
    let node = Node::new().await;
    let shut = Scripted::with_settings(settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]), |_| vec![], Then::Stay).await;
    node.set("svc", vec![at(shut.address)]).await;
    let mut client = node.client().await;
    let answer = call(&mut client, "svc", "300m").await;
    assert_eq!((answer.code(), answer.kind()), ("4", "deadline-exceeded"));
}

/// By gRPC's http-grpc-status-mapping.md.
#[tokio::test]
async fn an_answer_of_something_else_means_what_its_http_status_means() {
    for (status, expected) in [
        ("400", tonic::Code::Internal),
        ("401", tonic::Code::Unauthenticated),
        ("403", tonic::Code::PermissionDenied),
        ("404", tonic::Code::Unimplemented),
        ("429", tonic::Code::Unavailable),
        ("502", tonic::Code::Unavailable),
        ("503", tonic::Code::Unavailable),
        ("504", tonic::Code::Unavailable),
        ("500", tonic::Code::Unknown),
    ] {
        let instance = Instance::new(move |_| async move {
            let body = tonic::body::Body::new(http_body_util::Full::from("<html>no</html>"));
            http::Response::builder().status(status).header("content-type", "text/html").body(body).unwrap()
        })
        .await;
        let node = Node::new().await;
        node.serve("svc", &[&instance]).await;
        let mut caller = super::support::Caller::new(node.dial().await, Some("svc"));
        let got = soon(caller.unary("x")).await.unwrap_err();
        assert_eq!(got.code(), expected, "{status}: {got:?}");
    }
}
