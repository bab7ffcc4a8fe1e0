//! Bodies of requests with their bounds, and of answers that keep their request counted until they
//! were read.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use super::connection_limit::Running;

/// Why a request's body ends early.
#[derive(Debug, Error)]
pub(super) enum TooMuch {
    #[error("the request is larger than this call takes")]
    Bytes,
    #[error("the request was not there in time")]
    Time,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

pin_project! {
    /// The body of a request: so many bytes, within so much time.
    pub(super) struct Bounded<B> {
        #[pin]
        inner: B,
        left: usize,
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<B> Bounded<B> {
    /// `time`: none for calls that go on sending for as long as they like.
    pub(super) fn new(inner: B, left: usize, time: Option<Duration>) -> Self {
        Self { inner, left, timer: time.map(sleep) }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error>> Body for Bounded<B> {
    type Data = Bytes;
    type Error = TooMuch;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooMuch>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.inner.poll_frame(cx) else {
            let Some(timer) = this.timer.as_pin_mut() else { return Poll::Pending };
            ready!(timer.poll(cx));
            return Poll::Ready(Some(Err(TooMuch::Time)));
        };
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        if let Some(data) = frame.data_ref() {
            let Some(left) = this.left.checked_sub(data.len()) else { return Poll::Ready(Some(Err(TooMuch::Bytes))) };
            *this.left = left;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// The body of an answer, with what is held until it was read or given up.
    pub(super) struct Held<B, P> {
        #[pin]
        inner: B,
        running: Running,
        permit: Option<P>,
    }
}

impl<B, P> Held<B, P> {
    pub(super) fn new(inner: B, running: Running, permit: Option<P>) -> Self {
        Self { inner, running, permit }
    }
}

impl<B: Body, P> Body for Held<B, P> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
