//! What a pick costs: natively, by each kind of plan, and by a component that asks the host for
//! nothing or for something.

use std::{
    convert::Infallible,
    hint::black_box,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use waymark_node::{
    balancer::{Candidate, HashKey, Pick, PickRequest, ServiceState, Services},
    model::ServiceName,
    plugin::{self, Engine, EngineConfig, WasmPolicy},
    policy::{NoRequest, PickContext, Plan, Policy, Scope},
};

use super::harness::{
    Options, Samples, ThreadClock, calibrate,
    report::{Table, Unit},
    rounds,
    services::{KEY_HEADER, Native, ZONE, bundled, endpoints, scatter, services, started, test_guest},
    stay_on_core,
};

/// Of the service that is picked from.
pub(super) const ENDPOINTS: usize = 10;

/// How many things the component asks the host in a pick, at most.
const ASKS: u32 = 3;

/// One way to pick.
pub(super) struct Way {
    pub(super) name: String,
    /// Makes this many picks. Two of the same kind with nothing in common: threads share one, or
    /// have one each.
    pub(super) run: [Box<dyn Fn(u64) + Sync>; 2],
}

impl Way {
    /// All ways; the first one is the baseline. Compiled components are kept in `cache`, if there
    /// is one.
    pub(super) async fn all(cache: Option<PathBuf>) -> anyhow::Result<Vec<Self>> {
        let config = EngineConfig { cache_dir: cache, ..EngineConfig::default() };
        let engine = Engine::new(config.clone())?;
        let key = || Some(HashKey::Header(KEY_HEADER.parse().expect("a plain name")));
        let candidate = |name| anyhow::Ok(Candidate::new(bundled(&engine, name)?, "bench"));
        let mut ways = vec![Self::native_rotation()];
        for (name, key) in [("round_robin", None), ("weighted", None), ("zone_aware", None), ("maglev", key())] {
            ways.push(Self::service(format!("{name}.wasm"), key, &candidate(name)?).await?);
        }
        ways.push(Self::looked_up(&candidate("round_robin")?).await?);
        ways.push(Self::service("native, two choices".into(), None, &Native::TwoChoices.candidate()).await?);
        for asks in 0..=ASKS {
            let candidate = Candidate::new(asking(&engine, asks)?, "bench");
            ways.push(Self::service(format!("a component that asks the host {asks} things"), None, &candidate).await?);
        }
        ways.push(Self::service("least_request.wasm".into(), None, &candidate("least_request")?).await?);
        let one = Engine::new(EngineConfig { instances: 1, ..config })?;
        let candidate = Candidate::new(asking(&one, 0)?, "bench");
        ways.push(
            Self::service("as the one that asks 0, one instance for all threads".into(), None, &candidate).await?,
        );
        ways.push(Self::component_alone(&asking(&engine, 0)?)?);
        Ok(ways)
    }

    /// The least that rotation can cost: one counter.
    fn native_rotation() -> Self {
        #[repr(align(128))]
        struct Counter(AtomicUsize);
        let run = || {
            let list: Box<[u32]> = (0..ENDPOINTS as u32).collect();
            let next = Box::new(Counter(AtomicUsize::new(0)));
            let run = move |times: u64| {
                for _ in 0..times {
                    let at = next.0.fetch_add(1, Relaxed) % black_box(&list).len();
                    black_box(list[at]);
                }
            };
            Box::new(run) as Box<dyn Fn(u64) + Sync>
        };
        Self { name: "native: a counter modulo n, index into a list".into(), run: [run(), run()] }
    }

    /// By the state of a service, in hand already.
    async fn service(name: String, hash_key: Option<HashKey>, candidate: &Candidate) -> anyhow::Result<Self> {
        let (_, states) = two_services(hash_key, candidate).await?;
        let kind = states[0].plan_kind();
        let run = states.map(|state| {
            let requests = Requests::new();
            let run = move |times: u64| {
                for n in 0..times {
                    pick(&state, &requests.get(n, state.next_sequence()));
                }
            };
            Box::new(run) as Box<dyn Fn(u64) + Sync>
        });
        Ok(Self { name: format!("{kind}: {name}"), run })
    }

    /// As a request does it: with its service's name in hand.
    async fn looked_up(candidate: &Candidate) -> anyhow::Result<Self> {
        let (services, _) = two_services(None, candidate).await?;
        let run = SERVICES.map(|name| {
            let (services, requests) = (services.clone(), Requests::new());
            let run = move |times: u64| {
                for n in 0..times {
                    let handle = services.get(black_box(name)).expect("it was started");
                    let state = Arc::clone(&handle.state());
                    pick(&state, &requests.get(n, state.next_sequence()));
                }
            };
            Box::new(run) as Box<dyn Fn(u64) + Sync>
        });
        Ok(Self { name: "the same as round_robin.wasm, service and state looked up by name".into(), run })
    }

    /// The share of the component in a pick.
    fn component_alone(policy: &impl Policy) -> anyhow::Result<Self> {
        let scope = Scope { service: ServiceName::new("bench")?, zone: ZONE.into() };
        let run = || {
            let Plan::EachRequest(picker) = policy.build(&scope, &endpoints(ENDPOINTS))? else {
                anyhow::bail!("{} is not asked for each request", policy.name());
            };
            let run = move |times: u64| {
                for n in 0..times {
                    let n = n as u32;
                    let context =
                        PickContext { sequence: n, random: (scatter(n), scatter(!n)), hash: None, attempt: 0 };
                    let decision =
                        picker.pick(black_box(context), &NoRequest("/bench.Echo/Echo")).expect("it does not fail");
                    black_box(decision);
                }
            };
            anyhow::Ok(Box::new(run) as Box<dyn Fn(u64) + Sync>)
        };
        Ok(Self { name: "as the one that asks 0, without the host's part of the pick".into(), run: [run()?, run()?] })
    }
}

/// Balanced alike, with nothing in common but the engine.
const SERVICES: [&str; 2] = ["bench/1", "bench/2"];

async fn two_services(
    hash_key: Option<HashKey>,
    candidate: &Candidate,
) -> anyhow::Result<(Services, [Arc<ServiceState>; 2])> {
    let candidate = candidate.clone();
    let services = services(endpoints(ENDPOINTS), hash_key, move |_| candidate.clone());
    let state = async |name| anyhow::Ok(Arc::clone(&started(&services, name).await?.state()));
    let states = [state(SERVICES[0]).await?, state(SERVICES[1]).await?];
    Ok((services, states))
}

/// The guest that asks the host so many things a pick.
fn asking(engine: &Engine, asks: u32) -> anyhow::Result<WasmPolicy> {
    test_guest(engine, "asks_host", &format!(r#"{{"asks": {asks}}}"#), engine.limits().clone())
}

fn pick(state: &ServiceState, request: &PickRequest<'_>) {
    let picked = state.pick(black_box(request));
    assert!(matches!(picked, Pick::Endpoint(_)), "{picked:?}");
    black_box(picked);
}

/// The requests that picks are for. Many, so that neither their keys nor their memory is always the
/// same.
struct Requests(Vec<HeaderMap>);

impl Requests {
    const COUNT: usize = 64;

    fn new() -> Self {
        let request = |n| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "bench/1")] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let key = format!("user-{}", scatter(n));
            headers.insert(KEY_HEADER, key.try_into().expect("a plain text"));
            headers
        };
        Self((0..Self::COUNT as u32).map(request).collect())
    }

    fn get(&self, n: u64, sequence: u32) -> PickRequest<'_> {
        let headers = &self.0[n as usize % Self::COUNT];
        PickRequest { path: "/bench.Echo/Echo", headers, peer: None, sequence, tried: &[] }
    }
}

/// A way to pick, and what it showed.
struct Contestant {
    way: Way,
    /// Picks that take about as long as a sample shall.
    times: u64,
    /// Nanoseconds of processor time a pick: on one thread, on two that share, on two with a
    /// service each.
    cost: [Samples; 3],
    /// How many cores the two threads had: below 2 they ran in turns for part of the time, and did
    /// not get in each other's way.
    cores: Samples,
    /// Picks a second of real time by two threads that share, to one alone.
    rate: Samples,
}

/// Which of a [`Way`]'s two each thread runs.
const THREADS: [&[usize]; 3] = [&[0], &[0, 0], &[0, 1]];

impl Contestant {
    fn sample(&mut self) {
        let mut alone = 0.0;
        for (threads, cost) in THREADS.iter().zip(&mut self.cost) {
            let (times, together) = (self.times, Barrier::new(threads.len()));
            let (mut cpu, mut real) = (Duration::ZERO, Duration::ZERO);
            thread::scope(|scope| {
                let together = &together;
                let one = move |n: usize, run: &(dyn Fn(u64) + Sync)| {
                    stay_on_core(n);
                    plugin::prepare_thread();
                    // Its first picks set the thread up.
                    run(64);
                    together.wait();
                    let (began, clock) = (Instant::now(), ThreadClock::start());
                    run(times);
                    (began.elapsed(), clock.elapsed())
                };
                let runs = threads.iter().enumerate().map(|(n, which)| (n, &*self.way.run[*which]));
                let all: Vec<_> = runs.map(|(n, run)| scope.spawn(move || one(n, run))).collect();
                for thread in all {
                    let (took, used) = thread.join().expect("a pick does not panic");
                    real = real.max(took);
                    cpu += used;
                }
            });
            let picks = (times * threads.len() as u64) as f64;
            let rate = picks / real.as_secs_f64();
            cost.push(cpu.as_nanos() as f64 / picks);
            match threads {
                [_] => alone = rate,
                [first, second] if first == second => {
                    self.rate.push(rate / alone);
                    self.cores.push(cpu.as_secs_f64() / real.as_secs_f64());
                }
                _ => {}
            }
        }
    }
}

/// Each way on one thread and on two.
pub(super) fn measure(ways: Vec<Way>, options: &Options) -> Table {
    let target = Duration::from_millis(if options.quick { 1 } else { 30 });
    let mut contestants: Vec<_> = ways
        .into_iter()
        .map(|way| {
            let times = calibrate(target, &way.run[0]);
            (way.run[1])(64);
            let (cost, cores, rate) = Default::default();
            Contestant { way, times, cost, cores, rate }
        })
        .collect();
    let Ok(()) = rounds(options.rounds(25, 2), &mut contestants, |contestant| {
        contestant.sample();
        Ok::<_, Infallible>(())
    });
    let mut table = Table::new(
        format!("A pick among {ENDPOINTS} endpoints"),
        [
            ("1 thread", Unit::Nanoseconds),
            ("beyond native", Unit::Nanoseconds),
            ("2 threads, shared", Unit::Nanoseconds),
            ("to 1 thread", Unit::Ratio),
            ("2 threads, a service each", Unit::Nanoseconds),
            ("to 1 thread, a service each", Unit::Ratio),
            ("in use by 2 that share", Unit::Cores),
            ("picks a second, 2 that share to 1", Unit::Ratio),
        ],
    );
    let baseline = contestants[0].cost[0].clone();
    for Contestant { way, cost: [one, shared, each], cores, rate, .. } in contestants {
        let (beyond, ratios) = (one.minus(&baseline), [shared.ratio(&one), each.ratio(&one)]);
        let [shared_ratio, each_ratio] = ratios;
        table.row(way.name, vec![one, beyond, shared, shared_ratio, each, each_ratio, cores, rate]);
    }
    table
}
