//! One attempt: a connection of the endpoint, the request on it, and the head of what comes back.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_LENGTH, response, uri};
use tokio::time::Instant;

use super::{
    Call, RequestBody,
    answered::{Answered, Begun},
};
use crate::{
    balancer::{CallGuard, EndpointState, Outcome},
    dataplane::{
        code::is_grpc,
        connection::{Connection, Sender},
        errors::{AttemptCause, Doing, Failure},
        linger, orca,
        streams::Slot,
        timeout::{self, GRPC_TIMEOUT},
        upload::Upload,
        wait::within,
    },
    model::{Address, ServiceName},
    traffic::Code,
};

/// How one attempt ended short of an answer.
pub(super) enum Unanswered {
    /// The server cannot have seen the request, or may carry it out twice.
    Unseen(AttemptCause),
    /// The connection was on its way out; the endpoint itself may be well.
    Closing(h2::Error),
    /// It is all over.
    Failed(Failure),
}

impl<B: RequestBody> Call<'_, B> {
    /// One endpoint, and its next connection if the one at hand was closing.
    pub(super) async fn attempt(
        &mut self,
        service: &ServiceName,
        endpoint: &EndpointState,
        mut guard: CallGuard,
        patient: bool,
    ) -> Result<Answered, Unanswered> {
        let connection = Connection::of(endpoint, service, &self.shared.options);
        // Each of its connections may be on its way out.
        let mut again = self.shared.options.connect.max_connections;
        loop {
            let sender = match connection.sender() {
                Some(sender) => sender,
                None => match self.connected(connection, endpoint, patient).await {
                    Ok(sender) => sender,
                    Err(unanswered) => {
                        if matches!(unanswered, Unanswered::Unseen(AttemptCause::Connect(_))) {
                            guard.set_outcome(Outcome::Failed);
                        }
                        return Err(unanswered);
                    }
                },
            };
            let Sender { request, slot } = sender;
            let number = slot.number();
            match self.send(endpoint, connection, request, slot, &mut guard).await {
                Ok((response, upload, slot)) => {
                    let (mut head, recv) = response.into_parts();
                    let code = match status_of(&head, recv.is_end_stream(), &endpoint.endpoint.address) {
                        Ok(code) => code,
                        Err(failure) => {
                            guard.set_outcome(failure.outcome());
                            return Err(Unanswered::Failed(failure));
                        }
                    };
                    if recv.is_end_stream() {
                        // Trailers-only: one frame in, one frame out.
                        let code = code.unwrap_or(Code::Unknown);
                        orca::read(&head.headers, &guard);
                        guard.set_outcome(Outcome::of(code));
                        return Ok(Answered::Whole { head, code });
                    }
                    // It may not be true, and nobody needs it: messages have their own lengths.
                    head.headers.remove(CONTENT_LENGTH);
                    let address = endpoint.endpoint.address.clone();
                    return Ok(Answered::Begun(Begun {
                        head,
                        recv,
                        upload: Some(upload),
                        rest: None,
                        guard,
                        slot,
                        address,
                        tokens: None,
                    }));
                }
                Err(Unanswered::Closing(_)) if again > 0 && self.source.can_replay() => {
                    connection.retire(number);
                    again -= 1;
                }
                Err(unanswered) => {
                    if matches!(unanswered, Unanswered::Closing(_)) {
                        connection.retire(number);
                    }
                    return Err(unanswered);
                }
            }
        }
    }

    /// Waits for the endpoint's connection: to the end of its attempt if `patient`, else only a moment.
    async fn connected(
        &mut self,
        connection: &Connection,
        endpoint: &EndpointState,
        patient: bool,
    ) -> Result<Sender, Unanswered> {
        let patience = (!patient).then(|| Instant::now() + self.shared.options.connect_patience);
        let until = match (self.deadline.at(), patience) {
            (Some(deadline), Some(patience)) => Some(deadline.min(patience)),
            (deadline, patience) => deadline.or(patience),
        };
        match within(until, connection.connected()).await {
            Some(Ok(sender)) => Ok(sender),
            Some(Err(error)) => Err(Unanswered::Unseen(error.into())),
            None if until == self.deadline.at() => {
                let doing = Doing::Connecting(endpoint.endpoint.address.clone());
                Err(Unanswered::Failed(Failure::Deadline { doing }))
            }
            None => Err(Unanswered::Unseen(AttemptCause::Slow)),
        }
    }

    /// Sends the request, and returns with the head of the answer.
    async fn send(
        &mut self,
        endpoint: &EndpointState,
        connection: &Connection,
        mut sender: h2::client::SendRequest<Bytes>,
        slot: Slot,
        guard: &mut CallGuard,
    ) -> Result<(Response<h2::RecvStream>, Upload, Slot), Unanswered> {
        let address = || endpoint.endpoint.address.clone();
        let request = self.request(connection).map_err(Unanswered::Failed)?;
        // Handles are cloned for each request, so that this never waits; it tells whether the connection is going away.
        let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
        ready.map_err(Unanswered::Closing)?;
        let nothing_to_send = self.source.is_empty();
        let (response, stream) = match sender.send_request(request, nothing_to_send) {
            Ok(sent) => sent,
            // Not an error of the connection: the request has something that HTTP/2 forbids.
            Err(cause) if !(cause.is_io() || cause.is_go_away() || cause.is_reset()) => {
                return Err(Unanswered::Failed(Failure::Unsendable { address: address(), cause }));
            }
            Err(error) => return Err(Unanswered::Closing(error)),
        };
        drop(sender);
        let mut sent = linger::Sent::new(response, Upload::new(stream, nothing_to_send), slot);
        let (source, deadline) = (&mut self.source, &mut self.deadline);
        let answered = poll_fn(|cx| {
            let (response, upload) = sent.parts();
            if !upload.is_done()
                && let Poll::Ready(Err(error)) = upload.poll(source, cx)
            {
                return Poll::Ready(Err(Failure::RequestBody(error)));
            }
            if let Poll::Ready(answered) = Pin::new(response).poll(cx) {
                return Poll::Ready(Ok(answered));
            }
            if deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(Failure::Deadline { doing: Doing::Answering(address()) }));
            }
            Poll::Pending
        });
        let answered = answered.await.map_err(|failure| {
            guard.set_outcome(failure.outcome());
            Unanswered::Failed(failure)
        })?;
        let (upload, slot) = sent.ended(answered.is_ok());
        match answered {
            Ok(response) => {
                guard.answered();
                // What is the whole answer may not be the last one.
                if self.repeat.is_none() || !response.body().is_end_stream() {
                    upload.commit(&mut self.source);
                }
                Ok((response, upload, slot))
            }
            Err(error) if error.is_go_away() && error.is_remote() => {
                // Streams that the server did process are not ended by its GOAWAY.
                Err(Unanswered::Closing(error))
            }
            Err(error) => match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => {
                    Err(Unanswered::Unseen(AttemptCause::Refused(error)))
                }
                _ => {
                    let failure = Failure::of_stream(address(), error);
                    guard.set_outcome(failure.outcome());
                    Err(match failure {
                        Failure::Lost { cause, .. } if self.idempotent => Unanswered::Unseen(AttemptCause::Lost(cause)),
                        failure => Unanswered::Failed(failure),
                    })
                }
            },
        }
    }

    /// The head to send on this attempt. It is copied: HTTP/2 does not give it back when a request was refused.
    fn request(&mut self, connection: &Connection) -> Result<Request<()>, Failure> {
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        let uri = &self.head.uri;
        let scheme = connection.scheme();
        *request.uri_mut() = if uri.scheme() == Some(&scheme) && uri.authority().is_some() {
            uri.clone()
        } else {
            let mut parts = uri::Parts::default();
            parts.scheme = Some(scheme);
            parts.authority = Some(uri.authority().unwrap_or_else(|| connection.authority()).clone());
            parts.path_and_query =
                Some(uri.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/")));
            http::Uri::from_parts(parts).expect("scheme, authority and path make a URI")
        };
        *request.headers_mut() = self.head.headers.clone();
        if self.has_timeout {
            let left = match self.deadline.at() {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                return Err(Failure::Deadline { doing: Doing::Arriving });
            }
            request.headers_mut().insert(GRPC_TIMEOUT, timeout::format(left));
        }
        if self.retries.made() > 0 {
            request.headers_mut().insert("grpc-previous-rpc-attempts", self.retries.made().into());
        }
        Ok(request)
    }
}

/// The status in the head of an answer, if it is there already; an answer that is not gRPC, or all of which is a head without a status, is none.
fn status_of(head: &response::Parts, whole: bool, address: &Address) -> Result<Option<Code>, Failure> {
    match Code::of(&head.headers) {
        Some(code) => Ok(Some(code)),
        None if head.status != StatusCode::OK || !is_grpc(&head.headers) => {
            Err(Failure::NotGrpc { address: address.clone(), status: head.status })
        }
        None if whole => Err(Failure::NoStatus { address: address.clone() }),
        None => Ok(None),
    }
}
