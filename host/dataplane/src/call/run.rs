//! One call: find the service, pick, send, and again on another endpoint while no server can have
//! seen the request.
//!
//! ```text
//!   resolve ─▶ pick ─▶ connected? ─▶ send ─▶ head of the answer ─▶ body (see `body`)
//!               ▲          │ no       │ refused unseen, or the connection was closing
//!               └──────────┴──────────┘ endpoint added to those tried
//! ```
//!
//! What counts as unseen: no connection came up; HTTP/2 did not take the request; the server
//! answered REFUSED_STREAM, or GOAWAY with a last stream before this one (RFC 9113, section 8.7).
//! Everything else may have been acted upon, and its failure is the caller's to judge; unless the
//! service is configured as idempotent, then a call whose server was lost before it answered is
//! tried elsewhere too. And a service's owner may have said after which answers a call is to be
//! repeated (`traffic`): then an answer whose head is all there is goes back only when no other
//! endpoint gives a better one.
//!
//! Here is what a call does once: it finds its service, waits for its place, and chooses how it is
//! carried out. The attempts are in `attempt` (one) and `tries` (one after the other, unseen),
//! further ones after a server's word in `retry` and `hedge`; `answered` is what they end with.
//!
//! The whole call runs in the task of its caller: dropping the future, or the body it answers with,
//! cancels it. Only a request that is still being sent when its answer begins gets a task of its
//! own.

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
use waymark_balancer::{CallPermit, PickRequest, ServiceHandle, ServiceState, Services};
use waymark_core::{
    model::ServiceName,
    text,
    traffic::{Code, Repeat, Retries},
};

use self::answered::Answered;
use super::{
    body::{Deadline, ResponseBody},
    client::{ClientConnection, Origin},
    shared::Shared,
    upload::Source,
    wait::{self, WaitForReady, within},
};
use crate::{
    errors::failure::{AttemptError, CallStage, Failure},
    limits::stream_idle::StreamIdle,
    observe::record::RequestRecord,
    wire::{
        header_size::AnswerLimit,
        hops,
        timeout::{self, GRPC_TIMEOUT},
    },
};

type BoxError = Box<dyn Error + Send + Sync>;

/// How much is shown of a value that should have a few characters.
const SHORT: usize = 32;

/// A call's bounds on body types.
pub(crate) trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static {}

impl<B> RequestBody for B where B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static {}

/// A request on its way, with what is kept from one attempt to the next.
struct Call<'a, B> {
    shared: &'a Shared,
    head: request::Parts,
    source: Source<B>,
    origin: Origin<'a>,
    deadline: Deadline,
    stream_idle: StreamIdle,
    has_timeout: bool,
    /// Whether the service's calls may be carried out twice.
    idempotent: bool,
    /// Its number in the rotation, since its first attempt.
    sequence: Option<u32>,
    tried: Vec<u32>,
    /// The first endpoint that refused it unseen, and whether it was asked again for that.
    refused: Option<u32>,
    asked_again: bool,
    attempts: usize,
    last: Option<AttemptError>,
    /// What is done if it fails, if anything is.
    repeat: Option<Arc<Repeat>>,
    retries: Retries,
}

/// The service that a request is for.
pub(crate) enum RequestedService {
    /// One that is balanced already.
    Known(ServiceHandle),
    /// One that may exist.
    Named(Box<str>),
}

impl RequestedService {
    pub(crate) fn new(services: &Services, name: &str) -> Self {
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
///
/// Its future is made on the stack and moved into a box for each call, so what most calls do not
/// come to (looking a service up, waiting, connecting, hedges) is a future in a box of its own.
pub(crate) async fn call<B: RequestBody>(
    shared: &Shared,
    wanted: RequestedService,
    request: Request<B>,
    origin: Origin<'_>,
    began: Instant,
) -> Response<ResponseBody> {
    let (mut head, body) = request.into_parts();
    if let Err(passed) = hops::pass(&mut head.headers) {
        return refuse(shared, wanted.name(), head.uri.path(), origin.peer, began, &Failure::Loop { passed });
    }
    let left = match head.headers.get(GRPC_TIMEOUT).map(|value| (timeout::parse(value), value)) {
        None => None,
        Some((Some(left), _)) => Some(left),
        Some((None, value)) => {
            let value = text::printable_bytes(value.as_bytes(), SHORT);
            let failure = Failure::BadTimeout { value };
            return refuse(shared, wanted.name(), head.uri.path(), origin.peer, began, &failure);
        }
    };
    // A time past the clock's end is no deadline.
    let at = left.and_then(|left| began.checked_add(left));
    let mut call = Call {
        shared,
        head,
        source: Source::new(body, shared.options.replay_bytes),
        origin,
        deadline: Deadline::new(at),
        stream_idle: StreamIdle::new(shared.options.inbound.stream_idle_timeout),
        has_timeout: left.is_some(),
        idempotent: false,
        tried: Vec::new(),
        refused: None,
        asked_again: false,
        attempts: 0,
        last: None,
        repeat: None,
        sequence: None,
        retries: Retries::default(),
    };
    let found = match known(&wanted) {
        Some(known) => Ok(known),
        None => Box::pin(find(shared, &wanted, &call.head, origin, at)).await,
    };
    let (handle, state) = match found {
        Ok(found) => found,
        Err(failure) => return refuse(shared, wanted.name(), call.head.uri.path(), origin.peer, began, &failure),
    };
    let method = state.traffic.methods.of(call.head.uri.path());
    if let Some(timeout) = method.timeout {
        call.limit(began, timeout);
    }
    call.repeat.clone_from(&method.repeat);
    let name = handle.name().as_str();
    let entry = shared.entry(name, call.head.uri.path(), origin.peer);
    let record = shared.metrics.service(name).begin(began, entry);
    call.source.count(call.stream_idle.counter(record.received()));
    call.run(&handle, state, record).await
}

/// Answers with a failure that concerns no known service: all of them are counted together, so that
/// callers who make up names do not make up metrics.
pub(crate) fn refuse(
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

/// The service and its state, where both are at hand.
fn known(wanted: &RequestedService) -> Option<(ServiceHandle, Arc<ServiceState>)> {
    let RequestedService::Known(handle) = wanted else { return None };
    let state = Arc::clone(&handle.state());
    (!state.endpoints.is_empty()).then(|| (handle.clone(), state))
}

/// The service and its state, once the registry has said what there is.
async fn find(
    shared: &Shared,
    wanted: &RequestedService,
    head: &request::Parts,
    origin: Origin<'_>,
    deadline: Option<Instant>,
) -> Result<(ServiceHandle, Arc<ServiceState>), Failure> {
    let began = Instant::now();
    let service = ServiceName::new(wanted.name()).map_err(Failure::BadName)?;
    let discover = discover(shared, wanted, &service, origin);
    let handle = within(deadline, discover).await.ok_or(Failure::Deadline { stage: CallStage::Listing })??;
    let mut state = Arc::clone(&handle.state());
    while state.endpoints.is_empty() {
        let failure = match (&state.stale, state.listed) {
            (_, true) => Failure::NoEndpoints { revision: state.revision.0, skips: state.skips.clone() },
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

/// Has the service looked for, if it is new to this node and its caller has not asked for too many
/// that nobody has.
async fn discover(
    shared: &Shared,
    wanted: &RequestedService,
    service: &ServiceName,
    origin: Origin<'_>,
) -> Result<ServiceHandle, Failure> {
    let services = &shared.services;
    let client = match (wanted, origin.client) {
        (RequestedService::Named(_), Some(client)) => client,
        (RequestedService::Known(_), _) | (_, None) => {
            return services.discover(service).await.map_err(Failure::Discover);
        }
    };
    services.check_discoverable(service).map_err(Failure::Discover)?;
    let lookup = shared.lookups.begin(&client.lookups).await?;
    let known = services.get(service.as_str()).is_some();
    let handle = services.discover(service).await.map_err(Failure::Discover)?;
    let state = handle.state();
    // Somebody else may have asked for it while this one waited for its turn.
    if known || !state.endpoints.is_empty() || !state.listed {
        lookup.refund();
    }
    drop(state);
    Ok(handle)
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

    /// A permit to run in the service.
    async fn enter(&mut self, state: &ServiceState) -> Result<CallPermit, Failure> {
        let client = self.origin.client;
        let has_few = |limit| client.is_none_or(|client| client.share.is_modest(limit));
        match state.limiter.try_acquire(has_few) {
            Some(place) => Ok(place),
            None => Box::pin(wait::place(&self.shared.options, &state.limiter, has_few, self.deadline.at())).await,
        }
    }

    /// Forgets what was tried: another generation has other indexes.
    fn start_over(&mut self) {
        self.tried.clear();
        self.refused = None;
    }

    /// What is published once a call that failed may fare better; the failure where it does not
    /// wait for that.
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
        let tokens = Arc::clone(state.limiter.tokens());
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

    /// How large headers and trailers of its answer may be.
    fn answer_limit(&self) -> AnswerLimit {
        let client = self.origin.client.and_then(ClientConnection::takes);
        AnswerLimit { node: self.shared.options.connect.max_header_bytes, client }
    }

    /// What the pick of the next attempt needs to know. All attempts have the number of the first
    /// one.
    fn pick_request(&mut self, state: &ServiceState) -> PickRequest<'_> {
        let sequence = *self.sequence.get_or_insert_with(|| state.next_sequence());
        PickRequest {
            sequence,
            path: self.head.uri.path(),
            headers: &self.head.headers,
            peer: self.origin.peer,
            tried: &self.tried,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    /// How large what this returns would be, which is never called.
    fn size<F>(_: impl FnOnce() -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_call_is_small() {
        #[allow(clippy::diverging_sub_expression, unreachable_code, reason = "it is never called")]
        let of_call = size(|| {
            call::<Full<Bytes>>(unreachable!(), unreachable!(), unreachable!(), unreachable!(), unreachable!())
        });
        // Over 2 KiB, glibc's memcpy takes another way, which was a tenth of a call's instructions.
        assert!(of_call <= MOST, "{of_call} bytes");
    }

    /// An unoptimized future has more in it than an optimized one.
    const MOST: usize = 6000;
}
