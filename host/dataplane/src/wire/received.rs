//! What a server sends on one stream: its data, and its trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

use super::merge::{Merged, is_small};

/// The body of a server's answer, as it comes; small pieces that have arrived together are one
/// (`merge`).
pub(crate) struct Received {
    recv: RecvStream,
    /// Read with small pieces before it, and not to be put together with them.
    ahead: Option<Result<Bytes, h2::Error>>,
    data_done: bool,
    /// Nothing comes any more, trailers neither.
    done: bool,
}

impl Received {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, ahead: None, data_done: false, done: false }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.poll_data(cx)) {
            None => {}
            Some(Ok(data)) if is_small(&data) => {
                let mut merged = Merged::new(data);
                while let Poll::Ready(Some(next)) = self.poll_data(cx) {
                    match next {
                        Ok(next) if merged.takes(&next) => merged.push(&next),
                        next => {
                            self.ahead = Some(next);
                            break;
                        }
                    }
                }
                return Poll::Ready(Some(Ok(Frame::data(merged.into_bytes()))));
            }
            Some(data) => return Poll::Ready(Some(data.map(Frame::data))),
        }
        if self.done {
            return Poll::Ready(None);
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(Frame::trailers).map(Ok)),
            Err(error) if is_no_error(&error) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// The next piece of data. None: what is left are trailers, or nothing.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(ahead));
        }
        while !self.data_done {
            match ready!(self.recv.poll_data(cx)) {
                // Says nothing, and clients count such frames against the connection.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // It goes to its reader now, which takes it before it asks for more.
                    let released = self.recv.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| data)));
                }
                Some(Err(error)) if is_no_error(&error) => (self.data_done, self.done) = (true, true),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        Poll::Ready(None)
    }
}

/// "I need no more of the request": the answer is complete all the same (RFC 9113, section 8.1).
fn is_no_error(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset()
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.poll(cx)
    }
}
