//! What was read.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::{Connection, GOODBYE, Leaving, Partial};
use crate::{
    event::Event,
    fault::{Code, Fault},
    frame::{self, HEAD, Head, PREFACE, flag, kind},
    hpack::{Block, Known, Read},
    message,
    streams::{Gone, StreamId},
};

/// What has its own buffer when a header block comes in several frames, at first.
const FRAGMENTS: usize = 4096;

impl Connection {
    /// Takes all whole frames out of `input`. Data is not copied: the events have parts of `input`.
    /// What is left is the beginning of a frame, and is to be there when more was read.
    ///
    /// `now` is for the token buckets, and need not be exact.
    ///
    /// An error ends the connection: what is to be written tells the peer, after which it is to be
    /// closed. Events that came before it are still there.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), Fault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        self.now = now;
        self.reads += 1;
        self.read(input).inspect_err(|&fault| self.fail(fault))
    }

    fn fail(&mut self, fault: Fault) {
        self.failed = Some(fault);
        let last = if self.client { 0 } else { self.last };
        self.write_goaway(last, fault.code(), fault.word().as_bytes());
    }

    fn read(&mut self, input: &mut BytesMut) -> Result<(), Fault> {
        if self.preface_due {
            let length = input.len().min(PREFACE.len());
            if input[..length] != PREFACE[..length] {
                return Err(Fault::Preface);
            }
            if length < PREFACE.len() {
                return Ok(());
            }
            input.advance(length);
            self.preface_due = false;
        }
        // How much of the input is done with: it is cut off in few steps.
        let mut done = 0;
        let result = self.frames(input, &mut done);
        input.advance(done);
        result
    }

    fn frames(&mut self, input: &mut BytesMut, done: &mut usize) -> Result<(), Fault> {
        while let Some(head) = Head::read(&input[*done..]) {
            if head.length > self.limits.frame as usize {
                return Err(Fault::FrameTooLarge);
            }
            if input.len() - *done < HEAD + head.length {
                break;
            }
            if self.settings_due && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
                return Err(Fault::FirstFrame);
            }
            if self.partial.is_some() && head.kind != kind::CONTINUATION {
                return Err(Fault::Interrupted);
            }
            if head.kind == kind::DATA {
                input.advance(std::mem::take(done) + HEAD);
                self.data(head, input)?;
            } else {
                let start = *done + HEAD;
                *done = start + head.length;
                self.other(head, &input[start..*done])?;
            }
        }
        Ok(())
    }

    fn other(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::WINDOW_UPDATE => self.window_updated(head.stream, frame::increment(payload)?),
            kind::RST_STREAM => self.was_reset(head.stream, frame::code(payload)?),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pinged(head, frame::opaque(payload)?),
            kind::GOAWAY => self.goaway(head, payload),
            kind::PUSH_PROMISE => Err(Fault::Push),
            kind::PRIORITY if head.stream == 0 => Err(Fault::WrongStream),
            kind::PRIORITY if payload.len() != 5 => {
                // Of the stream only, but a sender that cannot count is not worth the difference.
                Err(Fault::FrameLength)
            }
            // PRIORITY, also of a stream on itself, and kinds that nobody knows.
            _ => self.idle_frame(1),
        }
    }

    /// Pays for a frame that does nothing.
    fn idle_frame(&mut self, cost: u32) -> Result<(), Fault> {
        if self.idle_frames.take(cost, self.now) { Ok(()) } else { Err(Fault::IdleFrames) }
    }

    /// Pays for a reset that the peer sent or caused.
    fn reset_cost(&mut self) -> Result<(), Fault> {
        if self.resets.take(1, self.now) { Ok(()) } else { Err(Fault::Resets) }
    }

    /// Whether a stream with this number was never opened.
    fn is_idle(&self, number: u32) -> bool {
        number.is_multiple_of(2) || number > self.last
    }

    /// What it is to get DATA or HEADERS for a stream that is not there. Where it is nothing, the
    /// stream was reset.
    fn gone(&mut self, number: u32) -> Result<(), Fault> {
        match self.remembered.how(number) {
            Gone::Reset => Ok(()),
            Gone::Ended => Err(Fault::ClosedStream),
            Gone::Forgotten => {
                self.reset_cost()?;
                self.write_reset(number, Fault::Forgotten.code());
                Ok(())
            }
        }
    }

    /// Resets a stream for what the peer did, and tells its owner.
    fn stream_fault(&mut self, stream: StreamId, fault: Fault) -> Result<(), Fault> {
        if fault.ends() == crate::Ends::Connection {
            return Err(fault);
        }
        self.reset_cost()?;
        self.write_reset(stream.number, fault.code());
        self.drop_stream(stream);
        self.event(Event::StreamFault { stream, fault });
        Ok(())
    }

    // DATA (section 6.1).

    fn data(&mut self, head: Head, input: &mut BytesMut) -> Result<(), Fault> {
        let length = head.length as u32;
        let first = if length > 0 { input.first().copied() } else { None };
        let (start, stop) = frame::content(head, first)?;
        if head.stream == 0 {
            return Err(Fault::WrongStream);
        }
        if length > 0 {
            self.receive.received(length, Fault::ConnectionWindow)?;
        }
        let Some(stream) = self.streams.find(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Fault::IdleStream);
            }
            input.advance(head.length);
            self.give_back(length);
            if length == 0 {
                self.idle_frame(1)?;
            }
            return self.gone(head.stream);
        };
        let end = head.has(flag::END_STREAM);
        let count = stop - start;
        if let Err(fault) = self.count_data(stream, length, count as u64, end) {
            input.advance(head.length);
            self.give_back(length);
            return self.stream_fault(stream, fault);
        }
        let Some(state) = self.streams.get(stream) else { return Ok(()) };
        if end {
            state.state = state.state.end_received();
        }
        if state.discard {
            input.advance(head.length);
            self.give_back(length);
            if end {
                self.side_ended(stream);
            } else if count == 0 {
                self.idle_frame(1)?;
            }
            return Ok(());
        }
        if count == 0 && !end {
            // Nothing for anybody; what padding there is goes back.
            input.advance(head.length);
            self.give_back(length);
            self.idle_frame(1)?;
            if length > 0
                && let Some(state) = self.streams.get(stream)
                && let Some(by) = state.receive.consumed(length)
            {
                self.window_update(stream.number, by);
            }
            return Ok(());
        }
        state.unconsumed += length;
        let bytes = if count == 0 {
            input.advance(head.length);
            Bytes::new()
        } else {
            input.advance(start);
            let bytes = input.split_to(count).freeze();
            input.advance(head.length - stop);
            bytes
        };
        self.event(Event::Data { stream, bytes, flow_len: length, end });
        if end {
            self.side_ended(stream);
        }
        Ok(())
    }

    fn count_data(&mut self, stream: StreamId, length: u32, content: u64, end: bool) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(stream) else { return Ok(()) };
        stream.state.check()?;
        if !stream.headed {
            return Err(Fault::NoHeaders);
        }
        stream.receive.received(length, Fault::StreamWindow)?;
        stream.count(content, end)
    }

    // HEADERS and CONTINUATION (sections 6.2 and 6.10).

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let fragment = frame::fragment(head, payload)?;
        if head.stream == 0 {
            return Err(Fault::WrongStream);
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block_came(head.stream, end, fragment);
        }
        let mut wire = Vec::with_capacity(fragment.len() + FRAGMENTS);
        wire.extend_from_slice(fragment);
        self.partial = Some(Partial { stream: head.stream, end, frames: 0, wire });
        Ok(())
    }

    fn continuation(&mut self, head: Head, fragment: &[u8]) -> Result<(), Fault> {
        let mut partial = self.partial.take().ok_or(Fault::StrayContinuation)?;
        if partial.stream != head.stream {
            return Err(Fault::Interrupted);
        }
        partial.frames += 1;
        if partial.frames > self.limits.continuations {
            return Err(Fault::Continuations);
        }
        if partial.wire.len() + fragment.len() > self.limits.header_block_wire {
            return Err(Fault::HeaderBlockWire);
        }
        partial.wire.extend_from_slice(fragment);
        if head.has(flag::END_HEADERS) {
            return self.block_came(partial.stream, partial.end, &partial.wire);
        }
        self.partial = Some(partial);
        Ok(())
    }

    /// Decodes a whole header block, whatever becomes of it: the next one needs the table.
    fn block_came(&mut self, number: u32, end: bool, wire: &[u8]) -> Result<(), Fault> {
        let mut block = self.block();
        let read = self.decoder.decode(wire, self.limits.header_block, &mut block).map_err(|_| Fault::Compression)?;
        let whole = read == Read::Whole;
        let left = match self.streams.find(number) {
            Some(stream) => self.block_of(stream, end, whole, block)?,
            None if number.is_multiple_of(2) || (self.client && number > self.last) => {
                return Err(Fault::StreamNumber);
            }
            None if number > self.last => self.request(number, end, whole, block)?,
            None => {
                self.gone(number)?;
                Some(block)
            }
        };
        if let Some(block) = left {
            self.recycle(block);
        }
        Ok(())
    }

    /// A block that opens a stream. Returns it where it is not handed on.
    fn request(&mut self, number: u32, end: bool, whole: bool, block: Block) -> Result<Option<Block>, Fault> {
        if matches!(self.leaving, Leaving::Final(last) if number > last) {
            // The peer was told that it is not taken.
            self.last = number;
            self.remembered.began(number);
            self.remembered.reset(number);
            return Ok(Some(block));
        }
        let limit = if self.open >= self.limits.streams {
            Some("streams")
        } else if self.output.len() >= self.limits.unwritten {
            Some("unwritten")
        } else {
            None
        };
        if let Some(limit) = limit {
            self.last = number;
            self.remembered.began(number);
            self.reset_cost()?;
            self.write_reset(number, Code::REFUSED_STREAM);
            self.event(Event::Refused { stream: StreamId { number, place: u32::MAX }, limit });
            return Ok(Some(block));
        }
        let stream = self.new_stream(number);
        if !whole {
            if let Some(state) = self.streams.get(stream) {
                state.headed = true;
            }
            self.too_large(stream, end)?;
            return Ok(Some(block));
        }
        let message = match message::request(&block) {
            Ok(message) => message,
            Err(fault) => {
                self.stream_fault(stream, fault)?;
                return Ok(Some(block));
            }
        };
        if let Some(state) = self.streams.get(stream) {
            state.headed = true;
            state.expected = message.length;
            if end {
                if message.length.is_some_and(|length| length > 0) {
                    self.stream_fault(stream, Fault::ContentLength)?;
                    return Ok(Some(block));
                }
                state.state = state.state.end_received();
            }
        }
        self.event(Event::Headers { stream, block, end });
        Ok(None)
    }

    /// A block of a stream that is there. Returns it where it is not handed on.
    fn block_of(&mut self, stream: StreamId, end: bool, whole: bool, block: Block) -> Result<Option<Block>, Fault> {
        let Some(state) = self.streams.get(stream) else { return Ok(Some(block)) };
        // What is dropped need not be whole.
        let whole = whole || state.discard;
        let checked = state.state.check().and_then(|()| {
            if state.headed {
                if !end {
                    return Err(Fault::TrailersOpen);
                }
                if state.discard || !whole {
                    return Ok(());
                }
                message::trailers(&block)?;
                state.count(0, true)
            } else {
                if !whole {
                    return Ok(());
                }
                let message = message::response(&block)?;
                if message.status < 200 {
                    return if end { Err(Fault::NoHeaders) } else { Ok(()) };
                }
                state.headed = true;
                let bare = state.bare || matches!(message.status, 204 | 304);
                state.expected = message.length.filter(|_| !bare);
                state.count(0, end)?;
                Ok(())
            }
        });
        if let Err(fault) = checked {
            self.stream_fault(stream, fault)?;
            return Ok(Some(block));
        }
        if !whole {
            self.too_large(stream, end)?;
            return Ok(Some(block));
        }
        if end {
            state.state = state.state.end_received();
        }
        let discard = state.discard;
        let left = if discard {
            Some(block)
        } else {
            let event = if !block.has(Known::Status) {
                Event::Trailers { stream, block }
            } else if block.get(Known::Status).is_some_and(|status| status[0] == b'1') {
                Event::Informational { stream, block }
            } else {
                Event::Headers { stream, block, end }
            };
            self.event(event);
            None
        };
        if end {
            self.side_ended(stream);
        }
        Ok(left)
    }

    /// Sees to a stream whose header block or trailers are too large.
    fn too_large(&mut self, stream: StreamId, end: bool) -> Result<(), Fault> {
        self.reset_cost()?;
        if self.client {
            self.write_reset(stream.number, Code::CANCEL);
            self.drop_stream(stream);
        } else if let Some(state) = self.streams.get(stream) {
            state.discard = true;
            if end {
                state.state = state.state.end_received();
                self.side_ended(stream);
            }
        }
        self.event(Event::HeadersTooLarge { stream, limit: "header_block" });
        Ok(())
    }

    // RST_STREAM (section 6.4).

    fn was_reset(&mut self, number: u32, code: Code) -> Result<(), Fault> {
        if number == 0 {
            return Err(Fault::WrongStream);
        }
        let Some(stream) = self.streams.find(number) else {
            return if self.is_idle(number) { Err(Fault::IdleStream) } else { self.idle_frame(1) };
        };
        // After our end it is no more than what is left of a call that is over.
        let ended = self.streams.get(stream).is_some_and(|state| !state.state.can_send());
        if !self.client && !ended {
            self.reset_cost()?;
        }
        self.drop_stream(stream);
        self.event(Event::Reset { stream, code });
        Ok(())
    }

    // WINDOW_UPDATE (section 6.9).

    fn window_updated(&mut self, number: u32, by: u32) -> Result<(), Fault> {
        if number == 0 {
            if by == 0 {
                return Err(Fault::ConnectionWindowZero);
            }
            return if self.send.grow(by) { Ok(()) } else { Err(Fault::ConnectionWindowOverflow) };
        }
        let Some(stream) = self.streams.find(number) else {
            return if self.is_idle(number) { Err(Fault::IdleStream) } else { self.idle_frame(1) };
        };
        let Some(state) = self.streams.get(stream) else { return Ok(()) };
        if by == 0 {
            return self.stream_fault(stream, Fault::StreamWindowZero);
        }
        if !state.send.grow(by) {
            return self.stream_fault(stream, Fault::StreamWindowOverflow);
        }
        if state.backlog > 0 {
            self.take_turns(stream);
        }
        Ok(())
    }

    // SETTINGS (section 6.5).

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::WrongStream);
        }
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Fault::FrameLength);
            }
            return self.settings_known();
        }
        if !self.settings_due {
            self.idle_frame(1 + payload.len() as u32 / 6)?;
        }
        self.settings_due = false;
        let window = self.peer.window;
        self.peer.read(payload, !self.client)?;
        self.encoder.set_peer_size(self.peer.header_table as usize);
        if self.peer.window != window {
            let by = i64::from(self.peer.window) - i64::from(window);
            // Each stream is looked at: that has to be paid for.
            self.idle_frame(self.open / 16)?;
            if !self.streams.iter_mut().all(|stream| stream.send.shift(by)) {
                return Err(Fault::SettingWindow);
            }
            if by > 0 {
                self.all_take_turns();
            }
        }
        self.acks(kind::SETTINGS, &[])?;
        self.event(Event::Settings);
        Ok(())
    }

    /// The peer knows our settings.
    fn settings_known(&mut self) -> Result<(), Fault> {
        if self.acknowledged {
            return self.idle_frame(1);
        }
        let before = self.stream_window();
        self.acknowledged = true;
        self.decoder.set_ceiling(self.limits.decoder_table);
        let after = self.stream_window();
        if after != before {
            for stream in self.streams.iter_mut() {
                let _ = stream.receive.resize(after);
            }
        }
        Ok(())
    }

    /// Answers a frame, as long as the peer reads the answers.
    fn acks(&mut self, kind: u8, payload: &[u8]) -> Result<(), Fault> {
        if self.acks.add() > self.limits.pending_acks {
            return Err(Fault::PendingAcks);
        }
        self.frame(kind, flag::ACK, 0, payload);
        Ok(())
    }

    // PING (section 6.7).

    fn pinged(&mut self, head: Head, payload: [u8; 8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::WrongStream);
        }
        if !head.has(flag::ACK) {
            self.idle_frame(1)?;
            return self.acks(kind::PING, &payload);
        }
        if payload == GOODBYE && self.leaving == Leaving::Announced {
            self.leave();
            return Ok(());
        }
        self.idle_frame(1)?;
        self.event(Event::Pong { payload });
        Ok(())
    }

    // GOAWAY (section 6.8).

    fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::WrongStream);
        }
        let (last, code, debug) = frame::goaway(payload)?;
        if self.peer_leaves.is_some_and(|before| last > before) {
            return Err(Fault::GoAwayGrew);
        }
        self.idle_frame(1)?;
        self.peer_leaves = Some(last);
        self.event(Event::GoAway { last, code, debug: Bytes::copy_from_slice(debug) });
        if self.client {
            for stream in self.streams.ids() {
                let open = self.streams.get(stream).is_some_and(|state| state.state.can_receive());
                if stream.number > last && open {
                    self.remembered.reset(stream.number);
                    self.drop_stream(stream);
                    self.event(Event::Refused { stream, limit: "goaway" });
                }
            }
        }
        Ok(())
    }
}
