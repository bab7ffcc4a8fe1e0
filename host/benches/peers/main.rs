//! What a call costs through `waymark node`, beside other proxies and beside the least that could
//! do its work.
//!
//! ```text
//!   cargo bench --bench peers                          the figures; it says first how long it takes
//!   cargo bench --bench peers -- --quick               whether it still works
//!   cargo bench --bench peers -- --shape one,paced --only plan,h2-only     some of it
//!   cargo bench --bench peers -- --program target/dist/waymark             of the program that is shipped
//!
//!   load generator ──▶ proxy ──▶ backend (three instances)
//!                      direct (none), bare hyper on one thread and on a multi-thread runtime, h2 alone,
//!                      our own HTTP/2 alone,
//!                      waymark node with a plan and with Wasm each request ──▶ waymark etcd,
//!                      haproxy, nginx, nghttpx, Pingora, Envoy
//! ```
//!
//! Each box is a process of its own, and Waymark's are the program itself. Every answer is compared
//! with what was sent. All proxies get equally many connections from the clients, have as many
//! workers where they let us say, and speak HTTP/2 in cleartext on both sides; what is not
//! installed is skipped, and says so. The program itself has to be on the PATH, not a script that
//! starts it: its process is what is measured.

mod arena;
mod bare;
mod configs;
#[path = "../calls/echo.rs"]
mod echo;
mod h2_only;
#[path = "../harness/mod.rs"]
mod harness;
mod instructions;
mod own_http2;
#[path = "../calls/parts.rs"]
#[allow(dead_code, reason = "the calls' benchmark uses the rest")]
mod parts;
mod perf;
mod processes;
mod programs;
mod proxies;
mod report;
mod roles;
mod shapes;
#[path = "../calls/streams.rs"]
mod streams;
mod subjects;
mod syscalls;
mod turns;
mod waymark;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser as _, ValueEnum as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{
    arena::{Arena, INSTANCES},
    harness::{
        Options, Samples, callgrind,
        report::{Report, Table, Unit},
        rounds,
    },
    proxies::Proxy,
    report::{Counted, Figures, Timed},
    shapes::Shape,
    streams::{Load, Until},
    subjects::Subject,
    syscalls::Counter,
};

/// A call's processor time, system calls, instructions and latency through Waymark and through
/// other proxies.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Only these shapes of load.
    #[arg(long, value_delimiter = ',', value_name = "SHAPE,..")]
    shape: Vec<Shape>,
    /// Only these subjects, and the bare hyper proxy that all are compared with.
    #[arg(long, value_delimiter = ',', value_name = "SUBJECT,..")]
    only: Vec<Subject>,
    /// Measure this program instead of the one that was built with the benchmark.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_waymark"))]
    program: PathBuf,
    /// Count instructions with valgrind where the processor's own counter cannot be had. It takes
    /// minutes a shape.
    #[arg(long)]
    callgrind: bool,
    /// Leave callgrind's files here, for `callgrind_annotate`.
    #[arg(long, value_name = "FOLDER", requires = "callgrind")]
    keep: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this process is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Instances that echo.
    #[command(hide = true)]
    Backend { instances: u16 },
    /// Hyper in front of them.
    #[command(hide = true)]
    Bare {
        /// On a multi-thread runtime with so many workers.
        #[arg(long)]
        multi: Option<usize>,
        instances: Vec<SocketAddr>,
    },
    /// The crate `h2` in front of them.
    #[command(hide = true)]
    H2Only { instances: Vec<SocketAddr> },
    /// Our own HTTP/2 in front of them.
    #[command(hide = true)]
    OwnHttp2 { instances: Vec<SocketAddr> },
    /// A load generator.
    #[command(hide = true)]
    Load,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Thousands of connections are more than many systems allow without being asked. Children
    // inherit it.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    match args.role {
        None => compare(&args),
        Some(Role::Backend { instances }) => roles::backend(instances),
        Some(Role::Bare { multi, instances }) => roles::bare(multi, &instances),
        Some(Role::H2Only { instances }) => roles::h2_only(&instances),
        Some(Role::OwnHttp2 { instances }) => roles::own_http2(&instances),
        Some(Role::Load) => roles::load(),
    }
}

/// How the figures are taken.
struct Method {
    quick: bool,
    rounds: usize,
    syscalls: Option<Counter>,
    /// Whether the processor's counter can be had.
    perf: bool,
    callgrind: bool,
    keep: Option<PathBuf>,
}

impl Method {
    fn of(args: &Args) -> Self {
        let perf = instructions::by_perf();
        Self {
            quick: args.options.quick,
            rounds: args.options.rounds(9, 1),
            syscalls: Counter::find(),
            perf,
            callgrind: args.callgrind && !perf && callgrind::is_there(),
            keep: args.keep.clone(),
        }
    }

    /// How long a subject is called in a round, and while something is counted.
    fn round(&self, shape: Shape) -> Duration {
        match shape {
            _ if self.quick => Duration::from_millis(50),
            // 200 calls a second are few for a p99.
            Shape::Paced => Duration::from_secs(3),
            _ => Duration::from_secs(1),
        }
    }

    /// Whether a shape's system calls and instructions are counted.
    fn counts(&self, shape: Shape) -> bool {
        !self.quick || shape == Shape::One
    }

    /// About how long a shape takes, without instructions by callgrind.
    fn length(&self, shape: Shape, subjects: usize) -> Duration {
        let runs = self.rounds + usize::from(self.syscalls.is_some()) + usize::from(self.perf);
        // To start, warm up and end.
        let each = self.round(shape) * runs as u32 + Duration::from_secs(2);
        each * subjects as u32
    }

    fn notes(&self, report: &mut Report) {
        report.note(format!("{INSTANCES} instances; each proxy a process; every answer verified"));
        report.note(format!(
            "{} rounds in which the subjects take turns, in an order drawn for each; median (quartiles), ratios to \
             bare hyper on one thread within a round",
            self.rounds
        ));
        report.note("processor time: the proxy's process, the kernel's on its behalf (TCP over loopback) included");
        report.note(match self.syscalls {
            Some(counter) => format!("system calls: in a run of its own, by {}", counter.title()),
            None => "SKIPPED system calls: neither perf nor strace counts here".into(),
        });
        report.note(match (self.perf, self.callgrind) {
            (true, _) => "instructions: in user space, by the processor's counter, in a run of its own",
            (false, true) => "instructions: in user space, by callgrind, in runs of its own",
            (false, false) => {
                "SKIPPED instructions: perf does not count them here (--callgrind does, with valgrind installed)"
            }
        });
    }
}

fn compare(args: &Args) -> anyhow::Result<()> {
    let method = Method::of(args);
    let mut report = Report::new("peers");
    method.notes(&mut report);
    let mut subjects = Vec::new();
    for subject in Subject::value_variants() {
        if !args.only.is_empty() && !args.only.contains(subject) && *subject != Subject::Bare {
            continue;
        }
        match subject.version() {
            None => report.note(format!("SKIPPED {}: not installed", subject.title())),
            Some(version) => {
                subjects.push(*subject);
                if !version.is_empty() {
                    report.note(format!("{}: {version}", subject.title()));
                }
            }
        }
    }
    let wanted = |shape: &&Shape| args.shape.is_empty() || args.shape.contains(shape);
    let shapes: Vec<Shape> = Shape::value_variants().iter().filter(wanted).copied().collect();
    let mut left: Duration = shapes.iter().map(|shape| method.length(*shape, subjects.len())).sum();
    let mut arena = Arena::start(args.program.clone())?;
    for (nth, shape) in shapes.iter().enumerate() {
        progress(&method, nth, shapes.len(), *shape, left);
        left -= method.length(*shape, subjects.len());
        if *shape == Shape::Idle {
            report.table(idle(&mut arena, &subjects, &method)?);
            continue;
        }
        let title = shape.title(method.quick);
        let figures = measure(&mut arena, &subjects, *shape, &method)?;
        report.table(report::timed(&title, &figures));
        if method.counts(*shape) {
            report.table(report::counted(&title, &figures));
        }
    }
    report.print(args.options.json);
    Ok(())
}

/// A full run takes long, and says how long.
#[expect(clippy::print_stderr, reason = "standard output is for the report")]
fn progress(method: &Method, nth: usize, of: usize, shape: Shape, left: Duration) {
    if !method.quick {
        let minutes = left.as_secs().div_ceil(60);
        let more = if method.callgrind { ", and what callgrind takes" } else { "" };
        eprintln!("shape {} of {of}, {}: about {minutes} minutes to go{more}", nth + 1, shape.name());
    }
}

/// Calls through each subject in turn, and then counts.
fn measure(arena: &mut Arena, subjects: &[Subject], shape: Shape, method: &Method) -> anyhow::Result<Vec<Figures>> {
    let connections = shape.connections(method.quick);
    let load = |until| shape.load(method.quick, until);
    let mut all = Vec::new();
    for subject in subjects {
        let proxy = arena.spared_or_new(*subject, shape.workers())?;
        // Connects, and warms up.
        let calls = if method.quick || connections >= 1_000 { 1 } else { 50 };
        arena.call(&proxy, connections, Load { pace: None, ..load(Until::Calls(calls)) })?;
        all.push((proxy, Figures { subject: *subject, timed: Timed::default(), counted: Counted::default() }));
    }
    rounds(method.rounds, &mut all, |(proxy, figures)| {
        let (tally, used) = arena.call_and_watch(proxy, connections, load(Until::Over(method.round(shape))))?;
        let timed = &mut figures.timed;
        if let Some(used) = used {
            timed.cpu.push(used.as_nanos() as f64 / 1e3 / tally.calls as f64);
        }
        timed.rate.push(tally.calls as f64 / tally.seconds);
        timed.p50.push(tally.p50_us);
        timed.p99.push(tally.p99_us);
        anyhow::Ok(())
    })?;
    for (proxy, figures) in &mut all {
        if method.counts(shape) {
            figures.counted = count(arena, proxy, shape, method)?;
        }
        arena.check(proxy)?;
    }
    arena.hang_up()?;
    let mut ended = Vec::new();
    for (proxy, mut figures) in all {
        if method.quick {
            arena.spare(proxy, shape.workers());
        } else {
            // What one shape leaves behind, such as connections to instances, is not for the next.
            proxy.end()?;
        }
        if method.callgrind && method.counts(shape) && figures.subject != Subject::Direct {
            figures.counted.instructions = by_callgrind(arena, figures.subject, shape, method)?;
        }
        ended.push(figures);
    }
    Ok(ended)
}

/// System calls and instructions of a proxy that runs, under the same load as it was timed under.
fn count(arena: &mut Arena, proxy: &Proxy, shape: Shape, method: &Method) -> anyhow::Result<Counted> {
    let mut counted = Counted::default();
    let Some(id) = proxy.id() else { return Ok(counted) };
    let (tree, folder) = (processes::tree(id), arena.folder.path().to_owned());
    let load = shape.load(method.quick, Until::Over(method.round(shape)));
    let mut call = || arena.call(proxy, shape.connections(method.quick), load);
    if let Some(counter) = method.syscalls {
        let (tally, counts) = counter.during(&tree, &folder, &mut call)?;
        counted.syscalls = Some(counts.over(tally.calls));
    }
    if method.perf {
        let (tally, count) = instructions::during(&tree, &folder, &mut call)?;
        counted.instructions = Some(count / tally.calls as f64);
    }
    Ok(counted)
}

#[expect(clippy::print_stderr, reason = "what is left out of a table is told beside it")]
fn by_callgrind(arena: &mut Arena, subject: Subject, shape: Shape, method: &Method) -> anyhow::Result<Option<f64>> {
    match instructions::by_callgrind(arena, subject, shape, method.quick, method.keep.as_deref()) {
        Ok(count) => Ok(Some(count)),
        // Some programs do not run under valgrind; what was measured of them so far is not lost for
        // that.
        Err(error) if subject.program().is_some() => {
            eprintln!("instructions of {} not counted: {error:#}", subject.title());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Memory that connections cost on which nothing happens any more.
fn idle(arena: &mut Arena, subjects: &[Subject], method: &Method) -> anyhow::Result<Table> {
    let connections = Shape::Idle.connections(method.quick);
    let mut table =
        Table::new(Shape::Idle.title(method.quick), [("memory before", Unit::KiB), ("a connection", Unit::Bytes)]);
    for subject in subjects.iter().filter(|subject| **subject != Subject::Direct) {
        let proxy = arena.proxy(*subject, Shape::Idle.workers(), &[])?;
        arena.call(&proxy, 1, Shape::Idle.load(method.quick, Until::Calls(10)))?;
        let memory = || processes::resident(proxy.id()?);
        let before = memory();
        arena.stay_idle(&proxy, connections)?;
        let grown = before.zip(memory()).map(|(before, after)| (after - before) / connections as f64);
        let figures = [before.map(|bytes| bytes / 1024.0), grown];
        table.row(subject.title(), figures.map(|figure| figure.map_or_else(Samples::default, Samples::one)).into());
        arena.hang_up()?;
        proxy.end()?;
    }
    Ok(table)
}
