//! What a peer sends, frame by frame, and what comes of it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{Known, frame::flag, limits::Allowance};

const END: u8 = flag::END_STREAM;
const WHOLE: u8 = flag::END_HEADERS;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head { length: payload.len(), kind, flags, stream }.bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

fn headers(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, payload)
}

/// Literals that are not indexed.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (name, value) in fields {
        wire.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            wire.push(text.len() as u8);
            wire.extend_from_slice(text.as_bytes());
        }
    }
    wire
}

fn call() -> Vec<u8> {
    fields(&[(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), ("te", "trailers")])
}

fn block(fields: &[(&str, &str)]) -> Block {
    let mut block = Block::new();
    for (name, value) in fields {
        block.push(name.as_bytes(), value.as_bytes()).expect("a valid field");
    }
    block
}

fn written(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while connection.prepare() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let count = connection.slices(&mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        connection.written(bytes.len());
        all.extend(bytes);
    }
    all
}

/// The frames that were written: their heads, and payloads.
fn frames(connection: &mut Connection) -> Vec<(Head, Vec<u8>)> {
    let bytes = written(connection);
    let mut rest = bytes.strip_prefix(&PREFACE[..]).unwrap_or(&bytes);
    let mut frames = Vec::new();
    while let Some(head) = Head::read(rest) {
        frames.push((head, rest[HEAD..HEAD + head.length].to_vec()));
        rest = &rest[HEAD + head.length..];
    }
    assert!(rest.is_empty());
    frames
}

fn of_kind(connection: &mut Connection, kind: u8) -> Vec<(Head, Vec<u8>)> {
    frames(connection).into_iter().filter(|(head, _)| head.kind == kind).collect()
}

fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.next_event()).collect()
}

struct Peer {
    connection: Connection,
    input: BytesMut,
    now: Instant,
}

impl Peer {
    fn new(client: bool, limits: Limits) -> Self {
        let now = Instant::now();
        let connection = Connection::new(client, limits, now);
        let mut peer = Self { connection, input: BytesMut::new(), now };
        if !client {
            peer.input.extend_from_slice(PREFACE);
        }
        peer.sends(&frame(kind::SETTINGS, 0, 0, &[])).expect("settings");
        peer.sends(&frame(kind::SETTINGS, flag::ACK, 0, &[])).expect("an acknowledgement");
        written(&mut peer.connection);
        events(&mut peer.connection);
        peer
    }

    fn of_server() -> Self {
        Self::new(false, Limits::default())
    }

    fn of_client() -> Self {
        Self::new(true, Limits::default())
    }

    fn sends(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.input.extend_from_slice(bytes);
        self.connection.receive(&mut self.input, self.now)
    }

    fn events(&mut self) -> Vec<Event> {
        events(&mut self.connection)
    }

    /// What a stream is reset with.
    fn resets(&mut self) -> Vec<(u32, u32)> {
        of_kind(&mut self.connection, kind::RST_STREAM)
            .into_iter()
            .map(|(head, payload)| (head.stream, u32::from_be_bytes(payload.try_into().expect("four bytes"))))
            .collect()
    }

    /// Opens a call on a client's connection.
    fn opened(&mut self) -> StreamId {
        let request = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/a")]);
        self.connection.open(&request, false).expect("room")
    }

    /// The stream of the call that a server's peer sends.
    fn calls(&mut self, number: u32, flags: u8) -> StreamId {
        self.sends(&headers(number, WHOLE | flags, &call())).expect("a call");
        match self.events().pop() {
            Some(Event::Headers { stream, .. }) => stream,
            other => panic!("{other:?}"),
        }
    }
}

fn faults(events: &[Event]) -> Vec<Fault> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::StreamFault { fault, .. } => Some(*fault),
            _ => None,
        })
        .collect()
}

// How it goes when all is well.

#[test]
fn a_call_goes_there_and_back() {
    let mut peer = Peer::of_server();
    let stream = peer.calls(1, 0);
    peer.sends(&data(1, END, b"hello")).expect("data");
    let events = peer.events();
    assert!(
        matches!(&events[..], [Event::Data { bytes, flow_len: 5, end: true, .. }] if &bytes[..] == b"hello"),
        "{events:?}"
    );
    let connection = &mut peer.connection;
    connection.consumed(stream, 5);
    connection.send_headers(stream, &block(&[(":status", "200")]), false).expect("open");
    connection.send_data(stream, Bytes::from_static(b"world"), false).expect("open");
    connection.send_trailers(stream, &block(&[("grpc-status", "0")])).expect("open");
    assert_eq!(connection.send_data(stream, Bytes::new(), true), Err(NotOpen));
    let frames = frames(connection);
    let kinds: Vec<_> = frames.iter().map(|(head, _)| (head.kind, head.flags, head.stream)).collect();
    assert_eq!(kinds, [(kind::HEADERS, WHOLE, 1), (kind::DATA, 0, 1), (kind::HEADERS, WHOLE | END, 1)]);
    assert_eq!(connection.open_streams(), 0);
    assert!(connection.streams.is_empty());
}

#[test]
fn a_client_sees_early_responses_headers_data_and_trailers() {
    let mut peer = Peer::of_client();
    let stream = peer.opened();
    peer.connection.send_data(stream, Bytes::new(), true).expect("open");
    for wire in [
        headers(1, WHOLE, &fields(&[(":status", "100")])),
        headers(1, WHOLE, &fields(&[(":status", "103"), ("link", "x")])),
        headers(1, WHOLE, &fields(&[(":status", "200")])),
        data(1, 0, b"a"),
        headers(1, WHOLE | END, &fields(&[("grpc-status", "0")])),
    ] {
        peer.sends(&wire).expect("a frame");
    }
    let events = peer.events();
    assert!(
        matches!(
            &events[..],
            [
                Event::Informational { .. },
                Event::Informational { .. },
                Event::Headers { end: false, .. },
                Event::Data { end: false, .. },
                Event::Trailers { .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(peer.connection.open_streams(), 0);
    // Its data is not consumed yet.
    assert!(!peer.connection.streams.is_empty());
    peer.connection.consumed(stream, 1);
    assert!(peer.connection.streams.is_empty());
}

#[test]
fn authority_is_bytes() {
    let mut peer = Peer::of_server();
    let mut wire = call();
    wire.extend_from_slice(b"\x00\x0a:authority\x07a%2F\xff\x01b");
    // Pseudo-header fields come first.
    wire.rotate_right(b"\x00\x0a:authority\x07a%2F\xff\x01b".len());
    peer.sends(&headers(1, WHOLE, &wire)).expect("a call");
    let events = peer.events();
    let [Event::Headers { block, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(block.get(Known::Authority), Some(&b"a%2F\xff\x01b"[..]));
}

#[test]
fn padding_priority_and_unknown_frames_are_passed_over() {
    let mut peer = Peer::of_server();
    let mut payload = vec![3, 0x80, 0, 0, 1, 255];
    payload.extend(call());
    payload.extend([0; 3]);
    // A stream that depends on itself, too.
    peer.sends(&headers(1, WHOLE | flag::PADDED | flag::PRIORITY, &payload)).expect("a call");
    peer.sends(&frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 3, 1])).expect("a priority");
    peer.sends(&frame(0xfa, 0xff, 77, b"what")).expect("an unknown frame");
    peer.sends(&data(1, flag::PADDED, b"\x02ab\0\0")).expect("data");
    peer.sends(&data(1, flag::PADDED, b"\x02\0\0")).expect("only padding");
    let events = peer.events();
    assert!(
        matches!(&events[..], [Event::Headers { .. }, Event::Data { bytes, flow_len: 5, .. }] if &bytes[..] == b"ab"),
        "{events:?}"
    );
}

#[test]
fn a_block_in_many_frames_is_one() {
    let mut peer = Peer::of_server();
    let wire = call();
    let (first, rest) = wire.split_at(5);
    peer.sends(&headers(1, END, first)).expect("a fragment");
    for (at, byte) in rest.iter().enumerate() {
        let flags = if at + 1 == rest.len() { WHOLE } else { 0 };
        peer.sends(&frame(kind::CONTINUATION, flags, 1, &[*byte])).expect("a fragment");
    }
    let events = peer.events();
    assert!(matches!(&events[..], [Event::Headers { block, end: true, .. }] if block.len() == 4), "{events:?}");
}

#[test]
fn our_large_blocks_go_in_many_frames() {
    let mut peer = Peer::of_client();
    let mut request = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/a")]);
    request.push(b"x-large", &vec![b'x'; 40_000]).expect("a valid field");
    peer.connection.open(&request, true).expect("room");
    let bytes = written(&mut peer.connection);
    let mut server = Peer::of_server();
    server.sends(&bytes).expect("a call");
    let events = server.events();
    assert!(matches!(&events[..], [Event::Headers { block, end: true, .. }] if *block == request), "{events:?}");
}

// Flow control.

#[test]
fn data_waits_for_both_windows_and_streams_take_turns() {
    let mut peer = Peer::of_client();
    let (first, second) = (peer.opened(), peer.opened());
    written(&mut peer.connection);
    for stream in [first, second] {
        let backlog = peer.connection.send_data(stream, Bytes::from(vec![1; 100_000]), true).expect("open");
        assert!(backlog.full && backlog.stream == 100_000);
    }
    let sent = of_kind(&mut peer.connection, kind::DATA);
    let order: Vec<_> = sent.iter().map(|(head, _)| (head.stream, head.length)).collect();
    assert_eq!(order, [(1, 16_384), (3, 16_384), (1, 16_384), (3, 16_383)]);
    // The connection's window alone is no use to a stream without one.
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 0, &200_000_u32.to_be_bytes())).expect("an update");
    let sent = of_kind(&mut peer.connection, kind::DATA);
    assert_eq!(sent.iter().map(|(head, _)| head.length).sum::<usize>(), 2 * 65_535 - 65_535);
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 3, &200_000_u32.to_be_bytes())).expect("an update");
    let sent = of_kind(&mut peer.connection, kind::DATA);
    assert_eq!(sent.iter().map(|(head, _)| head.length).sum::<usize>(), 100_000 - 65_535);
    assert!(sent.last().is_some_and(|(head, _)| head.has(END)));
    let events = peer.events();
    assert_eq!(events, [Event::Writable { stream: second }]);
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &2000_u32.to_be_bytes())).expect("an update");
    assert_eq!(of_kind(&mut peer.connection, kind::DATA).len(), 1);
    assert_eq!(peer.events(), [Event::Writable { stream: first }]);
}

#[test]
fn who_is_told_to_wait_is_told_to_go_on() {
    let mut peer = Peer::new(true, Limits { connection_backlog: 1000, ..Limits::default() });
    let (first, second, third) = (peer.opened(), peer.opened(), peer.opened());
    peer.connection.send_data(first, Bytes::from(vec![0; 100_000]), false).expect("open");
    written(&mut peer.connection);
    peer.events();
    // The connection's window is used up, for all of them.
    let backlog = peer.connection.send_data(second, Bytes::from_static(b"x"), false).expect("open");
    assert!(backlog.full);
    let backlog = peer.connection.send_data(third, Bytes::new(), false).expect("open");
    assert!(!backlog.full, "nothing waits that could be sent");
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).expect("an update");
    written(&mut peer.connection);
    assert_eq!(peer.events(), [Event::Writable { stream: second }]);
}

#[test]
fn trailers_wait_for_the_data_before_them() {
    let mut peer = Peer::of_server();
    let stream = peer.calls(1, END);
    peer.connection.send_headers(stream, &block(&[(":status", "200")]), false).expect("open");
    peer.connection.send_data(stream, Bytes::from(vec![0; 70_000]), false).expect("open");
    peer.connection.send_trailers(stream, &block(&[("grpc-status", "0")])).expect("open");
    assert!(!frames(&mut peer.connection).iter().any(|(head, _)| head.has(END)));
    let more = 100_000_u32.to_be_bytes();
    peer.sends(&[frame(kind::WINDOW_UPDATE, 0, 0, &more), frame(kind::WINDOW_UPDATE, 0, 1, &more)].concat())
        .expect("updates");
    let last = frames(&mut peer.connection).pop().expect("a frame");
    assert_eq!((last.0.kind, last.0.flags), (kind::HEADERS, WHOLE | END));
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn a_smaller_initial_window_can_be_negative() {
    let mut peer = Peer::of_client();
    let stream = peer.opened();
    peer.connection.send_data(stream, Bytes::from(vec![0; 60_000]), false).expect("open");
    written(&mut peer.connection);
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100])).expect("settings");
    peer.connection.send_data(stream, Bytes::from_static(b"x"), true).expect("open");
    assert!(of_kind(&mut peer.connection, kind::DATA).is_empty());
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &59_900_u32.to_be_bytes())).expect("an update");
    assert!(of_kind(&mut peer.connection, kind::DATA).is_empty());
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())).expect("an update");
    assert_eq!(of_kind(&mut peer.connection, kind::DATA).len(), 1);
}

#[test]
fn a_larger_initial_window_lets_streams_go_on() {
    let mut peer = Peer::of_client();
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).expect("settings");
    let stream = peer.opened();
    peer.connection.send_data(stream, Bytes::from_static(b"abc"), true).expect("open");
    assert!(of_kind(&mut peer.connection, kind::DATA).is_empty());
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 2])).expect("settings");
    assert_eq!(of_kind(&mut peer.connection, kind::DATA)[0].1, b"ab");
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 3])).expect("settings");
    let sent = of_kind(&mut peer.connection, kind::DATA);
    assert!(sent[0].1 == b"c" && sent[0].0.has(END));
}

#[test]
fn windows_are_bounded() {
    let mut peer = Peer::of_client();
    peer.opened();
    let most = flow::MOST.to_be_bytes();
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &most)).expect("a stream's fault");
    assert_eq!(faults(&peer.events()), [Fault::StreamWindowOverflow]);
    assert_eq!(peer.resets(), [(1, 3)]);
    peer.opened();
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 3, &[0; 4])).expect("a stream's fault");
    assert_eq!(faults(&peer.events()), [Fault::StreamWindowZero]);
    assert_eq!(peer.sends(&frame(kind::WINDOW_UPDATE, 0, 0, &most)), Err(Fault::ConnectionWindowOverflow));
    assert_eq!(Peer::of_client().sends(&frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])), Err(Fault::ConnectionWindowZero));
    let mut peer = Peer::of_client();
    peer.opened();
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &(flow::MOST - flow::INITIAL).to_be_bytes())).expect("it fits");
    assert_eq!(peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])), Err(Fault::SettingWindow));
}

#[test]
fn a_peer_keeps_to_our_windows() {
    let limits = Limits { stream_window: 20_000, connection_window: 70_000, ..Limits::default() };
    let mut peer = Peer::new(false, limits);
    let chunk = vec![0; 10_000];
    let stream = peer.calls(1, 0);
    peer.sends(&data(1, 0, &chunk)).expect("room");
    peer.sends(&data(1, 0, &chunk)).expect("room");
    peer.connection.consumed(stream, 10_000);
    let updates = of_kind(&mut peer.connection, kind::WINDOW_UPDATE);
    assert_eq!(updates.len(), 1);
    assert_eq!((updates[0].0.stream, &updates[0].1[..]), (1, &10_000_u32.to_be_bytes()[..]));
    peer.sends(&data(1, 0, &chunk)).expect("room");
    peer.sends(&data(1, 0, b"x")).expect("a stream's fault");
    assert_eq!(faults(&peer.events()), [Fault::StreamWindow]);
    // What it held is given back: the connection's window is whole again but for what is batched.
    let mut all = 0;
    for number in (3..).step_by(2) {
        peer.sends(&headers(number, WHOLE, &call())).expect("a call");
        for _ in 0..2 {
            if peer.sends(&data(number, 0, &chunk)) == Err(Fault::ConnectionWindow) {
                assert!((3..=7).contains(&all), "{all}");
                return;
            }
            all += 1;
        }
    }
}

#[test]
fn before_it_knows_our_settings_a_peer_has_the_initial_window() {
    let now = Instant::now();
    let mut connection = Connection::server(Limits { stream_window: 100, ..Limits::default() }, now);
    let mut input = BytesMut::from(&PREFACE[..]);
    input.extend_from_slice(&frame(kind::SETTINGS, 0, 0, &[]));
    input.extend_from_slice(&headers(1, WHOLE, &call()));
    input.extend_from_slice(&data(1, 0, &[0; 1000]));
    input.extend_from_slice(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
    connection.receive(&mut input, now).expect("room");
    input.extend_from_slice(&data(1, 0, &[0; 1]));
    connection.receive(&mut input, now).expect("a stream's fault");
    assert_eq!(faults(&events(&mut connection)), [Fault::StreamWindow]);
}

#[test]
fn a_reset_takes_back_what_is_not_sent() {
    let mut peer = Peer::of_client();
    let stream = peer.opened();
    peer.connection.send_data(stream, Bytes::from(vec![0; 1_000_000]), false).expect("open");
    written(&mut peer.connection);
    peer.connection.reset(stream, Code::CANCEL);
    assert_eq!(peer.resets(), [(1, 8)]);
    assert_eq!((peer.connection.backlog, peer.connection.open_streams()), (0, 0));
    // What the peer sent before it knew is no fault, and is counted.
    peer.sends(&headers(1, WHOLE, &fields(&[(":status", "200")]))).expect("late");
    peer.sends(&data(1, END, b"late")).expect("late");
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).expect("late");
    peer.sends(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])).expect("late");
    assert!(peer.events().is_empty());
    peer.connection.reset(stream, Code::CANCEL);
    assert!(peer.resets().is_empty());
}

#[test]
fn the_rest_of_a_request_can_be_given_up() {
    let mut peer = Peer::of_server();
    let stream = peer.calls(1, 0);
    peer.sends(&data(1, 0, b"not wanted")).expect("data");
    peer.events();
    peer.connection.discard(stream);
    peer.sends(&data(1, 0, b"nor this")).expect("data");
    assert!(peer.events().is_empty());
    peer.connection.send_headers(stream, &block(&[(":status", "200")]), false).expect("open");
    peer.connection.send_data(stream, Bytes::from(vec![0; 70_000]), true).expect("open");
    assert!(peer.resets().is_empty());
    let more = 100_000_u32.to_be_bytes();
    peer.sends(&[frame(kind::WINDOW_UPDATE, 0, 0, &more), frame(kind::WINDOW_UPDATE, 0, 1, &more)].concat())
        .expect("updates");
    assert_eq!(peer.resets(), [(1, 0)]);
    let stream = peer.calls(3, 0);
    peer.connection.send_headers(stream, &block(&[(":status", "200")]), true).expect("open");
    peer.connection.discard(stream);
    assert_eq!(peer.resets(), [(3, 0)]);
}

// What a peer must not do.

#[test]
fn a_connection_begins_as_it_must() {
    let now = Instant::now();
    let mut connection = Connection::server(Limits::default(), now);
    assert_eq!(connection.receive(&mut BytesMut::from(&b"GET / HT"[..]), now), Err(Fault::Preface));
    let mut connection = Connection::server(Limits::default(), now);
    let mut input = BytesMut::from(&PREFACE[..]);
    input.extend_from_slice(&frame(kind::PING, 0, 0, &[0; 8]));
    assert_eq!(connection.receive(&mut input, now), Err(Fault::FirstFrame));
    assert_eq!(connection.receive(&mut input, now), Err(Fault::FirstFrame));
    let goaway = of_kind(&mut connection, kind::GOAWAY);
    assert_eq!(&goaway[0].1, b"\0\0\0\0\0\0\0\x01first_frame");
}

#[test]
fn what_ends_the_connection() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    for (wire, fault) in [
        (frame(kind::DATA, 0, 1, &vec![0; 16_385]), Fault::FrameTooLarge),
        (data(0, 0, b"x"), Fault::WrongStream),
        (data(1, 0, b"x"), Fault::IdleStream),
        (data(2, 0, b"x"), Fault::IdleStream),
        (data(1, flag::PADDED, b"\x01"), Fault::Padding),
        (headers(0, WHOLE, &call()), Fault::WrongStream),
        (headers(2, WHOLE, &call()), Fault::StreamNumber),
        (headers(1, WHOLE, &[0x80]), Fault::Compression),
        ([headers(1, 0, &call()), ping.clone()].concat(), Fault::Interrupted),
        ([headers(1, 0, &call()), frame(kind::CONTINUATION, WHOLE, 3, &[])].concat(), Fault::Interrupted),
        (frame(kind::CONTINUATION, WHOLE, 1, &[]), Fault::StrayContinuation),
        (frame(kind::RST_STREAM, 0, 1, &[0; 4]), Fault::IdleStream),
        (frame(kind::RST_STREAM, 0, 0, &[0; 4]), Fault::WrongStream),
        (frame(kind::RST_STREAM, 0, 1, &[0; 5]), Fault::FrameLength),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Fault::IdleStream),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), Fault::FrameLength),
        (frame(kind::SETTINGS, 0, 1, &[]), Fault::WrongStream),
        (frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Fault::FrameLength),
        (frame(kind::PING, 0, 1, &[0; 8]), Fault::WrongStream),
        (frame(kind::PING, 0, 0, &[0; 7]), Fault::FrameLength),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), Fault::FrameLength),
        (frame(kind::PRIORITY, 0, 0, &[0; 5]), Fault::WrongStream),
        (frame(kind::PUSH_PROMISE, 0, 1, &[0; 8]), Fault::Push),
    ] {
        let mut peer = Peer::of_server();
        assert_eq!(peer.sends(&wire), Err(fault));
        assert_eq!(fault.ends(), crate::Ends::Connection);
        let goaway = of_kind(&mut peer.connection, kind::GOAWAY);
        assert_eq!(goaway[0].1[4..8], fault.code().0.to_be_bytes());
    }
    assert_eq!(Peer::of_client().sends(&headers(1, WHOLE, &fields(&[(":status", "200")]))), Err(Fault::StreamNumber));
    let goaway = |last: u8| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    assert_eq!(Peer::of_client().sends(&[goaway(1), goaway(3)].concat()), Err(Fault::GoAwayGrew));
}

#[test]
fn what_ends_a_stream_of_a_server() {
    let request = |more: &[(&str, &str)]| {
        let mut wire = call();
        wire.extend(fields(more));
        wire
    };
    for (wire, fault) in [
        (headers(1, WHOLE, &request(&[("Te", "x")])), Fault::HeaderName),
        (headers(1, WHOLE, &request(&[("a", "x\n")])), Fault::HeaderValue),
        (headers(1, WHOLE, &request(&[("a", " x")])), Fault::HeaderValue),
        (headers(1, WHOLE, &request(&[(":authority", "x")])), Fault::PseudoHeader),
        (headers(1, WHOLE, &fields(&[(":method", "GET")])), Fault::PseudoHeader),
        (headers(1, WHOLE, &request(&[("connection", "close")])), Fault::ConnectionHeader),
        (headers(1, WHOLE, &request(&[("content-length", "x")])), Fault::ContentLength),
        (headers(1, WHOLE | END, &request(&[("content-length", "1")])), Fault::ContentLength),
        ([headers(1, WHOLE, &request(&[("content-length", "1")])), data(1, 0, b"ab")].concat(), Fault::ContentLength),
        ([headers(1, WHOLE, &request(&[("content-length", "3")])), data(1, END, b"ab")].concat(), Fault::ContentLength),
        ([headers(1, WHOLE, &call()), headers(1, WHOLE, &fields(&[("a", "b")]))].concat(), Fault::TrailersOpen),
        (
            [headers(1, WHOLE, &call()), headers(1, WHOLE | END, &fields(&[(":path", "/")]))].concat(),
            Fault::PseudoHeader,
        ),
        ([headers(1, WHOLE | END, &call()), data(1, END, b"x")].concat(), Fault::AfterEnd),
        ([headers(1, WHOLE | END, &call()), headers(1, WHOLE | END, &fields(&[("a", "b")]))].concat(), Fault::AfterEnd),
    ] {
        let mut peer = Peer::of_server();
        peer.sends(&wire).expect("only a stream's fault");
        assert_eq!(faults(&peer.events()), [fault]);
        assert_eq!(peer.resets(), [(1, fault.code().0)]);
        assert_eq!(peer.connection.open_streams(), 0);
        // The connection goes on.
        peer.calls(3, END);
    }
}

#[test]
fn what_ends_a_stream_of_a_client() {
    let status = |value| fields(&[(":status", value)]);
    for (wire, fault) in [
        (data(1, 0, b"x"), Fault::NoHeaders),
        (headers(1, WHOLE, &fields(&[("a", "b")])), Fault::PseudoHeader),
        (headers(1, WHOLE, &status("20")), Fault::Status),
        (headers(1, WHOLE, &status("101")), Fault::Status),
        (headers(1, WHOLE | END, &status("100")), Fault::NoHeaders),
        ([headers(1, WHOLE, &status("100")), data(1, 0, b"x")].concat(), Fault::NoHeaders),
        ([headers(1, WHOLE, &status("200")), headers(1, WHOLE, &status("200"))].concat(), Fault::TrailersOpen),
        ([headers(1, WHOLE | END, &status("200")), data(1, END, b"")].concat(), Fault::AfterEnd),
    ] {
        let mut peer = Peer::of_client();
        peer.opened();
        peer.sends(&wire).expect("only a stream's fault");
        assert_eq!(faults(&peer.events()), [fault]);
        assert_eq!(peer.resets(), [(1, fault.code().0)]);
    }
}

#[test]
fn a_response_without_content_may_tell_a_length() {
    let mut peer = Peer::of_client();
    let head = block(&[(":method", "HEAD"), (":scheme", "http"), (":path", "/")]);
    peer.connection.open(&head, true).expect("room");
    peer.sends(&headers(1, WHOLE | END, &fields(&[(":status", "200"), ("content-length", "10")]))).expect("whole");
    assert!(matches!(&peer.events()[..], [Event::Headers { end: true, .. }]));
}

#[test]
fn frames_on_a_closed_stream_end_the_connection() {
    for wire in [headers(1, WHOLE | END, &call()), data(1, END, b"x")] {
        let mut peer = Peer::of_server();
        let stream = peer.calls(1, END);
        peer.connection.send_headers(stream, &block(&[(":status", "200")]), true).expect("open");
        peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).expect("late, but no fault");
        peer.sends(&frame(kind::RST_STREAM, 0, 1, &[0; 4])).expect("late, but no fault");
        assert_eq!(peer.sends(&wire), Err(Fault::ClosedStream));
    }
}

#[test]
fn a_stream_too_long_gone_is_reset_again() {
    let mut peer = Peer::of_server();
    let stream = peer.calls(1, 0);
    peer.connection.reset(stream, Code::CANCEL);
    peer.calls(100_001, END);
    peer.resets();
    peer.sends(&headers(1, WHOLE | END, &fields(&[("a", "b")]))).expect("no fault of the connection");
    assert_eq!(peer.resets(), [(1, Code::STREAM_CLOSED.0)]);
}

// What is bounded.

#[test]
fn a_block_too_large_ends_only_its_stream() {
    let limits = Limits { header_block: 300, ..Limits::default() };
    let mut peer = Peer::new(false, limits.clone());
    // It fills the table all the same.
    let mut wire = call();
    wire.extend_from_slice(b"\x40\x07x-large\x7f\x49");
    wire.extend([b'x'; 200]);
    wire.extend_from_slice(b"\x40\x01a\x01b");
    peer.sends(&headers(1, WHOLE, &wire)).expect("only a stream");
    let events = peer.events();
    let [Event::HeadersTooLarge { stream, limit: "header_block" }] = events[..] else { panic!("{events:?}") };
    // What comes for it is dropped and given back, until it is answered.
    peer.sends(&data(1, 0, b"dropped")).expect("dropped");
    assert!(peer.events().is_empty());
    peer.connection.send_headers(stream, &block(&[(":status", "431")]), true).expect("it can be answered");
    let kinds: Vec<_> = frames(&mut peer.connection).iter().map(|(head, _)| head.kind).collect();
    assert_eq!(kinds, [kind::HEADERS, kind::RST_STREAM]);
    let mut wire = call();
    wire.push(0xbe);
    peer.sends(&headers(3, WHOLE | END, &wire)).expect("a call");
    let events = peer.events();
    assert!(matches!(&events[..], [Event::Headers { block, .. }] if block.find(b"a") == Some(b"b")), "{events:?}");

    let mut peer = Peer::new(true, limits);
    let stream = peer.opened();
    peer.sends(&headers(1, WHOLE, &fields(&[(":status", "200")]))).expect("a response");
    let trailers: Vec<_> = (0..10).map(|_| ("grpc-message", "x")).collect();
    peer.sends(&headers(1, WHOLE | END, &fields(&trailers))).expect("only a stream");
    assert_eq!(peer.events()[1..], [Event::HeadersTooLarge { stream, limit: "header_block" }]);
    assert_eq!(peer.resets(), [(1, 8)]);
}

#[test]
fn large_trailers_are_no_fault() {
    let mut peer = Peer::new(true, Limits { header_block: 1 << 20, ..Limits::default() });
    peer.opened();
    peer.sends(&headers(1, WHOLE, &fields(&[(":status", "200")]))).expect("a response");
    let mut wire = b"\x00\x0cgrpc-message\x7f\x81\xe9\x0b".to_vec();
    wire.extend(vec![b'x'; 127 + 0x81 - 0x80 + (0x69 << 7) + (0x0b << 14)]);
    let (first, rest) = wire.split_at(16_384);
    peer.sends(&headers(1, END, first)).expect("a fragment");
    let count = rest.len().div_ceil(16_384);
    for (at, fragment) in rest.chunks(16_384).enumerate() {
        let flags = if at + 1 == count { WHOLE } else { 0 };
        peer.sends(&frame(kind::CONTINUATION, flags, 1, fragment)).expect("a fragment");
    }
    let events = peer.events();
    assert!(matches!(&events[1..], [Event::Trailers { block, .. }] if block.size() > 190_000), "{}", events.len());
}

#[test]
fn a_flood_of_continuations_ends() {
    let mut peer = Peer::of_server();
    peer.sends(&headers(1, 0, &call())).expect("a fragment");
    let empty = frame(kind::CONTINUATION, 0, 1, &[]);
    for _ in 0..128 {
        peer.sends(&empty).expect("as many are allowed");
    }
    assert_eq!(peer.sends(&empty), Err(Fault::Continuations));

    let mut peer = Peer::of_server();
    peer.sends(&headers(1, 0, &call())).expect("a fragment");
    let full = frame(kind::CONTINUATION, 0, 1, &[0; 16_384]);
    let frames = (0..10_000).take_while(|_| peer.sends(&full).is_ok()).count();
    assert_eq!((frames, peer.connection.failed()), (63, Some(Fault::HeaderBlockWire)));
}

#[test]
fn a_bomb_of_indexes_costs_no_more_than_the_limit() {
    let mut peer = Peer::of_server();
    let mut wire = call();
    wire.extend_from_slice(b"\x40\x01a\x7f\xa1\x1e");
    wire.extend([b'x'; 127 + 0x21 + (0x1e << 7)]);
    peer.sends(&headers(1, WHOLE | END, &wire)).expect("a call");
    peer.events();
    let mut bomb = call();
    bomb.extend(vec![0xbe; 16_000]);
    peer.sends(&headers(3, WHOLE | END, &bomb)).expect("only a stream");
    assert!(matches!(&peer.events()[..], [Event::HeadersTooLarge { .. }]));
}

#[test]
fn rapid_resets_end_and_those_of_honest_clients_do_not() {
    let limits = Limits { resets: Allowance { burst: 100, per_second: 10 }, ..Limits::default() };
    let mut peer = Peer::new(false, limits.clone());
    let mut number = 1;
    let mut calls = 0;
    loop {
        peer.sends(&headers(number, WHOLE, &call())).expect("a call");
        if peer.sends(&frame(kind::RST_STREAM, 0, number, &[0, 0, 0, 8])).is_err() {
            break;
        }
        number += 2;
        calls += 1;
        peer.events();
    }
    assert_eq!((calls, peer.connection.failed()), (100, Some(Fault::Resets)));

    // Half of its calls are hedges that lose.
    let mut peer = Peer::new(false, limits.clone());
    for number in (1..4000).step_by(4) {
        let stream = peer.calls(number, END);
        peer.connection.send_headers(stream, &block(&[(":status", "200")]), true).expect("open");
        peer.calls(number + 2, END);
        peer.sends(&frame(kind::RST_STREAM, 0, number + 2, &[0, 0, 0, 8])).expect("paid for");
        peer.events();
    }
    // And with time they come back.
    let mut peer = Peer::new(false, limits);
    for number in (1..1000).step_by(2) {
        peer.calls(number, END);
        peer.now += Duration::from_millis(100);
        peer.sends(&frame(kind::RST_STREAM, 0, number, &[0, 0, 0, 8])).expect("paid for");
    }
}

#[test]
fn to_make_us_reset_costs_as_much() {
    for provoke in [
        |number| frame(kind::WINDOW_UPDATE, 0, number, &[0; 4]),
        |number| frame(kind::WINDOW_UPDATE, 0, number, &flow::MOST.to_be_bytes()),
        |number| data(number, END, b"after the end"),
        |number| headers(number, WHOLE | END, &[]),
    ] {
        let limits = Limits { resets: Allowance { burst: 100, per_second: 10 }, ..Limits::default() };
        let mut peer = Peer::new(false, limits);
        let mut number = 1;
        while peer.sends(&headers(number, WHOLE | END, &call())).is_ok() {
            if peer.sends(&provoke(number)).is_err() {
                break;
            }
            number += 2;
        }
        assert_eq!((number, peer.connection.failed()), (201, Some(Fault::Resets)));
    }
}

#[test]
fn floods_of_frames_that_do_nothing_end() {
    let limits = Limits { idle_frames: Allowance { burst: 500, per_second: 10 }, ..Limits::default() };
    for flood in [
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::PING, flag::ACK, 0, &[0; 8]),
        frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        frame(kind::PRIORITY, 0, 5, &[0; 5]),
        frame(0xee, 0, 0, &[]),
        data(1, 0, b""),
        data(1, flag::PADDED, b"\x01\0"),
    ] {
        let mut peer = Peer::new(false, limits.clone());
        peer.calls(1, 0);
        let mut count = 0;
        while peer.sends(&flood).is_ok() {
            written(&mut peer.connection);
            count += 1;
        }
        assert!((240..=500).contains(&count), "{count}");
        assert_eq!(peer.connection.failed(), Some(Fault::IdleFrames));
    }
    // Frames with a byte each are a stream like any other.
    let mut peer = Peer::new(false, limits);
    let stream = peer.calls(1, 0);
    for _ in 0..100_000 {
        peer.sends(&data(1, 0, b"x")).expect("data");
        peer.events();
        peer.connection.consumed(stream, 1);
        written(&mut peer.connection);
    }
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let mut peer = Peer::of_server();
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let count = (0..10_000).take_while(|_| peer.sends(&ping).is_ok()).count();
    assert_eq!((count, peer.connection.failed()), (1000, Some(Fault::PendingAcks)));
    let mut peer = Peer::new(false, Limits { unwritten: 10_000, ..Limits::default() });
    for number in (1..).step_by(2) {
        peer.sends(&headers(number, WHOLE | END, &call())).expect("a call");
        match peer.events().pop() {
            Some(Event::Headers { stream, .. }) => {
                let mut answer = block(&[(":status", "200")]);
                answer.push(b"x", &[b'x'; 2000]).expect("a valid field");
                peer.connection.send_headers(stream, &answer, true).expect("open");
            }
            Some(Event::Refused { limit: "unwritten", .. }) => break,
            other => panic!("{other:?}"),
        }
        assert!(number < 13);
    }
}

#[test]
fn answers_are_no_longer_pending_though_something_always_is() {
    let mut peer = Peer::of_server();
    let stream = peer.calls(1, END);
    peer.connection.send_headers(stream, &block(&[(":status", "200")]), false).expect("open");
    for _ in 0..10_000 {
        peer.sends(&frame(kind::PING, 0, 0, &[0; 8])).expect("a ping");
        peer.now += Duration::from_millis(10);
        // All but the last bytes of it are written.
        let ready = peer.connection.prepared();
        peer.connection.written(ready.saturating_sub(5));
    }
}

#[test]
fn too_many_streams_are_refused_and_no_fault() {
    let mut peer = Peer::new(false, Limits { streams: 2, ..Limits::default() });
    let first = peer.calls(1, END);
    peer.calls(3, END);
    peer.sends(&headers(5, WHOLE, &call())).expect("only a stream");
    let events = peer.events();
    assert!(matches!(&events[..], [Event::Refused { stream, limit: "streams" }] if stream.number() == 5), "{events:?}");
    assert_eq!(peer.resets(), [(5, Code::REFUSED_STREAM.0)]);
    peer.sends(&data(5, END, b"on its way")).expect("late, but no fault");
    peer.connection.send_headers(first, &block(&[(":status", "200")]), true).expect("open");
    peer.calls(7, END);
}

#[test]
fn a_client_keeps_to_the_peers_limit() {
    let mut peer = Peer::of_client();
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])).expect("settings");
    let stream = peer.opened();
    let request = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/a")]);
    assert_eq!(peer.connection.open(&request, true), Err(NoRoom::Streams));
    peer.connection.reset(stream, Code::CANCEL);
    assert!(peer.connection.open(&request, true).is_ok());
    let mut connection = Connection::client(Limits::default(), Instant::now());
    let opened = (0..10_000).take_while(|_| connection.open(&request, true).is_ok()).count();
    assert_eq!(opened, 100);
    let mut server = Peer::of_server();
    assert_eq!(server.connection.open(&request, true), Err(NoRoom::Never));
}

#[test]
fn small_frames_that_wait_hold_little_more_than_their_data() {
    let mut peer = Peer::of_client();
    peer.sends(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).expect("settings");
    let stream = peer.opened();
    for _ in 0..1000 {
        peer.connection.send_data(stream, Bytes::from_static(b"0123456789"), false).expect("open");
    }
    written(&mut peer.connection);
    peer.sends(&frame(kind::WINDOW_UPDATE, 0, 1, &10_000_u32.to_be_bytes())).expect("an update");
    assert_eq!(of_kind(&mut peer.connection, kind::DATA).len(), 2);
}

// How it ends.

#[test]
fn a_server_leaves_in_two_steps() {
    let mut peer = Peer::of_server();
    let first = peer.calls(1, END);
    peer.connection.shutdown();
    let sent = frames(&mut peer.connection);
    assert_eq!(sent[0].1[..4], flow::MOST.to_be_bytes());
    let ping = &sent[1].1;
    // What was on its way is still taken.
    let second = peer.calls(3, END);
    peer.sends(&frame(kind::PING, flag::ACK, 0, ping)).expect("an answer");
    assert_eq!(of_kind(&mut peer.connection, kind::GOAWAY)[0].1[..4], 3_u32.to_be_bytes());
    peer.sends(&headers(5, WHOLE, &call())).expect("not taken");
    peer.sends(&data(5, END, b"x")).expect("not taken");
    assert!(peer.events().is_empty());
    assert!(!peer.connection.is_finished());
    for stream in [first, second] {
        peer.connection.send_headers(stream, &block(&[(":status", "200")]), true).expect("open");
    }
    assert!(peer.connection.is_finished());
}

#[test]
fn a_client_hears_what_was_not_taken() {
    let mut peer = Peer::of_client();
    let (first, second) = (peer.opened(), peer.opened());
    peer.sends(&frame(kind::GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\0bye")).expect("a goodbye");
    let goaway = Event::GoAway { last: 1, code: Code::NO_ERROR, debug: Bytes::from_static(b"bye") };
    assert_eq!(peer.events(), [goaway, Event::Refused { stream: second, limit: "goaway" }]);
    let request = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/a")]);
    assert_eq!(peer.connection.open(&request, true), Err(NoRoom::Leaving));
    assert!(!peer.connection.is_finished());
    peer.connection.send_data(first, Bytes::new(), true).expect("open");
    peer.sends(&headers(1, WHOLE | END, &fields(&[(":status", "200")]))).expect("a response");
    assert!(peer.connection.is_finished());
}

#[test]
fn a_reset_by_the_peer_is_told() {
    let mut peer = Peer::of_client();
    let stream = peer.opened();
    peer.sends(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 7])).expect("a reset");
    assert_eq!(peer.events(), [Event::Reset { stream, code: Code::REFUSED_STREAM }]);
    assert_eq!(peer.connection.send_data(stream, Bytes::new(), true), Err(NotOpen));
    peer.connection.consumed(stream, 10);
}

#[test]
fn pings_go_both_ways() {
    let mut peer = Peer::of_server();
    peer.sends(&frame(kind::PING, 0, 0, b"12345678")).expect("a ping");
    let sent = frames(&mut peer.connection);
    assert_eq!((sent[0].0.flags, &sent[0].1[..]), (flag::ACK, &b"12345678"[..]));
    peer.connection.ping(*b"abcdefgh");
    assert_eq!(of_kind(&mut peer.connection, kind::PING).len(), 1);
    peer.sends(&frame(kind::PING, flag::ACK, 0, b"abcdefgh")).expect("an answer");
    assert_eq!(peer.events(), [Event::Pong { payload: *b"abcdefgh" }]);
}

// Whatever comes.

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop::sample::select(vec![0_u32, 1, 1, 3, 3, 5, 7, 2]);
    prop_oneof![
        3 => (stream.clone(), any::<bool>()).prop_map(|(stream, end)| {
            headers(stream, WHOLE | u8::from(end), &call())
        }),
        3 => (stream.clone(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(
            |(stream, end, payload)| data(stream, u8::from(end), &payload)
        ),
        1 => (stream.clone(), prop::collection::vec(any::<u8>(), 4..5))
            .prop_map(|(stream, payload)| frame(kind::WINDOW_UPDATE, 0, stream, &payload)),
        1 => stream.clone().prop_map(|stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])),
        1 => Just(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 16, 0])),
        1 => Just(frame(kind::PING, 0, 0, b"12345678")),
        1 => (0..12_u8, any::<u8>(), stream, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

proptest! {
    #[test]
    fn any_cutting_of_the_input_gives_the_same(
        frames in prop::collection::vec(any_frame(), 0..30),
        cuts in prop::collection::vec(1..60_usize, 1..50),
    ) {
        let now = Instant::now();
        let mut wire = PREFACE.to_vec();
        wire.extend(frame(kind::SETTINGS, 0, 0, &[]));
        wire.extend(frames.concat());
        let run = |cuts: &[usize]| {
            let mut connection = Connection::server(Limits::default(), now);
            let mut input = BytesMut::new();
            let mut rest = &wire[..];
            let mut cuts = cuts.iter().cycle();
            let mut result = Ok(());
            while !rest.is_empty() && result.is_ok() {
                let (part, after) = rest.split_at(rest.len().min(*cuts.next().expect("a cycle")));
                rest = after;
                input.extend_from_slice(part);
                result = connection.receive(&mut input, now);
            }
            (result, events(&mut connection), written(&mut connection))
        };
        let whole = run(&[usize::MAX]);
        let cut = run(&cuts);
        prop_assert_eq!(whole.0, cut.0);
        prop_assert_eq!(&whole.1, &cut.1);
        prop_assert_eq!(whole.2, cut.2);
    }

    #[test]
    fn any_bytes_end(wire: Vec<u8>) {
        let mut peer = Peer::of_server();
        let _ = peer.sends(&wire);
        let mut peer = Peer::of_client();
        peer.opened();
        let _ = peer.sends(&wire);
    }
}

// Two of ours, with all that either can do.

#[derive(Debug, Clone)]
enum Step {
    Open { end: bool },
    Respond { stream: usize, end: bool },
    Data { client: bool, stream: usize, length: usize, end: bool },
    Trailers { client: bool, stream: usize },
    Reset { client: bool, stream: usize },
    Discard { client: bool, stream: usize },
    Consume { client: bool, share: u32 },
    Carry { from_client: bool, most: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let side = any::<bool>();
    let stream = 0..8_usize;
    prop_oneof![
        3 => any::<bool>().prop_map(|end| Step::Open { end }),
        3 => (stream.clone(), any::<bool>()).prop_map(|(stream, end)| Step::Respond { stream, end }),
        6 => (side, stream.clone(), prop_oneof![0..20_usize, 0..70_000_usize], prop::bool::weighted(0.2))
            .prop_map(|(client, stream, length, end)| Step::Data { client, stream, length, end }),
        2 => (side, stream.clone()).prop_map(|(client, stream)| Step::Trailers { client, stream }),
        1 => (side, stream.clone()).prop_map(|(client, stream)| Step::Reset { client, stream }),
        1 => (side, stream).prop_map(|(client, stream)| Step::Discard { client, stream }),
        3 => (side, 1..4_u32).prop_map(|(client, share)| Step::Consume { client, share }),
        8 => (side, prop_oneof![1..50_usize, 1..100_000_usize])
            .prop_map(|(from_client, most)| Step::Carry { from_client, most }),
    ]
}

struct End {
    connection: Connection,
    input: BytesMut,
    /// In the order in which they came up.
    streams: Vec<StreamId>,
    unconsumed: Vec<(StreamId, u32)>,
}

impl End {
    fn carry(&mut self, to: &mut Self, most: usize, now: Instant) -> bool {
        self.connection.prepare();
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let count = self.connection.slices(&mut slices);
        let mut bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(most);
        self.connection.written(bytes.len());
        to.input.extend_from_slice(&bytes);
        to.connection.receive(&mut to.input, now).expect("both keep to the rules");
        for event in events(&mut to.connection) {
            match event {
                Event::Headers { stream, block, .. } => {
                    if !to.connection.client {
                        to.streams.push(stream);
                    }
                    to.connection.recycle(block);
                }
                Event::Data { stream, flow_len, .. } => to.unconsumed.push((stream, flow_len)),
                Event::StreamFault { fault, .. } => panic!("{fault}"),
                _ => {}
            }
        }
        !bytes.is_empty()
    }

    fn stream(&self, number: usize) -> Option<StreamId> {
        // Mostly the last ones.
        self.streams.len().checked_sub(1 + number).map(|at| self.streams[at])
    }

    fn consume(&mut self, share: u32) {
        let mut left = Vec::new();
        for (stream, count) in std::mem::take(&mut self.unconsumed) {
            let part = count / share;
            self.connection.consumed(stream, part);
            if count > part {
                left.push((stream, count - part));
            }
        }
        self.unconsumed = left;
    }
}

fn run(steps: &[Step], limits: &Limits) {
    let now = Instant::now();
    let end = |client| End {
        connection: Connection::new(client, limits.clone(), now),
        input: BytesMut::new(),
        streams: Vec::new(),
        unconsumed: Vec::new(),
    };
    let (mut client, mut server) = (end(true), end(false));
    for step in steps {
        match *step {
            Step::Open { end } => {
                let request = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/a")]);
                client.streams.extend(client.connection.open(&request, end));
            }
            Step::Respond { stream, end } => {
                if let Some(stream) = server.stream(stream)
                    && server.connection.streams.get(stream).is_some_and(|state| !state.bare)
                {
                    let _ = server.connection.send_headers(stream, &block(&[(":status", "200")]), end);
                    if let Some(state) = server.connection.streams.get(stream) {
                        // Servers do not look at it: here it is that the response began.
                        state.bare = true;
                    }
                }
            }
            Step::Data { client: by_client, stream, length, end } => {
                let side = if by_client { &mut client } else { &mut server };
                if let Some(stream) = side.stream(stream) {
                    let began = side.connection.streams.get(stream).is_some_and(|state| state.bare);
                    if by_client || began {
                        let _ = side.connection.send_data(stream, Bytes::from(vec![7; length]), end);
                    }
                }
            }
            Step::Trailers { client: by_client, stream } => {
                let side = if by_client { &mut client } else { &mut server };
                if let Some(stream) = side.stream(stream) {
                    let began = side.connection.streams.get(stream).is_some_and(|state| state.bare);
                    if by_client || began {
                        let _ = side.connection.send_trailers(stream, &block(&[("grpc-status", "0")]));
                    }
                }
            }
            Step::Reset { client: by_client, stream } => {
                let side = if by_client { &mut client } else { &mut server };
                if let Some(stream) = side.stream(stream) {
                    side.connection.reset(stream, Code::CANCEL);
                }
            }
            Step::Discard { client: by_client, stream } => {
                let side = if by_client { &mut client } else { &mut server };
                if let Some(stream) = side.stream(stream) {
                    side.connection.discard(stream);
                }
            }
            Step::Consume { client: by_client, share } => {
                if by_client { &mut client } else { &mut server }.consume(share);
            }
            Step::Carry { from_client: true, most } => {
                client.carry(&mut server, most, now);
            }
            Step::Carry { from_client: false, most } => {
                server.carry(&mut client, most, now);
            }
        }
    }
    // All that is open is given up, and all that is on its way arrives.
    for round in 0.. {
        let moved = client.carry(&mut server, usize::MAX, now) | server.carry(&mut client, usize::MAX, now);
        client.consume(1);
        server.consume(1);
        if !moved && client.connection.prepared() + server.connection.prepared() == 0 {
            let open = client.connection.streams.ids();
            if open.is_empty() {
                break;
            }
            for stream in open {
                client.connection.reset(stream, Code::CANCEL);
            }
        }
        assert!(round < 50_000, "it never ends");
    }
    for (from, to) in [(&client.connection, &server.connection), (&server.connection, &client.connection)] {
        assert_eq!((from.open, from.backlog), (0, 0));
        assert!(from.streams.is_empty());
        assert_eq!(from.send.room(), to.receive.left_for_peer());
        assert!(to.receive.is_whole());
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_left_whatever_both_do(
        steps in prop::collection::vec(any_step(), 0..120),
        window in prop_oneof![Just(0_u32), Just(10), 1000..300_000_u32],
        output in prop_oneof![Just(16_384_usize), Just(65_536)],
    ) {
        let limits = Limits { stream_window: window, output, connection_window: 70_000, ..Limits::default() };
        run(&steps, &limits);
    }
}

#[test]
fn a_connection_at_rest_is_small() {
    let peer = Peer::of_server();
    assert!(size_of::<Connection>() < 1500, "{}", size_of::<Connection>());
    assert!(size_of::<Event>() <= 136, "{}", size_of::<Event>());
    assert!(peer.connection.output.is_empty() && peer.connection.spare.is_empty());
}
