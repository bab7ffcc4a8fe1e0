//! A request's body on its way to an instance.
//!
//! ```text
//!   client ──▶ Source (reads frames, keeps the first few) ──▶ Upload (one attempt's stream, waits for its window) ──▶ instance
//! ```
//!
//! A frame is read from the client only when the one before it was handed to HTTP/2, which takes it
//! only when the instance's window has room: that is the back-pressure. Small pieces that have
//! arrived by then go on as one (`merge`). What was read is kept (the bytes are shared, not copied)
//! until the answer begins or [`Source`]'s limit is passed, so that a request which a server
//! refused unseen can be sent again to another one. gRPC calls this a transparent retry (proposal
//! A6); nothing is ever sent to a second server that a first one may have acted on.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use waymark_core::model::Address;

use crate::{
    upstream::exchange::Sending,
    wire::{
        fields,
        header_size::{self, LimitedBy, Section, TooLarge},
        merge::{Merged, is_small},
    },
};

type BoxError = Box<dyn Error + Send + Sync>;

/// Where a request's body comes from, for one attempt after the other.
pub(crate) struct Source<B> {
    /// None: taken.
    body: Option<B>,
    /// What was read so far, from the beginning; dropped when it is too much, or not needed any
    /// more.
    kept: Kept,
    limit: usize,
    ended: bool,
    /// Read with small pieces before it, and not to be put together with them.
    ahead: Option<Result<Frame<Bytes>, BoxError>>,
    /// Where what is read from the body is counted, if it is.
    read: Option<Arc<AtomicU64>>,
}

#[derive(Default)]
struct Kept {
    /// Most calls send one frame, and need no list.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    len: usize,
    /// Frames were dropped: there is no way back.
    broken: bool,
}

/// What comes next of a body.
pub(crate) enum Next {
    /// Data, and whether it is the last of the body.
    Data(Bytes, bool),
    Trailers(HeaderMap),
    End,
}

impl<B> Source<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(body: B, limit: usize) -> Self {
        let ended = body.is_end_stream();
        Self { body: Some(body), kept: Kept::default(), limit, ended, ahead: None, read: None }
    }

    /// Takes it, and leaves one that has ended.
    pub(crate) fn take(&mut self) -> Self {
        let kept = std::mem::replace(&mut self.kept, Kept { broken: true, ..Kept::default() });
        let ended = std::mem::replace(&mut self.ended, true);
        let (ahead, read) = (self.ahead.take(), self.read.take());
        Self { body: self.body.take(), kept, limit: self.limit, ended, ahead, read }
    }

    /// Counts there the bytes that are read from here on.
    pub(crate) fn count(&mut self, read: Option<Arc<AtomicU64>>) {
        self.read = read;
    }

    /// Whether there is nothing to send at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended && self.kept.first.is_none() && self.kept.trailers.is_none() && !self.kept.broken
    }

    /// Whether an attempt can begin, or begin again.
    pub(crate) fn can_replay(&self) -> bool {
        !self.kept.broken
    }

    /// No further attempt will follow the one that has taken `at` frames: no more needs to be kept.
    pub(crate) fn commit(&mut self, at: usize) {
        if at >= self.kept.count() {
            self.kept = Kept::default();
        }
        // Else it is a repeated attempt, which still sends what an earlier one had read.
        self.kept.broken = true;
    }

    /// Whether it was read to its end, and all of it is kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.ended && !self.kept.broken
    }

    /// Whether nothing comes after so many frames.
    pub(crate) fn is_at_end(&self, at: usize) -> bool {
        self.ended && self.kept.trailers.is_none() && self.kept.get(at).is_none()
    }

    /// The frame after so many.
    ///
    /// # Errors
    ///
    /// The client broke its request off.
    pub(crate) fn poll_next(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Result<Next, BoxError>> {
        if let Some(data) = self.kept.get(*at) {
            *at += 1;
            return Poll::Ready(Ok(Next::Data(data, self.is_at_end(*at))));
        }
        if self.ended {
            // Reached by repeated attempts only: the first one was told with the last frame.
            return Poll::Ready(Ok(self.kept.trailers.clone().map_or(Next::End, Next::Trailers)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(Next::End)) };
        loop {
            let frame = if let Some(frame) = self.ahead.take() {
                frame?
            } else {
                let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                    self.ended = true;
                    return Poll::Ready(Ok(Next::End));
                };
                frame.map_err(Into::into)?
            };
            match frame.into_data() {
                Ok(mut data) => {
                    self.ended = body.is_end_stream();
                    if !self.ended && is_small(&data) {
                        let mut merged = Merged::new(data);
                        while let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(cx) {
                            let Some(next) = next else {
                                self.ended = true;
                                break;
                            };
                            match next.map_err(Into::into).map(Frame::into_data) {
                                Ok(Ok(next)) if merged.takes(&next) => {
                                    merged.push(&next);
                                    self.ended = body.is_end_stream();
                                    if self.ended {
                                        break;
                                    }
                                }
                                Ok(Ok(next)) => {
                                    self.ahead = Some(Ok(Frame::data(next)));
                                    break;
                                }
                                Ok(Err(other)) => {
                                    self.ahead = Some(Ok(other));
                                    break;
                                }
                                Err(error) => {
                                    self.ahead = Some(Err(error));
                                    break;
                                }
                            }
                        }
                        data = merged.into_bytes();
                    }
                    if let Some(read) = &self.read {
                        read.fetch_add(data.len() as u64, Relaxed);
                    }
                    self.kept.push(&data, self.limit);
                    *at += 1;
                    return Poll::Ready(Ok(Next::Data(data, self.ended)));
                }
                Err(frame) => {
                    // HTTP/2 has no other kinds of frames in a body.
                    if let Ok(trailers) = frame.into_trailers() {
                        self.ended = true;
                        if !self.kept.broken {
                            self.kept.trailers = Some(trailers.clone());
                        }
                        return Poll::Ready(Ok(Next::Trailers(trailers)));
                    }
                }
            }
        }
    }
}

impl Kept {
    fn get(&self, at: usize) -> Option<Bytes> {
        match at.checked_sub(1) {
            None => self.first.clone(),
            Some(at) => self.more.get(at).cloned(),
        }
    }

    fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    fn push(&mut self, data: &Bytes, limit: usize) {
        if self.broken {
            return;
        }
        self.len += data.len();
        if self.len > limit {
            *self = Self { broken: true, ..Self::default() };
        } else if self.first.is_none() {
            self.first = Some(data.clone());
        } else {
            self.more.push(data.clone());
        }
    }
}

/// One attempt's way to send a body.
pub(crate) struct Upload {
    stream: Sending,
    /// How many frames this attempt has taken from the source.
    at: usize,
    done: bool,
    trailers: TrailerLimit,
}

/// What is taken of a request's trailers, which gRPC has none of.
pub(crate) struct TrailerLimit {
    pub(crate) node: u32,
    /// What the instance takes, if it has said, and which one that is.
    pub(crate) instance: Option<(u32, Address)>,
}

impl TrailerLimit {
    fn check(&self, trailers: &HeaderMap) -> Result<(), TooLarge> {
        let bytes = header_size::of(trailers);
        let large = |most, by| Err(TooLarge { what: Section::RequestTrailers, bytes, most, by });
        if bytes > self.node as usize || header_size::has_all_names(trailers) {
            return large(self.node, LimitedBy::Clients);
        }
        match &self.instance {
            Some((most, address)) if bytes >= *most as usize => large(*most, LimitedBy::Instance(address.clone())),
            _ => Ok(()),
        }
    }
}

impl Upload {
    /// Sends on this stream; `done` when the request's head was all there is.
    pub(crate) fn new(stream: Sending, done: bool, trailers: TrailerLimit) -> Self {
        Self { stream, at: 0, done, trailers }
    }

    /// Whether nothing more will be sent.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Says that this attempt is the last: the answer has begun.
    pub(crate) fn commit<B>(&self, source: &mut Source<B>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        source.commit(self.at);
    }

    /// Sends what can be sent. Ready when all is sent or the instance wants no more: what that
    /// means, its answer tells.
    ///
    /// # Errors
    ///
    /// The client broke its request off: the call is over.
    pub(crate) fn poll<B>(&mut self, source: &mut Source<B>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        while !self.done {
            match self.stream.poll_ready(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return self.stopped(),
                Poll::Pending => return Poll::Pending,
            }
            match source.poll_next(&mut self.at, cx) {
                // Says nothing; and servers count such frames against the connection, which is
                // everybody's.
                Poll::Ready(Ok(Next::Data(data, false))) if data.is_empty() => {}
                Poll::Ready(Ok(Next::Data(data, last))) => {
                    self.done = last;
                    self.stream.send(data, last);
                }
                Poll::Ready(Ok(Next::Trailers(trailers))) => {
                    self.done = true;
                    if let Err(large) = self.trailers.check(&trailers) {
                        return Poll::Ready(Err(large.into()));
                    }
                    let mut block = self.stream.block();
                    if let Err(forbidden) = fields::add(&mut block, &trailers) {
                        return Poll::Ready(Err(forbidden.into()));
                    }
                    self.stream.send_trailers(block);
                }
                Poll::Ready(Ok(Next::End)) => {
                    self.done = true;
                    self.stream.send(Bytes::new(), true);
                }
                Poll::Ready(Err(error)) => {
                    self.done = true;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // While the client is silent, the instance may lose interest.
                    return match self.stream.poll_stopped(cx) {
                        Poll::Ready(()) => self.stopped(),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the instance that the rest of the request will not come.
    pub(crate) fn give_up(&self) {
        self.stream.give_up();
    }

    fn stopped(&mut self) -> Poll<Result<(), BoxError>> {
        self.done = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{convert::Infallible, task::Waker};

    use http_body::Frame;
    use http_body_util::{Empty, StreamBody};

    use super::*;

    fn source(frames: Vec<Frame<Bytes>>, limit: usize) -> Source<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        Source::new(StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok))), limit)
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    /// One that is not put together with others.
    fn large(letter: char) -> Frame<Bytes> {
        Frame::data(format!("{letter}{}", "~".repeat(2000)).into())
    }

    fn read<B: Body<Data = Bytes, Error = Infallible> + Unpin>(source: &mut Source<B>) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut at, mut text) = (0, String::new());
        loop {
            match source.poll_next(&mut at, &mut cx) {
                Poll::Ready(Ok(Next::Data(data, last))) => {
                    // Large pieces are named by their first letter.
                    text += std::str::from_utf8(&data[..data.len().min(8)]).unwrap().trim_end_matches('~');
                    if last {
                        return text + ".";
                    }
                }
                Poll::Ready(Ok(Next::Trailers(trailers))) => return format!("{text}+{}", trailers.len()),
                Poll::Ready(Ok(Next::End)) => return text + "|",
                _ => unreachable!("the body is always ready"),
            }
        }
    }

    #[test]
    fn every_attempt_reads_the_same_body() {
        let mut body = source(vec![large('a'), large('b'), large('c')], 10_000);
        assert_eq!(read(&mut body), "abc|");
        assert!(body.can_replay());
        assert_eq!(read(&mut body), "abc.");
        let mut trailers = HeaderMap::new();
        trailers.insert("a", "b".parse().unwrap());
        let mut body = source(vec![data("a"), Frame::trailers(trailers)], 100);
        assert_eq!(read(&mut body), "a+1");
        assert_eq!(read(&mut body), "a+1");
    }

    #[test]
    fn a_body_over_the_limit_is_sent_once() {
        let mut body = source(vec![data("aaaa"), data("b")], 4);
        assert_eq!(read(&mut body), "aaaab.");
        assert!(!body.can_replay());
        assert!(!body.is_empty());
    }

    #[test]
    fn a_committed_body_keeps_nothing_and_goes_on_where_it_was() {
        let mut body = source(vec![large('a'), large('b'), large('c')], 10_000);
        let (mut cx, mut at) = (Context::from_waker(Waker::noop()), 0);
        assert!(matches!(body.poll_next(&mut at, &mut cx), Poll::Ready(Ok(Next::Data(_, false)))));
        body.commit(at);
        assert!(matches!(body.poll_next(&mut at, &mut cx), Poll::Ready(Ok(Next::Data(data, _))) if data[0] == b'b'));
        assert!(!body.can_replay());
    }

    #[test]
    fn a_repeated_attempt_that_is_answered_early_still_sends_everything() {
        let mut body = source(vec![large('a'), large('b'), large('c')], 10_000);
        assert_eq!(read(&mut body), "abc|");
        body.commit(1);
        assert_eq!(read(&mut body), "abc.");
    }

    #[test]
    fn small_pieces_that_are_there_are_one_and_nothing_of_what_follows_is_lost() {
        let mut body = source(vec![data("a"), data(""), data("b"), large('c'), data("d"), data("e")], 10_000);
        let (mut cx, mut at, mut pieces) = (Context::from_waker(Waker::noop()), 0, Vec::new());
        while let Poll::Ready(Ok(Next::Data(data, last))) = body.poll_next(&mut at, &mut cx) {
            pieces.push((data.len(), last));
            if last {
                break;
            }
        }
        assert_eq!(pieces, [(2, false), (2001, false), (2, true)]);
        let mut trailers = HeaderMap::new();
        trailers.insert("a", "b".parse().unwrap());
        let mut body = source(vec![data("a"), data("b"), Frame::trailers(trailers)], 100);
        assert_eq!(read(&mut body), "ab+1");
        let frames = [Ok(data("a")), Ok(data("b")), Err("broken off")];
        let mut body = Source::new(StreamBody::new(futures::stream::iter(frames)), 100);
        let mut at = 0;
        assert!(matches!(body.poll_next(&mut at, &mut cx), Poll::Ready(Ok(Next::Data(data, false))) if data == "ab"));
        assert!(matches!(body.poll_next(&mut at, &mut cx), Poll::Ready(Err(_))));
    }

    #[test]
    fn a_body_without_frames_is_empty() {
        let body: Empty<Bytes> = Empty::new();
        let source = Source::new(body, 1);
        assert!(source.is_empty() && source.can_replay());
    }
}
