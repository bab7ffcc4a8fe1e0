//! What a pick costs, what a plan costs to build, and what a swap costs: native code beside each way a component can balance.
//!
//! ```text
//!   cargo bench -p waymark --bench pick                     the figures, in about a minute
//!   cargo bench -p waymark --bench pick -- --quick          whether it still works
//!   cargo bench -p waymark --bench pick --profile dist      as the node is shipped
//! ```

mod harness;

use std::{
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser as _;
use http::{HeaderMap, HeaderValue};
use tokio::runtime::Runtime;
use waymark::{
    balancer::{Candidate, HashKey, Pick, PickRequest, ServiceState, Services},
    model::ServiceName,
    plugin::{self, Engine, EngineConfig},
    policy::{PickContext, Plan, Policy, RequestFacts, Scope},
};

use self::harness::{
    Options, Samples, ThreadClock, calibrate,
    report::{Report, Table, Unit},
    rounds,
    services::{KEY_HEADER, Native, ZONE, bundled, endpoints, scatter, services, started},
    stay_on_core,
};

/// Pick, build and swap: what each costs, natively and by a component.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Measure only these.
    #[arg(value_enum, value_name = "WHAT")]
    only: Vec<What>,
}

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Picks,
    Builds,
    Loads,
    Swaps,
}

/// Of the service that is picked from.
const ENDPOINTS: usize = 10;

fn main() -> anyhow::Result<()> {
    let Args { options, only } = Args::parse();
    let wanted = |what| only.is_empty() || only.contains(&what);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let engine = Engine::new(EngineConfig::default())?;
    let mut report = Report::new("pick");
    report.note("each figure: median (lower quartile..upper quartile) over rounds in which the contestants take turns");
    report.note("picks and builds in processor time, loads and swaps in real time; ratios are taken within each round");
    if wanted(What::Picks) {
        report.table(runtime.block_on(Picks::set_up(&engine))?.measure(&options));
    }
    if wanted(What::Builds) {
        report.table(builds(&engine, &options)?);
    }
    if wanted(What::Loads) {
        report.table(loads(&options)?);
    }
    if wanted(What::Swaps) {
        report.table(swaps(&runtime, &engine, &options)?);
    }
    report.print(options.json);
    Ok(())
}

/// The requests that picks are for. Many, so that neither their keys nor their memory is always the same.
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

    fn get(&self, n: u64) -> PickRequest<'_> {
        let headers = &self.0[n as usize % Self::COUNT];
        PickRequest { path: "/bench.Echo/Echo", headers, peer: None, tried: &[] }
    }
}

/// A request that asks a policy nothing about itself or the load.
struct NoFacts;

impl RequestFacts for NoFacts {
    fn path(&self) -> &'static str {
        "/bench.Echo/Echo"
    }
    fn header(&self, _: &str) -> Option<&str> {
        None
    }
    fn tried(&self, _: u32) -> bool {
        false
    }
    fn in_flight(&self, _: u32) -> u32 {
        0
    }
    fn latency_us(&self, _: u32) -> u32 {
        0
    }
}

/// One way to pick.
struct Picks {
    name: String,
    /// Makes this many picks.
    run: Box<dyn Fn(u64) + Sync>,
    /// Picks that take about as long as a sample shall.
    times: u64,
    /// On one thread and on two: processor time a pick, and picks a second of real time by all threads together.
    cpu_ns: [Samples; 2],
    per_second: [Samples; 2],
    /// How many cores the two threads had: below 2 they ran in turns for part of the time, and did not get in each other's way.
    cores: Samples,
}

impl Picks {
    fn new(name: impl Into<String>, run: impl Fn(u64) + Sync + 'static) -> Self {
        let (cpu_ns, per_second, cores) = Default::default();
        Self { name: name.into(), run: Box::new(run), times: 0, cpu_ns, per_second, cores }
    }

    /// All ways to pick; the first one is the baseline.
    async fn set_up(engine: &Engine) -> anyhow::Result<Contestants> {
        let requests = Arc::new(Requests::new());
        let mut contestants = vec![native_rotation()];
        let key = HashKey::Header(KEY_HEADER.parse()?);
        let plans: [(&str, Option<HashKey>, Candidate); 6] = [
            ("round_robin.wasm", None, Candidate::new(bundled(engine, "round_robin")?, "bench")),
            ("weighted.wasm", None, Candidate::new(bundled(engine, "weighted")?, "bench")),
            ("zone_aware.wasm", None, Candidate::new(bundled(engine, "zone_aware")?, "bench")),
            ("of 65537 entries, key in a header", Some(key), Native::HashTable.candidate()),
            ("native, two choices", None, Native::TwoChoices.candidate()),
            ("least_request.wasm", None, Candidate::new(bundled(engine, "least_request")?, "bench")),
        ];
        for (name, hash_key, candidate) in plans {
            let services = services(endpoints(ENDPOINTS), hash_key, move |_| candidate.clone());
            let handle = started(&services, "bench").await?;
            let state = Arc::clone(&handle.state());
            if contestants.len() == 1 {
                contestants.push(with_look_up(services, Arc::clone(&requests)));
            }
            contestants.push(plan(name, state, Arc::clone(&requests)));
        }
        contestants.push(component_alone(&bundled(engine, "least_request")?)?);
        Ok(Contestants(contestants))
    }

    /// One sample on this many threads at once.
    fn sample(&mut self, threads: usize) {
        let (times, run, together) = (self.times, &self.run, Barrier::new(threads));
        let (mut cpu, mut real) = (Duration::ZERO, Duration::ZERO);
        thread::scope(|scope| {
            let one = |n| {
                stay_on_core(n);
                plugin::prepare_thread();
                // Its first picks set the thread up.
                run(64);
                together.wait();
                let (began, clock) = (Instant::now(), ThreadClock::start());
                run(times);
                (began.elapsed(), clock.elapsed())
            };
            let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || one(n))).collect();
            for thread in all {
                let (took, used) = thread.join().expect("a pick does not panic");
                real = real.max(took);
                cpu += used;
            }
        });
        let picks = (times * threads as u64) as f64;
        self.cpu_ns[threads - 1].push(cpu.as_nanos() as f64 / picks);
        self.per_second[threads - 1].push(picks / real.as_secs_f64());
        if threads > 1 {
            self.cores.push(cpu.as_secs_f64() / real.as_secs_f64());
        }
    }
}

struct Contestants(Vec<Picks>);

impl Contestants {
    fn measure(mut self, options: &Options) -> Table {
        let target = Duration::from_millis(if options.quick { 1 } else { 40 });
        for contestant in &mut self.0 {
            contestant.times = calibrate(target, &contestant.run);
        }
        let Ok(()) = rounds(options.rounds(25, 3), &mut self.0, |contestant| {
            contestant.sample(1);
            contestant.sample(2);
            Ok::<_, Infallible>(())
        });
        let mut table = Table::new(
            format!("A pick among {ENDPOINTS} endpoints"),
            [
                ("1 thread", Unit::Nanoseconds),
                ("to native", Unit::Ratio),
                ("2 threads", Unit::Nanoseconds),
                ("to native, 2 threads", Unit::Ratio),
                ("in use by 2 threads", Unit::Cores),
                ("picks a second, 2 threads to 1", Unit::Ratio),
            ],
        );
        let baseline = self.0[0].cpu_ns.clone();
        for Picks { name, cpu_ns: [one, two], per_second: [alone, together], cores, .. } in self.0 {
            let ratios = (one.ratio(&baseline[0]), two.ratio(&baseline[1]));
            table.row(name, vec![one, ratios.0, two, ratios.1, cores, together.ratio(&alone)]);
        }
        table
    }
}

/// The least that rotation can cost: one counter that all threads share.
fn native_rotation() -> Picks {
    let list: Box<[u32]> = (0..ENDPOINTS as u32).collect();
    let next = AtomicUsize::new(0);
    Picks::new("native: shared counter modulo n, index into a list", move |times| {
        for _ in 0..times {
            let at = next.fetch_add(1, Relaxed) % black_box(&list).len();
            black_box(list[at]);
        }
    })
}

fn plan(name: &str, state: Arc<ServiceState>, requests: Arc<Requests>) -> Picks {
    Picks::new(format!("plan {}: {name}", state.plan_kind()), move |times| {
        for n in 0..times {
            pick(&state, &requests.get(n));
        }
    })
}

/// As a request does it: with its service's name in hand.
fn with_look_up(services: Services, requests: Arc<Requests>) -> Picks {
    Picks::new("plan rotation: round_robin.wasm, service and state looked up", move |times| {
        for n in 0..times {
            let handle = services.get(black_box("bench")).expect("it was started");
            let state = Arc::clone(&handle.state());
            pick(&state, &requests.get(n));
        }
    })
}

fn pick(state: &ServiceState, request: &PickRequest<'_>) {
    let picked = state.pick(black_box(request));
    assert!(matches!(picked, Pick::Endpoint(_)), "{picked:?}");
    black_box(picked);
}

/// The share of the component in a pick of `least_request`.
fn component_alone(policy: &impl Policy) -> anyhow::Result<Picks> {
    let scope = Scope { service: ServiceName::new("bench")?, zone: ZONE.into() };
    let Plan::EachRequest(picker) = policy.build(&scope, &endpoints(ENDPOINTS))? else {
        anyhow::bail!("{} is not asked for each request", policy.name());
    };
    Ok(Picks::new("least_request.wasm alone, without the host's part of the pick", move |times| {
        for n in 0..times {
            let n = n as u32;
            let context = PickContext { sequence: n, random: (scatter(n), scatter(!n)), hash: None, attempt: 0 };
            let decision = picker.pick(black_box(context), &NoFacts).expect("a bundled policy does not fail");
            black_box(decision);
        }
    }))
}

/// What `build` costs by the number of endpoints.
fn builds(engine: &Engine, options: &Options) -> anyhow::Result<Table> {
    struct Build {
        policy: Arc<dyn Policy>,
        /// For each number of endpoints, how often to build for one sample, and the samples.
        samples: Vec<(u64, Samples)>,
    }
    let sizes: &[(usize, &str)] = if options.quick {
        &[(10, "10"), (1_000, "1,000")]
    } else {
        &[(10, "10"), (1_000, "1,000"), (10_000, "10,000")]
    };
    let target = Duration::from_millis(if options.quick { 1 } else { 20 });
    let scope = Scope { service: ServiceName::new("bench")?, zone: ZONE.into() };
    let lists: Vec<_> = sizes.iter().map(|(size, _)| endpoints(*size)).collect();
    let mut policies: Vec<Arc<dyn Policy>> = Vec::new();
    // The first one is the baseline: the least that a component does.
    for name in ["round_robin", "weighted", "zone_aware", "least_request"] {
        policies.push(Arc::new(bundled(engine, name)?));
    }
    policies.push(Arc::new(Native::Rotation));
    let mut contestants = Vec::new();
    for policy in policies {
        let mut samples = Vec::new();
        for list in &lists {
            policy.build(&scope, list)?;
            let times = calibrate(target, |times| {
                for _ in 0..times {
                    // That it builds was seen above.
                    let _ = black_box(policy.build(&scope, list));
                }
            });
            samples.push((times, Samples::default()));
        }
        contestants.push(Build { policy, samples });
    }
    rounds(options.rounds(15, 2), &mut contestants, |Build { policy, samples }| {
        for ((times, samples), list) in samples.iter_mut().zip(&lists) {
            let clock = ThreadClock::start();
            for _ in 0..*times {
                black_box(policy.build(&scope, black_box(list))?);
            }
            samples.push(clock.elapsed().as_nanos() as f64 / 1e3 / *times as f64);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let columns = sizes.iter().flat_map(|(_, name)| [(*name, Unit::Microseconds), ("to round_robin", Unit::Ratio)]);
    let mut table = Table::new("A build, by the number of endpoints (two metadata pairs each)", columns);
    let baseline: Vec<_> = contestants[0].samples.iter().map(|(_, samples)| samples.clone()).collect();
    for Build { policy, samples } in contestants {
        let figures = samples.into_iter().zip(&baseline).flat_map(|((_, samples), baseline)| {
            let ratio = samples.ratio(baseline);
            [samples, ratio]
        });
        table.row(policy.name(), figures.collect());
    }
    Ok(table)
}

/// What it costs to load a component: the first time, after a restart, and again.
fn loads(options: &Options) -> anyhow::Result<Table> {
    enum From {
        Memory(Engine),
        Folder(tempfile::TempDir),
        Nothing,
    }
    struct Load {
        from: From,
        samples: Vec<Samples>,
    }
    const POLICIES: [&str; 2] = ["round_robin", "least_request"];
    let with_folder = |folder: &tempfile::TempDir| {
        Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()), ..EngineConfig::default() })
    };
    let (memory, folder) = (Engine::new(EngineConfig::default())?, tempfile::tempdir()?);
    let warm = with_folder(&folder)?;
    for name in POLICIES {
        bundled(&memory, name)?;
        bundled(&warm, name)?;
    }
    let new = |from| Load { from, samples: vec![Samples::default(); POLICIES.len()] };
    let mut contestants = [new(From::Memory(memory)), new(From::Folder(folder)), new(From::Nothing)];
    rounds(options.rounds(9, 1), &mut contestants, |Load { from, samples }| {
        for (name, samples) in POLICIES.iter().zip(samples) {
            let engine = match from {
                From::Memory(engine) => engine.clone(),
                From::Folder(folder) => with_folder(folder)?,
                From::Nothing => Engine::new(EngineConfig::default())?,
            };
            let began = Instant::now();
            black_box(bundled(&engine, name)?);
            samples.push(began.elapsed().as_nanos() as f64 / 1e3);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let columns = POLICIES.iter().flat_map(|name| [(*name, Unit::Microseconds), ("to kept in memory", Unit::Ratio)]);
    let mut table = Table::new("Loading a component: SHA-256, compiling or finding it compiled, describe", columns);
    let baseline = contestants[0].samples.clone();
    for Load { from, samples } in contestants {
        let name = match from {
            From::Memory(_) => "compiled before, kept in memory",
            From::Folder(_) => "compiled before, from the cache folder (a restart)",
            From::Nothing => "compiled anew",
        };
        let figures = samples.into_iter().zip(&baseline).flat_map(|(samples, baseline)| {
            let ratio = samples.ratio(baseline);
            [samples, ratio]
        });
        table.row(name, figures.collect());
    }
    Ok(table)
}

/// What a swap costs on a live service, with the component compiled before.
fn swaps(runtime: &Runtime, engine: &Engine, options: &Options) -> anyhow::Result<Table> {
    struct Swap {
        policy: &'static str,
        samples: [Samples; 4],
    }
    const NATIVE: &str = "native_rotation";
    let policies = [NATIVE, "round_robin", "weighted", "zone_aware", "least_request"];
    let mut rows = Vec::new();
    for size in [10, 1_000] {
        let handle = runtime.block_on(async {
            let services = services(endpoints(size), None, |_| Native::Rotation.candidate());
            started(&services, "bench").await
        })?;
        let mut contestants = policies.map(|policy| Swap { policy, samples: Default::default() });
        rounds(options.rounds(25, 2), &mut contestants, |Swap { policy, samples }| {
            let began = Instant::now();
            let candidate = if *policy == NATIVE {
                Native::Rotation.candidate()
            } else {
                Candidate::new(bundled(engine, policy)?, "bench")
            };
            let load = (*policy != NATIVE).then_some(candidate.load_time);
            let published = runtime.block_on(handle.set_policy(candidate))?;
            let took = began.elapsed();
            anyhow::ensure!(handle.state().generation == published.generation, "the swap is not live");
            let parts = [load, Some(published.times.build), Some(published.times.publish), Some(took)];
            for (samples, part) in samples.iter_mut().zip(parts) {
                if let Some(part) = part {
                    samples.push(part.as_nanos() as f64 / 1e3);
                }
            }
            Ok(())
        })?;
        let baseline = contestants[0].samples[3].clone();
        for Swap { policy, samples: [load, build, publish, whole] } in contestants {
            let ratio = whole.ratio(&baseline);
            rows.push((format!("{policy}, {size} endpoints"), vec![load, build, publish, whole, ratio]));
        }
    }
    let mut table = Table::new(
        "A swap on a live service, the component compiled before",
        [
            ("load", Unit::Microseconds),
            ("build and try", Unit::Microseconds),
            ("publish", Unit::Microseconds),
            ("all, as its caller sees it", Unit::Microseconds),
            ("all, to native", Unit::Ratio),
        ],
    );
    for (name, figures) in rows {
        table.row(name, figures);
    }
    Ok(table)
}
