//! Brings exchanges onto the streams of a connection, in the connection's task.

use std::{collections::VecDeque, sync::Arc, task::Context};

use bytes::Bytes;
use waymark_http2::{Block, Code, Connection, Event, NoRoom, StreamId, io::Owner};

use super::exchange::{Exchange, Head, Last, Mailbox, wake};
use crate::{
    errors::http2::{ConnectionError, StreamError},
    wire::{fields, header_size},
};

/// How much of what a server says with GOAWAY is kept, in bytes.
const DEBUG: usize = 128;

/// Acts for the calls on a connection to an instance.
pub(crate) struct Exchanges {
    mailbox: Arc<Mailbox>,
    /// Those that have a stream, by its place.
    places: Vec<Option<Arc<Exchange>>>,
    /// Those that there is no room for yet.
    waiting: VecDeque<Arc<Exchange>>,
    /// Used again from turn to turn.
    list: Vec<Arc<Exchange>>,
    used: Vec<Block>,
    /// What is larger is not taken, in bytes.
    most: usize,
    settings_came: bool,
    gone_away: Option<Arc<ConnectionError>>,
    ended: bool,
}

impl Exchanges {
    pub(crate) fn new(mailbox: Arc<Mailbox>, most: u32) -> Self {
        Self {
            mailbox,
            places: Vec::new(),
            waiting: VecDeque::new(),
            list: Vec::new(),
            used: Vec::new(),
            most: most as usize,
            settings_came: false,
            gone_away: None,
            ended: false,
        }
    }

    /// Whether the server has sent its settings.
    pub(crate) fn settings_came(&self) -> bool {
        self.settings_came
    }

    /// The connection ended like this, unless the server had said why before. Returns how it did.
    pub(crate) fn end(&mut self, error: ConnectionError) -> Arc<ConnectionError> {
        let cause = self.gone_away.clone().unwrap_or_else(|| Arc::new(error));
        self.ended = true;
        let list = self.mailbox.end(&cause);
        for exchange in self.places.drain(..).flatten().chain(self.waiting.drain(..)).chain(list) {
            exchange.end_with(&cause);
        }
        cause
    }

    fn of(&self, stream: StreamId) -> Option<&Arc<Exchange>> {
        self.places.get(stream.place())?.as_ref().filter(|exchange| exchange.is_of(stream))
    }

    fn put(&mut self, stream: StreamId, exchange: Arc<Exchange>) {
        if self.places.len() <= stream.place() {
            self.places.resize(stream.place() + 1, None);
        }
        self.places[stream.place()] = Some(exchange);
    }

    fn forget(&mut self, stream: StreamId) {
        if self.of(stream).is_some() {
            self.places[stream.place()] = None;
        }
    }

    // What came.

    fn came(&mut self, event: Event, connection: &mut Connection) {
        match event {
            Event::Headers { stream, block, end } => self.head_came(stream, block, end, connection),
            Event::Data { stream, bytes, flow_len, end } => self.data_came(stream, bytes, flow_len, end, connection),
            Event::Trailers { stream, block } => self.trailers_came(stream, block, connection),
            Event::Informational { block, .. } => connection.recycle(block),
            Event::Reset { stream, code } => self.gone(stream, StreamError::Reset(code)),
            Event::StreamFault { stream, fault } => self.gone(stream, StreamError::Fault(fault)),
            Event::HeadersTooLarge { stream, .. } => {
                // It was not read to its end: there is more than was taken of it.
                self.gone(stream, StreamError::TooLarge(header_size::OF_ANSWERS as usize + 1));
            }
            Event::Refused { stream, .. } => {
                let cause = self.gone_away.clone().unwrap_or_else(|| Arc::new(ConnectionError::Ended));
                self.gone(stream, StreamError::Unseen(cause));
            }
            Event::Writable { stream } => {
                let Some(exchange) = self.of(stream) else { return };
                let mut state = exchange.lock();
                let writer = state.has_room();
                let over = state.is_over();
                drop(state);
                wake([writer, None]);
                if over {
                    self.forget(stream);
                }
            }
            Event::GoAway { code, debug, .. } => {
                let debug = String::from_utf8_lossy(&debug[..debug.len().min(DEBUG)]).into();
                let cause = Arc::new(ConnectionError::GoneAway { code, debug });
                self.mailbox.close(&cause);
                // The last word counts: a graceful end is announced first.
                self.gone_away = Some(cause);
            }
            Event::Settings => {
                let settings = connection.peer_settings();
                self.mailbox.seen.set(settings.streams, settings.header_block);
                self.settings_came = true;
            }
            Event::Pong { .. } => self.mailbox.seen.pong(),
            _ => {}
        }
    }

    /// The stream is gone.
    fn gone(&mut self, stream: StreamId, error: StreamError) {
        let Some(exchange) = self.of(stream) else { return };
        let wakers = exchange.lock().is_gone(error);
        wake(wakers);
        self.forget(stream);
    }

    /// Ends a stream whose answer is not taken.
    fn refuse(&mut self, stream: StreamId, error: StreamError, connection: &mut Connection) {
        let code = match &error {
            StreamError::Fault(fault) => fault.code(),
            _ => Code::CANCEL,
        };
        connection.reset(stream, code);
        self.gone(stream, error);
    }

    fn head_came(&mut self, stream: StreamId, block: Block, end: bool, connection: &mut Connection) {
        let Some(exchange) = self.of(stream) else { return connection.recycle(block) };
        let size = block.size();
        let head = if size > self.most {
            Err(StreamError::TooLarge(size))
        } else {
            fields::status(&block)
                .and_then(|status| Ok(Head { status, headers: fields::headers(&block)?, whole: end }))
                .map_err(StreamError::Fault)
        };
        connection.recycle(block);
        match head {
            Ok(head) => {
                let mut state = exchange.lock();
                let wakers = state.head_came(head);
                let over = state.is_over();
                drop(state);
                wake(wakers);
                if over {
                    self.forget(stream);
                }
            }
            Err(error) => self.refuse(stream, error, connection),
        }
    }

    fn data_came(&mut self, stream: StreamId, bytes: Bytes, counts: u32, end: bool, connection: &mut Connection) {
        let Some(exchange) = self.of(stream) else { return connection.consumed(stream, counts) };
        let mut state = exchange.lock();
        let mut wakers = if bytes.is_empty() { [None, None] } else { state.data_came(bytes, counts) };
        if end {
            let [reader, _] = state.answer_ended(None);
            wakers = [wakers[0].take().or(reader), None];
        }
        let over = state.is_over();
        drop(state);
        wake(wakers);
        if end {
            self.answer_ended(stream, over, connection);
        }
    }

    fn trailers_came(&mut self, stream: StreamId, block: Block, connection: &mut Connection) {
        let Some(exchange) = self.of(stream) else { return connection.recycle(block) };
        let size = block.size();
        let trailers = if size > self.most {
            Err(StreamError::TooLarge(size))
        } else {
            fields::headers(&block).map_err(StreamError::Fault)
        };
        connection.recycle(block);
        match trailers {
            Ok(trailers) => {
                let mut state = exchange.lock();
                let wakers = state.answer_ended(Some(trailers));
                let over = state.is_over();
                drop(state);
                wake(wakers);
                self.answer_ended(stream, over, connection);
            }
            Err(error) => self.refuse(stream, error, connection),
        }
    }

    /// Nothing more of the answer can come: there is no window to be kept.
    fn answer_ended(&mut self, stream: StreamId, over: bool, connection: &mut Connection) {
        connection.consumed(stream, u32::MAX);
        if over {
            self.forget(stream);
        }
    }

    // What is to be done.

    /// Does what is to be done for an exchange. Returns false where there is no room for it yet, or
    /// it may not open a stream.
    fn serve(&mut self, exchange: &Arc<Exchange>, may_open: bool, connection: &mut Connection) -> bool {
        let mut state = exchange.lock();
        state.listed = false;
        if let Some(code) = state.reset.take() {
            let stream = state.stream;
            drop(state);
            if let Some(stream) = stream {
                connection.reset(stream, code);
                self.forget(stream);
            }
            return true;
        }
        if let Some(block) = state.request.take() {
            let opened = if may_open { connection.open(&block, state.whole) } else { Err(NoRoom::Streams) };
            match opened {
                Ok(stream) => {
                    self.used.push(block);
                    state.sent = state.whole;
                    exchange.has_stream(&mut state, stream);
                    self.put(stream, Arc::clone(exchange));
                }
                Err(NoRoom::Streams) => {
                    state.request = Some(block);
                    // Whoever has more for it need not say so.
                    state.listed = true;
                    return false;
                }
                Err(_) => {
                    let cause = self.gone_away.clone().unwrap_or_else(|| Arc::new(ConnectionError::Ended));
                    self.mailbox.close(&cause);
                    let wakers = state.is_gone(StreamError::Unseen(cause));
                    drop(state);
                    wake(wakers);
                    return true;
                }
            }
        }
        let Some(stream) = state.stream else { return true };
        let consumed = std::mem::take(&mut state.consumed);
        if consumed > 0 {
            connection.consumed(stream, consumed);
        }
        while let Some((data, end)) = state.next_data() {
            // An error is a stream that is gone, of which an event tells.
            if let Ok(backlog) = connection.send_data(stream, data, end) {
                state.full = backlog.full;
            }
            state.sent |= end;
        }
        if let Some(Last::Trailers(block)) = state.last.take() {
            let _ = connection.send_trailers(stream, &block);
            self.used.push(block);
            state.sent = true;
        }
        let writer = state.taken();
        let over = state.is_over();
        drop(state);
        wake([writer, None]);
        if over {
            self.forget(stream);
        }
        true
    }
}

impl Owner for Exchanges {
    fn turn(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        self.mailbox.seen.set_heard(connection.reads());
        while let Some(event) = connection.next_event() {
            self.came(event, connection);
        }
        let mut list = std::mem::take(&mut self.list);
        let taken = self.mailbox.take(&mut list, &mut self.used, context);
        if taken.ping {
            connection.ping(*b"waymark?");
        }
        // Whoever waits goes first; but it is those in the list that may make room.
        for exchange in list.drain(..) {
            if !self.serve(&exchange, self.waiting.is_empty(), connection) {
                self.waiting.push_back(exchange);
            }
        }
        self.list = list;
        while let Some(exchange) = self.waiting.pop_front() {
            if !self.serve(&exchange, true, connection) {
                self.waiting.push_front(exchange);
                break;
            }
        }
        if taken.leave && self.waiting.is_empty() && connection.open_streams() == 0 {
            connection.shutdown();
        }
    }
}

impl Drop for Exchanges {
    fn drop(&mut self) {
        if !self.ended {
            self.end(ConnectionError::Ended);
        }
    }
}
