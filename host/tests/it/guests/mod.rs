//! Components that misbehave, in a real balancer: what each costs is one log line and a fallback,
//! never a pick.

mod fates;
mod under_load;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use http::HeaderMap;
use waymark_node::{
    balancer::{Candidate, Pick, PickRequest, PolicyOutcome, ServiceDefaults, ServiceHandle, Services, ServicesConfig},
    model::{Endpoint, Revision, ServiceName, Update},
    naming::{Entry, KeyScheme as _, NamingError},
    plugin::{Engine, EngineConfig, Grants, Kind, Limits, LoadError, bundled},
    snapshot::{self, Writer},
};

use self::fates::{Fate, Guest, fates};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test")
}

fn bytes(guest: Guest) -> Vec<u8> {
    fs::read(folder().join(format!("{}.wasm", guest.name()))).unwrap()
}

/// The bytes of a component, and then some that mean nothing: a custom section.
fn padded(component: &[u8], size: usize) -> Vec<u8> {
    let mut padded = component.to_vec();
    let content = u32::try_from(size - component.len() - 6).unwrap();
    padded.push(0);
    // The length in LEB128, five bytes of it, and a name of no bytes.
    padded.extend((0..5).map(|n| ((content >> (7 * n)) & 0x7f) as u8 | if n < 4 { 0x80 } else { 0 }));
    padded.resize(size, 0);
    padded
}

/// A component with one byte changed.
fn flipped(component: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut flipped = component.to_vec();
    // Past the header, by which it is told what it is at all.
    let at = random.usize(8..flipped.len());
    flipped[at] ^= random.u8(1..);
    flipped
}

fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let limits = Limits { build_deadline: Duration::from_secs(1), ..Limits::default() };
    ENGINE
        .get_or_init(|| Engine::new(EngineConfig { instances: 2, limits, ..EngineConfig::default() }).unwrap())
        .clone()
}

fn load(guest: Guest, config: &str) -> Result<Candidate, LoadError> {
    let plugin = engine().load(&bytes(guest), guest.name())?;
    Ok(Candidate::new(plugin.into_policy(config)?, "test"))
}

fn guest(guest: Guest, config: &str) -> Candidate {
    load(guest, config).unwrap()
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
        let limits = Limits { quarantine_window: Duration::from_secs(60), ..Limits::default() };
        let defaults =
            move |_: &ServiceName| ServiceDefaults { limits: limits.clone(), ..ServiceDefaults::new(initial.clone()) };
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
        let state = self.handle.state();
        let sequence = state.next_sequence();
        state.pick(&PickRequest { path: "/hello.Greeter1/SayHello1", headers, peer: None, sequence, tried: &[] })
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

    /// Picks until a version is no longer what serves.
    async fn pick_until_taken_out(&self, version: u64, name: &str) {
        let mut reader = self.handle.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.handle.state().policy_version == version {
            self.pick_many(50);
            assert!(tokio::time::Instant::now() < deadline, "{name} was not taken out of service");
            // A fresh instance takes a moment; until then picks are answered by the fallback.
            let _ = tokio::time::timeout(Duration::from_millis(1), reader.changed()).await;
        }
        self.pick_many(50);
    }
}

/// The reason that is given for one that is taken out, and how many of its picks have failed at
/// least.
fn taken_out_for(fate: Fate) -> (&'static str, u64) {
    match fate {
        Fate::TooSlow(_) => ("of a worker's processor time", 0),
        Fate::TakenOut(_, reason) => (reason, 10),
        Fate::NotLoaded(_) | Fate::Refused(..) | Fate::Serves(_) => panic!("it is not taken out"),
    }
}

#[test]
fn a_key_scheme_that_writes_elsewhere_is_stopped_before_anything_is_written() {
    let scheme = engine().load(&bytes(Guest::WritesElsewhere), "x").unwrap().into_key_scheme("{}").unwrap();
    let endpoint = Endpoint::at("192.0.2.1:80".parse().unwrap());
    let service = ServiceName::new("svc").unwrap();
    let error = scheme
        .encode(&service, &endpoint, waymark_node::model::LeaseId(1), waymark_node::model::Ttl::DEFAULT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("lies under none of"), "{error}");
}

#[test]
fn what_a_key_scheme_decodes_is_bounded_before_it_is_taken_over() {
    let scheme = engine().load(&bytes(Guest::HostileDecode), "x").unwrap().into_key_scheme("{}").unwrap();
    let service = ServiceName::new("svc").unwrap();
    let decode = |value: &str| scheme.decode(&service, &Entry { key: "svc/1".into(), value: value.into() });
    assert_eq!(decode("bomb 1000").unwrap().endpoints.len(), 1000);
    for huge in ["bomb 5000", "id 1000000", "metadata 10000"] {
        let error = decode(huge).unwrap_err();
        // Not the scheme's failure, which would be tried again.
        assert!(matches!(error, NamingError::Unreadable { .. }), "{huge}: {error}");
        assert!(error.to_string().contains("what it decodes to is over the limit of 256 KiB"), "{huge}: {error}");
    }
    let error = decode("loop").unwrap_err();
    assert!(matches!(error, NamingError::Failed { overran: true, .. }), "{error}");
    assert!(error.to_string().contains("it was not done after 100 ms"), "{error}");
    assert!(matches!(decode("trap"), Err(NamingError::Failed { overran: false, .. })));
    assert_eq!(decode("192.0.2.1:80").unwrap().endpoints.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_guest_meets_its_fate_and_no_pick_is_lost() {
    for guest in Guest::ALL.iter().copied() {
        let name = guest.name();
        for fate in fates(guest).iter().copied() {
            let bench = Bench::new().await;
            match fate {
                Fate::NotLoaded(reason) => {
                    let error = load(guest, "{}").map(|_| ()).unwrap_err().to_string();
                    assert!(error.contains(reason), "{name}: {error}");
                }
                Fate::Refused(config, reason) => {
                    let error = bench.refuses(load(guest, config).unwrap()).await;
                    assert!(error.contains(reason), "{name} {config}: {error}");
                }
                Fate::Serves(config) => {
                    let candidate = load(guest, &config.replace("SOON", "50")).unwrap();
                    let swapped = bench.handle.set_policy(candidate).await.unwrap();
                    bench.pick_many(300);
                    let state = bench.handle.state();
                    assert_eq!((state.policy_version, &state.degraded), (swapped.version, &None), "{name} {config}");
                    if guest == Guest::TrapsOnce {
                        assert_eq!(bench.handle.history()[0].pick_failures, 1);
                    }
                }
                Fate::TakenOut(config, _) | Fate::TooSlow(config) => {
                    let (reason, least) = taken_out_for(fate);
                    let swapped = bench.handle.set_policy(load(guest, config).unwrap()).await.unwrap();
                    bench.pick_until_taken_out(swapped.version, name).await;
                    let history = bench.handle.history();
                    let entry = history.iter().find(|entry| entry.version == swapped.version).unwrap();
                    assert_eq!(entry.outcome, PolicyOutcome::Quarantined, "{name}");
                    assert!(entry.pick_failures >= least && entry.replaced_in.is_some(), "{name}: {entry:?}");
                    assert!(entry.reason.contains(reason), "{name} {config}: {}", entry.reason);
                    let running = history.iter().find(|entry| entry.outcome == PolicyOutcome::Running).unwrap();
                    assert_eq!((running.version, &*running.info.name), (1, "round_robin"));
                    let state = bench.handle.state();
                    assert!(state.degraded.as_ref().unwrap().contains(reason), "{name}: {:?}", state.degraded);
                    assert!(state.counters().fallback_picks() >= least);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_whose_state_rots_after_a_thousand_picks_gets_a_fresh_instance_each_time() {
    let bench = Bench::new().await;
    let swapped = bench.handle.set_policy(guest(Guest::CorruptsItself, "{}")).await.unwrap();
    let failures = || bench.handle.history()[0].pick_failures;
    bench.pick_many(950);
    assert_eq!(failures(), 0);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while failures() < 3 {
        bench.pick_many(100);
        assert!(tokio::time::Instant::now() < deadline);
    }
    assert_eq!(bench.handle.state().policy_version, swapped.version, "a failure in a thousand does not take it out");
}

/// The threads' processor time that a deadline is counted in.
fn used() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pick_just_under_its_deadline_is_left_alone_and_one_just_over_it_is_not() {
    let bench = Bench::new().await;
    let spins = |thousands: u128| guest(Guest::Spins, &format!(r#"{{"thousands": {thousands}}}"#));
    let failures = || bench.handle.history()[0].pick_failures;
    bench.pick_many(10);
    bench.handle.set_policy(spins(100)).await.unwrap();
    bench.pick_many(10);
    let began = used();
    bench.pick_many(20);
    let nanos_a_thousand = (used().saturating_sub(began).as_nanos() / 20 / 100).max(1);
    // A quarter of the deadline of 10 ms is what a pick may use however the machine is loaded.
    bench.handle.set_policy(spins(2_000_000 / nanos_a_thousand)).await.unwrap();
    bench.pick_many(40);
    assert_eq!(failures(), 0, "a healthy pick was killed");
    // And one and a half of it is always too much.
    let over = bench.handle.set_policy(spins(30_000_000 / nanos_a_thousand)).await.unwrap();
    bench.pick_until_taken_out(over.version, "spins").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_used_is_passed_over_whatever_the_policy_says() {
    for policy in [Guest::Stubborn, Guest::LopsidedPlan] {
        let bench = Bench::new().await;
        bench.handle.set_policy(guest(policy, "{}")).await.unwrap();
        let headers = HeaderMap::new();
        let state = bench.handle.state();
        for _ in 0..50 {
            let request = PickRequest {
                path: "/a.B/C",
                headers: &headers,
                peer: None,
                sequence: state.next_sequence(),
                tried: &[0],
            };
            assert!(matches!(state.pick(&request), Pick::Endpoint(1 | 2)), "{}", policy.name());
        }
        assert_eq!(bench.handle.history()[0].pick_failures, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_on_the_third_snapshot_gives_way_until_the_fourth() {
    let bench = Bench::new().await;
    let swapped = bench.handle.set_policy(guest(Guest::FailsOnSnapshot, r#"{"endpoints": 2}"#)).await.unwrap();
    bench.endpoints(&[1, 2, 3, 4]).await;
    assert_eq!(bench.handle.state().policy_version, swapped.version);
    bench.endpoints(&[5, 6]).await;
    let state = Arc::clone(&bench.handle.state());
    assert_eq!(&*state.policy_name, "round_robin");
    assert!(state.degraded.as_ref().unwrap().contains("refuses 2 endpoints"), "{:?}", state.degraded);
    bench.pick_many(20);
    bench.endpoints(&[1, 2, 3]).await;
    let state = Arc::clone(&bench.handle.state());
    assert_eq!((state.policy_version, &state.degraded), (swapped.version, &None));
    bench.pick_many(20);
}

#[test]
fn a_component_of_fifty_megabytes_is_refused_by_its_size_alone() {
    let round_robin = bundled::of(Kind::Policy).find(|bundled| bundled.name == "round_robin").unwrap().bytes;
    let large = padded(round_robin, 50_000_000);
    let error = engine().load(&large, "large.wasm").map(|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { size: 50_000_000, .. }), "{error}");
    let limits = Limits { component_size: 50_000_000, ..Limits::default() };
    engine().load_with(&large, "large.wasm", limits, Grants::NONE).unwrap();
}

/// Of some hundred components that are good but for one byte, none may do more than be refused,
/// fail or serve.
#[tokio::test(flavor = "multi_thread")]
async fn a_component_with_one_wrong_byte_harms_nobody() {
    let mut random = fastrand::Rng::with_seed(4);
    let small = bytes(Guest::GrowsTable);
    let round_robin = bundled::of(Kind::Policy).find(|bundled| bundled.name == "round_robin").unwrap().bytes;
    let bench = Bench::new().await;
    let (mut refused, mut set) = (0, 0);
    for n in 0..400 {
        let flipped = if n % 10 == 0 { flipped(round_robin, &mut random) } else { flipped(&small, &mut random) };
        let limits = Limits { build_deadline: Duration::from_millis(50), ..Limits::default() };
        let loaded = engine()
            .load_with(&flipped, "flipped.wasm", limits, Grants::NONE)
            .and_then(|plugin| plugin.into_policy("{}"));
        let Ok(policy) = loaded else {
            refused += 1;
            continue;
        };
        match bench.handle.set_policy(Candidate::new(policy, "test")).await {
            Ok(_) => set += 1,
            Err(_) => refused += 1,
        }
        for _ in 0..10 {
            // It may say that a request shall fail: that is for a policy to say. It may not name
            // who is not there.
            if let Pick::Endpoint(index) = bench.pick() {
                assert!(index < 3);
            }
        }
        bench.handle.set_policy(bundled("round_robin")).await.unwrap();
        bench.pick_many(3);
    }
    assert!(refused > 50 && set > 20, "refused {refused}, set {set}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_a_predecessor_gives_way_to_the_native_rotation() {
    let bench = Bench::new().await;
    // Two bad ones in a row: the second one's predecessor is the first, which is taken out as well.
    bench.handle.set_policy(guest(Guest::TrapsInPick, r#"{"every": 6}"#)).await.unwrap();
    bench.handle.set_policy(guest(Guest::PickOutOfRange, r#"{"every": 6}"#)).await.unwrap();
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
async fn a_policy_sees_the_request_it_picks_for_and_only_then() {
    let bench = Bench::new().await;
    bench.handle.set_policy(guest(Guest::ReadsRequest, "{}")).await.unwrap();
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
    bench.handle.set_policy(guest(Guest::CountsPicks, r#"{"every": 1}"#)).await.unwrap();
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
    let initial = guest(Guest::HashTable, "{}");
    let defaults = move |_: &ServiceName| ServiceDefaults {
        hash_key: Some("header:x-user".parse().unwrap()),
        ..ServiceDefaults::new(initial.clone())
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
