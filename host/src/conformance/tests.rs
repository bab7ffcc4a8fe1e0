//! Each check can fail: a policy or a key scheme written for it does what it looks for, and nothing
//! else fails for it.
#![allow(clippy::unwrap_used, clippy::unnecessary_wraps, reason = "tests")]

use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
};

use super::*;
use crate::{
    model::{LeaseId, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    plugin::bundled,
    policy::{BuildError, Decision, PickContext, PickError, Picker, RequestFacts},
};

type Build = dyn Fn(&Scope, &[Endpoint], &str) -> Result<Plan, BuildError> + Send + Sync;

/// A policy that does what the test says, with its configuration.
#[derive(Clone)]
struct Native {
    build: Arc<Build>,
    config: String,
}

impl Policy for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn build(&self, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        (self.build)(scope, endpoints, &self.config)
    }
}

struct Picks<F>(F);

impl<F> Picker for Picks<F>
where
    F: Fn(PickContext, &dyn RequestFacts) -> Result<Decision, PickError> + Send + Sync + 'static,
{
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError> {
        (self.0)(context, facts)
    }
}

fn subject_of(
    build: impl Fn(&Scope, &[Endpoint], &str) -> Result<Plan, BuildError> + Send + Sync + 'static,
) -> PolicyUnderTest {
    let native = Native { build: Arc::new(build), config: "{}".into() };
    let policy: Arc<dyn Policy> = Arc::new(native.clone());
    let configure =
        move |config: &str| Ok(Arc::new(Native { config: config.into(), ..native.clone() }) as Arc<dyn Policy>);
    PolicyUnderTest {
        again: Arc::clone(&policy),
        policy,
        fields: Vec::new(),
        configure: Box::new(configure),
        memory: Box::new(|| 0),
    }
}

fn run(subject: &PolicyUnderTest, claims: &[Claim]) -> Report {
    let options = Options { quick: true, claims: claims.to_vec(), ..Options::default() };
    check_policy(subject, &options, Report::empty("native", &options), &|_| {})
}

/// What failed, as `section: check`. The process's memory is left out: other tests of this process
/// allocate meanwhile.
fn failed(report: &Report) -> Vec<String> {
    let failed =
        report.lines.iter().filter(|line| line.outcome == Outcome::Failed && line.check != "the host's memory");
    failed.map(|line| format!("{}: {}", line.section, line.check)).collect()
}

fn line<'a>(report: &'a Report, section: &str, check: &str) -> &'a Line {
    report.lines.iter().find(|line| line.section == section && line.check == check).unwrap()
}

/// Who may get something.
fn receiving(endpoints: &[Endpoint]) -> Vec<u32> {
    (0u32..).zip(endpoints).filter(|(_, endpoint)| endpoint.weight > 0).map(|(index, _)| index).collect()
}

fn rotation(list: Vec<u32>) -> Result<Plan, BuildError> {
    Ok(Plan::Rotation(list.into()))
}

/// Asked for each request, among those that may get something; nobody to ask for is an empty plan.
fn picks<F>(list: &[u32], pick: F) -> Result<Plan, BuildError>
where
    F: Fn(PickContext, &dyn RequestFacts) -> Result<Decision, PickError> + Send + Sync + 'static,
{
    if list.is_empty() { rotation(Vec::new()) } else { Ok(Plan::EachRequest(Box::new(Picks(pick)))) }
}

/// The endpoint whose turn it is.
fn turn(list: &[u32], context: PickContext) -> Decision {
    Decision::Endpoint(list[context.sequence as usize % list.len()])
}

/// Runs a policy that is asked for each request.
fn asked<F>(claims: &[Claim], pick: F) -> Report
where
    F: Fn(&[u32], PickContext, &dyn RequestFacts) -> Result<Decision, PickError> + Send + Sync + Clone + 'static,
{
    let subject = subject_of(move |_, endpoints, _| {
        let (list, pick) = (receiving(endpoints), pick.clone());
        picks(&list.clone(), move |context, facts| pick(&list, context, facts))
    });
    run(&subject, claims)
}

fn trapped(reason: &str) -> BuildError {
    BuildError::Trapped { policy: "native".into(), reason: reason.into() }
}

#[test]
fn a_good_policy_passes_whether_it_plans_or_is_asked() {
    let report = run(&subject_of(|_, endpoints, _| rotation(receiving(endpoints))), &[]);
    assert!(failed(&report).is_empty(), "{:?}", failed(&report));
    let report = asked(&[], |list, context, _| Ok(turn(list, context)));
    assert!(failed(&report).is_empty(), "{:?}", failed(&report));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_does_not_change_the_verdict() {
    let subject = subject_of(|_, endpoints, _| rotation(receiving(endpoints)));
    let lines = |seed| {
        let options = Options { quick: true, seed, ..Options::default() };
        let report = check_policy(&subject, &options, Report::empty("native", &options), &|_| {});
        let lines = report.lines.into_iter().filter(|line| line.section != "memory");
        (lines.collect::<Vec<_>>(), report.shares)
    };
    assert_eq!(lines(7), lines(7));
    assert!(lines(8).0.iter().all(|line| line.outcome != Outcome::Failed));
}

#[test]
fn a_policy_without_a_plan_is_tried_no_further() {
    let report = run(&subject_of(|_, _, _| Err(trapped("always"))), &[]);
    assert_eq!(failed(&report), ["plans: 10 endpoints"]);
    assert!(report.lines[1..].iter().all(|line| line.outcome == Outcome::Skipped));
}

#[test]
fn every_odd_set_of_endpoints_has_a_line_that_can_fail() {
    type Trips = fn(&[Endpoint]) -> bool;
    let cases: [(&str, Trips); 7] = [
        ("no endpoint", |e| e.is_empty()),
        ("1 endpoint", |e| e.len() == 1),
        ("1,000 endpoints", |e| e.len() == 1_000),
        ("10,000 endpoints", |e| e.len() == 10_000),
        ("endpoints of one address", |e| e.len() > 1 && e.iter().all(|x| x.address == e[0].address)),
        ("ids of 4 KiB", |e| e.iter().any(|x| x.id.as_str().len() > 4_000)),
        ("metadata of any text", |e| e.iter().any(|x| x.metadata.len() > 5)),
    ];
    for (check, trips) in cases {
        let subject = subject_of(
            move |_, endpoints, _| {
                if trips(endpoints) { Err(trapped("here")) } else { rotation(receiving(endpoints)) }
            },
        );
        let options = Options { quick: true, ..Options::default() };
        let service = ServiceName::new("svc").unwrap();
        let scope = Scope { service, zone: "zone-a".into() };
        let mut run = Run { scope, ..Run::new(&subject, &options, Report::empty("native", &options)) };
        assert!(plans::check(&mut run));
        let found = failed(&run.report);
        assert!(found.contains(&format!("plans: {check}")), "{check}: {found:?}");
    }
}

#[test]
fn a_policy_that_declines_every_plain_request_is_found_unless_it_claims_to() {
    let decisions: [fn() -> Decision; 3] =
        [|| Decision::Queue, || Decision::Fail("no".into()), || Decision::Drop("no".into())];
    for decision in decisions {
        let report = asked(&[], move |_, _, _| Ok(decision()));
        assert_eq!(failed(&report), ["picks: plain requests are sent"], "{:?}", decision());
        let detail = &line(&report, "picks", "plain requests are sent").detail;
        assert!(detail.contains("1 usable endpoint;") && detail.contains("declines"), "{detail}");
        let report = asked(&[Claim::Declines], move |_, _, _| Ok(decision()));
        assert!(failed(&report).is_empty(), "{:?}: {:?}", decision(), failed(&report));
    }
    // One that serves the single endpoint that it happens to have, and none of several.
    let report = asked(&[], |list, context, _| Ok(if list.len() == 1 { turn(list, context) } else { Decision::Queue }));
    assert!(failed(&report).contains(&"picks: plain requests are sent".to_owned()), "{:?}", failed(&report));
    // One that sheds a third, or waits for a key, sends the others.
    for sheds in [(|context| context.sequence % 3 == 0) as fn(PickContext) -> bool, |context| context.hash.is_none()] {
        let report = asked(&[], move |list, context, _| {
            Ok(if sheds(context) { Decision::Drop("shed".into()) } else { turn(list, context) })
        });
        assert!(failed(&report).is_empty(), "{:?}", failed(&report));
        assert_eq!(line(&report, "picks", "plain requests are sent").outcome, Outcome::Observed);
    }
}

#[test]
fn when_the_time_is_up_the_policy_is_asked_no_more_and_the_report_says_what_was_cut() {
    let options = Options::default();
    let report = Report::empty("native", &options);
    let (limit, asked) = (report.limit.clone(), Arc::new(AtomicUsize::new(0)));
    let subject = {
        let asked = Arc::clone(&asked);
        subject_of(move |_, endpoints, _| {
            let (list, limit, asked) = (receiving(endpoints), limit.clone(), Arc::clone(&asked));
            picks(&list.clone(), move |context, _| {
                if asked.fetch_add(1, SeqCst) + 1 == 3_000 {
                    limit.end();
                }
                Ok(turn(&list, context))
            })
        })
    };
    let report = check_policy(&subject, &options, report, &|_| {});
    assert_eq!(asked.load(SeqCst), 3_000);
    assert!(failed(&report).is_empty() && !report.passed(), "{:?}", report.lines);
    assert_eq!(line(&report, "plans", "10 endpoints").outcome, Outcome::Ok);
    assert_eq!(report.cut(), ["picks", "determinism", "removal", "shares", "stability", "cost", "memory"]);
}

#[test]
fn a_plan_with_a_wrong_index_for_some_sizes_is_found_among_random_sets() {
    let report = run(
        &subject_of(|_, endpoints, _| {
            let mut list = receiving(endpoints);
            list.extend((endpoints.len() == 13).then_some(13));
            rotation(list)
        }),
        &[],
    );
    assert_eq!(failed(&report), ["plans: index ranges"]);
    assert!(line(&report, "plans", "index ranges").detail.contains("13 of 13"));
}

#[test]
fn a_plan_that_sends_to_a_weight_of_0_is_found() {
    let report = run(&subject_of(|_, endpoints, _| rotation((0..endpoints.len() as u32).collect())), &[]);
    assert_eq!(failed(&report), ["plans: weight 0 in a plan"]);
    assert_eq!(line(&report, "plans", "all weights 0").outcome, Outcome::Observed);
    let report = asked(&[], |_, context, _| Ok(Decision::Endpoint(context.sequence % 2)));
    assert!(failed(&report).contains(&"picks: index ranges".to_owned()), "endpoint 1 of 1");
    let report = run(
        &subject_of(|_, endpoints, _| {
            let list: Vec<u32> = (0..endpoints.len() as u32).collect();
            picks(&list.clone(), move |context, _| Ok(turn(&list, context)))
        }),
        &[],
    );
    assert_eq!(failed(&report), ["picks: weight 0"]);
}

#[test]
fn all_weights_0_must_not_trap() {
    let report = run(
        &subject_of(|_, endpoints, _| {
            let list = receiving(endpoints);
            if list.is_empty() && endpoints.len() == 5 { Err(trapped("divided by 0")) } else { rotation(list) }
        }),
        &[],
    );
    assert!(failed(&report).contains(&"plans: all weights 0".to_owned()), "{:?}", failed(&report));
}

#[test]
fn a_configuration_must_not_trap_and_defaults_must_be_true() {
    let with_field = |build: fn(&str, Vec<u32>) -> Result<Plan, BuildError>| PolicyUnderTest {
        fields: vec![("n".into(), "3".into())],
        ..subject_of(move |_, endpoints, config| build(config, receiving(endpoints)))
    };
    let report = run(
        &with_field(|config, list| if config.contains("-1") { Err(trapped("negative")) } else { rotation(list) }),
        &[],
    );
    assert_eq!(failed(&report), ["plans: configuration"]);
    let report = run(
        &with_field(|config, mut list| {
            if config == r#"{"n":3}"# {
                list.reverse();
            }
            rotation(list)
        }),
        &[],
    );
    assert_eq!(failed(&report), ["plans: described defaults"]);
    let unknown = |config: &str, list| {
        if config.contains("no_such_field") { Err(trapped("what is this")) } else { rotation(list) }
    };
    let report = run(&subject_of(move |_, endpoints, config| unknown(config, receiving(endpoints))), &[]);
    assert_eq!(failed(&report), ["plans: an unknown field"]);
    assert_eq!(line(&report, "cost", "build and pick").outcome, Outcome::Observed, "the rest was tried");
}

#[test]
fn a_pick_that_fails_after_a_while_is_found_by_the_long_run() {
    let count = Arc::new(AtomicU32::new(0));
    let report = asked(&[], move |list, context, _| {
        if count.fetch_add(1, SeqCst) > 1_500 {
            Err(PickError::Trapped("worn out".into()))
        } else {
            Ok(turn(list, context))
        }
    });
    assert_eq!(failed(&report), ["picks: a long run"]);
    assert_eq!(line(&report, "determinism", "all of it").outcome, Outcome::Skipped);
}

#[test]
fn further_attempts_on_the_endpoint_that_failed_are_observed() {
    let stubborn = asked(&[], |list, _, _| Ok(Decision::Endpoint(list[0])));
    assert!(line(&stubborn, "picks", "further attempts").detail.starts_with("100.0 %"));
    let polite = asked(&[], |list, _, facts| {
        let free = list.iter().copied().find(|endpoint| !facts.tried(*endpoint));
        Ok(Decision::Endpoint(free.unwrap_or(list[0])))
    });
    assert!(line(&polite, "picks", "further attempts").detail.contains("never"));
}

#[test]
fn plans_that_differ_are_found_between_builds_and_between_engines() {
    let builds = Arc::new(AtomicUsize::new(0));
    let turning = subject_of(move |_, endpoints, _| {
        let mut list = receiving(endpoints);
        if !list.is_empty() {
            let by = builds.fetch_add(1, SeqCst) % list.len();
            list.rotate_left(by);
        }
        rotation(list)
    });
    assert!(failed(&run(&turning, &[])).contains(&"determinism: two builds".to_owned()));
    let mut subject = subject_of(|_, endpoints, _| rotation(receiving(endpoints)));
    subject.again = subject_of(|_, endpoints, _| rotation(receiving(endpoints).into_iter().rev().collect())).policy;
    assert_eq!(failed(&run(&subject, &[])), ["determinism: another engine"]);
}

#[test]
fn a_pick_that_depends_on_how_often_it_was_asked_is_found() {
    let count = Arc::new(AtomicU32::new(0));
    let report = asked(&[], move |list, context, _| {
        let sequence = count.fetch_add(1, SeqCst);
        Ok(turn(list, PickContext { sequence, ..context }))
    });
    assert_eq!(failed(&report), ["determinism: picks"]);
}

#[test]
fn a_policy_that_stops_when_endpoints_cannot_be_used_is_found() {
    let waits = asked(&[], |list, context, facts| {
        let tried = list.iter().any(|endpoint| facts.tried(*endpoint));
        Ok(if tried { Decision::Queue } else { turn(list, context) })
    });
    let found = failed(&waits);
    assert!(found.contains(&"removal: endpoints cannot be reached".to_owned()), "{found:?}");
    assert!(found.contains(&"removal: a request fails on them".to_owned()), "{found:?}");
    assert!(!found.contains(&"removal: endpoints leave".to_owned()), "{found:?}");
}

#[test]
fn a_policy_that_cannot_plan_for_what_is_left_is_found() {
    let report = run(
        &subject_of(|_, endpoints, _| {
            let same = endpoints.iter().all(|endpoint| endpoint.weight == 1);
            if same && endpoints.len() == 4 { Err(trapped("four")) } else { rotation(receiving(endpoints)) }
        }),
        &[],
    );
    assert_eq!(failed(&report), ["removal: endpoints leave"]);
    assert!(line(&report, "removal", "endpoints leave").detail.contains("with 4 endpoints"));
}

#[test]
fn shares_are_observed_and_required_only_of_who_claims_them() {
    let equal = || subject_of(|_, endpoints, _| rotation(receiving(endpoints)));
    let report = run(&equal(), &[]);
    assert_eq!(line(&report, "shares", "by weight").outcome, Outcome::Observed);
    assert!(line(&report, "shares", "by weight").detail.starts_with("equal"));
    let report = run(&equal(), &[Claim::Weights, Claim::Zone]);
    assert_eq!(failed(&report), ["shares: by weight", "shares: three equal zones"]);
    let at_home_only = subject_of(|scope, endpoints, _| {
        let home: Vec<u32> =
            receiving(endpoints).into_iter().filter(|i| endpoints[*i as usize].locality.zone == scope.zone).collect();
        // Nobody at home: one of the others, which is too few.
        rotation(if home.is_empty() { receiving(endpoints).into_iter().take(1).collect() } else { home })
    });
    assert_eq!(failed(&run(&at_home_only, &[Claim::Zone])), ["shares: nobody at home"]);
    let by_weight = |shift: usize| {
        asked(&[Claim::Weights], move |list, context, _| {
            Ok(Decision::Endpoint(list[(context.random.0 as usize + shift) % list.len()]))
        })
    };
    assert_eq!(failed(&by_weight(0)), ["shares: by weight"], "sampled shares are compared as well");
}

#[test]
fn keys_that_move_when_an_endpoint_leaves_are_found_in_tables_and_in_picks() {
    let modulo = |_: &Scope, endpoints: &[Endpoint], _: &str| Ok(Plan::HashTable(receiving(endpoints).into()));
    let report = run(&subject_of(modulo), &[]);
    assert_eq!(failed(&report), ["stability: an endpoint leaves", "stability: an endpoint joins"]);
    let report = asked(&[], |list, context, _| {
        let key = context.hash.unwrap_or(context.sequence);
        Ok(turn(list, PickContext { sequence: key, ..context }))
    });
    assert_eq!(failed(&report), ["stability: an endpoint leaves", "stability: an endpoint joins"]);
    // The highest hash of key and instance moves nothing but what it must.
    let subject = subject_of(|_, endpoints, _| {
        let list = receiving(endpoints);
        let ids: Vec<_> = list.iter().map(|index| (*index, endpoints[*index as usize].id.to_string())).collect();
        picks(&list, move |context, _| {
            let key = context.hash.unwrap_or(context.sequence);
            let best = ids.iter().max_by_key(|(_, id)| made_up::hash(&format!("{key} {id}")));
            Ok(Decision::Endpoint(best.map_or(0, |(index, _)| *index)))
        })
    });
    let report = run(&subject, &[Claim::Stable]);
    assert!(failed(&report).is_empty(), "{:?}", failed(&report));
    assert!(line(&report, "stability", "an endpoint leaves").detail.ends_with("0.0 % moved"));
    let report = run(&subject_of(|_, endpoints, _| rotation(receiving(endpoints))), &[Claim::Stable]);
    assert_eq!(failed(&report), ["stability: keys"]);
}

#[test]
fn memory_that_grows_with_rebuilds_or_picks_is_found() {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let mut subject = subject_of(|_, endpoints, _| rotation(receiving(endpoints)));
    let grows = Arc::clone(&asked_for);
    subject.memory = Box::new(move || grows.fetch_add(1 << 16, SeqCst));
    assert_eq!(failed(&run(&subject, &[])), ["memory: linear memory"]);
    // One instance that takes a page every 1,000 picks, as a component that never frees would.
    let (kept, told) = (Arc::new(AtomicUsize::new(0)), Mutex::new(0));
    let keeps = Arc::clone(&kept);
    let mut subject = subject_of(move |_, endpoints, _| {
        let (list, keeps) = (receiving(endpoints), Arc::clone(&keeps));
        picks(&list.clone(), move |context, _| {
            keeps.fetch_add(1, SeqCst);
            Ok(turn(&list, context))
        })
    });
    subject.memory = Box::new(move || {
        let (now, mut before) = (kept.load(SeqCst) / 1_000, told.lock().unwrap());
        if std::mem::replace(&mut *before, now) == now { 0 } else { (1 << 20) + (now << 16) }
    });
    assert_eq!(failed(&run(&subject, &[])), ["memory: linear memory over picks"]);
}

#[test]
fn a_broken_description_is_found_by_its_line() {
    let engine = crate::plugin::Engine::new(crate::plugin::EngineConfig::default()).unwrap();
    let mut plugin = engine.load_bundled(Kind::Policy, "least_request").unwrap();
    let lines = |plugin: &Plugin| {
        let mut report = Report::new(plugin, &Options::default());
        component::check(plugin, &mut report);
        report
    };
    assert!(failed(&lines(&plugin)).is_empty());
    plugin.description.fields[0].default = "two".into();
    plugin.description.summary.clear();
    let report = lines(&plugin);
    assert_eq!(failed(&report), ["component: description"]);
    let detail = &line(&report, "component", "description").detail;
    assert!(detail.contains("no summary") && detail.contains("is not JSON: two"), "{detail}");
}

#[test]
fn every_bundled_policy_has_its_line_of_claims() {
    for policy in bundled::of(Kind::Policy) {
        assert!(bundled_claims(policy.name).is_some(), "conformance/claim.rs has no line for {}", policy.name);
    }
    assert_eq!("zone".parse(), Ok(Claim::Zone));
    assert!("zones".parse::<Claim>().unwrap_err().contains("weights, zone, stable"));
}

/// What a key scheme written for a test does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    NoPrefixes,
    Elsewhere,
    OneKey,
    ReadsOthers,
    LosesAddress,
    LosesWeight,
    FailsOnGarbage,
    FailsOnKeys,
    Differs,
    Refuses,
}

/// `service/id -> address weight`.
struct Scheme(Fault, AtomicUsize);

impl Scheme {
    fn failed(call: &'static str) -> NamingError {
        NamingError::Failed { scheme: "native".into(), call, reason: "as the test says".into(), overran: false }
    }
}

impl KeyScheme for Scheme {
    fn name(&self) -> &'static str {
        "native"
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        match self.0 {
            Fault::NoPrefixes => Err(Self::failed("prefixes")),
            Fault::ReadsOthers => Ok(vec![service.to_string()]),
            _ => Ok(vec![format!("{service}/")]),
        }
    }

    fn encode(&self, service: &ServiceName, e: &Endpoint, _: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        let (id, plain) = (e.id.as_str(), e.metadata.is_empty());
        let id = if self.0 == Fault::OneKey { "one" } else { id };
        match self.0 {
            Fault::Elsewhere => return Err(Self::failed("encode")),
            Fault::Refuses if !plain => {
                let (scheme, subject, reason) = ("native".into(), e.id.to_string(), "no metadata".into());
                return Err(NamingError::Refused { scheme, subject, reason });
            }
            _ => {}
        }
        let nth = if self.0 == Fault::Differs { self.1.fetch_add(1, SeqCst) } else { 0 };
        let value = json::text(e, nth);
        Ok(vec![Entry { key: format!("{service}/{id}"), value }])
    }

    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        let unreadable =
            || NamingError::Unreadable { scheme: "native".into(), key: entry.key.clone(), reason: "not ours".into() };
        if self.0 == Fault::FailsOnKeys && entry.key.len() > 1_000 {
            return Err(Self::failed("decode"));
        }
        let id = match entry.key.strip_prefix(service.as_str()) {
            Some(rest) if self.0 == Fault::ReadsOthers => rest.rsplit('/').next().unwrap_or_default(),
            Some(rest) => rest.strip_prefix('/').filter(|id| !id.contains('/')).ok_or_else(unreadable)?,
            None => return Err(unreadable()),
        };
        let mut endpoint = match json::endpoint(id, &entry.value) {
            Some(endpoint) => endpoint,
            None if self.0 == Fault::FailsOnGarbage => return Err(Self::failed("decode")),
            None => return Err(unreadable()),
        };
        match self.0 {
            Fault::LosesAddress => endpoint.address = made_up::address(9_999),
            Fault::LosesWeight => endpoint.weight = 1,
            _ => {}
        }
        Ok(Decoded { endpoints: vec![endpoint], warnings: Vec::new() })
    }
}

/// The values of that scheme.
mod json {
    use serde_json::{Value, json};

    use crate::model::{Endpoint, InstanceId, Locality};

    pub(super) fn text(e: &Endpoint, nth: usize) -> Vec<u8> {
        let pairs: Vec<_> = e.metadata.iter().collect();
        json!([e.address.as_str(), e.weight, &*e.locality.zone, pairs, nth]).to_string().into_bytes()
    }

    pub(super) fn endpoint(id: &str, value: &[u8]) -> Option<Endpoint> {
        let value: Value = serde_json::from_slice(value).ok()?;
        Some(Endpoint {
            id: InstanceId::new(id),
            weight: u32::try_from(value.get(1)?.as_u64()?).ok()?,
            locality: Locality::zone(value.get(2)?.as_str()?),
            metadata: serde_json::from_value::<Vec<(String, String)>>(value.get(3)?.clone()).ok()?.into(),
            ..Endpoint::at(value.get(0)?.as_str()?.parse().ok()?)
        })
    }
}

fn run_scheme(fault: Fault, warned: bool) -> Report {
    let (scheme, again) = (Scheme(fault, AtomicUsize::new(0)), Scheme(fault, AtomicUsize::new(0)));
    let subject = key_scheme::SchemeUnderTest { scheme: &scheme, again: &again, warned, memory: Box::new(|| 0) };
    let options = Options { quick: true, ..Options::default() };
    let mut report = Report::empty("native", &options);
    key_scheme::check(&subject, &options, &mut report);
    report
}

#[test]
fn each_fault_of_a_key_scheme_is_found_by_its_line() {
    for (fault, expected) in [
        (Fault::None, None),
        (Fault::NoPrefixes, Some("keys: prefixes")),
        (Fault::Elsewhere, Some("keys: under the prefixes")),
        (Fault::OneKey, Some("keys: one for each instance")),
        (Fault::ReadsOthers, Some("keys: other services")),
        (Fault::LosesAddress, Some("round trip: instances")),
        (Fault::LosesWeight, None),
        (Fault::FailsOnGarbage, Some("foreign entries: garbage values")),
        (Fault::FailsOnKeys, Some("foreign entries: garbage keys")),
        (Fault::Differs, Some("determinism: another instance and engine")),
        (Fault::Refuses, None),
    ] {
        let report = run_scheme(fault, false);
        let mut found = failed(&report);
        // With one key for all, an id cannot come back either.
        found.retain(|line| fault != Fault::OneKey || !line.starts_with("round trip"));
        assert_eq!(found, expected.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{fault:?}");
    }
    let attributes = run_scheme(Fault::LosesWeight, false);
    assert_eq!(line(&attributes, "round trip", "attributes").detail, "does not hold every weight");
    let warned = run_scheme(Fault::ReadsOthers, true);
    assert_eq!(line(&warned, "keys", "other services").outcome, Outcome::Observed);
    let refuses = run_scheme(Fault::Refuses, false);
    assert!(line(&refuses, "round trip", "instances").detail.contains("refused"));
}
