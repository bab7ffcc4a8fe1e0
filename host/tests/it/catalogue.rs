//! Every bundled policy in a real balancer: ten endpoints with weights, zones and metadata, and the
//! host's own picks. What share each gets is worked out here a second time.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue};
use waymark_node::{
    balancer::{Candidate, Pick, PickRequest, ServiceDefaults, ServiceHandle, Services, ServicesConfig},
    model::{Address, Endpoint, Locality, Revision, ServiceName, Update},
    plugin::{Engine, EngineConfig, Kind, Limits, bundled},
    snapshot,
};

/// Zone, weight and metadata of one endpoint.
type Member = (&'static str, u32, &'static [(&'static str, &'static str)]);

/// Weights by zone: 12 in a, 10 in b, 8 in c.
const TEN: [Member; 10] = [
    ("a", 1, &[]),
    ("b", 2, &[("version", "2")]),
    ("c", 3, &[]),
    ("a", 4, &[("version", "2")]),
    ("b", 5, &[]),
    ("c", 1, &[("priority", "1"), ("version", "2")]),
    ("a", 2, &[("priority", "1")]),
    ("b", 3, &[("priority", "1"), ("version", "2")]),
    ("c", 4, &[("priority", "1")]),
    ("a", 5, &[("canary", "true"), ("priority", "1"), ("version", "2")]),
];

const PICKS: u32 = 8_000;

/// What each of the ten should get, relative to the others, as a function of its number.
type Due = fn(usize) -> f64;

/// A case: the policy, its configuration, a header of all requests, the plan, and what each
/// endpoint should get.
type Case = (&'static str, &'static str, Option<(&'static str, &'static str)>, &'static str, Due, f64);

fn weight(n: usize) -> f64 {
    f64::from(TEN[n].1)
}

fn only(n: usize, keep: bool) -> f64 {
    if keep { weight(n) } else { 0.0 }
}

/// Chance allows this much in 8,000 picks; plans are exact.
const CHANCE: f64 = 0.025;
const EXACT: f64 = 0.002;

const CASES: [Case; 23] = [
    ("round_robin", "{}", None, "rotation", |_| 1.0, EXACT),
    ("weighted", "{}", None, "rotation", weight, EXACT),
    // The even part of a zone is 10, and a has 12: everything stays.
    ("zone_aware", "{}", None, "rotation", |n| only(n, TEN[n].0 == "a"), EXACT),
    // Of four parts of callers one comes from b, which is a third of the capacity; three come from
    // a, which has two fifths.
    (
        "zone_aware",
        r#"{"callers": {"a": 3, "b": 1}}"#,
        None,
        "rotation",
        // Stays: 2/5 of 3/4 wanted, 8/15. Left: 1/12 in b and 8/30 in c, so 5/21 and 16/21 of the
        // rest.
        |n| weight(n) * [8.0 / 15.0 / 12.0, 7.0 / 15.0 * 5.0 / 21.0 / 10.0, 7.0 / 15.0 * 16.0 / 21.0 / 8.0][n % 3],
        EXACT,
    ),
    ("zone_aware", r#"{"min_endpoints": 11}"#, None, "rotation", weight, EXACT),
    ("priority", "{}", None, "rotation", |n| only(n, n < 5), EXACT),
    ("priority", r#"{"sizes": {"0": 10}}"#, None, "rotation", |n| weight(n) * if n < 5 { 0.7 } else { 0.3 }, EXACT),
    ("subset", "{}", None, "rotation", weight, EXACT),
    ("subset", r#"{"metadata": {"version": "2"}}"#, None, "rotation", |n| only(n, n % 2 == 1), EXACT),
    ("pick_first", "{}", None, "each-request", |n| f64::from(u8::from(n == 0)), EXACT),
    ("random", "{}", None, "each-request", |_| 1.0, CHANCE),
    ("weighted_random", "{}", None, "each-request", weight, CHANCE),
    ("least_request", "{}", None, "each-request", |_| 1.0, CHANCE),
    ("weighted_least_request", "{}", None, "each-request", weight, CHANCE),
    ("weighted_least_request", r#"{"active_request_bias": 0}"#, None, "rotation", weight, EXACT),
    ("peak_ewma", "{}", None, "each-request", |_| 1.0, CHANCE),
    // Nobody reports anything.
    ("reported_load", "{}", None, "each-request", |_| 1.0, CHANCE),
    // A ring's shares are only roughly the weights.
    ("ring_hash", r#"{"min_ring_size": 4096}"#, None, "hash-table", weight, 0.05),
    ("maglev", "{}", None, "hash-table", weight, CHANCE),
    ("sticky", r#"{"header": "x-user"}"#, None, "each-request", weight, CHANCE),
    ("canary_by_header", "{}", None, "each-request", |n| only(n, n != 9), CHANCE),
    ("canary_by_header", "{}", Some(("x-canary", "always")), "each-request", |n| only(n, n == 9), EXACT),
    (
        "canary_by_header",
        r#"{"percent": 30}"#,
        Some(("x-canary", "perhaps")),
        "each-request",
        |n| if n == 9 { 0.3 * 25.0 / 0.7 } else { weight(n) },
        CHANCE,
    ),
];

fn endpoint(n: usize) -> Endpoint {
    let (zone, weight, metadata) = TEN[n];
    Endpoint {
        locality: Locality::zone(zone),
        weight,
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Endpoint::at(format!("192.0.2.{}:80", n + 10).parse().unwrap())
    }
}

/// A service of the ten on a node in zone a, whose key is the header `x-user`.
struct Ten {
    handle: ServiceHandle,
    engine: Engine,
    addresses: Vec<Address>,
    _services: Services,
    _writer: Arc<Mutex<Option<snapshot::Writer>>>,
}

impl Ten {
    async fn new() -> Self {
        let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
        let writer = Arc::new(Mutex::new(None));
        let follow = {
            let writer = Arc::clone(&writer);
            move |service| {
                let (mut tx, rx) = snapshot::channel(service);
                let endpoints = (0..TEN.len()).map(endpoint).collect();
                tx.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 0 });
                *writer.lock().unwrap() = Some(tx);
                std::future::ready(Ok(rx))
            }
        };
        let initial = candidate(&engine, "round_robin", "{}");
        let defaults = move |_: &ServiceName| ServiceDefaults {
            hash_key: Some("header:x-user".parse().unwrap()),
            // Nothing is done here but picking.
            limits: Limits { pick_share: 100, ..Limits::default() },
            ..ServiceDefaults::new(initial.clone())
        };
        let services = Services::new(ServicesConfig { zone: "a".into(), ..ServicesConfig::new(follow, defaults) });
        let handle = services.add(&ServiceName::new("svc").unwrap()).await.unwrap();
        let mut reader = handle.subscribe();
        while reader.current().endpoints.len() != TEN.len() {
            reader.changed().await.unwrap();
        }
        let addresses = (0..TEN.len()).map(|n| endpoint(n).address).collect();
        Self { handle, engine, addresses, _services: services, _writer: writer }
    }

    /// The endpoint's number that a request of this user goes to.
    fn pick(&self, user: u32, header: Option<(&'static str, &'static str)>) -> usize {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from(user));
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let state = self.handle.state();
        match state.pick(&PickRequest {
            path: "/a.B/C",
            headers: &headers,
            peer: None,
            sequence: state.next_sequence(),
            tried: &[],
        }) {
            Pick::Endpoint(index) => {
                // The host has its own order.
                let address = &state.endpoints[index as usize].endpoint.address;
                self.addresses.iter().position(|other| other == address).unwrap()
            }
            other => panic!("{} did not find an endpoint: {other:?}", state.policy_name),
        }
    }
}

fn candidate(engine: &Engine, name: &str, config: &str) -> Candidate {
    Candidate::new(engine.load_bundled(Kind::Policy, name).unwrap().into_policy(config).unwrap(), "test")
}

#[test]
fn no_bundled_policy_is_without_a_case() {
    let bundled: BTreeSet<&str> = bundled::of(Kind::Policy).map(|bundled| bundled.name).collect();
    assert_eq!(bundled, CASES.iter().map(|case| case.0).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bundled_policy_gives_each_endpoint_its_share() {
    let ten = Ten::new().await;
    for (name, config, header, plan, due, tolerance) in CASES {
        ten.handle.set_policy(candidate(&ten.engine, name, config)).await.unwrap();
        assert_eq!(ten.handle.state().plan_kind(), plan, "{name} {config}");
        let mut counts = [0u32; TEN.len()];
        for user in 0..PICKS {
            counts[ten.pick(user, header)] += 1;
        }
        let whole: f64 = (0..TEN.len()).map(due).sum();
        for (n, count) in counts.iter().enumerate() {
            let (share, due) = (f64::from(*count) / f64::from(PICKS), due(n) / whole);
            assert!((share - due).abs() < tolerance, "{name} {config}: {share} for {n} instead of {due}; {counts:?}");
        }
        assert_eq!(ten.handle.state().counters().fallback_picks(), 0, "{name} failed a pick");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_policies_send_the_same_user_to_the_same_endpoint() {
    let ten = Ten::new().await;
    for (name, config) in [("ring_hash", "{}"), ("maglev", "{}"), ("sticky", r#"{"header": "x-user"}"#)] {
        ten.handle.set_policy(candidate(&ten.engine, name, config)).await.unwrap();
        for user in 0..200 {
            assert_eq!(ten.pick(user, None), ten.pick(user, Some(("x-other", "1"))), "{name}");
        }
    }
}
