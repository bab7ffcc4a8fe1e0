//! The body of an answer on its way to the client, and the end of the call.

use std::{
    convert::Infallible,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::JoinHandle,
    time::{Instant, Sleep},
};
use waymark_balancer::{CallGuard, CallPermit, Outcome};
use waymark_core::{
    model::{Address, ServiceName},
    traffic::{Code, Tokens},
};

use super::client::OpenCall;
use crate::{
    errors::failure::{CallStage, Failure, strip_own},
    limits::stream_idle::StreamIdle,
    observe::{orca, record::RequestRecord},
    upstream::{exchange::Answer, streams::StreamPermit},
    wire::{
        header_size::{self, AnswerLimit, Section, TooLarge},
        status::WireCode as _,
    },
};

/// The body of an answer: what the instance sends, frame by frame, as fast as it is read.
///
/// It never fails: a call that breaks after its answer began ends with trailers that say how.
/// Dropping it cancels the call.
#[derive(Default)]
pub struct ResponseBody {
    stream: Option<StreamedAnswer>,
    /// What this node answers itself.
    own: Option<Box<Own>>,
    /// Of a call that came over the network, until its answer is read or given up.
    open: Option<OpenCall>,
}

/// An answer of this node's own that has not ended.
struct Own {
    body: tonic::body::Body,
    record: RequestRecord,
}

/// An answer that has not ended.
pub(crate) struct StreamedAnswer {
    pub(crate) answer: Answer,
    pub(crate) service: ServiceName,
    pub(crate) address: Address,
    pub(crate) guard: CallGuard,
    /// Its place in the service.
    pub(crate) _place: CallPermit,
    pub(crate) record: RequestRecord,
    /// The retry budget that gets something back if it ends well.
    pub(crate) tokens: Option<Arc<Tokens>>,
    /// How large its trailers may be.
    pub(crate) limit: AnswerLimit,
    pub(crate) deadline: Deadline,
    pub(crate) stream_idle: StreamIdle,
    /// Sends the rest of the request beside the answer; ended with the call.
    pub(crate) _upload: Option<UploadTask>,
    /// The call's place on its connection.
    pub(crate) _permit: StreamPermit,
}

/// The task of a request that is still being sent while its answer is read: the two directions do
/// not wait for each other.
pub(crate) struct UploadTask(pub(crate) JoinHandle<()>);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A call's deadline, if it has one. The timer is made when something has to be waited for, which
/// many answers never need.
pub(crate) struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn new(at: Option<Instant>) -> Self {
        Self { at, timer: None }
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Ready when it is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        timer.as_mut().poll(cx)
    }
}

impl ResponseBody {
    /// Nothing: the head was all.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn streaming(stream: StreamedAnswer) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    /// An answer of this node's own.
    pub(crate) fn own(body: tonic::body::Body, record: RequestRecord) -> Self {
        Self { own: Some(Box::new(Own { body, record })), ..Self::default() }
    }

    /// Keeps the call open on its client's connection for as long as there is this body.
    pub(crate) fn hold(&mut self, open: OpenCall) {
        self.open.get_or_insert(open);
    }

    fn ended(&mut self, trailers: Option<HeaderMap>) -> Option<Result<Frame<Bytes>, Infallible>> {
        Some(Ok(Frame::trailers(self.stream.take()?.ended(trailers)?)))
    }

    fn fail(&mut self, failure: &Failure) -> Option<HeaderMap> {
        let mut stream = self.stream.take()?;
        Some(stream.fail(failure))
    }
}

impl Own {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        // It has no source that could fail.
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).and_then(Result::ok);
        if let Some(frame) = &frame {
            if let Some(data) = frame.data_ref() {
                self.record.sent(data.len());
            }
            if let Some(code) = frame.trailers_ref().and_then(Code::of) {
                self.record.set_code(code);
            }
        }
        Poll::Ready(frame)
    }
}

impl StreamedAnswer {
    fn fail(&mut self, failure: &Failure) -> HeaderMap {
        self.record.fail(failure);
        self.guard.set_outcome(failure.outcome());
        tracing::debug!(service = %self.service, error = failure as &dyn std::error::Error, "call ended early");
        failure.trailers(&self.service)
    }

    /// Notes what the server's trailers say, and adds what they should have said.
    fn ended(mut self, mut trailers: Option<HeaderMap>) -> Option<HeaderMap> {
        if let Some(trailers) = &mut trailers {
            let bytes = header_size::of(trailers);
            if let Some((most, by)) = self.limit.over(bytes, trailers) {
                let what = Section::Trailers(self.address.clone());
                return Some(self.fail(&TooLarge { what, bytes, most, by }.into()));
            }
            strip_own(trailers);
            orca::read(trailers, &self.guard);
        }
        let Some(code) = trailers.as_ref().and_then(Code::of) else {
            let mut trailers = trailers.unwrap_or_default();
            trailers.extend(self.fail(&Failure::NoStatus { address: self.address.clone() }));
            return Some(trailers);
        };
        self.record.set_code(code);
        self.guard.set_outcome(Outcome::of(code));
        if code == Code::Ok
            && let Some(tokens) = &self.tokens
        {
            tokens.succeeded();
        }
        trailers
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = self.answer.poll(cx) {
            self.stream_idle.moved();
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                self.record.sent(data.len());
            }
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| {
                    Failure::of_stream(self.address.clone(), error, Section::Trailers, self.limit.node)
                })
            }));
        }
        if self.deadline.poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Failure::Deadline { stage: CallStage::Reading(self.address.clone()) })));
        }
        self.stream_idle.poll(cx).map(|limit| Some(Err(Failure::StreamIdle { limit })))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(own) = &mut self.own {
            let frame = ready!(own.poll_frame(cx));
            if frame.as_ref().is_none_or(Frame::is_trailers) {
                self.own = None;
            }
            return Poll::Ready(frame.map(Ok));
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match ready!(stream.poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(match frame.into_trailers() {
                Ok(trailers) => self.ended(Some(trailers)),
                Err(data) => Some(Ok(data)),
            }),
            Some(Err(failure)) => Poll::Ready(self.fail(&failure).map(|trailers| Ok(Frame::trailers(trailers)))),
            None => Poll::Ready(self.ended(None)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none() && self.own.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
