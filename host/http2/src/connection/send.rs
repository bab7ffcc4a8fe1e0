//! The commands, and what is to be written.

use std::{fmt, io::IoSlice};

use bytes::Bytes;

use super::{Connection, GOODBYE, Leaving};
use crate::{
    fault::Code,
    flow,
    frame::{HEAD, Head, flag, kind},
    hpack::{Block, Known},
    message,
    stream::{Ending, State},
    streams::StreamId,
};

/// How much of one stream is sent before it is another one's turn.
const TURN: usize = 16_384;

/// How many streams are opened before the peer's settings say how many may be: no peer is advised
/// to allow fewer (RFC 9113, section 6.5.2).
const UNTOLD: u32 = 100;

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// As many are open as the peer allows. [`Event::Settings`](crate::Event::Settings) or the end
    /// of a stream makes room.
    Streams,
    /// One of the sides is ending the connection.
    Leaving,
    /// All numbers are used: another connection is needed.
    Numbers,
    /// A server cannot open any, and a connection that failed cannot either.
    Never,
}

/// The stream cannot be sent on: it is gone, or its end was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOpen;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streams => "as many streams are open as the peer allows",
            Self::Leaving => "the connection is being ended",
            Self::Numbers => "the connection has no stream numbers left",
            Self::Never => "the connection cannot open streams",
        })
    }
}

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream cannot be sent on")
    }
}

impl std::error::Error for NoRoom {}
impl std::error::Error for NotOpen {}

/// What waits to be sent because the peer, or the socket, does not take it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many bytes of this stream wait.
    pub stream: usize,
    /// How many of all streams.
    pub connection: usize,
    /// Whether the sender shall wait for [`Event::Writable`](crate::Event::Writable). It may go on
    /// all the same: nothing is lost.
    pub full: bool,
}

impl Connection {
    /// Opens a stream with a request, which is all of it or not.
    pub fn open(&mut self, block: &Block, end: bool) -> Result<StreamId, NoRoom> {
        if !self.client || self.failed.is_some() {
            return Err(NoRoom::Never);
        }
        if self.leaving != Leaving::No || self.peer_leaves.is_some() {
            return Err(NoRoom::Leaving);
        }
        let most = if self.settings_due { self.peer.streams.min(UNTOLD) } else { self.peer.streams };
        if self.open >= most {
            return Err(NoRoom::Streams);
        }
        let number = if self.last == 0 { 1 } else { self.last + 2 };
        if number > flow::MOST {
            return Err(NoRoom::Numbers);
        }
        let id = self.new_stream(number);
        self.write_headers(number, block, end);
        if let Some(stream) = self.streams.get(id) {
            stream.bare = block.get(Known::Method) == Some(b"HEAD");
            if end {
                stream.state = stream.state.end_sent();
            }
        }
        Ok(id)
    }

    /// Sends the header block of a response, or one with a status from 100 to 199 before it.
    pub fn send_headers(&mut self, stream: StreamId, block: &Block, end: bool) -> Result<(), NotOpen> {
        let state = self.streams.get(stream).ok_or(NotOpen)?;
        if !state.state.can_send() || state.waits() {
            return Err(NotOpen);
        }
        let early = block.get(Known::Status).and_then(message::status).is_some_and(|status| status < 200);
        self.write_headers(stream.number, block, end && !early);
        if end && !early {
            self.sent_end(stream);
        }
        Ok(())
    }

    /// Sends content, as far as the windows let it, and keeps the rest until they do.
    pub fn send_data(&mut self, stream: StreamId, bytes: Bytes, end: bool) -> Result<Backlog, NotOpen> {
        let room = self.send.room();
        let prepared = self.output.len();
        let state = self.streams.get(stream).ok_or(NotOpen)?;
        if !state.state.can_send() || !matches!(state.ending, Ending::Open) {
            return Err(NotOpen);
        }
        let length = bytes.len();
        let at_once = state.backlog == 0
            && length <= room.min(state.send.room()).min(self.peer.frame as usize)
            && prepared < self.limits.output;
        if at_once {
            if length > 0 || end {
                state.send.sent(length);
                self.send.sent(length);
                self.write_data(stream.number, bytes, end);
                if end {
                    self.sent_end(stream);
                }
            }
            return Ok(Backlog { stream: 0, connection: self.backlog, full: false });
        }
        state.queue(bytes);
        if end {
            state.ending = Ending::End;
        }
        self.backlog += length;
        let waiting = state.backlog;
        // One of which nothing waits would never hear that there is room.
        let crowded = waiting > self.limits.stream_backlog || self.backlog > self.limits.connection_backlog;
        let full = crowded && waiting > 0;
        state.told_full |= full;
        self.take_turns(stream);
        Ok(Backlog { stream: waiting, connection: self.backlog, full })
    }

    /// Sends what ends the message, after all its content.
    pub fn send_trailers(&mut self, stream: StreamId, block: &Block) -> Result<(), NotOpen> {
        let state = self.streams.get(stream).ok_or(NotOpen)?;
        if !state.state.can_send() || !matches!(state.ending, Ending::Open) {
            return Err(NotOpen);
        }
        if state.backlog > 0 {
            state.ending = Ending::Trailers(block.clone());
            self.take_turns(stream);
        } else {
            self.write_headers(stream.number, block, true);
            self.sent_end(stream);
        }
        Ok(())
    }

    /// Resets a stream. What of it is not written is taken back. For a stream that is gone it does
    /// nothing.
    pub fn reset(&mut self, stream: StreamId, code: Code) {
        let Some(state) = self.streams.get(stream) else { return };
        if state.state != State::Closed {
            self.write_reset(stream.number, code);
        }
        self.drop_stream(stream);
    }

    /// Gives up what the peer still sends on a stream, as when the answer does not need the rest of
    /// the request: it is dropped, and the stream is reset with [`Code::NO_ERROR`] as soon as our
    /// end is sent, unless the peer's has come by then.
    pub fn discard(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(stream) else { return };
        if !state.state.can_receive() {
            return;
        }
        if state.state.can_send() {
            state.discard = true;
            let unconsumed = std::mem::take(&mut state.unconsumed);
            self.give_back(unconsumed);
        } else {
            self.reset(stream, Code::NO_ERROR);
        }
    }

    /// Lets the peer send more: so much of [`Event::Data`](crate::Event::Data)'s `flow_len` is done
    /// with. What is left of a stream that was reset is given back without it.
    pub fn consumed(&mut self, stream: StreamId, count: u32) {
        let Some(state) = self.streams.get(stream) else { return };
        let count = count.min(state.unconsumed);
        state.unconsumed -= count;
        let update = if state.state.can_receive() { state.receive.consumed(count) } else { None };
        let done = state.state == State::Closed && state.unconsumed == 0;
        if let Some(by) = update {
            self.window_update(stream.number, by);
        }
        if done {
            self.streams.remove(stream);
        }
        self.give_back(count);
    }

    /// Asks the peer for a sign of life, which is [`Event::Pong`](crate::Event::Pong).
    pub fn ping(&mut self, payload: [u8; 8]) {
        self.frame(kind::PING, 0, 0, &payload);
    }

    /// Ends the connection gracefully: no new streams, and those that are there go on. A server
    /// first says so, and takes what its peer sent before it knew; that is over when the peer
    /// answers a PING, or with a second call.
    pub fn shutdown(&mut self) {
        match self.leaving {
            Leaving::No if self.client => {
                self.write_goaway(0, Code::NO_ERROR, &[]);
                self.leaving = Leaving::Final(0);
            }
            Leaving::No => {
                self.write_goaway(flow::MOST, Code::NO_ERROR, &[]);
                self.ping(GOODBYE);
                self.leaving = Leaving::Announced;
            }
            Leaving::Announced => self.leave(),
            Leaving::Final(_) => {}
        }
    }

    pub(super) fn leave(&mut self) {
        self.write_goaway(self.last, Code::NO_ERROR, &[]);
        self.leaving = Leaving::Final(self.last);
    }

    /// Ends the connection at once, as far as the peer is told: it is to be closed after what is to
    /// be written.
    pub fn abort(&mut self, code: Code, debug: &[u8]) {
        let last = if self.client { 0 } else { self.last };
        self.write_goaway(last, code, debug);
        self.leaving = Leaving::Final(last);
        for stream in self.streams.ids() {
            self.drop_stream(stream);
        }
    }

    // What is to be written.

    /// Lets streams that wait take turns, as far as windows and [`Limits::output`](crate::Limits)
    /// let them. Returns whether there is something to write.
    pub fn prepare(&mut self) -> bool {
        if self.failed.is_none() {
            self.turns();
        }
        !self.output.is_empty()
    }

    /// The pieces to be written, for one vectored write. Returns how many there are in `into`.
    /// [`prepare`](Self::prepare) comes first.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.output.slices(into)
    }

    /// How many bytes are ready to be written.
    pub fn prepared(&self) -> usize {
        self.output.len()
    }

    /// Notes that so many bytes of the pieces were written.
    pub fn written(&mut self, count: usize) {
        self.output.written(count);
        let written = self.output.total();
        self.acks.written(written, written + self.output.len() as u64);
    }

    fn turns(&mut self) {
        while self.output.len() < self.limits.output
            && let Some(place) = self.turns.pop_front()
        {
            let room = self.send.room();
            let Some(state) = self.streams.at(place) else { continue };
            state.in_turn = false;
            if !state.ready() {
                continue;
            }
            if room == 0 && state.backlog > 0 {
                // The others may have ends to send, but an end is no hurry.
                state.in_turn = true;
                self.turns.push_front(place);
                break;
            }
            let stream = StreamId { number: state.number, place };
            self.turn(stream, room);
        }
    }

    /// One stream's turn.
    fn turn(&mut self, stream: StreamId, room: usize) {
        let Some(state) = self.streams.get(stream) else { return };
        let most = room.min(state.send.room()).min(self.peer.frame as usize).min(TURN);
        let bytes = state.take(most);
        let length = bytes.len();
        state.send.sent(length);
        self.send.sent(length);
        self.backlog -= length;
        let left = state.backlog;
        let again = state.told_full
            && left <= self.limits.stream_backlog / 2
            && (left == 0 || self.backlog <= self.limits.connection_backlog);
        if again {
            state.told_full = false;
        }
        let ending = if left == 0 { std::mem::take(&mut state.ending) } else { Ending::Open };
        let end = matches!(ending, Ending::End);
        if length > 0 || end {
            self.write_data(stream.number, bytes, end);
        }
        if again {
            self.event(crate::Event::Writable { stream });
        }
        if let Ending::Trailers(block) = &ending {
            self.write_headers(stream.number, block, true);
        }
        if let Ending::Trailers(block) = ending {
            self.recycle(block);
            self.sent_end(stream);
        } else if end {
            self.sent_end(stream);
        } else {
            self.take_turns(stream);
        }
    }

    /// Puts a stream at the end of those that take turns, if it has something to send and room.
    pub(super) fn take_turns(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get(stream)
            && !state.in_turn
            && state.ready()
        {
            state.in_turn = true;
            self.turns.push_back(stream.place);
        }
    }

    pub(super) fn all_take_turns(&mut self) {
        for stream in self.streams.ids() {
            self.take_turns(stream);
        }
    }

    fn sent_end(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(stream) else { return };
        state.state = state.state.end_sent();
        if state.discard && state.state.can_receive() {
            // The answer is out, and what the peer still sends is not wanted.
            self.reset(stream, Code::NO_ERROR);
        } else {
            self.side_ended(stream);
        }
    }

    fn write_data(&mut self, number: u32, bytes: Bytes, end: bool) {
        let flags = if end { flag::END_STREAM } else { 0 };
        let head = Head { length: bytes.len(), kind: kind::DATA, flags, stream: number }.bytes();
        self.output.buffer().extend_from_slice(&head);
        self.output.push(bytes);
    }

    fn write_headers(&mut self, number: u32, block: &Block, end: bool) {
        let most = self.peer.frame as usize;
        let out = self.output.buffer();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        self.encoder.encode(block, out);
        let length = out.len() - start - HEAD;
        let end = if end { flag::END_STREAM } else { 0 };
        if length <= most {
            let flags = end | flag::END_HEADERS;
            let head = Head { length, kind: kind::HEADERS, flags, stream: number };
            out[start..start + HEAD].copy_from_slice(&head.bytes());
            return;
        }
        let rest = out.split_off(start + HEAD + most);
        let head = Head { length: most, kind: kind::HEADERS, flags: end, stream: number };
        out[start..start + HEAD].copy_from_slice(&head.bytes());
        let mut fragments = rest.chunks(most).peekable();
        while let Some(fragment) = fragments.next() {
            let flags = if fragments.peek().is_none() { flag::END_HEADERS } else { 0 };
            let head = Head { length: fragment.len(), kind: kind::CONTINUATION, flags, stream: number };
            out.extend_from_slice(&head.bytes());
            out.extend_from_slice(fragment);
        }
    }
}
