//! What is published for a service, and the pick: the hot path.
//!
//! A [`ServiceState`] is immutable but for counters. Endpoints, plan and fallback belong together
//! and are swapped together: one `Arc`, so that a request sees one generation from its first
//! attempt to its last.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use waymark_core::{
    model::{Revision, ServiceName, Skips},
    policy::{Decision, LoadReport, PickContext, PickError, PickTook, Plan, RequestFacts},
    snapshot::{Snapshot, Staleness},
    traffic::Traffic,
};

use crate::{
    call_limiter::CallLimiter,
    endpoint::{EndpointCell, EndpointState},
    hash::HashKey,
    pick_times::PickTimes,
    status::flag,
    upstream::AnyUpstream,
};

/// Told when a policy fails at a pick, and what its picks take.
pub trait FailureSink: Send + Sync + 'static {
    /// One pick of this generation's policy failed and was answered by a fallback.
    fn pick_failed(&self, error: &PickError);

    /// What one pick took, of those that are measured.
    fn pick_took(&self, _took: &PickTook) {}

    /// Whether it failed too often, or takes too much: it is asked no more, and what replaces it is
    /// about to be published.
    fn is_quarantined(&self) -> bool {
        false
    }
}

/// One generation of one service: what picks read.
pub struct ServiceState {
    /// The service.
    pub service: ServiceName,
    /// The revision its endpoints are from.
    pub revision: Revision,
    /// Counts what was published for this service, from 1; 0 is the empty state before the first
    /// list.
    pub generation: u64,
    /// The version of its policy in the service's history.
    pub policy_version: u64,
    /// The policy's name.
    pub policy_name: Arc<str>,
    /// All endpoints, in the order the plan's indexes mean.
    pub endpoints: Arc<[EndpointState]>,
    /// Set while the registry cannot be reached.
    pub stale: Option<Staleness>,
    /// What is wrong with the policy, in a sentence; none while the one that was chosen serves and
    /// takes no more than it may. Calls are served all the same.
    pub degraded: Option<Arc<str>>,
    /// Entries and instances that were left out.
    pub skipped: u64,
    /// The same by their reasons.
    pub skips: Skips,
    /// Whether the registry has answered at least once.
    pub listed: bool,
    /// Whether a call whose endpoint was lost before it answered may be sent to another one: only
    /// whoever runs the service knows that its calls may be carried out twice.
    pub idempotent: bool,
    /// What is said of the service's calls.
    pub traffic: Arc<Traffic>,
    /// What lets its calls in, over all its generations.
    pub limiter: Arc<CallLimiter>,
    pub(super) hash_key: Option<HashKey>,
    pub(super) plan: Arc<Plan>,
    /// Only beside a plan that can fail.
    pub(super) fallback: Option<Fallback>,
    pub(super) counters: Arc<ServiceCounters>,
    pub(super) failures: Arc<dyn FailureSink>,
    pub(super) upstream: Arc<dyn AnyUpstream>,
}

/// What all generations of one service have in common.
pub(super) struct Common {
    pub(super) service: ServiceName,
    pub(super) idempotent: bool,
    pub(super) traffic: Arc<Traffic>,
    pub(super) limiter: Arc<CallLimiter>,
    pub(super) hash_key: Option<HashKey>,
    pub(super) counters: Arc<ServiceCounters>,
    pub(super) upstream: Arc<dyn AnyUpstream>,
}

/// What one generation of a service brings with it.
pub(super) struct Generation<'a> {
    /// See [`ServiceState::generation`].
    pub(super) number: u64,
    /// What the registry had when it was made, its endpoints aside.
    pub(super) snapshot: &'a Snapshot,
    /// The endpoints of that snapshot, with what is kept for each.
    pub(super) endpoints: Arc<[EndpointState]>,
    pub(super) policy_version: u64,
    pub(super) policy_name: Arc<str>,
    pub(super) degraded: Option<Arc<str>>,
    pub(super) plan: Arc<Plan>,
    pub(super) fallback: Option<Fallback>,
    /// Told when a pick of `plan` fails.
    pub(super) failures: Arc<dyn FailureSink>,
}

impl<'a> Generation<'a> {
    /// The one before the first: an empty snapshot, under the policy that will be the first.
    pub(super) fn zero(snapshot: &'a Snapshot, policy_name: Arc<str>) -> Self {
        Self {
            number: 0,
            snapshot,
            endpoints: Arc::default(),
            policy_version: 0,
            policy_name,
            degraded: None,
            plan: Arc::new(Plan::Rotation(Box::default())),
            fallback: None,
            failures: Arc::new(NoFailures),
        }
    }
}

/// For plans that cannot fail.
pub(super) struct NoFailures;

impl FailureSink for NoFailures {
    fn pick_failed(&self, _: &PickError) {}
}

/// The last good policy's plan for the same endpoints.
#[derive(Clone)]
pub(super) struct Fallback {
    pub(super) plan: Arc<Plan>,
    /// Told when it fails too.
    pub(super) failures: Arc<dyn FailureSink>,
}

/// Counters of one service, kept over all its generations.
#[derive(Default)]
pub struct ServiceCounters {
    sequence: AtomicU32,
    picks: AtomicU64,
    fallback_picks: AtomicU64,
    fallback_failures: AtomicU64,
    pick_times: PickTimes,
    pub(super) quarantines: AtomicU64,
    pub(super) ejections: AtomicU64,
    refused: AtomicU64,
}

impl ServiceCounters {
    /// Picks made, further attempts of a request included.
    pub fn picks(&self) -> u64 {
        self.picks.load(Relaxed)
    }

    /// Picks answered by a fallback because the policy failed.
    pub fn fallback_picks(&self) -> u64 {
        self.fallback_picks.load(Relaxed)
    }

    /// Of these, the ones that the fallback failed too, or was to be asked no more for: the native
    /// rotation answered them.
    pub fn fallback_failures(&self) -> u64 {
        self.fallback_failures.load(Relaxed)
    }

    /// How long picks of a per-request policy took, of those that were measured: the first of a
    /// thread within two milliseconds.
    pub fn pick_times(&self) -> &PickTimes {
        &self.pick_times
    }

    /// Policies taken out of service because they failed too often, or took too much time.
    pub fn quarantines(&self) -> u64 {
        self.quarantines.load(Relaxed)
    }

    /// Endpoints ejected because they failed more than the others.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Policies that were to take over and were refused, from a command or a file.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn add_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

/// What a pick needs to know of its request.
#[derive(Clone, Copy)]
pub struct PickRequest<'a> {
    /// The gRPC path.
    pub path: &'a str,
    /// The request's headers.
    pub headers: &'a http::HeaderMap,
    /// Who sent it, for services whose key is the peer.
    pub peer: Option<IpAddr>,
    /// Its number in the rotation, from [`ServiceState::next_sequence`]: the same for all attempts
    /// of a request. Otherwise, of two endpoints the one that refuses everything would always be
    /// asked first.
    pub sequence: u32,
    /// Endpoints (indexes into the same generation) that failed an earlier attempt.
    pub tried: &'a [u32],
}

/// What a pick answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// Send it to this endpoint: an index into [`ServiceState::endpoints`].
    Endpoint(u32),
    /// Hold it until the next generation.
    Queue,
    /// There are no endpoints. `listed` tells whether the registry has said so.
    NoEndpoints {
        /// Whether the registry has answered at least once.
        listed: bool,
    },
    /// There are endpoints, and none can be used: unreachable, unfit, full, tried already, or of
    /// weight 0.
    NoneUsable {
        /// How many endpoints there are.
        known: usize,
        /// How many of them are backing off after a failed connection.
        backing_off: usize,
        /// How many of them could take the call if fewer ran on them.
        full: usize,
        /// How many of them may be usable once their check has said so.
        pending: usize,
    },
    /// The policy said fail.
    Fail(String),
    /// The policy said drop.
    Drop(String),
}

/// How often a per-request policy is asked again within one pick when it names an endpoint that
/// cannot be used.
const ASK_AGAIN: u32 = 3;

/// How many entries of a plan are looked at for a usable endpoint before every endpoint is looked
/// at in turn. Past this, a plan's own order matters less than a bounded pick.
const LOOK_AHEAD: usize = 32;

/// How long a call waits for the endpoint that its policy chose although others are connected to:
/// no longer than this from the beginning of the attempt, whichever call began it. What a data
/// centre needs to connect several times over, so that there calls go where the policy says from
/// the first one on; and little of any deadline where an endpoint does not answer.
pub const GRACE: Duration = Duration::from_millis(20);

impl ServiceState {
    /// One generation of a service.
    pub(super) fn new(common: &Common, generation: Generation<'_>) -> Self {
        let Common { service, idempotent, traffic, limiter, hash_key, counters, upstream } = common;
        let Generation { number, snapshot, endpoints, policy_version, policy_name, degraded, plan, fallback, failures } =
            generation;
        Self {
            service: service.clone(),
            revision: snapshot.revision,
            generation: number,
            policy_version,
            policy_name,
            endpoints,
            stale: snapshot.stale.clone(),
            degraded,
            skipped: snapshot.skipped,
            skips: snapshot.skips.clone(),
            listed: snapshot.listed,
            idempotent: *idempotent,
            traffic: Arc::clone(traffic),
            limiter: Arc::clone(limiter),
            hash_key: hash_key.clone(),
            plan,
            fallback,
            counters: Arc::clone(counters),
            failures,
            upstream: Arc::clone(upstream),
        }
    }

    /// The plan's kind: `rotation`, `hash-table` or `each-request`.
    pub fn plan_kind(&self) -> &'static str {
        self.plan.kind()
    }

    /// The service's counters.
    pub fn counters(&self) -> &ServiceCounters {
        &self.counters
    }

    /// The number of the next request in the rotation. It wraps.
    pub fn next_sequence(&self) -> u32 {
        self.counters.sequence.fetch_add(1, Relaxed)
    }

    /// Chooses an endpoint for one attempt of a request. Never blocks, never fails for a plugin's
    /// fault.
    pub fn pick(&self, request: &PickRequest<'_>) -> Pick {
        self.counters.picks.fetch_add(1, Relaxed);
        if self.endpoints.is_empty() {
            return Pick::NoEndpoints { listed: self.listed };
        }
        let attempt = Attempt { request, sequence: request.sequence, extra_flags: self.extra_flags() };
        if let Some(pick) = self.try_plan(&self.plan, &*self.failures, &attempt) {
            return pick;
        }
        self.counters.fallback_picks.fetch_add(1, Relaxed);
        if let Some(Fallback { plan, failures }) = &self.fallback {
            if let Some(pick) = self.try_plan(plan, &**failures, &attempt) {
                return pick;
            }
            self.counters.fallback_failures.fetch_add(1, Relaxed);
        }
        self.rotate(&attempt, None)
    }

    /// What speaks against an endpoint beside the usual: where any is connected to, that one is
    /// not.
    fn extra_flags(&self) -> u32 {
        if self.limiter.connected() > 0 { flag::UNCONNECTED } else { 0 }
    }

    /// None when it fails, which is told of, or when it failed too often and is asked no more.
    fn try_plan(&self, plan: &Plan, failures: &dyn FailureSink, attempt: &Attempt<'_>) -> Option<Pick> {
        if matches!(plan, Plan::EachRequest(_)) && failures.is_quarantined() {
            return None;
        }
        self.ask(plan, failures, attempt).inspect_err(|error| failures.pick_failed(error)).ok()
    }

    fn ask(&self, plan: &Plan, failures: &dyn FailureSink, attempt: &Attempt<'_>) -> Result<Pick, PickError> {
        let request = attempt.request;
        match plan {
            Plan::Rotation(list) => Ok(self.walk(list, true, attempt)),
            Plan::HashTable(table) => {
                let hash = self.hash(request).unwrap_or_else(|| fastrand::u32(..));
                // Who stands in where nobody near can be used is the same for all calls of a key.
                Ok(self.walk(table, false, &Attempt { sequence: hash, ..*attempt }))
            }
            Plan::EachRequest(picker) => {
                let mut facts = Facts { state: self, request, failures, refused: Refused::default() };
                let random = fastrand::u64(..);
                let mut context = PickContext {
                    sequence: attempt.sequence,
                    random: ((random >> 32) as u32, random as u32),
                    hash: self.hash(request),
                    attempt: request.tried.len() as u32,
                };
                let mut chosen = None;
                for _ in 0..=ASK_AGAIN {
                    let index = match picker.pick(context, &facts)? {
                        Decision::Endpoint(index) => index,
                        Decision::Either(a, b) => {
                            // One that wants for a connection would lose to the other for ever.
                            [a, b]
                                .into_iter()
                                .filter(|index| self.lacks_only_connection(*index, attempt))
                                .for_each(|index| self.connect(index));
                            self.less_loaded(a, b, attempt)
                        }
                        Decision::Queue => return Ok(Pick::Queue),
                        Decision::Fail(message) => return Ok(Pick::Fail(message)),
                        Decision::Drop(message) => return Ok(Pick::Drop(message)),
                    };
                    if self.usable(index, attempt) || self.may_wait(index, &mut chosen, attempt) {
                        return Ok(Pick::Endpoint(index));
                    }
                    facts.refused.push(index);
                    context.attempt += 1;
                }
                Ok(self.rotate(attempt, chosen))
            }
        }
    }

    fn hash(&self, request: &PickRequest<'_>) -> Option<u32> {
        self.hash_key.as_ref()?.hash(request.path, request.headers, request.peer)
    }

    /// The first usable entry of a plan from the request's number on; `spread` says that any
    /// other entry is as good as the next.
    fn walk(&self, list: &[u32], spread: bool, attempt: &Attempt<'_>) -> Pick {
        if list.is_empty() {
            return self.none_usable(attempt.request);
        }
        let mut chosen = None;
        let mut at = attempt.sequence as usize % list.len();
        for _ in 0..list.len().min(LOOK_AHEAD) {
            let index = list[at];
            if self.usable(index, attempt) || self.may_wait(index, &mut chosen, attempt) {
                return Pick::Endpoint(index);
            }
            if spread {
                // What one does not take is spread over all, not given to whoever stands next. A
                // key stays with the next.
                at = fastrand::usize(..list.len());
                continue;
            }
            at += 1;
            if at == list.len() {
                at = 0;
            }
        }
        self.rotate(attempt, chosen)
    }

    /// The one native way to choose: rotate over the usable endpoints that have a weight. It is
    /// used when a policy failed and nothing else is left, or when what a policy chose cannot be
    /// used. `chosen` is an endpoint that it chose and that is not connected to.
    fn rotate(&self, attempt: &Attempt<'_>, chosen: Option<u32>) -> Pick {
        let len = self.endpoints.len();
        let find = |takes: &dyn Fn(&EndpointCell) -> bool| {
            let indexes = (0..len).map(|offset| (attempt.sequence as usize + offset) % len);
            let fits = |index: &usize| {
                let EndpointState { endpoint, cell } = &self.endpoints[*index];
                endpoint.weight > 0 && !attempt.has_tried(*index as u32) && takes(cell)
            };
            indexes.into_iter().find(fits).map(|index| index as u32)
        };
        let unlike = attempt.extra_flags;
        // Whoever is connected to takes none of it: then one that is not, as the plan has it. One
        // that was ejected is better than none.
        let found = find(&|cell| cell.takes_calls_without(unlike))
            .or_else(|| find(&|cell| cell.takes_calls_despite_slow_start(unlike)))
            .or(chosen)
            .or_else(|| find(&|cell| unlike != 0 && cell.takes_calls()))
            .or_else(|| find(&|cell| unlike != 0 && cell.takes_calls_despite_slow_start(0)))
            .or_else(|| find(&EndpointCell::takes_calls_despite_ejection));
        found.map_or_else(|| self.none_usable(attempt.request), Pick::Endpoint)
    }

    /// Of an endpoint that the policy chose and that cannot be used: whether the call may go there
    /// because it is about to be connected to. Of those that merely want for a connection the first
    /// is remembered, and connected to beside the call.
    fn may_wait(&self, index: u32, chosen: &mut Option<u32>, attempt: &Attempt<'_>) -> bool {
        if chosen.is_some() || !self.lacks_only_connection(index, attempt) {
            return false;
        }
        *chosen = Some(index);
        self.connect(index);
        self.endpoints[index as usize].cell.grace_left(GRACE).is_some()
    }

    /// Whether an endpoint could be chosen if it were connected to.
    fn lacks_only_connection(&self, index: u32, attempt: &Attempt<'_>) -> bool {
        let cell = &self.endpoints[index as usize].cell;
        attempt.extra_flags != 0 && cell.is_unconnected() && cell.takes_calls() && !attempt.has_tried(index)
    }

    /// Has an endpoint connected to, if it is not and no attempt runs.
    fn connect(&self, index: u32) {
        let endpoint = &self.endpoints[index as usize];
        if endpoint.cell.is_idle() {
            self.upstream.connect(&self.service, endpoint);
        }
    }

    /// Has up to so many endpoints connected to that are not, beginning with those that the plan
    /// names; answers how many.
    pub fn connect_some(&self, most: usize) -> usize {
        let list: &[u32] = match &*self.plan {
            Plan::Rotation(list) | Plan::HashTable(list) => list,
            Plan::EachRequest(_) => &[],
        };
        let from_anywhere = |len: usize| {
            let start = fastrand::usize(..len.max(1));
            (start..len).chain(0..start.min(len))
        };
        let listed = from_anywhere(list.len()).map(|at| list[at]);
        let all = from_anywhere(self.endpoints.len()).map(|index| index as u32);
        let wanting = |index: &u32| {
            let EndpointState { endpoint, cell } = &self.endpoints[*index as usize];
            endpoint.weight > 0 && cell.is_idle() && cell.takes_calls_despite_slow_start(0)
        };
        // One that is begun wants no more: none is counted twice.
        listed.chain(all).filter(wanting).take(most).map(|index| self.connect(index)).count()
    }

    fn none_usable(&self, request: &PickRequest<'_>) -> Pick {
        let backing_off = self.endpoints.iter().filter(|e| e.cell.is_backing_off()).count();
        let full = |(index, state): (usize, &EndpointState)| {
            let EndpointState { endpoint, cell } = state;
            endpoint.weight > 0 && cell.is_usable() && cell.is_full() && !request.tried.contains(&(index as u32))
        };
        let full = self.endpoints.iter().enumerate().filter(|each| full(*each)).count();
        let pending = self.endpoints.iter().filter(|e| e.endpoint.weight > 0 && e.cell.is_pending()).count();
        Pick::NoneUsable { known: self.endpoints.len(), backing_off, full, pending }
    }

    fn usable(&self, index: u32, attempt: &Attempt<'_>) -> bool {
        !attempt.has_tried(index) && self.endpoints[index as usize].cell.takes_calls_without(attempt.extra_flags)
    }

    /// Whether another endpoint than this one, and than those that were tried, takes calls now.
    pub fn has_other(&self, than: &EndpointState, tried: &[u32]) -> bool {
        self.has_other_without(than, tried, 0)
    }

    /// Whether another endpoint than this one, and than those that were tried, is connected to and
    /// takes calls now.
    pub fn has_other_connected(&self, than: &EndpointState, tried: &[u32]) -> bool {
        self.limiter.connected() > 0 && self.has_other_without(than, tried, flag::UNCONNECTED)
    }

    fn has_other_without(&self, than: &EndpointState, tried: &[u32], extra_flags: u32) -> bool {
        let other = |(index, state): (usize, &EndpointState)| {
            state.endpoint.weight > 0
                && !Arc::ptr_eq(&state.cell, &than.cell)
                && !tried.contains(&(index as u32))
                && state.cell.takes_calls_without(extra_flags)
        };
        self.endpoints.iter().enumerate().any(other)
    }

    /// Whether any endpoint may be chosen, the limits of their calls aside.
    pub fn any_usable(&self) -> bool {
        self.endpoints.iter().any(|state| state.endpoint.weight > 0 && state.cell.is_usable())
    }

    fn less_loaded(&self, a: u32, b: u32, attempt: &Attempt<'_>) -> u32 {
        match (self.usable(a, attempt), self.usable(b, attempt)) {
            (true, false) => return a,
            (false, true) => return b,
            _ => {}
        }
        let load = |index: u32| {
            let cell = &self.endpoints[index as usize].cell;
            (cell.in_flight(), cell.latency_us())
        };
        if load(b) < load(a) { b } else { a }
    }
}

/// One attempt of a request, which an endpoint is looked for.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    request: &'a PickRequest<'a>,
    /// Its number in the rotation.
    sequence: u32,
    /// What speaks against an endpoint beside the usual; see [`flag`].
    extra_flags: u32,
}

impl Attempt<'_> {
    fn has_tried(&self, index: u32) -> bool {
        self.request.tried.contains(&index)
    }
}

/// The few endpoints that a per-request policy named in this pick and that could not be used.
#[derive(Default)]
struct Refused {
    list: [u32; ASK_AGAIN as usize + 1],
    len: usize,
}

impl Refused {
    fn push(&mut self, index: u32) {
        self.list[self.len] = index;
        self.len += 1;
    }
}

struct Facts<'a> {
    state: &'a ServiceState,
    request: &'a PickRequest<'a>,
    failures: &'a dyn FailureSink,
    refused: Refused,
}

impl RequestFacts for Facts<'_> {
    fn path(&self) -> &str {
        self.request.path
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name)?.to_str().ok()
    }

    fn tried(&self, endpoint: u32) -> bool {
        self.request.tried.contains(&endpoint) || self.refused.list[..self.refused.len].contains(&endpoint)
    }

    fn in_flight(&self, endpoint: u32) -> u32 {
        self.state.endpoints.get(endpoint as usize).map_or(0, |e| e.cell.in_flight())
    }

    fn latency_us(&self, endpoint: u32) -> u32 {
        self.state.endpoints.get(endpoint as usize).map_or(0, |e| e.cell.latency_us())
    }

    fn failure_rate(&self, endpoint: u32) -> f64 {
        self.state.endpoints.get(endpoint as usize).map_or(0.0, |e| e.cell.failure_rate())
    }

    fn report(&self, endpoint: u32) -> Option<LoadReport> {
        self.state.endpoints.get(endpoint as usize)?.cell.report()
    }

    fn metric(&self, endpoint: u32, name: &str) -> Option<f64> {
        self.state.endpoints.get(endpoint as usize)?.cell.metric(name)
    }

    fn took(&self, took: PickTook) {
        if let Some(time) = took.measured {
            self.state.counters.pick_times.add(time);
        }
        self.failures.pick_took(&took);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_core::model::Endpoint;

    use super::*;
    use crate::upstream::NoUpstream;

    fn common() -> Common {
        let traffic = Arc::<Traffic>::default();
        Common {
            service: ServiceName::new("svc").unwrap(),
            idempotent: true,
            limiter: Arc::new(CallLimiter::new(&traffic)),
            traffic,
            hash_key: None,
            counters: Arc::default(),
            upstream: Arc::new(NoUpstream),
        }
    }

    fn pick(state: &ServiceState) -> Pick {
        let headers = http::HeaderMap::new();
        state.pick(&PickRequest {
            path: "/a.B/C",
            headers: &headers,
            peer: None,
            sequence: state.next_sequence(),
            tried: &[],
        })
    }

    #[tokio::test]
    async fn generations_share_what_is_of_the_service_and_have_their_own_snapshot_and_plan() {
        let common = common();
        let empty = Snapshot::empty(common.service.clone());
        let zero = ServiceState::new(&common, Generation::zero(&empty, "first".into()));
        assert_eq!((zero.generation, zero.policy_version, zero.revision), (0, 0, Revision(0)));
        assert_eq!(pick(&zero), Pick::NoEndpoints { listed: false });

        let listed = Snapshot { revision: Revision(7), listed: true, skipped: 2, ..empty.clone() };
        let endpoint = Endpoint::at("192.0.2.1:80".parse().unwrap());
        let cell = Arc::new(EndpointCell::new(Arc::clone(&common.limiter)));
        let first = Generation {
            number: 1,
            endpoints: [EndpointState { endpoint, cell }].into(),
            policy_version: 1,
            plan: Arc::new(Plan::Rotation([0].into())),
            ..Generation::zero(&listed, "first".into())
        };
        let first = ServiceState::new(&common, first);
        assert_eq!((first.generation, first.revision, first.skipped), (1, Revision(7), 2));
        assert_eq!(pick(&first), Pick::Endpoint(0));
        assert!(first.idempotent && Arc::ptr_eq(&zero.limiter, &first.limiter));
        assert_eq!(zero.counters().picks(), 2, "both count together");
    }
}
