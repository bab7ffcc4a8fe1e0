//! The task and the pick, with policies written for the test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod changes;
mod made_up;
mod reachable;
mod upstream;

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use http::HeaderMap;
use tokio::time::{Duration, Instant};
use waymark_core::{
    check::{Check, CheckConfig},
    model::{Endpoint, Revision, ServiceName, Update},
    policy::{BuildError, Decision, PickContext, PickError, PickTook, Picker, Plan, Policy, RequestFacts, Scope},
    snapshot::{self, Writer},
    traffic::{FailurePercentage, OutlierDetection, SlowStart, Traffic},
};

use super::*;

type Build = dyn Fn(&[Endpoint]) -> Result<Plan, BuildError> + Send + Sync;

/// A policy that does what the test says, and counts.
struct Fake {
    name: &'static str,
    build: Box<Build>,
    builds: Arc<AtomicUsize>,
}

impl Policy for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn build(&self, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        self.builds.fetch_add(1, SeqCst);
        (self.build)(endpoints)
    }
}

fn fake(
    name: &'static str,
    build: impl Fn(&[Endpoint]) -> Result<Plan, BuildError> + Send + Sync + 'static,
) -> (Candidate, Arc<AtomicUsize>) {
    let builds = Arc::new(AtomicUsize::new(0));
    let policy = Arc::new(Fake { name, build: Box::new(build), builds: Arc::clone(&builds) });
    let info = PolicyInfo {
        name: name.into(),
        plugin_version: "1".into(),
        sha256: String::new(),
        origin: "test".into(),
        config: "{}".into(),
        allow: String::new(),
        by: "test".into(),
    };
    (Candidate { policy, info, load_time: Duration::ZERO }, builds)
}

#[allow(clippy::unnecessary_wraps, reason = "it stands for Policy::build")]
fn everyone(endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
    Ok(Plan::Rotation((0..endpoints.len() as u32).collect()))
}

fn refuse(_: &[Endpoint]) -> Result<Plan, BuildError> {
    Err(BuildError::Refused { policy: "test".into(), reason: "not today".into() })
}

/// A picker made of a function.
struct Asked<F>(F);

impl<F: Fn(PickContext, &dyn RequestFacts) -> Result<Decision, PickError> + Send + Sync + 'static> Picker for Asked<F> {
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError> {
        (self.0)(context, facts)
    }
}

/// An upstream that notes what it is asked for, and begins to connect where it is to.
#[derive(Default)]
struct Noted {
    begun: Mutex<Vec<String>>,
    checked: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<String>>,
}

/// What it keeps with an endpoint.
struct Kept {
    address: String,
    cell: Weak<EndpointCell>,
}

impl Upstream for Noted {
    type Connection = Kept;

    fn attach(&self, _: &ServiceName, endpoint: &EndpointState) -> Kept {
        Kept { address: endpoint.endpoint.address.to_string(), cell: Arc::downgrade(&endpoint.cell) }
    }

    fn connect(&self, kept: &Kept) {
        self.begun.lock().unwrap().push(kept.address.clone());
        kept.cell.upgrade().unwrap().set_connectivity(Connectivity::Connecting);
    }

    fn check(&self, kept: &Kept, _: &CheckConfig) {
        self.checked.lock().unwrap().push(kept.address.clone());
    }

    fn forget(&self, service: &ServiceName) {
        self.forgotten.lock().unwrap().push(service.to_string());
    }
}

struct Service {
    handle: ServiceHandle,
    writer: Arc<Mutex<Option<Writer>>>,
    services: Services,
}

impl Service {
    async fn new(policy: Candidate) -> Self {
        Self::with(policy, Traffic::default()).await
    }

    async fn with(policy: Candidate, traffic: Traffic) -> Self {
        Self::of(policy, traffic, None).await
    }

    async fn of(policy: Candidate, traffic: Traffic, upstream: Option<Arc<Noted>>) -> Self {
        let writer = Arc::<Mutex<Option<Writer>>>::default();
        let follow = {
            let writer = Arc::clone(&writer);
            move |service| {
                let (tx, rx) = snapshot::channel(service);
                *writer.lock().unwrap() = Some(tx);
                std::future::ready(Ok(rx))
            }
        };
        let traffic = Arc::new(traffic);
        let defaults = move |_: &ServiceName| ServiceDefaults {
            traffic: Arc::clone(&traffic),
            ..ServiceDefaults::new(policy.clone())
        };
        let config = ServicesConfig::new(follow, defaults);
        let services = match upstream {
            Some(upstream) => Services::with_upstream(config, upstream),
            None => Services::new(config),
        };
        let handle = services.add(&ServiceName::new("svc").unwrap()).await.unwrap();
        Self { handle, writer, services }
    }

    fn update(&self, update: Update) {
        self.writer.lock().unwrap().as_mut().unwrap().apply(update);
    }

    fn list(&self, revision: i64, endpoints: &[(u8, u32)]) {
        let endpoint = |(n, weight): &(u8, u32)| Endpoint {
            weight: *weight,
            ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        self.update(Update::Reset { revision: Revision(revision), endpoints, skipped: 0 });
    }

    async fn at(&self, revision: i64) -> Arc<ServiceState> {
        let mut reader = self.handle.subscribe();
        while reader.current().revision != Revision(revision) {
            reader.changed().await.unwrap();
        }
        reader.current()
    }
}

fn pick(state: &ServiceState, tried: &[u32]) -> Pick {
    pick_at(state, state.next_sequence(), tried)
}

fn pick_at(state: &ServiceState, sequence: u32, tried: &[u32]) -> Pick {
    state.pick(&PickRequest { path: "/a.B/C", headers: &HeaderMap::new(), peer: None, sequence, tried })
}

#[tokio::test]
async fn before_the_first_list_there_are_no_endpoints_and_that_is_told_apart() {
    let service = Service::new(fake("all", everyone).0).await;
    assert_eq!(pick(&service.handle.state(), &[]), Pick::NoEndpoints { listed: false });
    service.list(1, &[]);
    assert_eq!(pick(&*service.at(1).await, &[]), Pick::NoEndpoints { listed: true });
}

#[tokio::test]
async fn a_rotation_skips_what_cannot_be_used_and_keeps_a_request_at_its_place() {
    let service = Service::new(fake("all", everyone).0).await;
    service.list(1, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(1).await;
    let firsts: Vec<_> = (0..6).map(|_| pick(&state, &[])).collect();
    assert_eq!(firsts[..3], firsts[3..], "exact rotation");
    state.endpoints[0].cell.set_connectivity(Connectivity::BackingOff);
    for _ in 0..9 {
        assert!(matches!(pick(&state, &[]), Pick::Endpoint(1 | 2)));
        assert_eq!(pick(&state, &[1]), Pick::Endpoint(2));
    }
    assert_eq!(pick(&state, &[1, 2]), Pick::NoneUsable { known: 3, backing_off: 1, full: 0, pending: 0 });
    // Two endpoints, of which one refuses everything: it is asked first by every second request
    // only.
    let firsts: Vec<_> = (0..8)
        .map(|_| {
            let sequence = state.next_sequence();
            let first = pick_at(&state, sequence, &[]);
            let Pick::Endpoint(index) = first else { panic!("{first:?}") };
            pick_at(&state, sequence, &[index]);
            index
        })
        .collect();
    assert!(firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
}

#[tokio::test]
async fn all_attempts_of_a_request_have_its_place_whoever_comes_between() {
    let (told, sequences) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let (policy, _) = fake("tells", move |_: &[Endpoint]| {
        let told = told.lock().unwrap().clone();
        Ok(Plan::EachRequest(Box::new(Asked(move |context: PickContext, _: &dyn RequestFacts| {
            told.send(context.sequence).unwrap();
            Ok(Decision::Endpoint(context.attempt))
        }))))
    });
    let service = Service::new(policy).await;
    service.list(1, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(1).await;
    // What the trial asked.
    while sequences.try_recv().is_ok() {}
    let sequence = state.next_sequence();
    assert_eq!(pick_at(&state, sequence, &[]), Pick::Endpoint(0));
    (0..5).for_each(|_| drop(pick(&state, &[])));
    assert_eq!(pick_at(&state, sequence, &[0]), Pick::Endpoint(1));
    let told: Vec<_> = sequences.try_iter().collect();
    assert_eq!((told.first(), told.last()), (Some(&sequence), Some(&sequence)), "{told:?}");
}

#[tokio::test]
async fn what_has_weight_0_gets_nothing_from_the_native_rotation() {
    let service = Service::new(fake("refuses", refuse).0).await;
    service.list(1, &[(1, 0), (2, 1)]);
    let state = service.at(1).await;
    assert!((0..4).all(|_| pick(&state, &[]) == Pick::Endpoint(1)));
}

#[tokio::test]
async fn a_policy_that_names_an_unusable_endpoint_is_asked_again_and_told() {
    let (policy, _) = fake("stubborn", |_: &[Endpoint]| {
        Ok(Plan::EachRequest(Box::new(Asked(|_: PickContext, facts: &dyn RequestFacts| {
            Ok(Decision::Endpoint(u32::from(facts.tried(0))))
        }))))
    });
    let service = Service::new(policy).await;
    service.list(1, &[(1, 1), (2, 1)]);
    let state = service.at(1).await;
    assert_eq!(pick(&state, &[]), Pick::Endpoint(0));
    state.endpoints[0].cell.set_connectivity(Connectivity::BackingOff);
    assert_eq!(pick(&state, &[]), Pick::Endpoint(1));
}

#[tokio::test]
async fn the_less_loaded_of_two_is_taken() {
    let (policy, _) = fake("two", |_: &[Endpoint]| {
        Ok(Plan::EachRequest(Box::new(Asked(|_: PickContext, _: &dyn RequestFacts| Ok(Decision::Either(0, 1))))))
    });
    let service = Service::new(policy).await;
    service.list(1, &[(1, 1), (2, 1)]);
    let state = service.at(1).await;
    let busy = state.endpoints[0].cell.begin();
    assert_eq!(pick(&state, &[]), Pick::Endpoint(1));
    drop(busy);
    let _busy = state.endpoints[1].cell.begin();
    assert_eq!(pick(&state, &[]), Pick::Endpoint(0));
}

#[tokio::test]
async fn endpoints_that_the_policy_cannot_serve_are_served_by_the_one_before() {
    let service = Service::new(
        fake("good", |endpoints: &[Endpoint]| {
            // Backwards, so that it can be told from the native rotation.
            Ok(Plan::Rotation((0..endpoints.len() as u32).rev().take(1).collect()))
        })
        .0,
    )
    .await;
    service.list(1, &[(1, 1), (2, 1)]);
    service.at(1).await;
    let (picky, _) = fake(
        "picky",
        |endpoints: &[Endpoint]| {
            if endpoints.len() > 2 { refuse(endpoints) } else { everyone(endpoints) }
        },
    );
    service.handle.set_policy(picky).await.unwrap();
    service.list(2, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(2).await;
    assert_eq!(pick(&state, &[]), Pick::Endpoint(2));
    let running = &service.handle.history()[0];
    assert_eq!((running.outcome, running.reason.contains("not today")), (PolicyOutcome::Running, true));
    // It is given another chance with the next endpoints.
    service.list(3, &[(1, 1), (2, 1)]);
    service.at(3).await;
    assert!(service.handle.history()[0].reason.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_built_once_after_the_first() {
    let (policy, builds) = fake("all", everyone);
    let service = Service::new(policy).await;
    let began = Instant::now();
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "a first change is built at once");
    for n in 2..=20 {
        service.list(n, &[(1, 1), (n.try_into().unwrap(), 1)]);
        tokio::task::yield_now().await;
    }
    service.at(20).await;
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(builds.load(SeqCst), 2);
}

#[tokio::test]
async fn losing_the_registry_publishes_the_same_plan_as_stale() {
    let (policy, builds) = fake("all", everyone);
    let service = Service::new(policy).await;
    service.list(1, &[(1, 1)]);
    let before = service.at(1).await;
    let mut reader = service.handle.subscribe();
    service.update(Update::Stale { reason: "connection refused".into() });
    reader.changed().await.unwrap();
    let after = reader.current();
    assert!(after.stale.is_some() && pick(&after, &[]) == Pick::Endpoint(0));
    assert!(Arc::ptr_eq(&before.endpoints[0].cell, &after.endpoints[0].cell));
    assert_eq!(builds.load(SeqCst), 1);
}

#[tokio::test]
async fn a_rollback_goes_back_and_says_where_it_cannot() {
    let service = Service::new(fake("first", everyone).0).await;
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    let error = service.handle.roll_back(0, "ann".into()).await.unwrap_err();
    assert!(error.to_string().contains("it can go back to: none"), "{error}");
    service.handle.set_policy(fake("second", everyone).0).await.unwrap();
    let refused = service.handle.set_policy(fake("third", refuse).0).await.unwrap_err();
    assert!(matches!(refused, SwapError::Refused { .. }));
    let published = service.handle.roll_back(0, "ann".into()).await.unwrap();
    assert_eq!((published.version, &*service.handle.state().policy_name), (4, "first"));
    let history = service.handle.history();
    assert_eq!((&*history[0].info.by, history[0].outcome), ("ann", PolicyOutcome::Running));
    assert_eq!(history[1].outcome, PolicyOutcome::Refused);
    let error = service.handle.roll_back(3, "ann".into()).await.unwrap_err();
    assert!(matches!(error, SwapError::NoSuchVersion { version: 3, .. }), "a refused version never ran: {error}");
}

/// Passes the trial and fails at every request.
#[allow(clippy::unnecessary_wraps, reason = "it stands for Policy::build")]
fn traitor(_: &[Endpoint]) -> Result<Plan, BuildError> {
    Ok(Plan::EachRequest(Box::new(Asked(|_, facts: &dyn RequestFacts| match facts.path() {
        "/waymark.Trial/Pick" => Ok(Decision::Endpoint(0)),
        _ => Err(PickError::Trapped("on purpose".into())),
    }))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_taken_out_while_another_one_is_being_built_and_asked_no_more() {
    let service = Service::new(fake("good", everyone).0).await;
    service.list(1, &[(1, 1), (2, 1)]);
    service.at(1).await;
    let bad = service.handle.set_policy(fake("bad", traitor).0).await.unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (slow, builds) = fake("slow", move |endpoints| {
        held.lock().unwrap().recv().unwrap();
        everyone(endpoints)
    });
    let handle = service.handle.clone();
    let setting = tokio::spawn(async move { handle.set_policy(slow).await });
    while builds.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let state = Arc::clone(&service.handle.state());
    for _ in 0..30 {
        assert!(matches!(pick(&state, &[]), Pick::Endpoint(_)), "a pick was lost");
    }
    let mut reader = service.handle.subscribe();
    let taken_out = async {
        while &*reader.current().policy_name != "good" {
            reader.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken_out).await.unwrap();
    let degraded = reader.current().degraded.clone().unwrap();
    assert!(degraded.contains("bad version 2 was taken out of service after 10 failed picks"), "{degraded}");
    assert!(degraded.contains("on purpose") && degraded.ends_with("good serves"), "{degraded}");
    let history = service.handle.history();
    let entry = history.iter().find(|entry| entry.version == bad.version).unwrap();
    assert_eq!((entry.outcome, entry.pick_failures), (PolicyOutcome::Quarantined, 10));
    assert!(entry.replaced_in.is_some());
    assert_eq!(reader.current().counters().quarantines(), 1);
    // Picks on the generation that was replaced go on being answered.
    assert_eq!(state.counters().fallback_picks(), 30);

    release.send(()).unwrap();
    setting.await.unwrap().unwrap();
    let state = service.handle.state();
    assert_eq!((&*state.policy_name, &state.degraded), ("slow", &None));
    drop(state);
    service.handle.roll_back(0, "ann".into()).await.unwrap();
    assert_eq!(&*service.handle.state().policy_name, "good");
}

#[tokio::test]
async fn going_back_from_a_policy_that_was_taken_out_confirms_what_took_its_place() {
    let service = Service::new(fake("good", everyone).0).await;
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    service.handle.set_policy(fake("bad", traitor).0).await.unwrap();
    while &*service.handle.state().policy_name == "bad" {
        pick(&service.handle.state(), &[]);
        tokio::task::yield_now().await;
    }
    assert!(service.handle.state().degraded.is_some());
    service.handle.roll_back(0, "ann".into()).await.unwrap();
    let state = service.handle.state();
    assert_eq!((&*state.policy_name, state.policy_version, &state.degraded), ("good", 3, &None));
}

#[tokio::test]
async fn a_policy_that_cannot_be_built_for_new_endpoints_is_named_and_serves_again_when_it_can() {
    let service = Service::new(fake("good", everyone).0).await;
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    let picky = |endpoints: &[Endpoint]| if endpoints.len() == 3 { refuse(endpoints) } else { everyone(endpoints) };
    service.handle.set_policy(fake("picky", picky).0).await.unwrap();
    service.list(2, &[(1, 1), (2, 1)]);
    assert_eq!(&*service.at(2).await.policy_name, "picky");
    service.list(3, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(3).await;
    assert_eq!((&*state.policy_name, state.policy_version), ("good", 1));
    let degraded = state.degraded.clone().unwrap();
    assert!(degraded.contains("not today") && degraded.ends_with("good serves"), "{degraded}");
    service.list(4, &[(1, 1)]);
    let state = service.at(4).await;
    assert_eq!((&*state.policy_name, &state.degraded), ("picky", &None));
}

/// So many calls on an endpoint, all with this outcome.
fn carry(state: &ServiceState, index: usize, calls: usize, outcome: Outcome) {
    for _ in 0..calls {
        state.endpoints[index].cell.begin().unwrap().set_outcome(outcome);
    }
}

fn ejecting(config: OutlierDetection) -> Traffic {
    let by = FailurePercentage { minimum_hosts: 3, request_volume: 10, ..FailurePercentage::default() };
    Traffic { outlier: Some(OutlierDetection { failure_percentage: Some(by), ..config }), ..Traffic::default() }
}

/// A service of three endpoints, after an interval in which the second one failed.
async fn failed_by_one(config: OutlierDetection) -> (Service, Arc<ServiceState>) {
    let service = Service::with(fake("all", everyone).0, ejecting(config)).await;
    service.list(1, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(1).await;
    // The first look learns what there is.
    tokio::time::sleep(Duration::from_secs(11)).await;
    carry(&state, 1, 10, Outcome::Errored);
    carry(&state, 2, 10, Outcome::Cancelled);
    tokio::time::sleep(Duration::from_secs(10)).await;
    (service, state)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_more_than_others_is_passed_over_for_a_while() {
    let (service, state) = failed_by_one(OutlierDetection::default()).await;
    assert!(state.endpoints[1].cell.is_ejected() && !state.endpoints[2].cell.is_ejected());
    assert_eq!(state.counters().ejections(), 1);
    for _ in 0..6 {
        assert!(matches!(pick(&state, &[]), Pick::Endpoint(0 | 2)));
    }
    // What becomes of the endpoints does not change it, and the next generation sees the same.
    service.list(2, &[(1, 1), (2, 5), (3, 1)]);
    let state = service.at(2).await;
    assert_eq!(pick(&state, &[0, 2]), Pick::Endpoint(1), "better than none");
    assert!(state.endpoints[1].cell.is_ejected());
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert!(!state.endpoints[1].cell.is_ejected());
    let picks: Vec<_> = (0..3).map(|_| pick(&state, &[])).collect();
    assert!(picks.contains(&Pick::Endpoint(1)), "{picks:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_takes_no_call_at_the_end_of_an_interval_either() {
    const FOREVER: Duration = Duration::from_hours(1_000);
    let config =
        OutlierDetection { base_ejection_time: FOREVER, max_ejection_time: FOREVER, ..OutlierDetection::default() };
    let (_service, state) = failed_by_one(config).await;
    assert!(state.endpoints[1].cell.is_ejected());
    let (watched, done) = (Arc::clone(&state), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&done);
    let caller = std::thread::spawn(move || {
        while !over.load(Relaxed) {
            assert_ne!(pick(&watched, &[]), Pick::Endpoint(1));
        }
    });
    // So many that a moment between two stores would be met.
    for _ in 0..20_000 {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    done.store(true, Relaxed);
    caller.join().expect("an ejected endpoint took a call");
    assert!(state.endpoints[1].cell.is_ejected());
}

#[tokio::test(start_paused = true)]
async fn ejections_are_not_heeded_when_too_few_endpoints_would_be_left() {
    let traffic = ejecting(OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() });
    let service = Service::with(fake("all", everyone).0, traffic).await;
    service.list(1, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let state = service.at(1).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    for index in 0..3 {
        carry(&state, index, 10, Outcome::Failed);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(state.endpoints.iter().filter(|endpoint| endpoint.cell.is_ejected()).count(), 3);
    let picks: Vec<_> = (0..4).map(|_| pick(&state, &[])).collect();
    assert!((0..4).all(|index| picks.contains(&Pick::Endpoint(index))), "one of four is less than half: {picks:?}");
    // Two more that are well: half are left, which is enough.
    service.list(2, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
    let state = service.at(2).await;
    for _ in 0..12 {
        assert!(matches!(pick(&state, &[]), Pick::Endpoint(3..=5)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_gets_a_growing_share() {
    let slow = SlowStart { min_percent: 0, ..SlowStart::new(Duration::from_secs(100)) };
    let service =
        Service::with(fake("all", everyone).0, Traffic { slow_start: Some(slow), ..Traffic::default() }).await;
    service.list(1, &[(1, 1), (2, 1), (3, 1)]);
    let state = service.at(1).await;
    assert!(state.endpoints.iter().all(|endpoint| !endpoint.cell.is_in_slow_start()), "the first ones get all of it");
    service.list(2, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let state = service.at(2).await;
    let share = |state: &ServiceState| {
        let picks = 4000;
        (0..picks).filter(|_| pick(state, &[]) == Pick::Endpoint(3)).count() as f64 / f64::from(picks)
    };
    assert!(state.endpoints[3].cell.is_in_slow_start());
    let first = share(&state);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let half = share(&state);
    tokio::time::sleep(Duration::from_secs(53)).await;
    let all = share(&state);
    // What it does not take at its turn it may be offered again by chance, so that half of a
    // quarter is a little more.
    assert!(first < 0.01 && (0.11..0.20).contains(&half) && (all - 0.25).abs() < 0.001, "{first} {half} {all}");
    assert!(!state.endpoints[3].cell.is_in_slow_start());
    // Better one in slow start than none.
    service.list(3, &[(5, 1)]);
    assert_eq!(pick(&*service.at(3).await, &[]), Pick::Endpoint(0));
}

#[tokio::test]
async fn a_fallback_that_fails_too_is_counted_told_of_once_and_taken_out() {
    let service = Service::new(fake("standby", traitor).0).await;
    service.list(1, &[(1, 1), (2, 1)]);
    let first = service.at(1).await;
    service.handle.set_policy(fake("bad", traitor).0).await.unwrap();
    let state = Arc::clone(&service.handle.state());
    let page = waymark_testing::logged(|| {
        for _ in 0..30 {
            assert!(matches!(pick(&state, &[]), Pick::Endpoint(_)), "a pick was lost");
        }
    });
    let told: Vec<_> = page.lines().filter(|line| line.contains("standby")).collect();
    assert!(told.len() == 1 && told[0].contains("svc") && told[0].contains("on purpose"), "{page}");
    assert_eq!(state.counters().fallback_failures(), 30);
    let mut reader = service.handle.subscribe();
    while &*reader.current().policy_name != "native rotation" {
        reader.changed().await.unwrap();
    }
    let history = service.handle.history();
    for (version, name) in [(first.policy_version, "standby"), (2, "bad")] {
        let entry = history.iter().find(|entry| entry.version == version).unwrap();
        assert_eq!((&*entry.info.name, entry.outcome), (name, PolicyOutcome::Quarantined));
        assert_eq!(entry.pick_failures, 10, "it is asked no more after that");
    }
    assert!(history.iter().any(|entry| entry.reason.contains("as a fallback after 10 failed picks")), "{history:?}");
}

/// Every pick is said to take so long of one thread's time.
fn takes(charged: Duration) -> Candidate {
    fake("slow", move |_| {
        Ok(Plan::EachRequest(Box::new(Asked(move |_, facts: &dyn RequestFacts| {
            let measured = Some(charged);
            facts.took(PickTook { measured, charged, thread: 0, kept_waiting: Duration::ZERO });
            Ok(Decision::Endpoint(0))
        }))))
    })
    .0
}

#[tokio::test(start_paused = true)]
async fn picks_that_take_too_much_of_a_thread_are_told_of_while_they_do_and_then_taken_out() {
    let service = Service::new(fake("good", everyone).0).await;
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    let slow = service.handle.set_policy(takes(Duration::from_millis(100))).await.unwrap();
    let mut reader = service.handle.subscribe();
    for _ in 0..3 {
        pick(&service.handle.state(), &[]);
    }
    reader.changed().await.unwrap();
    let state = reader.current();
    let degraded = state.degraded.clone().unwrap();
    assert!(
        degraded.starts_with("its picks take 100 % of a worker's") && degraded.ends_with("slow serves"),
        "{degraded}"
    );
    assert_eq!(state.policy_version, slow.version);
    // Nobody picks any more: that it is well again comes of itself.
    let began = Instant::now();
    reader.changed().await.unwrap();
    assert_eq!(reader.current().degraded, None);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    for _ in 0..9 {
        pick(&service.handle.state(), &[]);
    }
    while service.handle.state().policy_version == slow.version {
        reader.changed().await.unwrap();
    }
    let state = service.handle.state();
    let degraded = state.degraded.clone().unwrap();
    assert!(degraded.contains("slow version 2 was taken out of service because its picks take"), "{degraded}");
    assert_eq!(&*state.policy_name, "good");
    assert!(state.counters().pick_times().read().unwrap().count > 3);
    let history = service.handle.history();
    let entry = history.iter().find(|entry| entry.version == slow.version).unwrap();
    assert_eq!((entry.outcome, entry.pick_failures), (PolicyOutcome::Quarantined, 0));
}

#[tokio::test]
async fn a_swap_tells_what_a_pick_took_of_a_policy_that_is_asked_each_time() {
    let service = Service::new(fake("good", everyone).0).await;
    service.list(1, &[(1, 1)]);
    service.at(1).await;
    assert_eq!(service.handle.set_policy(fake("plan", everyone).0).await.unwrap().times.pick, None);
    let (works, _) = fake("works", |_| {
        Ok(Plan::EachRequest(Box::new(Asked(|_, _: &dyn RequestFacts| {
            let began = waymark_runtime::processor_time();
            while waymark_runtime::processor_time().saturating_sub(began) < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
            Ok(Decision::Endpoint(0))
        }))))
    });
    let took = service.handle.set_policy(works).await.unwrap().times.pick.unwrap();
    assert!(took >= Duration::from_millis(2), "{took:?}");
}
