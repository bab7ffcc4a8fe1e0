//! One request and its answer, between the call and the task of the connection.
//!
//! ```text
//!   call                         Exchange                        task of the connection (`owner`)
//!    Sending ── request, data ──▶ to be done ── in the mailbox's list ──▶ commands
//!    Answer  ◀── head, data ───── come ◀──────────────────────────────── events
//! ```
//!
//! Whatever is to be done for an exchange, it is in the list once. So the head of a request and its
//! first data are one entry and wake the connection once.
//!
//! The sender of data is told to go on when nothing of its stream waits in HTTP/2 any more: so a
//! frame is read from a client when the instance's window has taken the one before. The window for
//! answers is given back as their reader takes them, in halves, because each time wakes the
//! connection.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use waymark_http2::{Block, Code, StreamId};

use super::streams::Seen;
use crate::{
    errors::http2::{ConnectionError, StreamError},
    wire::merge::{Merged, is_small},
};

/// How many blocks are kept to be filled again.
const SPARE: usize = 16;

/// One that held more is not kept.
const SPARE_SIZE: usize = 4096;

/// How much data may be put into an exchange before the connection takes it, in bytes, and what a
/// piece counts beside its own.
const AHEAD: usize = 64 << 10;
const PIECE: usize = 1024;

/// What calls and the task of a connection share.
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    /// Whether it takes no more calls.
    closing: AtomicBool,
    pub(crate) seen: Arc<Seen>,
    /// How much of an answer is given back to the server at once.
    step: u32,
}

#[derive(Default)]
struct Mail {
    /// Exchanges for which there is something to do.
    list: Vec<Arc<Exchange>>,
    spare: Vec<Block>,
    ping: bool,
    /// Nobody will open a stream any more.
    leave: bool,
    /// Why it takes no more calls.
    closed: Option<Arc<ConnectionError>>,
    /// Nothing in the list will be seen to.
    over: bool,
    waker: Option<Waker>,
}

/// What the owner of a connection takes out of its mailbox in a turn, beside the list.
pub(super) struct Taken {
    pub(super) ping: bool,
    pub(super) leave: bool,
}

impl Mailbox {
    /// That of a connection whose streams have this window.
    pub(crate) fn new(window: u32) -> Arc<Self> {
        Arc::new(Self {
            mail: Mutex::default(),
            closing: AtomicBool::new(false),
            seen: Arc::default(),
            step: window / 2,
        })
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        // Nothing that runs under it can panic half-way.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Mail)) {
        let mut mail = self.mail();
        what(&mut mail);
        let waker = mail.waker.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn post(&self, exchange: Arc<Exchange>) {
        let mut mail = self.mail();
        if mail.over {
            let cause = mail.closed.clone().unwrap_or_else(|| Arc::new(ConnectionError::Ended));
            drop(mail);
            exchange.end_with(&cause);
            return;
        }
        mail.list.push(exchange);
        let waker = mail.waker.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks the server for a sign of life.
    pub(crate) fn ping(&self) {
        self.tell(|mail| mail.ping = true);
    }

    /// Lets the connection end when no stream is open.
    pub(crate) fn leave(&self) {
        self.tell(|mail| mail.leave = true);
    }

    /// Takes all that there is to do into `list`, which is empty, and puts blocks back that were
    /// used. Whatever comes after it wakes this context's task.
    pub(super) fn take(&self, list: &mut Vec<Arc<Exchange>>, used: &mut Vec<Block>, cx: &Context<'_>) -> Taken {
        let mut mail = self.mail();
        mem::swap(&mut mail.list, list);
        while let Some(mut block) = used.pop() {
            if mail.spare.len() < SPARE && block.size() <= SPARE_SIZE {
                block.clear();
                mail.spare.push(block);
            }
        }
        register(&mut mail.waker, cx);
        Taken { ping: mem::take(&mut mail.ping), leave: mail.leave }
    }

    /// Says that the connection takes no more calls. Those on it go on.
    pub(super) fn close(&self, cause: &Arc<ConnectionError>) {
        self.mail().closed.get_or_insert_with(|| Arc::clone(cause));
        self.closing.store(true, Relaxed);
    }

    /// The connection has ended. Returns what was still to be done.
    pub(super) fn end(&self, cause: &Arc<ConnectionError>) -> Vec<Arc<Exchange>> {
        self.close(cause);
        let mut mail = self.mail();
        mail.over = true;
        mem::take(&mut mail.list)
    }
}

/// What calls open streams with. When the last one goes, and the streams with it, the connection
/// ends in good order.
pub(crate) struct Handle {
    mailbox: Arc<Mailbox>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mailbox.leave();
    }
}

impl Handle {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Arc<Self> {
        Arc::new(Self { mailbox })
    }

    /// Why it takes no more calls, if it does not.
    pub(crate) fn closing(&self) -> Option<Arc<ConnectionError>> {
        if !self.mailbox.closing.load(Relaxed) {
            return None;
        }
        Some(self.mailbox.mail().closed.clone().unwrap_or_else(|| Arc::new(ConnectionError::Ended)))
    }

    /// An empty block for [`Self::open`].
    pub(crate) fn block(&self) -> Block {
        self.mailbox.mail().spare.pop().unwrap_or_default()
    }

    /// Begins a request, of which this is all if `whole`. It goes out with its first data, or when
    /// its answer is asked for.
    pub(crate) fn open(self: Arc<Self>, block: Block, whole: bool) -> (Sending, Answer) {
        let state = State { request: Some(block), whole, ..State::default() };
        let exchange = Arc::new(Exchange { handle: self, stream_number: AtomicU32::new(0), state: Mutex::new(state) });
        (Sending(Arc::clone(&exchange)), Answer(exchange))
    }
}

/// See the top.
pub(crate) struct Exchange {
    handle: Arc<Handle>,
    /// The stream's, once there is one.
    stream_number: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether it is in the mailbox's list, or the owner holds it back.
    pub(super) listed: bool,
    /// The head of the request, until it has a stream.
    pub(super) request: Option<Block>,
    /// Whether the head is all of the request.
    pub(super) whole: bool,
    pub(super) stream: Option<StreamId>,
    /// Data of the request that the connection is to take. Most calls have one piece.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    ahead: usize,
    pub(super) last: Option<Last>,
    /// Something of it waits in HTTP/2.
    pub(super) full: bool,
    /// Whether HTTP/2 has all of the request.
    pub(super) sent: bool,
    /// So much of the answer was read, and the server is to be told.
    pub(super) consumed: u32,
    pub(super) reset: Option<Code>,
    writer: Option<Waker>,
    head: Option<Head>,
    /// Data of the answer, and what it counts in the window. Most answers have one piece.
    next: Option<Piece>,
    later: VecDeque<Piece>,
    /// What was read of it, and is not in `consumed` yet.
    read: u32,
    /// How the answer ended, with its trailers.
    end: Option<Result<Option<HeaderMap>, StreamError>>,
    /// The server does not hear of the stream any more, nor we of it.
    gone: bool,
    reader: Option<Waker>,
}

struct Piece {
    data: Merged,
    counts: u32,
    /// Whether small pieces that follow are put together with it.
    small: bool,
}

/// How a request ends.
pub(super) enum Last {
    Data,
    Trailers(Block),
}

/// The beginning of an answer.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Whether it is all of it.
    pub(crate) whole: bool,
}

/// Keeps the waker of this context.
fn register(kept: &mut Option<Waker>, cx: &Context<'_>) {
    match kept {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *kept = Some(cx.waker().clone()),
    }
}

/// Who is to be woken once the state is not locked any more.
pub(super) type Wakers = [Option<Waker>; 2];

pub(super) fn wake(wakers: Wakers) {
    for waker in wakers.into_iter().flatten() {
        waker.wake();
    }
}

impl State {
    /// The next data of the request, and whether its end comes with it.
    pub(super) fn next_data(&mut self) -> Option<(Bytes, bool)> {
        let data = self.first.take().or_else(|| self.more.pop_front());
        let ends = self.more.is_empty() && matches!(self.last, Some(Last::Data));
        if ends {
            self.last = None;
        }
        match data {
            Some(data) => Some((data, ends)),
            None => ends.then(|| (Bytes::new(), true)),
        }
    }

    /// Notes that the connection has all data there was. Returns who is waiting to send more.
    pub(super) fn taken(&mut self) -> Option<Waker> {
        self.ahead = 0;
        if self.full { None } else { self.writer.take() }
    }

    /// There is room again for the request's data.
    pub(super) fn has_room(&mut self) -> Option<Waker> {
        self.full = false;
        self.writer.take()
    }

    pub(super) fn head_came(&mut self, head: Head) -> Wakers {
        if head.whole {
            self.end.get_or_insert(Ok(None));
        }
        self.head = Some(head);
        [self.reader.take(), None]
    }

    pub(super) fn data_came(&mut self, data: Bytes, counts: u32) -> Wakers {
        if let Some(last) = self.later.back_mut().or(self.next.as_mut())
            && last.small
            && last.data.takes(&data)
        {
            last.data.push(&data);
            last.counts += counts;
        } else {
            let piece = Piece { small: is_small(&data), data: Merged::new(data), counts };
            if self.next.is_none() {
                self.next = Some(piece);
            } else {
                self.later.push_back(piece);
            }
        }
        [self.reader.take(), None]
    }

    /// The answer ended, with these trailers.
    pub(super) fn answer_ended(&mut self, trailers: Option<HeaderMap>) -> Wakers {
        self.end.get_or_insert(Ok(trailers));
        [self.reader.take(), None]
    }

    /// The stream is gone, for this reason if the answer is not whole.
    pub(super) fn is_gone(&mut self, error: StreamError) -> Wakers {
        self.gone = true;
        self.request = None;
        self.first = None;
        self.more.clear();
        self.last = None;
        self.end.get_or_insert(Err(error));
        [self.reader.take(), self.writer.take()]
    }

    /// Whether nothing more is to come of it on either side.
    pub(super) fn is_over(&self) -> bool {
        self.gone || (self.sent && !self.full && self.end.is_some())
    }
}

impl Exchange {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_stream(&self, state: &mut State, stream: StreamId) {
        state.stream = Some(stream);
        self.stream_number.store(stream.number(), Relaxed);
    }

    /// Whether it is this stream's.
    pub(super) fn is_of(&self, stream: StreamId) -> bool {
        self.stream_number.load(Relaxed) == stream.number()
    }

    /// The connection ended.
    pub(super) fn end_with(&self, cause: &Arc<ConnectionError>) {
        let mut state = self.lock();
        let cause = Arc::clone(cause);
        let error = if state.stream.is_none() { StreamError::Unseen(cause) } else { StreamError::Lost(cause) };
        let wakers = state.is_gone(error);
        drop(state);
        wake(wakers);
    }

    /// There is something to do for it.
    fn list(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let listed = mem::replace(&mut state.listed, true);
        drop(state);
        if !listed {
            self.handle.mailbox.post(Arc::clone(self));
        }
    }
}

/// The request's side of an exchange.
pub(crate) struct Sending(Arc<Exchange>);

impl Sending {
    /// Ready when more may be sent, with true, or when the server wants no more.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock();
        if state.gone {
            return Poll::Ready(false);
        }
        if !state.full && state.ahead < AHEAD {
            return Poll::Ready(true);
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Ready when the server wants no more of the request.
    pub(crate) fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.gone {
            return Poll::Ready(());
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Sends data, which is the last or not.
    pub(crate) fn send(&self, data: Bytes, last: bool) {
        let mut state = self.0.lock();
        if state.gone {
            return;
        }
        if !data.is_empty() {
            state.ahead += data.len() + PIECE;
            if state.first.is_none() && state.more.is_empty() {
                state.first = Some(data);
            } else {
                state.more.push_back(data);
            }
        }
        if last {
            state.last = Some(Last::Data);
        }
        self.0.list(state);
    }

    /// Sends what ends the request.
    pub(crate) fn send_trailers(&self, trailers: Block) {
        let mut state = self.0.lock();
        if !state.gone {
            state.last = Some(Last::Trailers(trailers));
            self.0.list(state);
        }
    }

    /// An empty block for the trailers.
    pub(crate) fn block(&self) -> Block {
        self.0.handle.block()
    }

    /// Tells the server that the rest of the request will not come.
    pub(crate) fn give_up(&self) {
        let mut state = self.0.lock();
        if state.gone {
            return;
        }
        wake(state.is_gone(StreamError::GivenUp));
        state.reset = Some(Code::CANCEL);
        self.0.list(state);
    }
}

/// The answer's side of an exchange. Dropping it gives up what has not come or was not sent.
pub(crate) struct Answer(Arc<Exchange>);

impl Answer {
    /// The stream's number; 0 while there is none, and nothing was sent.
    pub(crate) fn stream(&self) -> u32 {
        self.0.stream_number.load(Relaxed)
    }

    /// Gives the request up if nothing of it was sent, and will be. Returns whether that is so.
    pub(crate) fn withdraw(&self) -> bool {
        let mut state = self.0.lock();
        if state.stream.is_some() {
            return false;
        }
        let wakers = state.is_gone(StreamError::GivenUp);
        drop(state);
        wake(wakers);
        true
    }

    /// The head of the answer.
    pub(crate) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Head, StreamError>> {
        let mut state = self.0.lock();
        if let Some(head) = state.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(Err(error)) = &state.end {
            return Poll::Ready(Err(error.clone()));
        }
        register(&mut state.reader, cx);
        if state.request.is_some() {
            self.0.list(state);
        }
        Poll::Pending
    }

    /// What comes after the head. Small pieces that have arrived together are one (`merge`).
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut state = self.0.lock();
        if let Some(piece) = state.next.take() {
            state.next = state.later.pop_front();
            state.read += piece.counts;
            // It goes to its reader now, which takes it before it asks for more. Once the end is
            // there nothing more comes.
            if state.end.is_none() && state.read >= self.0.handle.mailbox.step {
                state.consumed += mem::take(&mut state.read);
                self.0.list(state);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece.data.into_bytes()))));
        }
        match &mut state.end {
            None => {
                register(&mut state.reader, cx);
                Poll::Pending
            }
            Some(Ok(trailers)) => Poll::Ready(trailers.take().map(Frame::trailers).map(Ok)),
            // "I need no more of the request": the answer is complete all the same (RFC 9113,
            // section 8.1).
            Some(Err(StreamError::Reset(Code::NO_ERROR))) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        self.poll(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.withdraw() {
            return;
        }
        let mut state = self.0.lock();
        if state.is_over() {
            return;
        }
        let wakers = state.is_gone(StreamError::GivenUp);
        state.next = None;
        state.later.clear();
        state.reset = Some(Code::CANCEL);
        self.0.list(state);
        wake(wakers);
    }
}
