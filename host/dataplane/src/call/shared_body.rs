//! One request's body, read by several attempts at once (hedges).
//!
//! The first attempt takes frames from the client as its instance takes them from it. They are kept
//! meanwhile (`upload`), and once the body is whole further attempts send the same from the
//! beginning. Until then there is one reader, so that only one can wait for the client.

use std::{
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;

use super::upload::{Next, Source};

type BoxError = Box<dyn Error + Send + Sync>;

/// A body that several attempts send.
pub(crate) struct SharedBody<B> {
    source: Arc<Mutex<Source<B>>>,
}

impl<B> SharedBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    pub(crate) fn new(source: Source<B>) -> Self {
        Self { source: Arc::new(Mutex::new(source)) }
    }

    /// Whether all of it is there: only then a second reader may begin.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock().is_whole()
    }

    /// The body, from its beginning.
    pub(crate) fn body(&self) -> SharedBodyReader<B> {
        SharedBodyReader { shared_body: Self { source: Arc::clone(&self.source) }, at: 0, done: false }
    }

    /// Reads on without sending anything, to the end or until it breaks off. Only where there is no
    /// reader.
    pub(crate) async fn read(&self) {
        let mut body = self.body();
        while let Some(Ok(_)) = body.frame().await {}
    }

    /// No further attempt will follow. Where it is not whole, no more of it is kept: its one reader
    /// has all that was.
    pub(crate) fn commit(&self) {
        let mut source = self.lock();
        if !source.is_whole() {
            source.commit(usize::MAX);
        }
    }

    /// What it was made of, with what is kept. None while there are readers.
    pub(crate) fn into_source(self) -> Option<Source<B>> {
        Arc::into_inner(self.source).map(|source| source.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, Source<B>> {
        // A body that panicked is not read again: its call is over.
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt's reading of it.
pub(crate) struct SharedBodyReader<B> {
    shared_body: SharedBody<B>,
    at: usize,
    done: bool,
}

impl<B> Body for SharedBodyReader<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let mut at = self.at;
        let next = ready!(self.shared_body.lock().poll_next(&mut at, cx));
        self.at = at;
        Poll::Ready(match next {
            Ok(Next::Data(data, last)) => {
                self.done = last;
                Some(Ok(Frame::data(data)))
            }
            Ok(Next::Trailers(trailers)) => {
                self.done = true;
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok(Next::End) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.shared_body.lock().is_at_end(self.at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use http::HeaderMap;
    use http_body_util::{Empty, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    type Frames = mpsc::UnboundedSender<Frame<Bytes>>;

    fn shared_body(limit: usize) -> (Frames, SharedBody<impl Body<Data = Bytes, Error = Infallible> + Unpin>) {
        let (frames, rx) = mpsc::unbounded_channel();
        let rx = tokio_stream::wrappers::UnboundedReceiverStream::new(rx).map(Ok::<_, Infallible>);
        (frames, SharedBody::new(Source::new(StreamBody::new(rx), limit)))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn the_first_reader_reads_as_it_comes_and_others_read_the_same() {
        let (frames, shared_body) = shared_body(100);
        let mut first = shared_body.body();
        for text in ["a", "b"] {
            frames.send(data(text)).unwrap();
            assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), text);
            assert!(!shared_body.is_whole() && !first.is_end_stream());
        }
        frames.send(Frame::trailers(HeaderMap::new())).unwrap();
        assert!(first.frame().await.unwrap().unwrap().is_trailers());
        assert!(first.frame().await.is_none() && first.is_end_stream() && shared_body.is_whole());
        shared_body.commit();
        for _ in 0..2 {
            let second = shared_body.body().collect().await.unwrap();
            assert!(second.trailers().is_some());
            assert_eq!(second.to_bytes(), "ab");
        }
        drop(first);
        assert!(shared_body.into_source().unwrap().can_replay());
    }

    #[tokio::test]
    async fn what_is_too_long_to_be_kept_is_never_whole() {
        let (frames, shared_body) = shared_body(2);
        for text in ["aa", "b", "c"] {
            frames.send(data(text)).unwrap();
        }
        drop(frames);
        assert_eq!(shared_body.body().collect().await.unwrap().to_bytes(), "aabc");
        assert!(!shared_body.is_whole());
    }

    #[tokio::test]
    async fn what_is_kept_no_more_is_read_on() {
        let (frames, shared_body) = shared_body(100);
        let mut first = shared_body.body();
        frames.send(data("a")).unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        shared_body.commit();
        frames.send(data("b")).unwrap();
        drop(frames);
        assert_eq!(first.collect().await.unwrap().to_bytes(), "b");
        assert!(!shared_body.is_whole());
    }

    #[test]
    fn nothing_is_whole_at_once() {
        let shared_body = SharedBody::new(Source::new(Empty::<Bytes>::new(), 1));
        assert!(shared_body.is_whole() && shared_body.body().is_end_stream());
    }
}
