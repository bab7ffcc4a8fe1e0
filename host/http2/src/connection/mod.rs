//! One connection, of either side.
//!
//! `receive` takes what was read and makes events of it; `send` has the commands, and what is
//! written. Both write frames to the same output: control frames and header blocks at once, in the
//! order in which they come up, and data as the windows let it.

mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Instant};

pub use send::{Backlog, NoRoom, NotOpen};

use crate::{
    bucket::Bucket,
    event::Event,
    fault::{Code, Fault},
    flow::{self, ReceiveWindow, SendWindow},
    frame::{HEAD, Head, PREFACE, kind},
    hpack::{Block, Decoder, Encoder},
    limits::Limits,
    output::Output,
    settings::{self, Settings},
    stream::{State, Stream},
    streams::{Remembered, StreamId, Streams},
};

/// How many blocks are kept to be used again.
const SPARE: usize = 16;
/// One that holds more memory is not kept.
const SPARE_SIZE: usize = 8192;
/// What the PING between the two GOAWAY frames of a graceful end has.
const GOODBYE: [u8; 8] = *b"goodbye.";

/// A header block whose end has not come yet.
#[derive(Debug)]
struct Partial {
    stream: u32,
    end: bool,
    frames: u32,
    wire: Vec<u8>,
}

/// How far a graceful end has come (RFC 9113, section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told, and its streams on their way are still taken.
    Announced,
    /// No stream above this one is taken.
    Final(u32),
}

/// Answers to PING and SETTINGS that are not written yet, to within the ones of two stretches of
/// the output.
#[derive(Debug, Default)]
struct Acks {
    /// Those before `until`, and those after it.
    before: u32,
    after: u32,
    /// How far the output is written when those before are.
    until: u64,
}

impl Acks {
    /// Notes another one. Returns how many there are.
    fn add(&mut self) -> u32 {
        self.after += 1;
        self.before + self.after
    }

    /// Notes how far the output is written, and how far it reaches.
    fn written(&mut self, written: u64, reaches: u64) {
        if written == reaches {
            *self = Self::default();
        } else if written >= self.until {
            self.before = std::mem::take(&mut self.after);
            self.until = reaches;
        }
    }
}

/// The state of one HTTP/2 connection. It does no I/O: what was read goes in by
/// [`receive`](Self::receive), what is to be written comes out by [`slices`](Self::slices).
#[derive(Debug)]
pub struct Connection {
    client: bool,
    limits: Limits,
    failed: Option<Fault>,
    /// Whether the client's preface is still to come.
    preface_due: bool,
    /// Whether the peer's first SETTINGS are still to come.
    settings_due: bool,
    /// Whether the peer knows our settings.
    acknowledged: bool,
    decoder: Decoder,
    encoder: Encoder,
    peer: Settings,
    streams: Streams,
    remembered: Remembered,
    /// How many streams count against the limit of who opens them.
    open: u32,
    /// The highest number that was used.
    last: u32,
    partial: Option<Partial>,
    events: VecDeque<Event>,
    output: Output,
    /// The places of the streams that have something to send.
    turns: VecDeque<u32>,
    backlog: usize,
    send: SendWindow,
    receive: ReceiveWindow,
    resets: Bucket,
    idle_frames: Bucket,
    acks: Acks,
    leaving: Leaving,
    /// The last stream that the peer takes, once it said so.
    peer_leaves: Option<u32>,
    spare: Vec<Block>,
    /// How often something was received.
    reads: u64,
    now: Instant,
}

impl Connection {
    /// The client's side. Its preface and settings are to be written at once.
    pub fn client(limits: Limits, now: Instant) -> Self {
        Self::new(true, limits, now)
    }

    /// The server's side. Its settings are to be written at once.
    pub fn server(limits: Limits, now: Instant) -> Self {
        Self::new(false, limits, now)
    }

    fn new(client: bool, limits: Limits, now: Instant) -> Self {
        let limits = limits.checked();
        let mut decoder = Decoder::new();
        decoder.set_ceiling(limits.decoder_table.max(4096));
        let mut connection = Self {
            client,
            failed: None,
            preface_due: !client,
            settings_due: true,
            acknowledged: false,
            decoder,
            encoder: Encoder::new(limits.encoder_table, limits.huffman),
            peer: Settings::default(),
            streams: Streams::default(),
            remembered: Remembered::new(limits.remembered),
            open: 0,
            last: 0,
            partial: None,
            events: VecDeque::new(),
            output: Output::default(),
            turns: VecDeque::new(),
            backlog: 0,
            send: SendWindow::new(flow::INITIAL),
            receive: ReceiveWindow::new(flow::INITIAL),
            resets: Bucket::new(limits.resets, now),
            idle_frames: Bucket::new(limits.idle_frames, now),
            acks: Acks::default(),
            leaving: Leaving::No,
            peer_leaves: None,
            spare: Vec::new(),
            reads: 0,
            now,
            limits,
        };
        if client {
            connection.output.buffer().extend_from_slice(PREFACE);
        }
        settings::write(&connection.limits, client, connection.output.buffer());
        if let Some(by) = connection.receive.resize(connection.limits.connection_window) {
            connection.window_update(0, by);
        }
        connection
    }

    /// The next of the events that [`receive`](Self::receive) and writing made.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is a next event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What ended the connection, if something did.
    pub fn failed(&self) -> Option<Fault> {
        self.failed
    }

    /// How often something was received, for whoever wants to know whether the peer is there.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// What the peer's settings are, or are until they come.
    pub fn peer_settings(&self) -> &Settings {
        &self.peer
    }

    /// Whether the peer has acknowledged our settings. One that never does is to be ended, with
    /// [`Code::SETTINGS_TIMEOUT`].
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Whether the peer is in the middle of something, and sends nothing else meanwhile: the
    /// preface, or a header block of several frames. One that stays there is to be ended.
    pub fn is_interrupted(&self) -> bool {
        self.preface_due || self.settings_due || self.partial.is_some()
    }

    /// How many streams are open, by who opens them.
    pub fn open_streams(&self) -> usize {
        self.open as usize
    }

    /// Whether one of the sides has ended the connection gracefully and all streams are done, so
    /// that it can be closed when all is written.
    pub fn is_finished(&self) -> bool {
        let leaves = matches!(self.leaving, Leaving::Final(_)) || self.peer_leaves.is_some();
        leaves && self.streams.is_empty()
    }

    /// A block to fill, which may be one that was used.
    pub fn block(&mut self) -> Block {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a block back that is not needed any more, for its memory.
    pub fn recycle(&mut self, mut block: Block) {
        if self.spare.len() < SPARE && block.held() <= SPARE_SIZE {
            block.clear();
            self.spare.push(block);
        }
    }

    /// The window that streams begin with for the peer. Before it knows our settings it may send as
    /// much as the RFC's.
    fn stream_window(&self) -> u32 {
        if self.acknowledged { self.limits.stream_window } else { self.limits.stream_window.max(flow::INITIAL) }
    }

    fn new_stream(&mut self, number: u32) -> StreamId {
        self.last = number;
        self.remembered.began(number);
        self.open += 1;
        let window = ReceiveWindow::new(self.stream_window());
        self.streams.insert(Stream::new(number, SendWindow::new(self.peer.window), window))
    }

    /// Ends a stream that may not go on in either direction, and gives back what it held.
    fn drop_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(id) else { return };
        if stream.state != State::Closed {
            self.open -= 1;
        }
        self.backlog -= stream.backlog;
        self.give_back(stream.unconsumed);
    }

    /// Sees to a stream one of whose sides has just ended.
    fn side_ended(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        if stream.state == State::Closed {
            let unconsumed = stream.unconsumed;
            self.open -= 1;
            self.resets.give();
            if unconsumed == 0 {
                self.streams.remove(id);
            }
        }
    }

    /// Lets the peer send so much more on the connection.
    fn give_back(&mut self, count: u32) {
        if let Some(by) = self.receive.consumed(count) {
            self.window_update(0, by);
        }
    }

    /// Resets a stream, which may not be kept, and remembers that.
    fn write_reset(&mut self, number: u32, code: Code) {
        self.frame(kind::RST_STREAM, 0, number, &code.0.to_be_bytes());
        self.remembered.reset(number);
    }

    fn window_update(&mut self, number: u32, by: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, number, &by.to_be_bytes());
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let head = Head { length: payload.len(), kind, flags, stream }.bytes();
        let out = self.output.buffer();
        out.reserve(HEAD + payload.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
    }

    fn write_goaway(&mut self, last: u32, code: Code, debug: &[u8]) {
        let mut payload = Vec::with_capacity(8 + debug.len());
        payload.extend_from_slice(&last.to_be_bytes());
        payload.extend_from_slice(&code.0.to_be_bytes());
        payload.extend_from_slice(debug);
        self.frame(kind::GOAWAY, 0, 0, &payload);
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }
}
