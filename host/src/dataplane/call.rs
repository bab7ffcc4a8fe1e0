//! One call: find the service, pick, send, and again on another endpoint while no server can have seen the request.
//!
//! ```text
//!   resolve ─▶ pick ─▶ connected? ─▶ send ─▶ head of the answer ─▶ body (see `body`)
//!               ▲          │ no       │ refused unseen, or the connection was closing
//!               └──────────┴──────────┘ endpoint added to those tried
//! ```
//!
//! What counts as unseen: no connection came up; HTTP/2 did not take the request; the server answered REFUSED_STREAM, or GOAWAY
//! with a last stream before this one (RFC 9113, section 8.7). Everything else may have been acted upon, and its failure is
//! the caller's to judge; unless the service is configured as idempotent, then a call whose server was lost before it
//! answered is tried elsewhere too. And a service's owner may have said after which answers a call is to be repeated (`traffic`): then
//! an answer whose head is all there is goes back only when no other endpoint gives a better one.
//!
//! The whole call runs in the task of its caller: dropping the future, or the body it answers with, cancels it. Only a request
//! that is still being sent when its answer begins gets a task of its own.

mod hedge;

use std::{
    error::Error,
    future::{Future as _, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_LENGTH, request, response, uri};
use http_body::Body;
use tokio::time::Instant;

use super::{
    Shared,
    body::{Deadline, ResponseBody, Stream, UploadTask},
    code::is_grpc,
    connection::{Connection, Sender},
    errors::{AttemptCause, AttemptError, Doing, Failure, UnfitError},
    linger,
    metrics::RequestRecord,
    orca,
    received::Received,
    streams::Slot,
    timeout::{self, GRPC_TIMEOUT},
    upload::{Source, Upload},
    wait::{self, WaitForReady, Waiting, within},
};
use crate::{
    balancer::{
        CallGuard, EndpointState, Fitness, Outcome, Pick, PickRequest, Place, ServiceHandle, ServiceState, Services,
    },
    model::{Address, ServiceName},
    traffic::{Code, Pushback, Repeat, Retries, RetryPolicy, Tokens, Verdict},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// A call's bounds on body types.
pub(super) trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static {}

impl<B> RequestBody for B where B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static {}

/// A request on its way, with what is kept from one attempt to the next.
struct Call<'a, B> {
    shared: &'a Shared,
    head: request::Parts,
    source: Source<B>,
    peer: Option<IpAddr>,
    deadline: Deadline,
    has_timeout: bool,
    /// Whether the service's calls may be carried out twice.
    idempotent: bool,
    tried: Vec<u32>,
    attempts: usize,
    last: Option<AttemptError>,
    /// What is done if it fails, if anything is.
    repeat: Option<Arc<Repeat>>,
    retries: Retries,
}

/// How one attempt ended short of an answer.
enum Unanswered {
    /// The server cannot have seen the request, or may carry it out twice.
    Unseen(AttemptCause),
    /// The connection was on its way out; the endpoint itself may be well.
    Closing(h2::Error),
    /// It is all over.
    Failed(Failure),
}

/// The service that a request is for.
pub(super) enum Wanted {
    /// One that is balanced already.
    Known(ServiceHandle),
    /// One that may exist.
    Named(Box<str>),
}

impl Wanted {
    pub(super) fn new(services: &Services, name: &str) -> Self {
        services.get(name).map_or_else(|| Self::Named(name.into()), Self::Known)
    }

    fn name(&self) -> &str {
        match self {
            Self::Known(handle) => handle.name().as_str(),
            Self::Named(name) => name,
        }
    }
}

/// Answers one request by an instance of a service, or by a failure that says why not.
pub(super) async fn call<B: RequestBody>(
    shared: &Shared,
    wanted: Wanted,
    request: Request<B>,
    peer: Option<IpAddr>,
    began: Instant,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let left = match head.headers.get(GRPC_TIMEOUT).map(|value| (timeout::parse(value), value)) {
        None => None,
        Some((Some(left), _)) => Some(left),
        Some((None, value)) => {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let failure = Failure::BadTimeout { value };
            return refuse(shared, wanted.name(), head.uri.path(), peer, began, &failure);
        }
    };
    // A time past the clock's end is no deadline.
    let at = left.and_then(|left| began.checked_add(left));
    let mut call = Call {
        shared,
        head,
        source: Source::new(body, shared.options.replay_bytes),
        peer,
        deadline: Deadline::new(at),
        has_timeout: left.is_some(),
        idempotent: false,
        tried: Vec::new(),
        attempts: 0,
        last: None,
        repeat: None,
        retries: Retries::default(),
    };
    let (handle, state) = match find(shared, &wanted, &call.head, at).await {
        Ok(found) => found,
        Err(failure) => return refuse(shared, wanted.name(), call.head.uri.path(), peer, began, &failure),
    };
    let method = state.traffic.methods.of(call.head.uri.path());
    if let Some(timeout) = method.timeout {
        call.limit(began, timeout);
    }
    call.repeat.clone_from(&method.repeat);
    let name = handle.name().as_str();
    let entry = shared.entry(name, call.head.uri.path(), peer);
    let record = shared.metrics.service(name).begin(began, entry);
    call.source.count(record.received());
    call.run(&handle, state, record).await
}

/// Answers with a failure that concerns no known service: all of them are counted together, so that callers who make up names do
/// not make up metrics.
pub(super) fn refuse(
    shared: &Shared,
    name: &str,
    path: &str,
    peer: Option<IpAddr>,
    began: Instant,
    failure: &Failure,
) -> Response<ResponseBody> {
    let mut record = shared.metrics.service("").begin(began, shared.entry(name, path, peer));
    record.fail(failure);
    answer(name, failure)
}

fn answer(name: &str, failure: &Failure) -> Response<ResponseBody> {
    tracing::debug!(service = name, error = failure as &dyn Error, "call failed");
    failure.response(name, ResponseBody::empty())
}

/// The service and its state, once the registry has said what there is.
async fn find(
    shared: &Shared,
    wanted: &Wanted,
    head: &request::Parts,
    deadline: Option<Instant>,
) -> Result<(ServiceHandle, Arc<ServiceState>), Failure> {
    if let Wanted::Known(handle) = wanted {
        let state = Arc::clone(&handle.state());
        if !state.endpoints.is_empty() {
            return Ok((handle.clone(), state));
        }
    }
    let began = Instant::now();
    let service = ServiceName::new(wanted.name()).map_err(Failure::BadName)?;
    let discover = shared.services.discover(&service);
    let handle = within(deadline, discover).await.ok_or(Failure::Deadline { doing: Doing::Listing })?;
    let handle = handle.map_err(Failure::Discover)?;
    let mut state = Arc::clone(&handle.state());
    while state.endpoints.is_empty() {
        let failure = match (&state.stale, state.listed) {
            (_, true) => Failure::NoEndpoints { revision: state.revision.0 },
            (Some(unreachable), false) => Failure::RegistryUnreachable { reason: Arc::clone(&unreachable.reason) },
            (None, false) => Failure::NotListed { waited: began.elapsed() },
        };
        if !waits_for_ready(&state, head) {
            return Err(failure);
        }
        state = wait::ready(&handle, &state, deadline, failure).await?;
    }
    Ok((handle, state))
}

/// Whether a call waits while no endpoint can be reached.
fn waits_for_ready(state: &ServiceState, head: &request::Parts) -> bool {
    let own = head.extensions.get::<WaitForReady>().map(|own| own.0);
    own.unwrap_or_else(|| state.traffic.methods.of(head.uri.path()).wait_for_ready)
}

impl<B: RequestBody> Call<'_, B> {
    async fn run(
        mut self,
        handle: &ServiceHandle,
        state: Arc<ServiceState>,
        mut record: RequestRecord,
    ) -> Response<ResponseBody> {
        let answered = match self.enter(&state).await {
            Ok(place) => self.answer(handle, state, &mut record).await.map(|answered| (answered, place)),
            Err(failure) => Err(failure),
        };
        match answered {
            Ok((Answered::Whole { head, code }, _)) => {
                record.set_code(code);
                Response::from_parts(head, ResponseBody::empty())
            }
            Ok((Answered::Begun(begun), place)) => self.pass_on(handle.name().clone(), begun, place, record),
            Err(failure) => {
                record.fail(&failure);
                answer(handle.name().as_str(), &failure)
            }
        }
    }

    /// Says how long the call may take at most.
    fn limit(&mut self, began: Instant, timeout: Duration) {
        let Some(at) = began.checked_add(timeout) else { return };
        if self.deadline.at().is_none_or(|own| at < own) {
            self.deadline = Deadline::new(Some(at));
            self.has_timeout = true;
        }
    }

    /// A place in the service.
    async fn enter(&mut self, state: &ServiceState) -> Result<Place, Failure> {
        match state.gate.try_enter() {
            Some(place) => Ok(place),
            None => wait::place(&self.shared.options, &state.gate, self.deadline.at()).await,
        }
    }

    /// Forgets what was tried: another generation has other indexes.
    fn start_over(&mut self) {
        self.tried.clear();
    }

    /// What is published once a call that failed may fare better; the failure where it does not wait for that.
    async fn ready(
        &mut self,
        handle: &ServiceHandle,
        state: &ServiceState,
        failure: Failure,
    ) -> Result<Arc<ServiceState>, Failure> {
        if self.retries.made() > 0 || !waits_for_ready(state, &self.head) || !self.source.can_replay() {
            return Err(failure);
        }
        let state = wait::ready(handle, state, self.deadline.at(), failure).await?;
        self.start_over();
        Ok(state)
    }

    /// The answer of a server; if the call's policy says so, after others that failed it.
    async fn answer(
        &mut self,
        handle: &ServiceHandle,
        mut state: Arc<ServiceState>,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        let Some(repeat) = self.repeat.clone() else { return self.attempt_all(handle, &mut state, record).await };
        let tokens = Arc::clone(state.gate.tokens());
        let outcome = match &*repeat {
            Repeat::Retry(policy) => self.retried(handle, &mut state, policy, record).await,
            // Boxed: its future is large, and most calls need none of it.
            Repeat::Hedge(policy) => match Box::pin(self.hedged(&state, policy, record)).await {
                Some(outcome) => outcome,
                None => self.attempt_all(handle, &mut state, record).await,
            },
        };
        outcome.map(|mut answered| {
            match &mut answered {
                Answered::Whole { code, .. } if *code == Code::Ok => tokens.succeeded(),
                Answered::Whole { .. } => {}
                Answered::Begun(begun) => begun.tokens = Some(tokens),
            }
            answered
        })
    }

    /// Attempts one after the other, until one does not fail or the policy has enough.
    async fn retried(
        &mut self,
        handle: &ServiceHandle,
        state: &mut Arc<ServiceState>,
        policy: &RetryPolicy,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        let mut outcome = self.attempt_all(handle, state, record).await;
        while self.source.can_replay()
            && let Some((code, pushback)) = failed(&outcome)
        {
            let wait = match self.retries.ended(policy, state.gate.tokens(), code, pushback, fastrand::f64()) {
                Verdict::After(wait) => wait,
                Verdict::Final => return outcome,
                Verdict::Withheld => {
                    record.withheld();
                    return outcome;
                }
            };
            let at = Instant::now().checked_add(wait);
            // To wait past the deadline would only lose what the server said.
            if at.is_none_or(|at| self.deadline.at().is_some_and(|deadline| at >= deadline)) {
                return outcome;
            }
            tokio::time::sleep(wait).await;
            match self.attempt_all(handle, state, record).await {
                // No other endpoint could be asked: the last answer stands.
                Err(failure) if !failure.is_answer() && !matches!(failure, Failure::Deadline { .. }) => return outcome,
                next => outcome = next,
            }
        }
        outcome
    }

    fn pick_request(&self) -> PickRequest<'_> {
        PickRequest { path: self.head.uri.path(), headers: &self.head.headers, peer: self.peer, tried: &self.tried }
    }

    /// Attempt after attempt until a server answers.
    async fn attempt_all(
        &mut self,
        handle: &ServiceHandle,
        state: &mut Arc<ServiceState>,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        // The first endpoint that was passed over because it was still being connected to.
        let mut slow: Option<u32> = None;
        loop {
            self.idempotent = state.idempotent;
            let mut patient = state.endpoints.len() == 1;
            let index = match state.pick(&self.pick_request()) {
                Pick::Endpoint(index) => index,
                // A further attempt does not wait: there is an answer already.
                Pick::Queue if self.retries.made() == 0 => {
                    *state = wait::generation(&self.shared.options, handle, state, self.deadline.at()).await?;
                    self.start_over();
                    slow = None;
                    continue;
                }
                Pick::Queue => {
                    let (known, backing_off) = counts(state);
                    return Err(self.none_usable(state, known, backing_off));
                }
                Pick::NoEndpoints { .. } => {
                    let failure = Failure::NoEndpoints { revision: state.revision.0 };
                    *state = self.ready(handle, state, failure).await?;
                    continue;
                }
                Pick::NoneUsable { known, backing_off, full, pending } => match slow.take() {
                    // Better late than never.
                    Some(index) => {
                        patient = true;
                        index
                    }
                    None if (full > 0 || pending > 0) && self.tried.is_empty() => {
                        let why = if full > 0 { Waiting::Endpoint } else { Waiting::Check };
                        *state = wait::endpoint(&self.shared.options, handle, state, why, self.deadline.at()).await?;
                        continue;
                    }
                    None => {
                        let failure = self.none_usable(state, known, backing_off);
                        *state = self.ready(handle, state, failure).await?;
                        continue;
                    }
                },
                Pick::Fail(message) => {
                    let failure = Failure::PolicyFail { policy: Arc::clone(&state.policy_name), message };
                    *state = self.ready(handle, state, failure).await?;
                    continue;
                }
                Pick::Drop(message) => {
                    return Err(Failure::PolicyDrop { policy: Arc::clone(&state.policy_name), message });
                }
            };
            let endpoint = &state.endpoints[index as usize];
            // Somebody else may have taken the last place there since the pick.
            let Some(guard) = endpoint.cell.begin() else { continue };
            record.attempt(self.attempts, &endpoint.endpoint.address);
            self.attempts += 1;
            let cause = match self.attempt(&state.service, endpoint, guard, patient).await {
                Ok(answered) => {
                    if self.repeat.is_some() {
                        self.tried.push(index);
                    }
                    return Ok(answered);
                }
                Err(Unanswered::Unseen(cause)) => cause,
                Err(Unanswered::Closing(error)) => AttemptCause::Closing(error),
                Err(Unanswered::Failed(failure)) => {
                    self.tried.push(index);
                    return Err(failure);
                }
            };
            tracing::debug!(address = %endpoint.endpoint.address, error = &cause as &dyn Error, "attempt failed");
            if matches!(cause, AttemptCause::Slow) {
                slow = slow.or(Some(index));
            }
            if !self.tried.contains(&index) {
                self.tried.push(index);
            }
            self.last = Some(AttemptError { address: endpoint.endpoint.address.clone(), cause });
            if self.attempts >= self.shared.options.max_attempts || !self.source.can_replay() {
                let (known, backing_off) = counts(state);
                return Err(Failure::AllTried { attempts: self.attempts, known, backing_off, last: self.last.take() });
            }
        }
    }

    /// One endpoint, and its next connection if the one at hand was closing.
    async fn attempt(
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

    fn none_usable(&mut self, state: &ServiceState, known: usize, backing_off: usize) -> Failure {
        if self.attempts > 0 {
            return Failure::AllTried { attempts: self.attempts, known, backing_off, last: self.last.take() };
        }
        let unfit = state.endpoints.iter().filter(|endpoint| endpoint.cell.fitness() == Fitness::Unfit);
        let unhealthy = unfit.clone().count();
        if unhealthy > 0 {
            let last = unfit.filter_map(|endpoint| {
                let reason = Connection::of(endpoint, &state.service, &self.shared.options).unfit()?;
                Some(UnfitError { address: endpoint.endpoint.address.clone(), reason })
            });
            return Failure::NoneHealthy { known, unhealthy, backing_off, last: { last }.next() };
        }
        if backing_off == 0 {
            return Failure::NoneUsable { known };
        }
        let last = state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).find_map(|endpoint| {
            let cause = Connection::of(endpoint, &state.service, &self.shared.options).last_error()?;
            Some(AttemptError { address: endpoint.endpoint.address.clone(), cause: cause.into() })
        });
        Failure::NoneReachable { known, backing_off, last }
    }

    /// Turns the head of an answer into the answer.
    fn pass_on(
        self,
        service: ServiceName,
        begun: Begun,
        place: Place,
        record: RequestRecord,
    ) -> Response<ResponseBody> {
        let Begun { head, recv, upload, rest: detached, guard, slot, address, tokens } = begun;
        let source = self.source;
        let rest = detached.or_else(|| rest(upload?, source));
        let stream = Stream {
            received: Received::new(recv),
            service,
            address,
            guard,
            _place: place,
            record,
            tokens,
            deadline: self.deadline,
            _upload: rest,
            _slot: slot,
        };
        Response::from_parts(head, ResponseBody::streaming(stream))
    }
}

/// What a server answered.
enum Answered {
    /// Its head was all, as it is for most failures.
    Whole { head: response::Parts, code: Code },
    /// There is more to come.
    Begun(Begun),
}

/// An answer that has begun.
struct Begun {
    head: response::Parts,
    recv: h2::RecvStream,
    /// What of the request is still to be sent, from the call's source.
    upload: Option<Upload>,
    /// The same, if it is on its way already.
    rest: Option<UploadTask>,
    guard: CallGuard,
    slot: Slot,
    address: Address,
    /// The budget that gets something back if it ends well, where there are retries.
    tokens: Option<Arc<Tokens>>,
}

/// How an attempt failed that a server may have seen.
fn failed(outcome: &Result<Answered, Failure>) -> Option<(Code, Pushback)> {
    match outcome {
        Ok(Answered::Whole { code: Code::Ok, .. } | Answered::Begun(_)) => None,
        Ok(Answered::Whole { head, code }) => {
            let pushback = head.headers.get("grpc-retry-pushback-ms").map(http::HeaderValue::as_bytes);
            Some((*code, Pushback::parse(pushback)))
        }
        Err(failure) => failure.is_answer().then(|| (failure.code(), Pushback::None)),
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

/// Sends what is left of a request beside its answer.
fn rest<B: RequestBody>(mut upload: Upload, mut source: Source<B>) -> Option<UploadTask> {
    (!upload.is_done()).then(|| {
        let rest = async move {
            if poll_fn(|cx| upload.poll(&mut source, cx)).await.is_err() {
                // The answer shows it.
                upload.give_up();
            }
        };
        UploadTask(tokio::spawn(rest))
    })
}

fn counts(state: &ServiceState) -> (usize, usize) {
    let backing_off = state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).count();
    (state.endpoints.len(), backing_off)
}
