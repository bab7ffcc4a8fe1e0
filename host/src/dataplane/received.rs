//! What a server sends on one stream: its data, and its trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

/// The body of a server's answer, as it comes.
pub(super) struct Received {
    recv: RecvStream,
    data_done: bool,
}

impl Received {
    pub(super) fn new(recv: RecvStream) -> Self {
        Self { recv, data_done: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        while !self.data_done {
            match ready!(self.recv.poll_data(cx)) {
                // Says nothing, and clients count such frames against the connection.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // It goes to its reader now, which takes it before it asks for more.
                    let released = self.recv.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                // "I need no more of the request": the answer is complete all the same (RFC 9113, section 8.1).
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset() => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(Frame::trailers).map(Ok)),
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset() => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.poll(cx)
    }
}
