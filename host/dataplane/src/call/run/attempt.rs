//! One attempt: a connection of the endpoint, the request on it, and the head of what comes back.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures::future::OptionFuture;
use http::{Response, StatusCode, header::CONTENT_LENGTH, response};
use tokio::time::Instant;
use waymark_balancer::{CallGuard, EndpointState, Outcome, ServiceState};
use waymark_core::{model::Address, traffic::Code};
use waymark_http2::{Block, Code as Reason, Known};

use super::{
    Call, RequestBody,
    answered::{Answered, Begun},
    waits_for_ready,
};
use crate::{
    call::{
        connect_race, delayed_reset,
        shared::Shared,
        upload::{TrailerLimit, Upload},
        wait::{self, within},
    },
    errors::{
        failure::{AttemptCause, CallStage, Failure, strip_own},
        http2::{ConnectionError, StreamError},
    },
    observe::orca,
    upstream::{
        connection::{Connection, Sender},
        exchange::{Answer, Handle, Head},
        streams::{StreamPermit, Streams},
    },
    wire::{
        fields,
        header_size::{self, LimitedBy, Section, TooLarge},
        status::{WireCode as _, is_grpc},
        timeout,
    },
};

/// How one attempt ended short of an answer.
pub(super) enum Unanswered {
    /// The server cannot have seen the request, or may carry it out twice.
    Unseen(AttemptCause),
    /// The connection was on its way out; the endpoint itself may be well.
    Closing(Arc<ConnectionError>),
    /// It is all over.
    Failed(Failure),
}

impl<B: RequestBody> Call<'_, B> {
    /// One endpoint, and its next connection if the one at hand was closing.
    pub(super) async fn attempt(
        &mut self,
        state: &ServiceState,
        endpoint: &EndpointState,
        mut guard: CallGuard,
        patient: bool,
    ) -> Result<Answered, Unanswered> {
        let connection = Connection::of(endpoint, &state.service, &self.shared.connections);
        guard.set_due(self.deadline.at());
        // Each of its connections may be on its way out.
        let mut again = self.shared.options.connect.max_connections;
        loop {
            let share = self.origin.client.map(|client| &client.share);
            let sender = match connection.sender(share) {
                Some(sender) => sender,
                // Boxed, as all that most calls do not come to: see `call`.
                None => match Box::pin(self.connected(state, connection, endpoint, patient)).await {
                    Ok(sender) => sender,
                    Err(unanswered) => {
                        if matches!(unanswered, Unanswered::Unseen(AttemptCause::Connect(_))) {
                            guard.set_outcome(Outcome::Failed);
                        }
                        return Err(unanswered);
                    }
                },
            };
            let Sender { handle, permit } = sender;
            let number = permit.number();
            match self.send(state, endpoint, connection, handle, permit, &mut guard).await {
                Ok((Head { status, headers, whole }, answer, upload, permit)) => {
                    let (mut head, ()) = Response::new(()).into_parts();
                    (head.status, head.version, head.headers) = (status, http::Version::HTTP_2, headers);
                    if let Err(large) = self.check_answer(&head, endpoint) {
                        guard.set_outcome(large.outcome());
                        return Err(Unanswered::Failed(large));
                    }
                    strip_own(&mut head.headers);
                    let code = match status_of(&head, whole, &endpoint.endpoint.address) {
                        Ok(code) => code,
                        Err(failure) => {
                            guard.set_outcome(failure.outcome());
                            return Err(Unanswered::Failed(failure));
                        }
                    };
                    if whole {
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
                        answer,
                        upload: Some(upload),
                        rest: None,
                        guard,
                        permit,
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

    /// Waits for the endpoint's connection: to the end of its attempt if `patient` or if nobody is
    /// connected to, else only a moment.
    async fn connected(
        &mut self,
        state: &ServiceState,
        connection: &Connection,
        endpoint: &EndpointState,
        patient: bool,
    ) -> Result<Sender, Unanswered> {
        let (began, deadline) = (Instant::now(), self.deadline.at());
        let patience = (!patient).then_some(self.shared.options.connect_patience);
        let share = self.origin.client.map(|client| &client.share);
        let address = &endpoint.endpoint.address;
        let slow = || Unanswered::Unseen(AttemptCause::Slow);
        let reached = async {
            tokio::select! {
                biased;
                sender = connection.reached(share) => Some(sender),
                () = connect_race::elsewhere(state, endpoint, &self.tried, patience) => None,
            }
        };
        match within(deadline, reached).await {
            Some(Some(Ok(Some(sender)))) => return Ok(sender),
            // Every stream is taken.
            Some(Some(Ok(None))) => {}
            Some(Some(Err(error))) => return Err(Unanswered::Unseen(error.into())),
            Some(None) => return Err(slow()),
            None => {
                let stage = CallStage::Connecting(address.clone());
                return Err(Unanswered::Failed(Failure::Deadline { stage }));
            }
        }
        let Shared { options, metrics, .. } = self.shared;
        let free = async {
            tokio::select! {
                biased;
                sender = connection.connected(share) => Some(sender),
                () = connect_race::elsewhere(state, endpoint, &self.tried, None) => None,
            }
        };
        let patience = patience.map(|patience| began + patience);
        let freed = match patience {
            // Another endpoint may have one.
            Some(patience) if deadline.is_none_or(|deadline| patience < deadline) => {
                let _waiting = metrics.waits_for_stream(&state.service);
                within(Some(patience), free).await.flatten()
            }
            _ => {
                let asked = waits_for_ready(state, &self.head);
                let freed = wait::stream(options, state, address, metrics, deadline, asked, free).await;
                freed.map_err(Unanswered::Failed)?
            }
        };
        freed.ok_or_else(slow)?.map_err(|error| Unanswered::Unseen(error.into()))
    }

    /// Sends the request, and returns with the head of the answer.
    async fn send(
        &mut self,
        state: &ServiceState,
        endpoint: &EndpointState,
        connection: &Connection,
        handle: Arc<Handle>,
        permit: StreamPermit,
        guard: &mut CallGuard,
    ) -> Result<(Head, Answer, Upload, StreamPermit), Unanswered> {
        let address = || endpoint.endpoint.address.clone();
        let mut block = handle.block();
        self.request(connection, &endpoint.endpoint.address, &mut block).map_err(Unanswered::Failed)?;
        let takes = permit.takes();
        if let Some(most) = takes {
            let bytes = block.size();
            // Many refuse what is as large as they say, and some the connection with it.
            if bytes >= most as usize {
                let large = TooLarge { what: Section::Request, bytes, most, by: LimitedBy::Instance(address()) };
                return Err(Unanswered::Failed(large.into()));
            }
        }
        if let Some(cause) = handle.closing() {
            return Err(Unanswered::Closing(cause));
        }
        let nothing_to_send = self.source.is_empty();
        let (stream, answer) = handle.open(block, nothing_to_send);
        // Where a call may be carried out twice, it need not wait for a server that does not
        // answer.
        let streams = self.idempotent.then(|| permit.share());
        let mut silence = pin!(OptionFuture::from(streams.as_deref().map(Streams::silence)));
        let mut leaves = streams.is_some();
        let trailers = TrailerLimit {
            node: self.shared.options.inbound.max_header_bytes,
            instance: takes.map(|most| (most, address())),
        };
        let mut sent = delayed_reset::SentCall::new(answer, Upload::new(stream, nothing_to_send, trailers), permit);
        let (source, deadline, stream_idle) = (&mut self.source, &mut self.deadline, &mut self.stream_idle);
        let tried = &self.tried;
        let answered = poll_fn(|cx| {
            let (answer, upload) = sent.parts();
            if !upload.is_done()
                && let Poll::Ready(Err(error)) = upload.poll(source, cx)
            {
                return Poll::Ready(Err(Some(Failure::of_request(error))));
            }
            if let Poll::Ready(answered) = answer.poll_head(cx) {
                return Poll::Ready(Ok(answered));
            }
            if deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(Some(Failure::Deadline { stage: CallStage::Answering(address()) })));
            }
            if leaves && silence.as_mut().poll(cx).is_ready() {
                // With nowhere to go it stays.
                leaves = false;
                if source.can_replay() && state.has_other(endpoint, tried) {
                    return Poll::Ready(Err(None));
                }
            }
            if let Poll::Ready(limit) = stream_idle.poll(cx) {
                return Poll::Ready(Err(Some(Failure::StreamIdle { limit })));
            }
            Poll::Pending
        });
        let answered = answered.await.map_err(|failure| {
            if let Some(failure) = failure {
                guard.set_outcome(failure.outcome());
                Unanswered::Failed(failure)
            } else {
                guard.set_outcome(Outcome::Failed);
                Unanswered::Unseen(AttemptCause::Silent)
            }
        })?;
        let (answer, upload, permit) = sent.ended(answered.is_ok());
        match answered {
            Ok(head) => {
                guard.answered();
                // What is the whole answer may not be the last one.
                if self.repeat.is_none() || !head.whole {
                    upload.commit(&mut self.source);
                }
                Ok((head, answer, upload, permit))
            }
            // Streams that the server did process are not ended by its GOAWAY.
            Err(StreamError::Unseen(cause)) => Err(Unanswered::Closing(cause)),
            Err(StreamError::Reset(Reason::REFUSED_STREAM)) => Err(Unanswered::Unseen(AttemptCause::Refused)),
            Err(error) => {
                let failure = Failure::of_stream(address(), error, Section::Answer, self.answer_limit().node);
                guard.set_outcome(failure.outcome());
                Err(match failure {
                    Failure::Lost { cause, .. } if self.idempotent => Unanswered::Unseen(AttemptCause::Lost(cause)),
                    failure => Unanswered::Failed(failure),
                })
            }
        }
    }

    /// Whether the head of an answer is larger than somebody takes.
    fn check_answer(&self, head: &response::Parts, endpoint: &EndpointState) -> Result<(), Failure> {
        // It is whole, or HTTP/2 had not handed it on; what was seen to be too large may be the
        // trailers, which have come, too.
        let bytes = header_size::of_answer(&head.headers);
        let Some((most, by)) = self.answer_limit().over(bytes, &head.headers) else { return Ok(()) };
        let what = Section::Answer(endpoint.endpoint.address.clone());
        Err(TooLarge { what, bytes, most, by }.into())
    }

    /// Writes the head to send on this attempt.
    fn request(&mut self, connection: &Connection, address: &Address, block: &mut Block) -> Result<(), Failure> {
        let uri = &self.head.uri;
        let authority = uri.authority().unwrap_or_else(|| connection.authority()).as_str();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let scheme = connection.scheme();
        let left = match (self.has_timeout, self.deadline.at()) {
            (false, _) => None,
            (true, Some(at)) => Some(at.saturating_duration_since(Instant::now())),
            (true, None) => Some(Duration::MAX),
        };
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::Deadline { stage: CallStage::Arriving });
        }
        let mut write = || {
            fields::begin_request(block, &self.head.method, &scheme, authority, path)?;
            fields::add(block, &self.head.headers)?;
            // It is said from hop to hop (RFC 9110, section 10.1.4), and servers on gRPC's C core
            // refuse calls without it.
            fields::put(block, Known::Te, b"trailers")?;
            if let Some(left) = left {
                fields::put(block, Known::GrpcTimeout, timeout::format(left).as_bytes())?;
            }
            if self.retries.made() > 0 {
                let made = self.retries.made().to_string();
                fields::put(block, Known::GrpcPreviousRpcAttempts, made.as_bytes())?;
            }
            Ok(())
        };
        write().map_err(|cause| Failure::Unsendable { address: address.clone(), cause })
    }
}

/// The status in the head of an answer, if it is there already; an answer that is not gRPC, or all
/// of which is a head without a status, is none.
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
