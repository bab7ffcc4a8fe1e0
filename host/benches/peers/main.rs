//! What a call costs through Waymark, beside other proxies and beside the least that could do its
//! work.
//!
//! ```text
//!   cargo bench --bench peers                     the figures, in about ten minutes
//!   cargo bench --bench peers -- --quick          whether it still works
//!   cargo bench --bench peers -- --only idle      some of it
//!
//!   load generator ──▶ proxy ──▶ backend (three instances)
//!                      direct (none), bare hyper, Waymark with a plan, Waymark with Wasm each request, haproxy, nginx, Pingora, Envoy
//! ```
//!
//! Each box is a process of its own. Every answer is compared with what was sent. All proxies get
//! equally many connections from the clients, have as many workers, and speak HTTP/2 in cleartext
//! on both sides; what is not installed is skipped, and says so. The program itself has to be on
//! the PATH, not a script that starts it: its process is what is measured.

mod bare;
#[path = "../calls/echo.rs"]
mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod instructions;
#[path = "../calls/parts.rs"]
mod parts;
mod processes;
mod proxies;
mod roles;
#[path = "../calls/streams.rs"]
mod streams;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{
    echo::{Kind, PAYLOAD, REPEATED},
    harness::{
        Options, Samples,
        child::Child,
        report::{Report, Table, Unit},
        rounds,
    },
    proxies::{Contestant, Proxy, Setting},
    roles::{Order, What},
    streams::{Load, Tally, Until},
};

/// A call's processor time, instructions and latency through Waymark and through other proxies.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// How many calls run at once.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
    /// Only these parts: unary, large, streaming, workers, idle.
    #[arg(long, value_delimiter = ',', value_name = "PART,..")]
    only: Vec<String>,
    /// Leave callgrind's files here, for `callgrind_annotate`.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

impl Args {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

/// What this process is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Instances that echo.
    #[command(hide = true)]
    Backend { instances: u16 },
    /// A node in front of them.
    #[command(hide = true)]
    Node {
        #[arg(long)]
        workers: usize,
        #[arg(long)]
        cache: Option<PathBuf>,
        instances: Vec<SocketAddr>,
    },
    /// Hyper in front of them.
    #[command(hide = true)]
    Bare {
        #[arg(long)]
        workers: usize,
        instances: Vec<SocketAddr>,
    },
    /// A load generator.
    #[command(hide = true)]
    Load,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // A thousand connections are more than many systems allow without being asked. Children inherit
    // it.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    match args.role {
        None => compare(&args),
        Some(Role::Backend { instances }) => roles::backend(instances),
        Some(Role::Node { workers, cache, instances }) => roles::node(workers, cache, &instances),
        Some(Role::Bare { workers, instances }) => roles::bare(workers, &instances),
        Some(Role::Load) => roles::load(),
    }
}

/// What all contestants share: the instances and the clients.
struct Arena {
    _backend: Child,
    instances: Vec<SocketAddr>,
    client: Child,
    folder: tempfile::TempDir,
}

impl Arena {
    fn start() -> anyhow::Result<Self> {
        let (backend, instances) = Child::start(&["backend", "3"])?;
        let instances = instances.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let (client, _) = Child::start(&["load"])?;
        Ok(Self { _backend: backend, instances, client, folder: tempfile::tempdir()? })
    }

    fn setting<'a>(&'a self, workers: usize, wrapper: &'a [String]) -> Setting<'a> {
        Setting { instances: &self.instances, workers, folder: self.folder.path(), wrapper }
    }

    fn call(&mut self, proxy: &Proxy, load: Load) -> anyhow::Result<Tally> {
        let answer = self.order(proxy, proxy.to.clone(), What::Call(load))?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", proxy.contestant.title()))
    }

    fn order(&mut self, proxy: &Proxy, to: Vec<SocketAddr>, what: What) -> anyhow::Result<String> {
        let order = Order { to, each_request: proxy.contestant == Contestant::EachRequest, what };
        self.client.ask(&serde_json::to_string(&order)?)
    }
}

/// One of the comparisons.
struct Part {
    title: String,
    load: Load,
    workers: usize,
    /// Calls a second when they are paced.
    pace: f64,
    count: bool,
}

fn compare(args: &Args) -> anyhow::Result<()> {
    let quick = args.options.quick;
    let mut report = Report::new("peers");
    report
        .note(format!("three instances, {} calls at once over three connections; every answer verified", args.streams));
    report.note("processor time and memory of the proxy's process; processor time includes the kernel's on its behalf");
    let mut contestants = Vec::new();
    for contestant in Contestant::ALL {
        match contestant.version() {
            None => report.note(format!("SKIPPED {}: not installed", contestant.title())),
            Some(version) => {
                contestants.push(contestant);
                if !version.is_empty() {
                    report.note(format!("{}: {version}", contestant.title()));
                }
            }
        }
    }
    let counts = harness::callgrind::is_there();
    report.note(if counts {
        "instructions: the proxy's in user space, by callgrind, over calls as many at once as above"
    } else {
        "SKIPPED instructions: valgrind is not installed"
    });
    let mut arena = Arena::start()?;
    let unary = Load { streams: args.streams, ..Load::unary(Until::Calls(0)) };
    let large = Load { payload: 16 << 10, ..unary };
    let streaming = Load { kind: Kind::Streaming, ..unary };
    let part = |title: String, load, workers, pace, count| Part { title, load, workers, pace, count: count && counts };
    let parts = [
        ("unary", part(format!("Unary, {PAYLOAD} B each way, one worker"), unary, 1, 2_000.0, true)),
        ("large", part("Unary, 16 KiB each way, one worker".into(), large, 1, 1_000.0, !quick)),
        (
            "streaming",
            part(
                format!("Server streaming, {REPEATED} messages of {PAYLOAD} B, one worker"),
                streaming,
                1,
                100.0,
                !quick,
            ),
        ),
        ("workers", part(format!("Unary, {PAYLOAD} B each way, two workers"), unary, 2, 2_000.0, false)),
    ];
    for (name, part) in parts {
        if args.wants(name) {
            report.table(calls(args, &mut arena, &contestants, &part)?);
        }
    }
    if args.wants("idle") {
        report.table(idle(&mut arena, &contestants, if quick { 50 } else { 1_000 })?);
    }
    report.print(args.options.json);
    Ok(())
}

/// What one contestant showed, a sample a round.
struct Figures {
    proxy: Proxy,
    rate: Samples,
    cpu: Samples,
    p50: Samples,
    p99: Samples,
    paced_p50: Samples,
    paced_p99: Samples,
}

/// Closed loop and paced calls through each contestant in turn.
fn calls(args: &Args, arena: &mut Arena, contestants: &[Contestant], part: &Part) -> anyhow::Result<Table> {
    let quick = args.options.quick;
    let round = Duration::from_millis(if quick { 100 } else { 1_000 });
    let mut all = Vec::new();
    for contestant in contestants {
        let proxy = Proxy::start(*contestant, arena.setting(part.workers, &[]))?;
        // Connects, and warms up.
        arena.call(&proxy, Load { until: Until::Calls(if quick { 1 } else { 50 }), ..part.load })?;
        let (rate, cpu, p50, p99, paced_p50, paced_p99) = Default::default();
        all.push(Figures { proxy, rate, cpu, p50, p99, paced_p50, paced_p99 });
    }
    rounds(args.options.rounds(7, 1), &mut all, |figures| {
        let load = Load { until: Until::Over(round), ..part.load };
        let used = |proxy: &Proxy| proxy.id().and_then(processes::cpu);
        let before = used(&figures.proxy);
        let tally = arena.call(&figures.proxy, load)?;
        if let (Some(before), Some(after)) = (before, used(&figures.proxy)) {
            figures.cpu.push(after.saturating_sub(before).as_nanos() as f64 / 1e3 / tally.calls as f64);
        }
        figures.rate.push(tally.calls as f64 / tally.seconds);
        figures.p50.push(tally.p50_us);
        figures.p99.push(tally.p99_us);
        let paced = arena.call(&figures.proxy, Load { pace: Some(part.pace), ..load })?;
        figures.paced_p50.push(paced.p50_us);
        figures.paced_p99.push(paced.p99_us);
        anyhow::Ok(())
    })?;
    let mut table = Table::new(
        format!("{}; paced: {} calls a second", part.title, part.pace),
        [
            ("calls", Unit::PerSecond),
            ("CPU a call", Unit::Microseconds),
            ("to bare", Unit::Ratio),
            ("instructions a call", Unit::Count),
            ("to bare", Unit::Ratio),
            ("p50", Unit::Microseconds),
            ("p99", Unit::Microseconds),
            ("paced p50", Unit::Microseconds),
            ("paced p99", Unit::Microseconds),
            ("memory", Unit::KiB),
        ],
    );
    let bare = all.iter().find(|figures| figures.proxy.contestant == Contestant::Bare).context("bare hyper is ours")?;
    let bare_cpu = bare.cpu.clone();
    let mut bare_count = Samples::default();
    for Figures { proxy, rate, cpu, p50, p99, paced_p50, paced_p99 } in all {
        let contestant = proxy.contestant;
        let memory = proxy.id().and_then(processes::resident);
        let memory = memory.map_or_else(Samples::default, |bytes| Samples::one(bytes / 1024.0));
        proxy.end()?;
        let count = instructions_of(args, arena, contestant, part)?;
        if contestant == Contestant::Bare {
            bare_count = count.clone();
        }
        let ratios = [cpu.ratio(&bare_cpu), count.ratio(&bare_count)];
        let [cpu_ratio, count_ratio] = ratios;
        let figures = vec![rate, cpu, cpu_ratio, count, count_ratio, p50, p99, paced_p50, paced_p99, memory];
        table.row(contestant.title(), figures);
    }
    Ok(table)
}

/// Instructions a call; none where they are not counted. Unoptimized only what is Waymark's is: the
/// others count for nothing there.
#[expect(clippy::print_stderr, reason = "what is left out of a table is told beside it")]
fn instructions_of(args: &Args, arena: &mut Arena, contestant: Contestant, part: &Part) -> anyhow::Result<Samples> {
    let quick = args.options.quick;
    if !part.count || contestant == Contestant::Direct || quick && contestant != Contestant::EachRequest {
        return Ok(Samples::default());
    }
    let keep: Option<&Path> = args.keep.as_deref();
    match instructions::count(arena, contestant, part.load, quick, keep) {
        Ok(count) => Ok(Samples::one(count)),
        // Some programs do not run under valgrind; what was measured of them so far is not lost for
        // that.
        Err(error) if contestant.is_theirs() => {
            eprintln!("instructions of {} not counted: {error:#}", contestant.title());
            Ok(Samples::default())
        }
        Err(error) => Err(error),
    }
}

/// Memory that connections cost on which nothing happens any more.
fn idle(arena: &mut Arena, contestants: &[Contestant], count: usize) -> anyhow::Result<Table> {
    let mut table = Table::new(
        format!("{count} clients' connections that made one call each and are idle"),
        [("memory before", Unit::KiB), ("a connection", Unit::Bytes)],
    );
    for contestant in contestants.iter().filter(|contestant| **contestant != Contestant::Direct) {
        let proxy = Proxy::start(*contestant, arena.setting(1, &[]))?;
        arena.call(&proxy, Load { streams: 64, ..Load::unary(Until::Calls(10)) })?;
        let memory = || processes::resident(proxy.id()?);
        let before = memory();
        arena.order(&proxy, vec![proxy.to[0]], What::Idle(count))?;
        let (Some(before), Some(after)) = (before, memory()) else { continue };
        table.row(contestant.title(), [before / 1024.0, (after - before) / count as f64].map(Samples::one).into());
        proxy.end()?;
    }
    Ok(table)
}
