//! The same calls between our sides and those of the `h2` crate, in all pairs, its own with the
//! example's relay between them: what arrives must be the same.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../examples/relay.rs"]
mod relay;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use tokio::{io::DuplexStream, task::JoinSet, time::timeout};
use waymark_http2::{
    Block, Code, Connection, Event, Known, Limits, StreamId,
    io::{Driver, Owner},
};

/// A call and what is asked of the server, which echoes.
#[derive(Debug, Clone)]
struct Call {
    /// "/echo", "/reset" (after what came with the headers) or "/bare" (only headers).
    path: &'static str,
    /// Lengths of the pieces of content.
    pieces: Vec<usize>,
    /// The length of a field that goes there, comes back in the headers and again in the trailers.
    field: usize,
    trailers: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reply {
    status: Vec<u8>,
    field: usize,
    content: Vec<u8>,
    trailers: Option<usize>,
    reset: Option<u32>,
}

impl Call {
    fn content(&self) -> Vec<Bytes> {
        self.pieces.iter().enumerate().map(|(at, &length)| Bytes::from(vec![at as u8; length])).collect()
    }

    fn expected(&self) -> Reply {
        let status = b"200".to_vec();
        match self.path {
            "/bare" => Reply { status, field: self.field, ..Reply::default() },
            "/reset" => Reply { reset: Some(Code::CANCEL.0), ..Reply::default() },
            _ => Reply {
                status,
                field: self.field,
                content: self.content().concat(),
                trailers: Some(self.field),
                reset: None,
            },
        }
    }
}

/// What arrives is compared but for what a reset leaves of it, which depends on the moment.
fn comparable(reply: Reply) -> Reply {
    if reply.reset.is_some() { Reply { reset: reply.reset, ..Reply::default() } } else { reply }
}

// Our sides.

fn fields(list: &[(&str, &[u8])]) -> Block {
    let mut block = Block::new();
    for (name, value) in list {
        block.push(name.as_bytes(), value).unwrap();
    }
    block
}

/// Echoes what comes.
struct Echo {
    fields: HashMap<StreamId, usize>,
    /// What is not given back to the peer until there is room for it.
    owed: HashMap<StreamId, u32>,
}

impl Owner for Echo {
    fn turn(&mut self, _: &mut Context<'_>, connection: &mut Connection) {
        while let Some(event) = connection.next_event() {
            match event {
                Event::Headers { stream, block, end } => {
                    let field = block.find(b"x-field").map_or(0, <[u8]>::len);
                    match block.get(Known::Path) {
                        Some(b"/reset") => connection.reset(stream, Code::CANCEL),
                        Some(b"/bare") => {
                            let answer = fields(&[(":status", b"200"), ("x-field", &vec![b'x'; field])]);
                            connection.send_headers(stream, &answer, true).unwrap();
                            connection.reset(stream, Code::NO_ERROR);
                        }
                        _ => {
                            let answer = fields(&[(":status", b"200"), ("x-field", &vec![b'x'; field])]);
                            connection.send_headers(stream, &answer, false).unwrap();
                            self.fields.insert(stream, field);
                            if end {
                                self.finish(connection, stream);
                            }
                        }
                    }
                    connection.recycle(block);
                }
                Event::Data { stream, bytes, flow_len, end } => {
                    let Ok(backlog) = connection.send_data(stream, bytes, false) else { continue };
                    if backlog.full {
                        *self.owed.entry(stream).or_default() += flow_len;
                    } else {
                        connection.consumed(stream, flow_len);
                    }
                    if end {
                        self.finish(connection, stream);
                    }
                }
                Event::Trailers { stream, block } => {
                    self.finish(connection, stream);
                    connection.recycle(block);
                }
                Event::Writable { stream } => {
                    connection.consumed(stream, self.owed.remove(&stream).unwrap_or(0));
                }
                _ => {}
            }
        }
    }
}

impl Echo {
    fn finish(&mut self, connection: &mut Connection, stream: StreamId) {
        // It may be one that was reset with what came of it.
        let Some(field) = self.fields.remove(&stream) else { return };
        let trailers = fields(&[("grpc-status", b"0"), ("x-field", &vec![b'x'; field])]);
        connection.send_trailers(stream, &trailers).unwrap();
    }
}

#[derive(Default)]
struct Shared {
    waiting: Vec<(usize, Call)>,
    replies: HashMap<usize, Reply>,
    done: usize,
    leave: bool,
    waker: Option<Waker>,
}

/// Makes calls, and collects what comes back.
struct Caller {
    shared: Arc<Mutex<Shared>>,
    streams: HashMap<StreamId, usize>,
    /// What is still to be sent, the last piece first.
    pieces: HashMap<StreamId, (Vec<Bytes>, bool)>,
}

impl Caller {
    fn send(&mut self, connection: &mut Connection, stream: StreamId) {
        let Some((pieces, trailers)) = self.pieces.get_mut(&stream) else { return };
        while let Some(piece) = pieces.pop() {
            let end = pieces.is_empty() && !*trailers;
            match connection.send_data(stream, piece, end) {
                Ok(backlog) if backlog.full && !pieces.is_empty() => return,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if *trailers {
            let _ = connection.send_trailers(stream, &fields(&[("x-end", b"1")]));
        }
        self.pieces.remove(&stream);
    }
}

impl Owner for Caller {
    fn turn(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        let shared = self.shared.clone();
        let mut shared = shared.lock().unwrap();
        shared.waker = Some(context.waker().clone());
        while let Some(event) = connection.next_event() {
            let finished = match event {
                Event::Headers { stream, block, end } => {
                    let reply = shared.replies.entry(self.streams[&stream]).or_default();
                    reply.status = block.get(Known::Status).unwrap().to_vec();
                    reply.field = block.find(b"x-field").map_or(0, <[u8]>::len);
                    connection.recycle(block);
                    end.then_some(stream)
                }
                Event::Data { stream, bytes, flow_len, end } => {
                    shared.replies.entry(self.streams[&stream]).or_default().content.extend_from_slice(&bytes);
                    connection.consumed(stream, flow_len);
                    end.then_some(stream)
                }
                Event::Trailers { stream, block } => {
                    let field = block.find(b"x-field").map_or(0, <[u8]>::len);
                    shared.replies.entry(self.streams[&stream]).or_default().trailers = Some(field);
                    Some(stream)
                }
                Event::Reset { stream, code } => self.streams.get(&stream).map(|call| {
                    let reply = shared.replies.entry(*call).or_default();
                    if code != Code::NO_ERROR {
                        reply.reset = Some(code.0);
                    }
                    stream
                }),
                Event::Writable { stream } => {
                    self.send(connection, stream);
                    None
                }
                Event::StreamFault { fault, .. } => panic!("{fault}"),
                _ => None,
            };
            if let Some(stream) = finished
                && self.streams.remove(&stream).is_some()
            {
                shared.done += 1;
            }
        }
        while let Some((number, call)) = shared.waiting.pop() {
            let mut request = fields(&[
                (":method", b"POST"),
                (":scheme", b"http"),
                (":path", call.path.as_bytes()),
                (":authority", b"echo"),
                ("te", b"trailers"),
            ]);
            request.push(b"x-field", &vec![b'x'; call.field]).unwrap();
            let bare = call.pieces.is_empty() && !call.trailers;
            let Ok(stream) = connection.open(&request, bare) else {
                shared.waiting.push((number, call));
                break;
            };
            self.streams.insert(stream, number);
            if !bare {
                let mut pieces = call.content();
                pieces.reverse();
                self.pieces.insert(stream, (pieces, call.trailers));
                self.send(connection, stream);
            }
        }
        if shared.leave {
            connection.shutdown();
        }
    }
}

async fn our_server(socket: DuplexStream, limits: Limits) {
    let connection = Connection::server(limits, Instant::now());
    let ended = Driver::new(socket, connection, Echo { fields: HashMap::new(), owed: HashMap::new() }).await;
    if let Ok(waymark_http2::io::Ended::Fault(fault)) = ended {
        panic!("{fault}");
    }
}

async fn our_client(socket: DuplexStream, limits: Limits, calls: &[Call]) -> Vec<Reply> {
    let shared = Arc::new(Mutex::new(Shared::default()));
    shared.lock().unwrap().waiting = calls.iter().cloned().enumerate().collect();
    let caller = Caller { shared: shared.clone(), streams: HashMap::new(), pieces: HashMap::new() };
    let driver = tokio::spawn(Driver::new(socket, Connection::client(limits, Instant::now()), caller));
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut shared = shared.lock().unwrap();
        if shared.done == calls.len() {
            shared.leave = true;
            shared.waker.take().unwrap().wake();
            break;
        }
        assert!(!driver.is_finished(), "the connection ended: {} of {}", shared.done, calls.len());
    }
    driver.await.unwrap().unwrap();
    let mut shared = shared.lock().unwrap();
    (0..calls.len()).map(|call| shared.replies.remove(&call).unwrap_or_default()).collect()
}

// Those of h2.

fn field_of(headers: &HeaderMap) -> usize {
    headers.get("x-field").map_or(0, HeaderValue::len)
}

fn field(length: usize) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-field"), HeaderValue::from_bytes(&vec![b'x'; length]).unwrap())
}

async fn h2_server(socket: DuplexStream, window: u32) {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(window)
        .max_header_list_size(1 << 20)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, mut respond)) = accepted else { return };
        tokio::spawn(async move {
            let length = field_of(request.headers());
            if request.uri().path() == "/reset" {
                respond.send_reset(h2::Reason::CANCEL);
                return;
            }
            let mut response = http::Response::new(());
            response.headers_mut().extend([field(length)]);
            let bare = request.uri().path() == "/bare";
            let mut send = respond.send_response(response, bare).unwrap();
            if bare {
                return;
            }
            let mut body = request.into_body();
            while let Some(Ok(bytes)) = body.data().await {
                body.flow_control().release_capacity(bytes.len()).unwrap();
                send.send_data(bytes, false).unwrap();
            }
            send.send_trailers(HeaderMap::from_iter([field(length)])).unwrap();
        });
    }
}

async fn h2_client(socket: DuplexStream, window: u32, calls: &[Call]) -> Vec<Reply> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .max_header_list_size(1 << 20)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut tasks = JoinSet::new();
    for (number, call) in calls.iter().cloned().enumerate() {
        let client = client.clone();
        tasks.spawn(async move {
            let mut client = client.ready().await.unwrap();
            let mut request = http::Request::post(format!("http://echo{}", call.path)).body(()).unwrap();
            request.headers_mut().extend([field(call.field)]);
            let bare = call.pieces.is_empty() && !call.trailers;
            let (response, mut send) = client.send_request(request, bare).unwrap();
            if !bare {
                let pieces = call.content();
                let last = pieces.len().wrapping_sub(1);
                for (at, piece) in pieces.into_iter().enumerate() {
                    let _ = send.send_data(piece, at == last && !call.trailers);
                }
                if call.trailers {
                    let _ = send.send_trailers(HeaderMap::from_iter([field(1)]));
                }
            }
            let mut reply = Reply::default();
            let mut failed = None;
            match response.await {
                Ok(response) => {
                    reply.status = response.status().as_str().into();
                    reply.field = field_of(response.headers());
                    let mut body = response.into_body();
                    while let Some(data) = body.data().await {
                        match data {
                            Ok(bytes) => {
                                body.flow_control().release_capacity(bytes.len()).unwrap();
                                reply.content.extend_from_slice(&bytes);
                            }
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        }
                    }
                    if failed.is_none() {
                        match body.trailers().await {
                            Ok(trailers) => reply.trailers = trailers.as_ref().map(field_of),
                            Err(error) => failed = Some(error),
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
            if let Some(error) = failed {
                reply.reset = Some(error.reason().unwrap_or_else(|| panic!("{error}")).into());
            }
            (number, reply)
        });
    }
    let mut replies = tasks.join_all().await;
    drop(client);
    connection.await.unwrap().unwrap();
    replies.sort_by_key(|(number, _)| *number);
    replies.into_iter().map(|(_, reply)| reply).collect()
}

// The pairs.

const PAIRS: [&str; 5] = [
    "our client, our server",
    "our client, h2 server",
    "h2 client, our server",
    "h2 client, relay, h2 server",
    "our client, relay, our server",
];

fn check(calls: &[Call], limits: &Limits, h2_window: u32, pipe: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expected: Vec<_> = calls.iter().map(Call::expected).collect();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        for pair in PAIRS {
            let (here, mut there) = tokio::io::duplex(pipe);
            if pair.contains("relay") {
                let relay = relay::Relay::new(limits.clone(), limits.clone());
                tokio::task::spawn_local(relay.inbound(there));
                let (onward, server) = tokio::io::duplex(pipe);
                tokio::task::spawn_local(relay.upstream(onward));
                there = server;
            }
            let server = if pair.ends_with("our server") {
                tokio::spawn(our_server(there, limits.clone()))
            } else {
                tokio::spawn(h2_server(there, h2_window))
            };
            let replies = if pair.starts_with("our client") {
                timeout(Duration::from_secs(20), our_client(here, limits.clone(), calls)).await
            } else {
                timeout(Duration::from_secs(20), h2_client(here, h2_window, calls)).await
            };
            let replies: Vec<_> = replies.expect(pair).into_iter().map(comparable).collect();
            for (at, reply) in replies.iter().enumerate() {
                assert!(
                    *reply == expected[at],
                    "{pair}: {:?}: {:?}, {} bytes",
                    calls[at],
                    Reply { content: Vec::new(), ..reply.clone() },
                    reply.content.len()
                );
            }
            if !pair.contains("relay") {
                timeout(Duration::from_secs(20), server).await.expect(pair).expect(pair);
            }
        }
    });
}

fn call(path: &'static str, pieces: &[usize]) -> Call {
    Call { path, pieces: pieces.to_vec(), field: 10, trailers: false }
}

fn large() -> Limits {
    Limits { header_block: 1 << 20, ..Limits::default() }
}

#[test]
fn unary_calls() {
    check(&vec![call("/echo", &[100]); 300], &large(), 65_535, 4096);
}

#[test]
fn streams_with_trailers() {
    let calls: Vec<_> = (0..20).map(|at| Call { trailers: at % 2 == 0, ..call("/echo", &[at, 0, 10, 1000]) }).collect();
    check(&calls, &large(), 65_535, 100);
}

#[test]
fn large_content_under_flow_control() {
    let calls = vec![call("/echo", &[300_000, 5, 100_000]); 5];
    check(&calls, &large(), 65_535, 64 << 10);
    let small = Limits { stream_window: 1000, connection_window: 65_535, ..large() };
    check(&calls, &small, 1000, 64 << 10);
}

#[test]
fn large_headers_and_trailers() {
    let calls: Vec<_> = (0..6).map(|at| Call { field: at * 15_000, ..call("/echo", &[10]) }).collect();
    check(&calls, &large(), 65_535, 64 << 10);
}

#[test]
fn resets_and_bare_answers_among_others() {
    let calls: Vec<_> = (0..60).map(|at| call(["/echo", "/reset", "/bare"][at % 3], &[at * 100, at * 1000])).collect();
    check(&calls, &large(), 65_535, 64 << 10);
}

#[test]
fn no_content_at_all() {
    check(&[call("/echo", &[]), call("/bare", &[]), call("/reset", &[])], &large(), 65_535, 1000);
}

fn any_call() -> impl Strategy<Value = Call> {
    (
        prop::sample::select(vec!["/echo", "/echo", "/echo", "/reset", "/bare"]),
        prop::collection::vec(prop_oneof![0..50_usize, 0..20_000_usize], 0..6),
        prop_oneof![0..100_usize, 0..30_000_usize],
        any::<bool>(),
    )
        .prop_map(|(path, pieces, field, trailers)| Call { path, pieces, field, trailers })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_calls(
        calls in prop::collection::vec(any_call(), 1..12),
        window in prop_oneof![Just(100_u32), 1000..300_000_u32],
        h2_window in 1000..300_000_u32,
        pipe in 10..100_000_usize,
        huffman: bool,
        table in prop_oneof![Just(0_usize), Just(100), Just(4096), Just(16_384)],
    ) {
        let limits = Limits { stream_window: window, huffman, decoder_table: table, encoder_table: table, ..large() };
        check(&calls, &limits, h2_window, pipe);
    }
}

/// A buffer that nobody has read is used again: no test above would see it.
#[test]
fn what_was_read_is_kept_as_it_is() {
    let mut input = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]);
    let now = Instant::now();
    let mut connection = Connection::server(Limits::default(), now);
    connection.receive(&mut input, now).unwrap();
    let mut block = b"\x83\x86\x84\x41\x01a".to_vec();
    let mut wire = vec![0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1];
    wire.append(&mut block);
    wire.extend(b"\0\0\x05\0\x01\0\0\0\x01hello\0\0\x02\xee\0\0\0\0\0xx\0\0");
    input.extend_from_slice(&wire);
    connection.receive(&mut input, now).unwrap();
    assert_eq!(&input[..], b"\0\0");
    input.extend_from_slice(&vec![0xff; 30_000]);
    let data = std::iter::from_fn(|| connection.next_event())
        .find_map(|event| if let Event::Data { bytes, .. } = event { Some(bytes) } else { None });
    assert_eq!(data.unwrap(), "hello");
}

/// A peer that breaks the rules reads why before the connection ends.
#[test]
fn a_fault_is_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.write_all(&[b'x'; 10_000]).await.unwrap();
        let echo = Echo { fields: HashMap::new(), owed: HashMap::new() };
        let driver = Driver::new(server, Connection::server(Limits::default(), Instant::now()), echo);
        let ended = driver.await.unwrap();
        assert_eq!(ended, waymark_http2::io::Ended::Fault(waymark_http2::Fault::Preface));
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(read.ends_with(b"preface"), "{}", read.escape_ascii());
    });
}
