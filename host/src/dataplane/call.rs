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
//! Here is what a call does once: it finds its service, waits for its place, and chooses how it is carried out. The attempts are in `attempt` (one)
//! and `tries` (one after the other, unseen), further ones after a server's word in `retry` and `hedge`; `answered` is what they end with.
//!
//! The whole call runs in the task of its caller: dropping the future, or the body it answers with, cancels it. Only a request
//! that is still being sent when its answer begins gets a task of its own.

mod answered;
mod attempt;
mod hedge;
mod retry;
mod tries;

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tokio::time::Instant;

use self::answered::Answered;
use super::{
    Shared,
    body::{Deadline, ResponseBody},
    errors::{AttemptError, Doing, Failure},
    metrics::RequestRecord,
    timeout::{self, GRPC_TIMEOUT},
    upload::Source,
    wait::{self, WaitForReady, within},
};
use crate::{
    balancer::{PickRequest, Place, ServiceHandle, ServiceState, Services},
    model::ServiceName,
    traffic::{Code, Repeat, Retries},
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

    fn pick_request(&self) -> PickRequest<'_> {
        PickRequest { path: self.head.uri.path(), headers: &self.head.headers, peer: self.peer, tried: &self.tried }
    }
}
