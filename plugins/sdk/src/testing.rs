//! Fakes for a plugin's unit tests. Not there in a component.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use crate::prelude::*;
use crate::{Context, Decision, Endpoint, Host, Level, LoadReport, Plan, Policy, Random, Scope};
pub use crate::{
    key_scheme::{decode, encode, prefixes},
    policy::build,
};

std::thread_local! {
    static LOGGED: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// A host that answers what its fields say.
#[derive(Clone, Debug, Default)]
pub struct FakeHost {
    /// The gRPC path.
    pub path: String,
    /// The request's headers.
    pub headers: BTreeMap<String, String>,
    /// The endpoints on which an earlier attempt failed.
    pub tried: BTreeSet<u32>,
    /// Calls in flight by endpoint; 0 for those not named.
    pub in_flight: BTreeMap<u32, u32>,
    /// Microseconds to an answer by endpoint; 0 for those not named.
    pub latency_us: BTreeMap<u32, u32>,
    /// How many calls fail by endpoint, from 0 to 1; 0 for those not named.
    pub failure_rate: BTreeMap<u32, f64>,
    /// What instances said of their load by endpoint; nothing for those not named.
    pub reports: BTreeMap<u32, LoadReport>,
    /// Their own figures by endpoint and name.
    pub metrics: BTreeMap<(u32, String), f64>,
}

impl Host for FakeHost {
    fn path(&self) -> String {
        self.path.clone()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }

    fn tried(&self, endpoint: u32) -> bool {
        self.tried.contains(&endpoint)
    }

    fn in_flight(&self, endpoint: u32) -> u32 {
        self.in_flight.get(&endpoint).copied().unwrap_or_default()
    }

    fn latency_us(&self, endpoint: u32) -> u32 {
        self.latency_us.get(&endpoint).copied().unwrap_or_default()
    }

    fn failure_rate(&self, endpoint: u32) -> f64 {
        self.failure_rate.get(&endpoint).copied().unwrap_or_default()
    }

    fn report(&self, endpoint: u32) -> Option<LoadReport> {
        self.reports.get(&endpoint).copied()
    }

    fn metric(&self, endpoint: u32, name: &str) -> Option<f64> {
        self.metrics.get(&(endpoint, name.to_owned())).copied()
    }
}

/// An endpoint of that weight in that zone, whose id and address are the documentation address
/// 192.0.2.`n`.
pub fn endpoint(n: u8, zone: &str, weight: u32) -> Endpoint {
    let address = format!("192.0.2.{n}:8080");
    Endpoint { id: address.clone(), address, zone: zone.to_owned(), weight, metadata: Vec::new() }
}

/// The same endpoint, registered with these names and values.
#[must_use]
pub fn with_metadata(mut endpoint: Endpoint, pairs: &[(&str, &str)]) -> Endpoint {
    endpoint.metadata = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    endpoint
}

/// `n` endpoints of these weights, which begin again when they have run out.
pub fn endpoints(n: u8, weights: &[u32]) -> Vec<Endpoint> {
    (1..=n).zip(weights.iter().cycle()).map(|(n, weight)| endpoint(n, "", *weight)).collect()
}

/// The share of each of `n` endpoints in what `pick` answers over so many requests with seeded
/// random numbers. An `Either` counts half for both; anything else but an endpoint panics.
pub fn pick_shares<P: Policy>(policy: &mut P, host: &impl Host, n: usize, requests: u32) -> Vec<f64> {
    let mut random = Random::from_text("shares");
    let mut shares = vec![0.0; n];
    for sequence in 0..requests {
        let context = Context { sequence, ..context((random.next_u32(), random.next_u32())) };
        match policy.pick(context, host) {
            Decision::Endpoint(index) => shares[index as usize] += 1.0,
            Decision::Either((a, b)) => {
                shares[a as usize] += 0.5;
                shares[b as usize] += 0.5;
            }
            other => panic!("not an endpoint: {other:?}"),
        }
    }
    shares.iter().map(|count| count / f64::from(requests)).collect()
}

/// The plan's policy, when it wants to be asked for each request.
pub fn asked<P: std::fmt::Debug>(plan: Plan<P>) -> P {
    match plan {
        Plan::EachRequest(policy) => policy,
        plan => panic!("not asked for each request: {plan:?}"),
    }
}

/// What to balance for: a service `greeter`, seen from that zone.
pub fn scope(zone: &str) -> Scope {
    Scope { service: "greeter".to_owned(), zone: zone.to_owned() }
}

/// A first attempt without a key, with these random numbers.
pub fn context(random: (u32, u32)) -> Context {
    Context { sequence: 0, random, hash: None, attempt: 0 }
}

/// Asks for a further attempt of a request that failed on `tried`, and panics unless that goes to
/// one endpoint which may receive something, and to none that was tried while another is left.
/// `policy` was built for endpoints of these weights.
pub fn assert_avoids_tried<P: Policy>(policy: &mut P, weights: &[u32], tried: &BTreeSet<u32>, random: (u32, u32)) {
    let may_receive: Vec<u32> = (0..).zip(weights).filter(|(_, weight)| **weight > 0).map(|(i, _)| i).collect();
    let host = FakeHost { tried: tried.clone(), ..FakeHost::default() };
    let Decision::Endpoint(index) = policy.pick(Context { attempt: 1, ..context(random) }, &host) else {
        panic!("not an endpoint");
    };
    let left = may_receive.iter().any(|index| !tried.contains(index));
    assert!(
        may_receive.contains(&index) && (!left || !tried.contains(&index)),
        "{index} of {may_receive:?}, tried {tried:?}"
    );
}

/// How often each of `n` endpoints stands in a list.
pub fn counts(entries: &[u32], n: usize) -> Vec<u32> {
    let mut counts = vec![0; n];
    for index in entries {
        counts[*index as usize] += 1;
    }
    counts
}

/// What this thread logged since it was last asked.
pub fn logged() -> Vec<(Level, String)> {
    LOGGED.take()
}

pub(crate) fn record(level: Level, message: &str) {
    LOGGED.with_borrow_mut(|logged| logged.push((level, message.to_owned())));
}
