//! What is published for a service, and the pick: the hot path.
//!
//! A [`ServiceState`] is immutable but for counters. Endpoints, plan and fallback belong together and are swapped together: one
//! `Arc`, so that a request sees one generation from its first attempt to its last.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{endpoint::EndpointCell, gate::Gate, hash::HashKey};
use crate::{
    model::{Endpoint, Revision, ServiceName},
    policy::{Decision, LoadReport, PickContext, PickError, Plan, RequestFacts},
    snapshot::Staleness,
    traffic::Traffic,
};

/// One endpoint of a generation.
#[derive(Clone)]
pub struct EndpointState {
    /// What is registered.
    pub endpoint: Endpoint,
    /// What the host keeps for it, shared with the generations before and after.
    pub cell: Arc<EndpointCell>,
}

/// Told when a policy fails at a pick.
pub trait FailureSink: Send + Sync + 'static {
    /// One pick of this generation's policy failed and was answered by a fallback.
    fn pick_failed(&self, error: &PickError);

    /// Whether it failed too often: it is asked no more, and what replaces it is about to be published.
    fn condemned(&self) -> bool {
        false
    }
}

/// One generation of one service: what picks read.
pub struct ServiceState {
    /// The service.
    pub service: ServiceName,
    /// The revision its endpoints are from.
    pub revision: Revision,
    /// Counts what was published for this service, from 1; 0 is the empty state before the first list.
    pub generation: u64,
    /// The version of its policy in the service's history.
    pub policy_version: u64,
    /// The policy's name.
    pub policy_name: Arc<str>,
    /// All endpoints, in the order the plan's indexes mean.
    pub endpoints: Arc<[EndpointState]>,
    /// Set while the registry cannot be reached.
    pub stale: Option<Staleness>,
    /// What is wrong with the policy, in a sentence; none while the one that was chosen serves. Calls are served all the same.
    pub degraded: Option<Arc<str>>,
    /// Entries that the key scheme could not read.
    pub skipped: u64,
    /// Whether the registry has answered at least once.
    pub listed: bool,
    /// Whether a call whose endpoint was lost before it answered may be sent to another one: only whoever runs the service knows
    /// that its calls may be carried out twice.
    pub idempotent: bool,
    /// What is said of the service's calls.
    pub traffic: Arc<Traffic>,
    /// What lets its calls in, over all its generations.
    pub gate: Arc<Gate>,
    pub(super) hash_key: Option<HashKey>,
    pub(super) plan: Arc<Plan>,
    /// The last good policy's plan for the same endpoints; only beside a plan that can fail.
    pub(super) fallback: Option<Arc<Plan>>,
    pub(super) counters: Arc<ServiceCounters>,
    pub(super) failures: Arc<dyn FailureSink>,
}

/// Counters of one service, kept over all its generations.
#[derive(Default)]
pub struct ServiceCounters {
    sequence: AtomicU32,
    picks: AtomicU64,
    fallback_picks: AtomicU64,
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

    /// Policies taken out of service because they failed too often.
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
    /// There are endpoints, and none can be used: unreachable, unfit, full, tried already, or of weight 0.
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

/// How often a per-request policy is asked again within one pick when it names an endpoint that cannot be used.
const ASK_AGAIN: u32 = 3;

/// How many entries of a plan are looked at for a usable endpoint before every endpoint is looked at in turn. Past this, a plan's own
/// order matters less than a bounded pick.
const LOOK_AHEAD: usize = 32;

impl ServiceState {
    /// The plan's kind: `rotation`, `hash-table` or `each-request`.
    pub fn plan_kind(&self) -> &'static str {
        self.plan.kind()
    }

    /// The service's counters.
    pub fn counters(&self) -> &ServiceCounters {
        &self.counters
    }

    /// Chooses an endpoint for one attempt of a request. Never blocks, never fails for a plugin's fault.
    pub fn pick(&self, request: &PickRequest<'_>) -> Pick {
        self.counters.picks.fetch_add(1, Relaxed);
        // A further attempt stays at its request's place: otherwise, of two endpoints the one that refuses everything would always be
        // asked first.
        let sequence = match request.tried {
            [] => self.counters.sequence.fetch_add(1, Relaxed),
            _ => self.counters.sequence.load(Relaxed),
        };
        if self.endpoints.is_empty() {
            return Pick::NoEndpoints { listed: self.listed };
        }
        let condemned = matches!(&*self.plan, Plan::EachRequest(_)) && self.failures.condemned();
        if !condemned {
            match self.ask(&self.plan, sequence, request) {
                Ok(pick) => return pick,
                Err(error) => self.failures.pick_failed(&error),
            }
        }
        self.counters.fallback_picks.fetch_add(1, Relaxed);
        if let Some(Ok(pick)) = self.fallback.as_ref().map(|plan| self.ask(plan, sequence, request)) {
            return pick;
        }
        self.rotate(sequence, request)
    }

    fn ask(&self, plan: &Plan, sequence: u32, request: &PickRequest<'_>) -> Result<Pick, PickError> {
        match plan {
            Plan::Rotation(list) => Ok(self.walk(list, sequence as usize, true, sequence, request)),
            Plan::HashTable(table) => {
                let hash = self.hash(request).unwrap_or_else(|| fastrand::u32(..));
                Ok(self.walk(table, hash as usize, false, sequence, request))
            }
            Plan::EachRequest(picker) => {
                let mut facts = Facts { state: self, request, refused: Refused::default() };
                let random = fastrand::u64(..);
                let mut context = PickContext {
                    sequence,
                    random: ((random >> 32) as u32, random as u32),
                    hash: self.hash(request),
                    attempt: request.tried.len() as u32,
                };
                for _ in 0..=ASK_AGAIN {
                    let index = match picker.pick(context, &facts)? {
                        Decision::Endpoint(index) => index,
                        Decision::Either(a, b) => self.less_loaded(a, b, request),
                        Decision::Queue => return Ok(Pick::Queue),
                        Decision::Fail(message) => return Ok(Pick::Fail(message)),
                        Decision::Drop(message) => return Ok(Pick::Drop(message)),
                    };
                    if self.usable(index, request) {
                        return Ok(Pick::Endpoint(index));
                    }
                    facts.refused.push(index);
                    context.attempt += 1;
                }
                Ok(self.rotate(sequence, request))
            }
        }
    }

    fn hash(&self, request: &PickRequest<'_>) -> Option<u32> {
        self.hash_key.as_ref()?.hash(request.path, request.headers, request.peer)
    }

    /// The first usable entry of a plan from `start` on; `spread` says that any other entry is as good as the next.
    fn walk(&self, list: &[u32], start: usize, spread: bool, sequence: u32, request: &PickRequest<'_>) -> Pick {
        if list.is_empty() {
            return self.none_usable(request);
        }
        let mut at = start % list.len();
        for _ in 0..list.len().min(LOOK_AHEAD) {
            let index = list[at];
            if self.usable(index, request) {
                return Pick::Endpoint(index);
            }
            if spread && self.endpoints[index as usize].cell.is_young() {
                // What a young one does not take yet is spread over all, not given to whoever stands next. A key stays with the next.
                at = fastrand::usize(..list.len());
                continue;
            }
            at += 1;
            if at == list.len() {
                at = 0;
            }
        }
        self.rotate(sequence, request)
    }

    /// The one native way to choose: rotate over the usable endpoints that have a weight. It is used when a policy failed and
    /// nothing else is left, or when what a policy chose cannot be used.
    fn rotate(&self, sequence: u32, request: &PickRequest<'_>) -> Pick {
        let len = self.endpoints.len();
        let find = |takes: fn(&EndpointCell) -> bool| {
            let indexes = (0..len).map(|offset| (sequence as usize + offset) % len);
            let fits = |index: &usize| {
                let EndpointState { endpoint, cell } = &self.endpoints[*index];
                endpoint.weight > 0 && !request.tried.contains(&(*index as u32)) && takes(cell)
            };
            indexes.into_iter().find(fits)
        };
        // An endpoint that was ejected is better than none.
        let found = find(EndpointCell::takes_calls)
            .or_else(|| find(EndpointCell::takes_calls_though_young))
            .or_else(|| find(EndpointCell::takes_calls_if_need_be));
        found.map_or_else(|| self.none_usable(request), |index| Pick::Endpoint(index as u32))
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

    fn usable(&self, index: u32, request: &PickRequest<'_>) -> bool {
        !request.tried.contains(&index) && self.endpoints[index as usize].cell.takes_calls()
    }

    /// Whether any endpoint may be chosen, its places aside.
    pub fn any_usable(&self) -> bool {
        self.endpoints.iter().any(|state| state.endpoint.weight > 0 && state.cell.is_usable())
    }

    fn less_loaded(&self, a: u32, b: u32, request: &PickRequest<'_>) -> u32 {
        match (self.usable(a, request), self.usable(b, request)) {
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
}
