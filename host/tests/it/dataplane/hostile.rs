//! Clients that mean harm, against a node in a process of its own. Each costs the node a bounded
//! amount of memory, is held back or loses its connection, and costs nobody else a call.
//!
//! The numbers of attacks: rapid reset is CVE-2023-44487, endless CONTINUATION frames
//! CVE-2024-27316, resets that the server is made to send CVE-2025-8671, and the floods those of
//! CVE-2019-9511 to 9518.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use waymark_node::dataplane::{InboundOptions, Options, Routes};

use super::{
    arena::{Arena, NEVER, endless},
    frames::{
        Flood, Frame, NEWEST, PREFACE, Raw, block, call, code, flag, frame, indexed_literal, integer, kind, literal,
        reset, setting, settings, window_update,
    },
    support::{Instance, Node, at, soon, until},
};

const MIB: u64 = 1 << 20;

/// A window as large as there is.
const OPEN: [(u16, u32); 1] = [(setting::INITIAL_WINDOW_SIZE, (1 << 31) - 1)];

/// The `n`th stream of a client.
fn stream(n: usize) -> u32 {
    2 * n as u32 + 1
}

/// The head of a call whose request goes on.
fn open(n: usize, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream(n), &call(path))
}

/// A call that is all said.
fn whole(n: usize, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream(n), &call(path))
}

async fn node(inbound: InboundOptions) -> Node {
    Node::with(Routes::default(), Options { inbound, ..Options::default() }).await
}

#[tokio::test]
async fn a_preface_that_trickles_or_stops_ends_the_connection() {
    let first_bytes_timeout = Duration::from_millis(300);
    let node = node(InboundOptions { first_bytes_timeout, ..InboundOptions::default() }).await;
    for said in [0, 1, 3, 10, PREFACE.len() - 1] {
        let mut raw = Raw::silent(node.address).await;
        raw.write(&PREFACE[..said]).await.unwrap();
        raw.closed().await;
    }
    // One that says another byte ever again does not get more time.
    let mut raw = Raw::silent(node.address).await;
    soon(async {
        for byte in PREFACE[..PREFACE.len() - 1].iter().cycle() {
            if raw.write(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_preface_in_pieces_is_a_preface() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let mut raw = Raw::silent(node.address).await;
    for piece in PREFACE.chunks(5) {
        raw.write(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    raw.write(&[settings(&[]), whole(0, "/test.Echo/Unknown")].concat()).await.unwrap();
    raw.write(&super::frames::goaway(0, code::NO_ERROR, "")).await.unwrap();
    assert_eq!(raw.closed().await.answered, 1);
}

#[tokio::test]
async fn a_client_that_stops_in_a_frame_and_answers_no_ping_is_gone() {
    let (keep_alive_interval, keep_alive_timeout) = (Duration::from_millis(100), Duration::from_millis(100));
    let node = node(InboundOptions { keep_alive_interval, keep_alive_timeout, ..InboundOptions::default() }).await;
    let head = whole(0, NEVER);
    for said in [0, 5, 9, head.len() - 1] {
        let mut raw = Raw::connect(node.address, &[]).await;
        raw.write(&head[..said]).await.unwrap();
        raw.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_cost_little() {
    const CONNECTIONS: usize = 500;
    let arena = Arena::new().await;
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        let mut raw = if n % 2 == 0 { Raw::silent(arena.node).await } else { Raw::connect(arena.node, &[]).await };
        if n % 4 == 0 {
            raw.write(&PREFACE[..5]).await.unwrap();
        }
        connections.push(raw);
    }
    arena.stays_unharmed(CONNECTIONS as u64 * 64 * 1024).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_header_too_large_ends_the_connection() {
    let arena = Arena::new().await;
    let large = [call(NEVER), literal("x-large", &vec![b'x'; 16 << 20])].concat();
    let mut raw = Raw::connect(arena.node, &[]).await;
    let mut pieces = large.chunks(16 << 10);
    let first = frame(kind::HEADERS, 0, 1, pieces.next().unwrap());
    let rest: Vec<_> = pieces.map(|piece| frame(kind::CONTINUATION, 0, 1, piece)).collect();
    raw.flood_with(1 + rest.len(), |n| n.checked_sub(1).map_or(first.clone(), |n| rest[n].clone())).await;
    let seen = raw.closed().await;
    assert_eq!(seen.answered, 0);
    arena.logged("ended a client's connection").await;
    arena.stays_unharmed(8 * MIB).await;
}

/// One byte on the wire becomes 4 KB of header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_bomb_does_not_go_off() {
    let arena = Arena::new().await;
    let bomb = [call(NEVER), indexed_literal("x", &[b'x'; 4000]), vec![NEWEST; 15_000]].concat();
    let mut raw = Raw::connect(arena.node, &[]).await;
    raw.flood(1, &frame(kind::HEADERS, flag::END_HEADERS, 1, &bomb[..16 << 10])).await;
    let seen = raw.closed().await;
    assert_eq!(seen.goaway.unwrap().0, code::ENHANCE_YOUR_CALM);
    arena.logged("ended a client's connection").await;
    arena.stays_unharmed(8 * MIB).await;
}

/// Each stream has as many headers as fit: a byte each on the wire, some hundred in memory. No
/// answer can be read, so none of the streams ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_with_many_small_headers_cost_little() {
    let arena = Arena::new().await;
    let mut raw = Raw::connect(arena.node, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
    let first = [call(NEVER), indexed_literal("x", b"")].concat();
    let head = |n| {
        let start = if n == 0 { first.clone() } else { call(NEVER) };
        frame(kind::HEADERS, flag::END_HEADERS, stream(n), &[start, vec![NEWEST; 1900]].concat())
    };
    assert_eq!(raw.flood_with(1000, head).await, Flood::Taken);
    arena.stays_unharmed(64 * MIB).await;
}

/// As large as headers may be, on as many streams as there may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_with_large_headers_cost_what_they_say() {
    const STREAMS: usize = 500;
    let arena = Arena::new().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    let large = literal("x-large", &[b'x'; 15_000]);
    let head = |n| frame(kind::HEADERS, flag::END_HEADERS, stream(n), &[call(NEVER), large.clone()].concat());
    assert_eq!(raw.flood_with(STREAMS, head).await, Flood::Taken);
    arena.stays_unharmed(64 * MIB).await;
}

/// CVE-2024-27316.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_continuation_ends_the_connection() {
    let arena = Arena::new().await;
    let pieces = [vec![], literal("x", b"y"), integer(0x20, 5, 0)];
    for piece in pieces {
        let mut raw = Raw::connect(arena.node, &[]).await;
        raw.write(&frame(kind::HEADERS, 0, 1, &call(NEVER))).await.unwrap();
        raw.flood(1_000_000, &frame(kind::CONTINUATION, 0, 1, &piece)).await;
        raw.closed().await;
    }
    arena.logged("ended a client's connection").await;
    arena.stays_unharmed(8 * MIB).await;
}

/// CVE-2023-44487, as fast as it goes: what is reset before it was looked at ends the connection,
/// once there are a thousand such calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection() {
    let arena = Arena::new().await;
    for _ in 0..20 {
        let mut raw = Raw::connect(arena.node, &[]).await;
        let pair = |n| [whole(n, NEVER), reset(stream(n), code::CANCEL)].concat();
        raw.flood_with(100_000, pair).await;
        let seen = raw.closed().await;
        if let Some((code, debug)) = seen.goaway {
            assert_eq!((code, &*debug), (code::ENHANCE_YOUR_CALM, "too_many_resets"));
        }
    }
    arena.logged("excessive load").await;
    arena.stays_unharmed(48 * MIB).await;
}

/// What a second without the node's processor does to a client with deadlines: all of these calls
/// are over before the node has looked at one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_while_deadlines_pass_keeps_its_clients_connections() {
    const CALLS: usize = 300;
    let arena = Arena::new().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    raw.write(&whole(0, "/test.Echo/Unknown")).await.unwrap();
    arena
        .standing_still(async {
            raw.write(&(1..=CALLS).flat_map(|n| whole(n, NEVER)).collect::<Vec<_>>()).await.unwrap();
            raw.write(&(1..=CALLS).flat_map(|n| reset(stream(n), code::CANCEL)).collect::<Vec<_>>()).await.unwrap();
        })
        .await;
    raw.write(&[whole(CALLS + 1, "/test.Echo/Unknown"), super::frames::goaway(0, code::NO_ERROR, "")].concat())
        .await
        .unwrap();
    let seen = raw.closed().await;
    assert_eq!((seen.answered, seen.goaway.map_or(0, |(code, _)| code)), (2, code::NO_ERROR));
    arena.stays_unharmed(16 * MIB).await;
}

/// The same at a pace at which the node looks at each call, so that it goes on to the instance.
/// That keeps the connection, and who does it gets no more calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_again_and_again_cost_only_who_does_it() {
    const AT_ONCE: usize = 15;
    let arena = Arena::with_default_limits().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    let refuses = || arena.has_logged("gives up too many");
    let mut sent = 0;
    soon(async {
        while !refuses() {
            let streams = sent..sent + AT_ONCE;
            raw.write(&streams.clone().flat_map(|n| whole(n, NEVER)).collect::<Vec<_>>()).await.unwrap();
            sent += AT_ONCE;
            until(|| arena.n_never() == sent || refuses()).await;
            raw.write(&streams.flat_map(|n| reset(stream(n), code::CANCEL)).collect::<Vec<_>>()).await.unwrap();
        }
    })
    .await;
    raw.write(&[whole(sent, NEVER), super::frames::goaway(0, code::NO_ERROR, "")].concat()).await.unwrap();
    assert!(raw.closed().await.answered > 0);
    // Another connection is another matter.
    let before = arena.n_never();
    let mut other = Raw::connect(arena.node, &[]).await;
    other.write(&whole(0, NEVER)).await.unwrap();
    until(|| arena.n_never() > before).await;
    arena.stays_unharmed(16 * MIB).await;
}

/// A call and its reset that reach an instance together count as such an attack there, against the
/// connection of all clients.
#[tokio::test]
async fn a_call_that_is_given_up_at_once_is_reset_a_moment_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::new().await;
    node.set("svc", vec![at(listener.local_addr().unwrap())]).await;
    let mut raw = Raw::connect(node.address, &[]).await;
    let began = Instant::now();
    raw.write(&whole(0, NEVER)).await.unwrap();
    let (mut instance, _) = soon(listener.accept()).await.unwrap();
    instance.write_all(&settings(&[])).await.unwrap();
    soon(instance.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    let mut next = async |kind: u8| {
        while soon(Frame::read(&mut instance)).await.unwrap().kind != kind {}
    };
    next(kind::HEADERS).await;
    raw.write(&reset(stream(0), code::CANCEL)).await.unwrap();
    next(kind::RST_STREAM).await;
    assert!(began.elapsed() >= Duration::from_millis(50), "the reset came after {:?}", began.elapsed());
}

/// Far more than would be reset before a test is given up. An answer to a call after them shows
/// that the instance has looked at them.
#[tokio::test]
async fn calls_that_are_given_up_are_reset_one_by_one_until_the_instance_answers() {
    // As soon as the instance has them all, and when they are past the time that each has at least.
    for age in [Duration::ZERO, Duration::from_millis(100)] {
        given_up_without_a_sign(age).await;
    }
}

async fn given_up_without_a_sign(age: Duration) {
    const CALLS: usize = 500;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::new().await;
    node.set("svc", vec![at(listener.local_addr().unwrap())]).await;
    let mut raw = Raw::connect(node.address, &[]).await;
    raw.write(&(0..CALLS).flat_map(|n| whole(n, NEVER)).collect::<Vec<_>>()).await.unwrap();
    let (mut instance, _) = soon(listener.accept()).await.unwrap();
    instance.write_all(&settings(&[])).await.unwrap();
    soon(instance.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    let (mut read, mut write) = instance.split();
    // Reads until a frame of this kind, and tells its stream; resets are counted.
    let mut resets = 0;
    let mut next = async |kind: u8| loop {
        let frame = soon(Frame::read(&mut read)).await.unwrap();
        resets += usize::from(frame.kind == kind::RST_STREAM);
        if frame.kind == kind {
            return (frame.stream, resets);
        }
    };
    for _ in 0..CALLS {
        next(kind::HEADERS).await;
    }
    tokio::time::sleep(age).await;
    raw.write(&(0..CALLS).flat_map(|n| reset(stream(n), code::CANCEL)).collect::<Vec<_>>()).await.unwrap();
    // More than are reset at once without a sign.
    while next(kind::RST_STREAM).await.1 < 12 {}
    raw.write(&whole(CALLS, NEVER)).await.unwrap();
    let (last, resets) = next(kind::HEADERS).await;
    assert!(resets < 100, "{resets} were reset without a sign that the instance looked at them");
    let head = block(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]);
    write.write_all(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, last, &head)).await.unwrap();
    while next(kind::RST_STREAM).await.1 < CALLS {}
}

/// CVE-2025-8671: the client breaks a rule on a stream, and the server has to reset it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_the_node_is_made_to_reset_end_the_connection() {
    let arena = Arena::new().await;
    for wrong in [|n| window_update(stream(n), 0), |n| window_update(stream(n), (1 << 31) - 1)] {
        let mut raw = Raw::connect(arena.node, &[]).await;
        raw.flood_with(20_000, |n| [whole(n, NEVER), wrong(n)].concat()).await;
        let seen = raw.closed().await;
        assert!(seen.answered == 0, "{seen:?}");
    }
    arena.logged("ended a client's connection").await;
    arena.stays_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_overflow_end_the_connection() {
    let arena = Arena::new().await;
    for (wrong, expected) in [
        (window_update(0, (1 << 31) - 1), code::FLOW_CONTROL_ERROR),
        (window_update(0, 0), code::PROTOCOL_ERROR),
        (settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]), code::PROTOCOL_ERROR),
    ] {
        let mut raw = Raw::connect(arena.node, &[]).await;
        raw.write(&wrong).await.unwrap();
        let seen = raw.closed().await;
        assert_eq!(seen.goaway.unwrap().0, expected);
    }
    arena.stays_unharmed(8 * MIB).await;
}

/// CVE-2019-9517 and 9511: answers that are asked for and not let out, or by a byte at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_let_out_are_not_piled_up() {
    let arena = Arena::new().await;
    for window in [0, 1] {
        let mut raw = Raw::connect(arena.node, &[(setting::INITIAL_WINDOW_SIZE, window)]).await;
        assert_eq!(raw.flood_with(100, |n| whole(n, &endless(16 << 10))).await, Flood::Taken);
        arena.more_calls(20).await;
        let by_one = |n: usize| window_update(stream(n % 100), 1);
        assert_eq!(raw.flood_with(20_000, by_one).await, Flood::Taken);
        arena.more_calls(20).await;
    }
    arena.stays_unharmed(200 * MIB).await;
}

/// CVE-2019-9515 and 9512, with and without the answers being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_settings_and_pings_are_answered_no_faster_than_they_are_read() {
    let arena = Arena::new().await;
    let shrinking = (0..2).flat_map(|n| settings(&[(setting::INITIAL_WINDOW_SIZE, n)])).collect();
    for flood in [settings(&[]), shrinking, frame(kind::PING, 0, 0, &[7; 8])] {
        let mut reads = Raw::connect(arena.node, &[]).await;
        let mut deaf = Raw::deaf(arena.node, &[]).await;
        let (read, unread) = tokio::join!(reads.flood(200_000, &flood), deaf.flood(2_000_000, &flood));
        assert_eq!((read, unread), (Flood::Taken, Flood::HeldBack));
    }
    arena.stays_unharmed(16 * MIB).await;
}

/// Frames that need no answer cost what reading them costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_what_is_ignored_are_ignored() {
    let arena = Arena::new().await;
    let priority = |n: usize| frame(kind::PRIORITY, 0, stream(n % 100_000), &[0, 0, 0, 0, 16]);
    let unknown = |n: usize| frame(0xfa, n as u8, stream(n % 7), b"nobody knows what this is");
    let empty_settings_ack = |_: usize| frame(kind::PING, flag::ACK, 0, &[9; 8]);
    for flood in [&priority as &(dyn Fn(usize) -> Vec<u8> + Sync), &unknown, &empty_settings_ack] {
        let mut raw = Raw::connect(arena.node, &[]).await;
        assert_eq!(raw.flood_with(200_000, flood).await, Flood::Taken);
    }
    arena.stays_unharmed(16 * MIB).await;
}

/// CVE-2019-9518: frames that carry nothing. A few are passed over; and none of them may reach the
/// connection to the instance, which counts them against everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_frames_end_the_connection_of_whoever_sends_them() {
    let arena = Arena::new().await;
    let empty = frame(kind::DATA, 0, 1, &[]);
    for _ in 0..20 {
        let mut few = Raw::connect(arena.node, &[]).await;
        few.write(&[open(0, NEVER), empty.repeat(90)].concat()).await.unwrap();
        arena.more_calls(5).await;
    }
    let mut many = Raw::connect(arena.node, &[]).await;
    many.write(&open(0, NEVER)).await.unwrap();
    many.flood(200_000, &empty).await;
    let seen = many.closed().await;
    assert!(seen.goaway.is_none_or(|(code, _)| code == code::ENHANCE_YOUR_CALM));
    arena.logged("excessive load").await;
    arena.stays_unharmed(16 * MIB).await;
}

/// An instance on `h2` ends a connection with some thousand small frames on it that nobody has
/// read, and the connection is that of all clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_small_pieces_reach_the_instance_in_large_ones() {
    const STREAMS: usize = 10;
    let arena = Arena::with_default_limits().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    raw.flood_with(STREAMS, |n| open(n, NEVER)).await;
    until(|| arena.n_never() == STREAMS).await;
    let piece = |n| frame(kind::DATA, 0, stream(n % STREAMS), b"x");
    assert_eq!(raw.flood_with(20_000, piece).await, Flood::Taken);
    arena.more_calls(100).await;
    arena.stays_unharmed(32 * MIB).await;
}

/// Data that nobody takes: the windows hold it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_nobody_reads_are_bounded() {
    let arena = Arena::new().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    raw.flood_with(100, |n| open(n, NEVER)).await;
    // As much as all windows let in, and then some.
    let flood = raw.flood_with(4000, |n| frame(kind::DATA, 0, stream(n % 100), &[7; 16 << 10])).await;
    assert_eq!(flood, Flood::Closed, "a client that minds no window is sent away");
    arena.stays_unharmed(64 * MIB).await;
}

/// The answers of an instance that says much in small pieces, to a client that takes none of it, on
/// many streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_that_are_never_read_harm_nobody_else() {
    let arena = Arena::new().await;
    let mut raw = Raw::deaf(arena.node, &[]).await;
    assert_eq!(raw.flood_with(20, |n| whole(n, &endless(1))).await, Flood::Taken);
    // Time for the windows to fill.
    arena.more_calls(50).await;
    arena.stays_unharmed(200 * MIB).await;
}

/// All that may be sent is asked for, and nothing of it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_never_read_are_bounded() {
    let arena = Arena::new().await;
    let mut raw = Raw::deaf(arena.node, &OPEN).await;
    raw.write(&window_update(0, (1 << 31) - 1 - 65_535)).await.unwrap();
    assert_eq!(raw.flood_with(200, |n| whole(n, &endless(16 << 10))).await, Flood::Taken);
    arena.more_calls(200).await;
    arena.stays_unharmed(100 * MIB).await;
}

/// Calls that are begun and never ended. What is over the limit is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_left_are_limited() {
    const STREAMS: usize = 1100;
    let arena = Arena::new().await;
    let mut raw = Raw::connect(arena.node, &[]).await;
    // All at once, and half of them with some of a request.
    let head = |n| [open(n, NEVER), frame(kind::DATA, 0, stream(n), &[0; 5])].concat();
    assert_eq!(raw.flood_with(STREAMS, head).await, Flood::Taken);
    arena.more_calls(100).await;
    // What is refused tells; then the client goes, and its calls with it.
    raw.write(&frame(kind::GOAWAY, 0, 1, &[])).await.unwrap();
    let seen = raw.closed().await;
    assert_eq!(seen.resets.get(&code::REFUSED_STREAM), Some(&(STREAMS - 1000)), "{seen:?}");
    arena.stays_unharmed(64 * MIB).await;
}

/// What is no HTTP/2 ends the connection with the reason.
#[tokio::test]
async fn nonsense_ends_the_connection() {
    let node = Node::new().await;
    let bad_block = [0x80; 20];
    for (what, nonsense) in [
        ("data on an idle stream", frame(kind::DATA, 0, 1, b"x")),
        ("a reset of an idle stream", reset(1, code::CANCEL)),
        ("a window update of an idle stream", window_update(1, 1)),
        ("an even stream", frame(kind::HEADERS, flag::END_HEADERS, 2, &call(NEVER))),
        ("headers on stream 0", frame(kind::HEADERS, flag::END_HEADERS, 0, &call(NEVER))),
        ("CONTINUATION without a beginning", frame(kind::CONTINUATION, flag::END_HEADERS, 1, &call(NEVER))),
        ("headers that are no HPACK", frame(kind::HEADERS, flag::END_HEADERS, 1, &bad_block)),
        ("a frame that is too large", frame(kind::DATA, 0, 1, &vec![0; 1 << 20])),
        ("a short ping", frame(kind::PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(kind::PING, 0, 1, &[0; 8])),
        ("settings of a length that is none", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("a push", frame(5, flag::END_HEADERS, 1, &[0, 0, 0, 2])),
        (
            "a frame between HEADERS and CONTINUATION",
            [frame(kind::HEADERS, 0, 1, &block(&[(":method", "POST")])), frame(kind::PING, 0, 0, &[0; 8])].concat(),
        ),
    ] {
        let mut raw = Raw::connect(node.address, &[]).await;
        let _ = raw.write(&nonsense).await; // It may be closed before all is written.
        let seen = raw.closed().await;
        assert!(seen.goaway.is_none_or(|(code, _)| code != code::NO_ERROR), "{what}");
    }
}
