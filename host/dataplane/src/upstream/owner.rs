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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{
        io::IoSlice,
        task::{Poll, Waker},
        time::Instant,
    };

    use bytes::BytesMut;
    use http::{Method, uri};
    use waymark_http2::{Known, Limits};

    use super::*;
    use crate::upstream::exchange::{Answer, Handle, Sending};

    const MOST: u32 = 1000;

    /// A connection without sockets, the server of which does what a test says.
    struct Bench {
        client: Connection,
        server: Connection,
        owner: Exchanges,
        handle: Option<Arc<Handle>>,
    }

    fn carry(from: &mut Connection, to: &mut Connection) {
        let mut bytes = BytesMut::new();
        while from.prepare() {
            let mut pieces = [IoSlice::new(&[]); 8];
            let count = from.slices(&mut pieces);
            let length = pieces[..count].iter().map(|piece| piece.len()).sum();
            pieces[..count].iter().for_each(|piece| bytes.extend_from_slice(piece));
            from.written(length);
        }
        if !bytes.is_empty() {
            to.receive(&mut bytes, Instant::now()).unwrap();
        }
    }

    impl Bench {
        fn new(server: Limits) -> Self {
            let now = Instant::now();
            let mailbox = Mailbox::new(100);
            let limits = Limits { stream_window: 100, stream_backlog: 0, ..Limits::default() };
            let mut bench = Self {
                client: Connection::client(limits, now),
                server: Connection::server(server, now),
                owner: Exchanges::new(Arc::clone(&mailbox), MOST),
                handle: Some(Handle::new(mailbox)),
            };
            bench.run();
            assert!(bench.owner.settings_came());
            bench
        }

        /// Until both sides have heard all. What the server heard.
        fn run(&mut self) -> Vec<Event> {
            let mut heard = Vec::new();
            for _ in 0..4 {
                self.owner.turn(&mut Context::from_waker(Waker::noop()), &mut self.client);
                carry(&mut self.client, &mut self.server);
                heard.extend(std::iter::from_fn(|| self.server.next_event()));
                carry(&mut self.server, &mut self.client);
            }
            heard.retain(|event| *event != Event::Settings);
            heard
        }

        fn open(&self, whole: bool) -> (Sending, Answer) {
            let handle = Arc::clone(self.handle.as_ref().unwrap());
            let mut block = handle.block();
            fields::begin_request(&mut block, &Method::POST, &uri::Scheme::HTTP, "a%2Fb", "/c").unwrap();
            handle.open(block, whole)
        }

        fn answer(&mut self, stream: StreamId, fields: &[(&str, &str)], end: bool) {
            let mut block = Block::new();
            fields.iter().for_each(|(name, value)| block.push(name.as_bytes(), value.as_bytes()).unwrap());
            self.server.send_headers(stream, &block, end).unwrap();
        }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn begun(heard: &[Event]) -> Vec<StreamId> {
        let begins = |event: &Event| match event {
            Event::Headers { stream, .. } => Some(*stream),
            _ => None,
        };
        heard.iter().filter_map(begins).collect()
    }

    #[test]
    fn a_call_and_its_answer_pass_whole() {
        let mut bench = Bench::new(Limits::default());
        let (sending, mut answer) = bench.open(false);
        assert!(bench.run().is_empty(), "it goes out with its first data");
        sending.send(Bytes::from_static(b"ask"), true);
        assert!(answer.poll_head(&cx()).is_pending());
        let heard = bench.run();
        let [stream] = begun(&heard)[..] else { panic!("{heard:?}") };
        assert!(matches!(&heard[0], Event::Headers { block, .. } if block.get(Known::Authority) == Some(b"a%2Fb")));
        assert!(matches!(&heard[1], Event::Data { bytes, end: true, .. } if bytes == "ask"));
        bench.answer(stream, &[(":status", "200"), ("x-a", "1")], false);
        for piece in ["sa", "id"] {
            bench.server.send_data(stream, Bytes::from_static(piece.as_bytes()), false).unwrap();
        }
        let mut trailers = Block::new();
        trailers.push(b"grpc-status", b"0").unwrap();
        bench.server.send_trailers(stream, &trailers).unwrap();
        bench.run();
        let Poll::Ready(Ok(head)) = answer.poll_head(&cx()) else { panic!("no head") };
        assert_eq!((head.status.as_u16(), &head.headers["x-a"].to_str().unwrap(), head.whole), (200, &"1", false));
        let mut next = || match answer.poll(&cx()) {
            Poll::Ready(frame) => frame.map(Result::unwrap),
            Poll::Pending => panic!("it does not end"),
        };
        assert_eq!(next().unwrap().into_data().unwrap(), "said", "small pieces are one");
        assert_eq!(next().unwrap().into_trailers().unwrap()["grpc-status"], "0");
        assert!(next().is_none());
        drop((sending, answer));
        assert!(bench.run().is_empty(), "there is nothing to reset");
        assert!(bench.owner.places.iter().all(Option::is_none));
    }

    #[test]
    fn who_has_no_stream_yet_waits_for_one_and_is_not_sent_when_it_is_given_up() {
        let mut bench = Bench::new(Limits { streams: 1, ..Limits::default() });
        let mut calls: Vec<_> = (0..3).map(|_| bench.open(true)).collect();
        calls.iter_mut().for_each(|(_, answer)| assert!(answer.poll_head(&cx()).is_pending()));
        let heard = bench.run();
        let [first] = begun(&heard)[..] else { panic!("{heard:?}") };
        calls.remove(1);
        bench.answer(first, &[(":status", "200")], true);
        let heard = bench.run();
        let [last] = begun(&heard)[..] else { panic!("{heard:?}") };
        bench.answer(last, &[(":status", "204")], true);
        bench.run();
        for ((_, mut answer), status) in calls.into_iter().zip([200, 204]) {
            assert!(matches!(answer.poll_head(&cx()), Poll::Ready(Ok(head)) if head.status == status && head.whole));
        }
        assert!(bench.owner.waiting.is_empty());
    }

    #[test]
    fn more_of_a_request_is_asked_for_when_the_window_has_taken_what_was_there() {
        let mut bench = Bench::new(Limits { stream_window: 10, ..Limits::default() });
        // Until the server knows that we know its settings, the window is the RFC's.
        bench.run();
        let (sending, _answer) = bench.open(false);
        sending.send(Bytes::from(vec![7; 25]), false);
        let mut got = 0;
        let mut stream = None;
        for _ in 0..3 {
            for event in bench.run() {
                match event {
                    Event::Headers { stream: begun, .. } => stream = Some(begun),
                    Event::Data { flow_len, .. } => got += flow_len,
                    _ => {}
                }
            }
            assert_eq!(sending.poll_ready(&cx()), if got < 25 { Poll::Pending } else { Poll::Ready(true) });
            bench.server.consumed(stream.unwrap(), 10);
        }
        assert_eq!(got, 25);
    }

    #[test]
    fn the_window_for_an_answer_comes_back_as_it_is_read() {
        let mut bench = Bench::new(Limits::default());
        let (_sending, mut answer) = bench.open(true);
        assert!(answer.poll_head(&cx()).is_pending());
        let stream = begun(&bench.run())[0];
        bench.answer(stream, &[(":status", "200")], false);
        let backlog = bench.server.send_data(stream, Bytes::from(vec![7; 250]), true).unwrap();
        assert_eq!(backlog.stream, 250);
        let mut read = 0;
        let mut turns = 0;
        while read < 250 {
            bench.run();
            while let Poll::Ready(Some(frame)) = answer.poll(&cx()) {
                read += frame.unwrap().into_data().unwrap().len();
            }
            turns += 1;
            assert!(read <= 100 * turns, "{read} came in {turns} turns of a window of 100");
        }
    }

    #[test]
    fn what_was_not_sent_was_not_seen_and_what_was_may_have_been() {
        let mut bench = Bench::new(Limits::default());
        let (_sending, mut sent) = bench.open(true);
        assert!(sent.poll_head(&cx()).is_pending());
        bench.run();
        let (_sending, mut posted) = bench.open(true);
        assert!(posted.poll_head(&cx()).is_pending());
        let (_sending, mut begun) = bench.open(true);
        bench.owner.end(ConnectionError::Closed);
        let error = |answer: &mut Answer| match answer.poll_head(&cx()) {
            Poll::Ready(Err(error)) => error,
            _ => panic!("no error"),
        };
        assert!(matches!(error(&mut sent), StreamError::Lost(_)));
        assert!(matches!(error(&mut posted), StreamError::Unseen(_)));
        assert!(begun.poll_head(&cx()).is_pending(), "which posts it");
        assert!(matches!(error(&mut begun), StreamError::Unseen(_)));
        assert!(bench.handle.as_ref().unwrap().closing().is_some());
    }

    #[test]
    fn what_goaway_leaves_out_was_not_seen_and_the_rest_goes_on() {
        let mut bench = Bench::new(Limits::default());
        let (_sending, mut kept) = bench.open(true);
        assert!(kept.poll_head(&cx()).is_pending());
        let stream = begun(&bench.run())[0];
        // Twice: at once, without waiting for what is on its way.
        bench.server.shutdown();
        bench.server.shutdown();
        let (_sending, mut late) = bench.open(true);
        assert!(late.poll_head(&cx()).is_pending());
        bench.run();
        assert!(matches!(late.poll_head(&cx()), Poll::Ready(Err(StreamError::Unseen(_)))));
        assert!(bench.handle.as_ref().unwrap().closing().is_some());
        bench.answer(stream, &[(":status", "200")], true);
        bench.run();
        assert!(matches!(kept.poll_head(&cx()), Poll::Ready(Ok(_))));
        assert!(bench.client.is_finished());
    }

    #[test]
    fn headers_above_the_limit_end_their_stream_and_tell_their_size() {
        let mut bench = Bench::new(Limits::default());
        let (_sending, mut answer) = bench.open(true);
        assert!(answer.poll_head(&cx()).is_pending());
        let stream = begun(&bench.run())[0];
        bench.answer(stream, &[(":status", "200"), ("x", &"y".repeat(1000))], false);
        let heard = bench.run();
        assert!(matches!(heard[..], [Event::Reset { code: Code::CANCEL, .. }]), "{heard:?}");
        let Poll::Ready(Err(StreamError::TooLarge(size))) = answer.poll_head(&cx()) else { panic!("it was taken") };
        assert_eq!(size, 7 + 3 + 32 + 1 + 1000 + 32);
    }

    #[test]
    fn a_call_that_is_given_up_is_reset_and_the_connection_ends_when_nobody_has_it() {
        let mut bench = Bench::new(Limits::default());
        let (sending, mut answer) = bench.open(false);
        sending.send(Bytes::from_static(b"x"), false);
        assert!(answer.poll_head(&cx()).is_pending());
        bench.run();
        bench.handle = None;
        bench.run();
        assert!(!bench.client.is_finished());
        drop(answer);
        assert!(matches!(sending.poll_ready(&cx()), Poll::Ready(false)));
        drop(sending);
        let heard = bench.run();
        assert!(heard.iter().any(|event| matches!(event, Event::Reset { code: Code::CANCEL, .. })), "{heard:?}");
        assert!(heard.iter().any(|event| matches!(event, Event::GoAway { code: Code::NO_ERROR, .. })), "{heard:?}");
        assert!(bench.client.is_finished());
    }
}
