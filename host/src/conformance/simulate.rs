//! A policy driven offline: a service of the balancer, callers that never were, and a count of who
//! got what.
//!
//! What is random comes from the seed, also in the host's own pick, so that the same seed gives the
//! same picks. Calls stay in flight for a random number of further picks, so that a policy that
//! goes by load has some; latency stays unknown, since a clock would make runs differ.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use xxhash_rust::xxh64::Xxh64;

use super::{
    checked_build,
    live::{KEY_HEADER, Live},
    made_up,
    report::Bar,
    stability,
    time_limit::{Limited, TimeLimit},
};
use crate::{
    balancer::{Pick, PickRequest, ServiceState},
    model::{Endpoint, InstanceId, Locality, Revision, ServiceName, Update},
    plugin::Plugin,
    policy::{LoadReport, Plan, Policy, Scope},
};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The policy's configuration, a JSON object.
    pub config: String,
    /// The service's name.
    pub service: ServiceName,
    /// The zone the node is told to stand in; empty when it is told none.
    pub zone: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What instances have said of their own load, once and before the first pick; none of those
    /// that are not here.
    pub loads: BTreeMap<InstanceId, Load>,
    /// How many picks.
    pub picks: u64,
    /// Where everything random comes from.
    pub seed: u64,
    /// When it has to be done: what was picked by then is told. None: as long as it takes.
    pub until: Option<Instant>,
}

impl Simulation {
    /// Ten endpoints in three zones, of weights 1 to 5, seen from one of these zones.
    pub fn made_up() -> Self {
        Self {
            config: "{}".into(),
            service: ServiceName::new(made_up::SERVICE).expect("a plain name"),
            zone: "zone-a".into(),
            endpoints: made_up::mixed(10),
            loads: BTreeMap::new(),
            picks: 100_000,
            seed: 1,
            until: None,
        }
    }
}

/// What one instance said of its own load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Load {
    /// The figures that ORCA has for everybody; the age is not looked at.
    pub figures: LoadReport,
    /// Figures of its own, by name.
    pub named: BTreeMap<String, f64>,
}

/// What one endpoint got.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointShare {
    /// The instance.
    pub id: String,
    /// Its address.
    pub address: String,
    /// Its zone; empty when unknown.
    pub zone: String,
    /// Its weight.
    pub weight: u32,
    /// Its share by weight, 0 to 1.
    pub by_weight: f64,
    /// What it got, 0 to 1 of all picks.
    pub got: f64,
    /// The same as a number of picks.
    pub picks: u64,
}

/// What a whole pick of the host took on this machine, the clock's own time taken off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PickCost {
    /// Half of the picks took less, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 picks took less, in nanoseconds.
    pub p99_ns: u64,
    /// How many picks were timed.
    pub samples: usize,
}

/// What becomes of keys when one endpoint leaves, and when one joins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyMoves {
    /// How many keys were looked at.
    pub keys: usize,
    /// The endpoint that leaves.
    pub leaving: String,
    /// The share of keys that were its own, and have to move, 0 to 1.
    pub leaving_own: f64,
    /// The share of the other keys that move all the same.
    pub leaving_others: f64,
    /// The share of keys that a new endpoint takes.
    pub joining_own: f64,
    /// The share of the other keys that move all the same.
    pub joining_others: f64,
}

/// What a simulation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Simulated {
    /// The policy's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Its configuration.
    pub config: String,
    /// The zone the node was told to stand in.
    pub zone: String,
    /// The seed.
    pub seed: u64,
    /// `rotation`, `hash-table` or `each-request`.
    pub plan: &'static str,
    /// How many picks were made.
    pub picks: u64,
    /// How many there were to be: more when the time was up before.
    pub wanted: u64,
    /// The part that the time did not suffice for, in words; none when all of it was done.
    pub cut: Option<&'static str>,
    /// Picks that no endpoint got: the policy said queue, fail or drop, or nobody could be used.
    pub unanswered: u64,
    /// Picks for which the host stood in, because the policy failed.
    pub stood_in: u64,
    /// A digest of all picks in their order: equal exactly when the picks are, as far as 64 bits
    /// tell.
    pub digest: String,
    /// What each endpoint got, in the order of the instances.
    pub endpoints: Vec<EndpointShare>,
    /// What each zone got.
    pub zones: Vec<Bar>,
    /// What a pick took; none when there was no pick.
    pub cost: Option<PickCost>,
    /// What becomes of keys; none when the policy does not go by a key, or there are fewer than two
    /// endpoints.
    pub keys: Option<KeyMoves>,
}

/// Runs it. It takes up to minutes for many picks: call it on a blocking thread, outside of an
/// async runtime. `progress` is told how many picks are done.
///
/// # Errors
///
/// The plugin is no policy, or it cannot build for these endpoints; the text says which and why.
pub fn simulate(plugin: &Plugin, what: &Simulation, progress: &dyn Fn(u64)) -> Result<Simulated, String> {
    let policy: Arc<dyn Policy> =
        Arc::new(plugin.clone().into_policy(&what.config).map_err(|error| error.to_string())?);
    let limit = TimeLimit::new(what.until);
    let scope = Scope { service: what.service.clone(), zone: what.zone.as_str().into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| format!("cannot start an async runtime: {error}"))?;
    let state = runtime.block_on(async {
        let live = Live::start(Arc::clone(&policy), &what.config, &scope).await?;
        let endpoints = what.endpoints.clone();
        live.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 0 });
        live.published(what.endpoints.len()).await?;
        Ok::<_, String>(live.state())
    })?;
    for endpoint in state.endpoints.iter() {
        if let (Some(load), Some(call)) = (what.loads.get(&endpoint.endpoint.id), endpoint.cell.begin()) {
            call.reported(&load.figures, load.named.clone());
        }
    }
    let counted = count(&state, what, progress);
    let endpoints = shares(&state, &counted.picks, counted.done);
    let limited: Arc<dyn Policy> = Arc::new(Limited::new(policy, &limit));
    let keys = match key_moves(&*limited, &scope, what) {
        Err(_) if limit.has_cut() => None,
        keys => keys?,
    };
    let cut = match (counted.done < what.picks, limit.has_cut()) {
        (true, _) => Some("picks, and where keys move"),
        (false, true) => Some("where keys move"),
        (false, false) => None,
    };
    Ok(Simulated {
        plugin: plugin.description.name.clone(),
        version: plugin.description.version.clone(),
        sha256: plugin.sha256.clone(),
        config: what.config.clone(),
        zone: what.zone.clone(),
        seed: what.seed,
        plan: state.plan_kind(),
        picks: counted.done,
        wanted: what.picks,
        cut,
        unanswered: counted.done - counted.picks.iter().sum::<u64>(),
        stood_in: state.counters().fallback_picks(),
        digest: format!("{:016x}", counted.digest),
        zones: zones(&endpoints),
        endpoints,
        cost: counted.cost(),
        keys,
    })
}

/// The picks, counted.
struct Counted {
    /// How many were made.
    done: u64,
    picks: Vec<u64>,
    digest: u64,
    nanoseconds: Vec<u64>,
}

/// So many picks are timed at most: more say no more.
const TIMED: u64 = 1 << 20;

fn count(state: &ServiceState, what: &Simulation, progress: &dyn Fn(u64)) -> Counted {
    let n = state.endpoints.len();
    let mut random = fastrand::Rng::with_seed(what.seed);
    // The host's own pick draws from the thread's generator.
    fastrand::seed(what.seed.wrapping_add(1));
    // A call ends at a later pick: those that end at pick t stand in place t modulo the length.
    let mut in_flight: Vec<Vec<_>> = (0..=2 * n).map(|_| Vec::new()).collect();
    let mut counted = Counted { done: what.picks, picks: vec![0; n], digest: 0, nanoseconds: Vec::new() };
    let (mut digest, clock) = (Xxh64::new(0), clock_cost());
    let (timed_every, told_every) = ((what.picks / TIMED).max(1), (what.picks / 200).max(1));
    let mut headers = HeaderMap::new();
    for nth in 0..what.picks {
        let now = (nth % in_flight.len() as u64) as usize;
        in_flight[now].clear();
        headers.insert(KEY_HEADER, HeaderValue::from(random.u16(..)));
        let request = PickRequest {
            path: "/waymark.Simulate/Pick",
            headers: &headers,
            peer: None,
            sequence: state.next_sequence(),
            tried: &[],
        };
        let began = Instant::now();
        if what.until.is_some_and(|until| began >= until) {
            counted.done = nth;
            break;
        }
        let pick = state.pick(&request);
        let took = began.elapsed();
        if nth % timed_every == 0 {
            counted.nanoseconds.push(took.saturating_sub(clock).as_nanos() as u64);
        }
        let chosen = if let Pick::Endpoint(index) = pick { index } else { u32::MAX };
        digest.update(&chosen.to_le_bytes());
        if let Some(endpoint) = state.endpoints.get(chosen as usize) {
            counted.picks[chosen as usize] += 1;
            let until = (now + random.usize(1..=2 * n)) % in_flight.len();
            in_flight[until].push(endpoint.cell.begin());
        }
        if nth % told_every == 0 {
            progress(nth);
        }
    }
    counted.digest = digest.digest();
    counted
}

/// What asking the clock twice takes by itself.
fn clock_cost() -> Duration {
    let mut costs: Vec<_> = (0..1_000).map(|_| Instant::now().elapsed()).collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

impl Counted {
    fn cost(mut self) -> Option<PickCost> {
        self.nanoseconds.sort_unstable();
        let samples = self.nanoseconds.len();
        let at = |percent: usize| self.nanoseconds.get(samples.saturating_sub(1) * percent / 100).copied();
        Some(PickCost { p50_ns: at(50)?, p99_ns: at(99)?, samples })
    }
}

fn shares(state: &ServiceState, picks: &[u64], all: u64) -> Vec<EndpointShare> {
    let weights: u64 = state.endpoints.iter().map(|endpoint| u64::from(endpoint.endpoint.weight)).sum();
    let share = |(state, picks): (&crate::balancer::EndpointState, &u64)| {
        let endpoint = &state.endpoint;
        EndpointShare {
            id: endpoint.id.to_string(),
            address: endpoint.address.to_string(),
            zone: endpoint.locality.zone.to_string(),
            weight: endpoint.weight,
            by_weight: f64::from(endpoint.weight) / weights.max(1) as f64,
            got: *picks as f64 / all.max(1) as f64,
            picks: *picks,
        }
    };
    state.endpoints.iter().zip(picks).map(share).collect()
}

fn zones(endpoints: &[EndpointShare]) -> Vec<Bar> {
    let mut zones: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for endpoint in endpoints {
        let (by_weight, got) = zones.entry(&endpoint.zone).or_default();
        *by_weight += endpoint.by_weight;
        *got += endpoint.got;
    }
    zones.into_iter().map(|(zone, (by_weight, got))| Bar { label: zone.into(), by_weight, got }).collect()
}

/// How many keys are followed.
const KEYS: usize = 10_000;

fn key_moves(policy: &dyn Policy, scope: &Scope, what: &Simulation) -> Result<Option<KeyMoves>, String> {
    let all = sorted(what.endpoints.clone());
    let build = |endpoints: &[Endpoint]| checked_build(policy, scope, endpoints);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("user-{n}")).collect();
    let Some(leaving) = (all.len() > 1).then_some(all.len() / 2) else { return Ok(None) };
    let by_key = match build(&all)? {
        Plan::HashTable(_) => true,
        Plan::EachRequest(picker) => {
            stability::keyed(&mut fastrand::Rng::with_seed(what.seed.wrapping_add(2)), &*picker, &keys)?
        }
        Plan::Rotation(_) => false,
    };
    if !by_key {
        return Ok(None);
    }
    let places = |endpoints: &[Endpoint]| stability::places(build(endpoints)?, endpoints, &keys);
    let (mut fewer, mut more) = (all.clone(), all.clone());
    let gone = fewer.remove(leaving);
    let new = newcomer(&all, &what.zone);
    more.push(new.clone());
    let (before, after, joined) = (places(&all)?, places(&fewer)?, places(&sorted(more))?);
    let (stay, moved_away) = stability::moved(&before, &after, gone.id.as_str());
    let (kept, moved_over) = stability::moved(&joined, &before, new.id.as_str());
    let part = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    Ok(Some(KeyMoves {
        keys: KEYS,
        leaving: gone.id.to_string(),
        leaving_own: part(KEYS - stay, KEYS),
        leaving_others: part(moved_away, stay),
        joining_own: part(KEYS - kept, KEYS),
        joining_others: part(moved_over, kept),
    }))
}

/// One more endpoint: of a weight in the middle, in the node's zone, at an address that nobody has.
fn newcomer(endpoints: &[Endpoint], zone: &str) -> Endpoint {
    let mut weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
    weights.sort_unstable();
    let address = "203.0.113.250:65000".parse().expect("an address");
    Endpoint {
        id: InstanceId::new("newcomer"),
        weight: weights[weights.len() / 2].max(1),
        locality: Locality::zone(zone),
        ..Endpoint::at(address)
    }
}

/// As a snapshot has them.
fn sorted(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    endpoints
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::plugin::{Engine, EngineConfig, Kind};

    fn run(policy: &str, what: &Simulation) -> Simulated {
        let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
        let plugin = engine.load_bundled(Kind::Policy, policy).unwrap();
        simulate(&plugin, what, &|_| {}).unwrap()
    }

    fn some(picks: u64) -> Simulation {
        Simulation { picks, ..Simulation::made_up() }
    }

    #[test]
    fn the_same_seed_gives_the_same_picks_and_another_seed_others() {
        for policy in ["weighted", "least_request", "maglev"] {
            let digest = |seed| run(policy, &Simulation { seed, ..some(2_000) }).digest;
            assert_eq!(digest(7), digest(7), "{policy}");
            if policy != "weighted" {
                assert_ne!(digest(7), digest(8), "{policy}");
            }
        }
    }

    #[test]
    fn shares_are_counted_beside_those_by_weight() {
        // Weights 1 to 5 twice: 30 turns a round.
        let found = run("weighted", &some(3_000));
        for endpoint in &found.endpoints {
            assert!((endpoint.got - endpoint.by_weight).abs() < 1e-9, "{endpoint:?}");
        }
        assert_eq!((found.picks, found.unanswered, found.stood_in, found.plan), (3_000, 0, 0, "rotation"));
        let zones: f64 = found.zones.iter().map(|zone| zone.got).sum();
        assert!(found.zones.len() == 3 && (zones - 1.0).abs() < 1e-9, "{:?}", found.zones);
        assert!(found.cost.unwrap().samples == 3_000 && found.keys.is_none());
    }

    #[test]
    fn calls_in_flight_are_seen_by_a_policy_that_goes_by_load() {
        // Weights are not heeded: idle, it would be uniform only by chance; with load it is so to a
        // part of a percent.
        let found = run("least_request", &some(20_000));
        assert!(found.endpoints.iter().all(|endpoint| (endpoint.got - 0.1).abs() < 0.005), "{:?}", found.endpoints);
    }

    #[test]
    fn what_instances_said_of_their_load_is_there_from_the_first_pick_on() {
        let load = |at: usize| Load {
            figures: LoadReport {
                application_utilization: if at == 3 { 0.2 } else { 0.9 },
                rps: 100.0,
                ..LoadReport::default()
            },
            named: BTreeMap::new(),
        };
        let made_up = some(2_000);
        let loads = made_up.endpoints.iter().enumerate().map(|(at, it)| (it.id.clone(), load(at))).collect();
        let found = run("reported_load", &Simulation { loads, ..made_up.clone() });
        let without = run("reported_load", &made_up);
        assert!(found.endpoints[3].got > 1.5 * without.endpoints[3].got, "{:?}", found.endpoints);
    }

    #[test]
    fn most_keys_of_a_ring_stay_where_they_are() {
        // Some move because the ring's size goes by the sum of the weights; modulo would move 9
        // of 10.
        let keys = run("ring_hash", &some(100)).keys.unwrap();
        assert!(keys.leaving_own > 0.0 && keys.leaving_others < 0.1, "{keys:?}");
        assert!(keys.joining_own > 0.0 && keys.joining_others < 0.1, "{keys:?}");
    }

    #[test]
    fn nobody_and_a_single_endpoint_are_answered_for() {
        let nobody = run("maglev", &Simulation { endpoints: Vec::new(), ..some(10) });
        assert_eq!((nobody.unanswered, nobody.keys), (10, None));
        let one = run("maglev", &Simulation { endpoints: made_up::mixed(1), ..some(10) });
        assert_eq!((one.endpoints[0].picks, one.keys), (10, None));
    }
}
