//! Components that misbehave, in a real balancer: what each costs is one log line and a fallback, never a pick.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use http::HeaderMap;
use waymark::{
    balancer::{Candidate, Pick, PickRequest, PolicyOutcome, ServiceDefaults, ServiceHandle, Services, ServicesConfig},
    model::{Endpoint, Revision, ServiceName, Update},
    naming::KeyScheme as _,
    plugin::{Engine, EngineConfig, Kind, Limits, LoadError},
    snapshot::{self, Writer},
};

/// What becomes of each test guest. A component without a line here fails `no_guest_is_without_a_test`.
const GUESTS: &[&str] = &[
    "asks_for_secrets",
    "counts_picks",
    "empty",
    "empty_plan",
    "fails_to_build",
    "floods_log",
    "hash_table",
    "hoards_in_build",
    "hoards_in_pick",
    "loops_in_build",
    "loops_in_pick",
    "newer_interface",
    "other_world",
    "overflows_stack",
    "panics",
    "pick_out_of_range",
    "plan_out_of_range",
    "reads_request",
    "traps_in_describe",
    "traps_in_pick",
    "writes_elsewhere",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test")
}

fn bytes(guest: &str) -> Vec<u8> {
    assert!(GUESTS.contains(&guest));
    fs::read(folder().join(format!("{guest}.wasm"))).unwrap()
}

fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let limits = Limits { build_deadline: Duration::from_millis(300), ..Limits::default() };
    ENGINE
        .get_or_init(|| Engine::new(EngineConfig { instances: 2, limits, ..EngineConfig::default() }).unwrap())
        .clone()
}

fn refused(guest: &str) -> LoadError {
    engine().load(&bytes(guest), guest).map(|_| ()).unwrap_err()
}

fn guest(guest: &str, config: &str) -> Candidate {
    Candidate::new(engine().load(&bytes(guest), guest).unwrap().into_policy(config).unwrap(), "test")
}

fn bundled(name: &str) -> Candidate {
    Candidate::new(engine().load_bundled(Kind::Policy, name).unwrap().into_policy("{}").unwrap(), "test")
}

/// A service of three endpoints, balanced with round robin.
struct Bench {
    handle: ServiceHandle,
    writer: Arc<Mutex<Option<Writer>>>,
    _services: Services,
}

impl Bench {
    async fn new() -> Self {
        let writer = Arc::new(Mutex::new(None));
        let follow = {
            let writer = Arc::clone(&writer);
            move |service| {
                let (tx, rx) = snapshot::channel(service);
                *writer.lock().unwrap() = Some(tx);
                std::future::ready(Ok(rx))
            }
        };
        let initial = bundled("round_robin");
        let defaults =
            move |_: &ServiceName| ServiceDefaults { policy: initial.clone(), hash_key: None, idempotent: false };
        let config = ServicesConfig { coalesce: Duration::ZERO, ..ServicesConfig::new(follow, defaults) };
        let services = Services::new(config);
        let handle = services.add(&ServiceName::new("svc").unwrap()).await.unwrap();
        let bench = Self { handle, writer, _services: services };
        bench.endpoints(&[1, 2, 3]).await;
        bench
    }

    /// Publishes these endpoints and waits until picks see them.
    async fn endpoints(&self, numbers: &[u8]) {
        let mut reader = self.handle.subscribe();
        let endpoints = numbers.iter().map(|n| Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())).collect();
        let update = Update::Reset { revision: Revision(i64::from(numbers[0])), endpoints, skipped: 0 };
        self.writer.lock().unwrap().as_mut().unwrap().apply(update);
        while reader.current().endpoints.len() != numbers.len() {
            reader.changed().await.unwrap();
        }
    }

    fn pick(&self) -> Pick {
        self.pick_for(&HeaderMap::new())
    }

    fn pick_for(&self, headers: &HeaderMap) -> Pick {
        self.handle.state().pick(&PickRequest { path: "/hello.Greeter1/SayHello1", headers, peer: None, tried: &[] })
    }

    /// Every one of these picks must find an endpoint.
    fn pick_many(&self, n: usize) {
        for _ in 0..n {
            assert!(matches!(self.pick(), Pick::Endpoint(index) if index < 3), "a pick was lost");
        }
    }

    async fn refuses(&self, candidate: Candidate) -> String {
        let error = self.handle.set_policy(candidate).await.unwrap_err().to_string();
        assert_eq!(&*self.handle.state().policy_name, "round_robin", "the running policy was touched");
        assert_eq!(self.handle.history()[0].outcome, PolicyOutcome::Refused);
        self.pick_many(10);
        error
    }
}

#[test]
fn no_guest_is_without_a_test() {
    let built: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(built, GUESTS.iter().map(|guest| (*guest).to_owned()).collect());
}

#[test]
fn what_is_no_plugin_of_this_host_is_refused_with_its_reason() {
    assert!(matches!(refused("empty"), LoadError::OtherWorld { .. }));
    assert!(matches!(refused("other_world"), LoadError::OtherWorld { .. }));
    let newer = refused("newer_interface");
    assert!(matches!(newer, LoadError::UnsupportedVersion { .. }), "{newer}");
    let asks = refused("asks_for_secrets");
    assert!(matches!(asks, LoadError::NotGranted { .. }), "{asks}");
    let traps = refused("traps_in_describe");
    assert!(matches!(traps, LoadError::Failed { call: "describe", .. }), "{traps}");
}

#[test]
fn a_key_scheme_that_writes_elsewhere_is_stopped_before_anything_is_written() {
    let scheme = engine().load(&bytes("writes_elsewhere"), "x").unwrap().into_key_scheme("{}").unwrap();
    let endpoint = Endpoint::at("192.0.2.1:80".parse().unwrap());
    let service = ServiceName::new("svc").unwrap();
    let error = scheme
        .encode(&service, &endpoint, waymark::model::LeaseId(1), waymark::model::Ttl::DEFAULT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("lies under none of"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_its_checks_leaves_the_running_policy_untouched() {
    let bench = Bench::new().await;
    for (name, config, reason) in [
        ("fails_to_build", "{}", "refused"),
        ("empty_plan", "{}", "empty plan for 3 endpoints"),
        ("plan_out_of_range", "{}", "names endpoint 3 of 3"),
        ("loops_in_build", "{}", "not done building after 300 ms"),
        ("hoards_in_build", "{}", "more memory"),
        ("panics", r#"{"in": "build"}"#, "trapped in build"),
        ("panics", r#"{"in": "pick"}"#, "trial pick"),
        ("traps_in_pick", r#"{"every": 1}"#, "trial pick"),
        ("loops_in_pick", r#"{"every": 1}"#, "over its deadline of 10 ms"),
        ("pick_out_of_range", r#"{"every": 1}"#, "endpoint 3 of 3"),
        ("overflows_stack", r#"{"every": 1}"#, "stack"),
    ] {
        let error = bench.refuses(guest(name, config)).await;
        assert!(error.contains(reason), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pick_that_fails_is_answered_within_itself_and_the_policy_is_taken_out() {
    for name in ["traps_in_pick", "pick_out_of_range", "overflows_stack", "loops_in_pick", "hoards_in_pick"] {
        let bench = Bench::new().await;
        // Past the trial, then again and again.
        let swapped = bench.handle.set_policy(guest(name, r#"{"every": 6}"#)).await.unwrap();
        let mut reader = bench.handle.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while &*bench.handle.state().policy_name != "round_robin" {
            bench.pick_many(50);
            assert!(tokio::time::Instant::now() < deadline, "{name} was not taken out of service");
            // A fresh instance takes a moment; until then picks are answered by the fallback.
            let _ = tokio::time::timeout(Duration::from_millis(1), reader.changed()).await;
        }
        bench.pick_many(50);
        let history = bench.handle.history();
        let entry = history.iter().find(|entry| entry.version == swapped.version).unwrap();
        assert_eq!(entry.outcome, PolicyOutcome::Quarantined, "{name}");
        assert!(entry.pick_failures >= 10 && entry.reason.contains("taken out of service"), "{name}: {entry:?}");
        let running = history.iter().find(|entry| entry.outcome == PolicyOutcome::Running).unwrap();
        assert_eq!(&*running.info.name, "round_robin");
        assert!(bench.handle.state().counters().fallback_picks() >= 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_a_predecessor_gives_way_to_the_native_rotation() {
    let bench = Bench::new().await;
    // Two bad ones in a row: the second one's predecessor is the first, which is taken out as well.
    bench.handle.set_policy(guest("traps_in_pick", r#"{"every": 6}"#)).await.unwrap();
    bench.handle.set_policy(guest("pick_out_of_range", r#"{"every": 6}"#)).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while &*bench.handle.state().policy_name != "native rotation" {
        bench.pick_many(50);
        assert!(tokio::time::Instant::now() < deadline, "still {}", bench.handle.state().policy_name);
        tokio::task::yield_now().await;
    }
    bench.pick_many(50);
    bench.endpoints(&[4, 5, 6]).await;
    bench.pick_many(50);
    // And a person can set a good one again.
    bench.handle.set_policy(bundled("weighted")).await.unwrap();
    bench.pick_many(50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_costs_a_bounded_number_of_log_lines() {
    let bench = Bench::new().await;
    bench.handle.set_policy(guest("floods_log", "{}")).await.unwrap();
    bench.pick_many(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_sees_the_request_it_picks_for_and_only_then() {
    let bench = Bench::new().await;
    bench.handle.set_policy(guest("reads_request", "{}")).await.unwrap();
    let order = |what: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("waymark-test", what.parse().unwrap());
        headers
    };
    assert_eq!(bench.pick_for(&order("2")), Pick::Endpoint(2));
    assert_eq!(bench.pick_for(&order("queue")), Pick::Queue);
    let Pick::Fail(said) = bench.pick_for(&order("fail")) else { panic!("it was told to fail") };
    assert!(said.contains("/hello.Greeter1/SayHello1"), "{said}");
    assert!(matches!(bench.pick_for(&order("drop")), Pick::Drop(_)));
    // The less loaded of two: endpoint 0 has a call in flight.
    let state = bench.handle.state();
    let _call = state.endpoints[0].cell.begin();
    assert_eq!(bench.pick_for(&order("0,1")), Pick::Endpoint(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_generation_gets_fresh_instances() {
    let bench = Bench::new().await;
    bench.handle.set_policy(guest("counts_picks", r#"{"every": 1}"#)).await.unwrap();
    let count = |pick: Pick| match pick {
        Pick::Fail(said) => said.rsplit(' ').next().unwrap().parse::<u32>().unwrap(),
        other => panic!("{other:?}"),
    };
    for _ in 0..20 {
        bench.pick();
    }
    let before = count(bench.pick());
    bench.endpoints(&[7, 8, 9]).await;
    bench.endpoints(&[7, 8]).await;
    let after = count(bench.pick());
    assert!(after < before, "an instance was carried over: {before} picks, then {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_table_sends_equal_keys_to_the_same_endpoint() {
    let writer: Arc<Mutex<Option<Writer>>> = Arc::default();
    let follow = {
        let writer = Arc::clone(&writer);
        move |service| {
            let (tx, rx) = snapshot::channel(service);
            *writer.lock().unwrap() = Some(tx);
            std::future::ready(Ok(rx))
        }
    };
    let initial = guest("hash_table", "{}");
    let defaults = move |_: &ServiceName| ServiceDefaults {
        policy: initial.clone(),
        hash_key: Some("header:x-user".parse().unwrap()),
        idempotent: false,
    };
    let services = Services::new(ServicesConfig::new(follow, defaults));
    let handle = services.add(&ServiceName::new("svc").unwrap()).await.unwrap();
    let bench = Bench { handle, writer, _services: services };
    bench.endpoints(&[1, 2, 3]).await;
    let mut seen = BTreeSet::new();
    for user in 0..50 {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", format!("user-{user}").parse().unwrap());
        let first = bench.pick_for(&headers);
        assert!((0..5).all(|_| bench.pick_for(&headers) == first));
        if let Pick::Endpoint(index) = first {
            seen.insert(index);
        }
    }
    assert_eq!(seen.len(), 3, "all endpoints get some keys");
}
