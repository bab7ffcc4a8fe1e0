//! What a call costs through the node and through the in-process channel, beside a direct
//! connection.
//!
//! ```text
//!   cargo bench --bench calls                 the figures, in about two minutes
//!   cargo bench --bench calls -- --quick      whether it still works
//!
//!   load generator ──────────────────────────▶ backend (some instances)      direct, tonic's balancer, waymark_node::Channel
//!   load generator ──────────▶ node ─────────▶ backend                       proxied
//! ```
//!
//! Each box is a process of its own, so that its processor time can be told from the others': this
//! program starts itself again with a role. A fixed number of streams calls as fast as answers come
//! (a closed loop), and every answer is compared with what was sent. The contestants use the same
//! backend, over equally many connections.

mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod load;
mod parts;
mod roles;
mod streams;
mod swaps;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;

use self::{
    harness::{
        Options, Samples,
        child::Child,
        report::{Report, Table, Unit},
        rounds,
    },
    load::Contestant,
    streams::Tally,
};

/// Calls a CPU-second: direct, proxied, and through the in-process channel.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// How many calls run at once.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
    /// How many instances there are, and connections from the load generator.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    instances: u16,
    /// How long a contestant runs in a round.
    #[arg(long, value_name = "MS")]
    round_ms: Option<u64>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this process is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Instances that echo.
    #[command(hide = true)]
    Backend { instances: u16 },
    /// A node in front of them.
    #[command(hide = true)]
    Node { instances: Vec<SocketAddr> },
    /// A load generator.
    #[command(hide = true)]
    Load {
        #[arg(long)]
        node: SocketAddr,
        #[arg(long)]
        streams: u16,
        instances: Vec<SocketAddr>,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.role {
        None => compare(&args),
        Some(Role::Backend { instances }) => roles::backend(instances),
        Some(Role::Node { instances }) => roles::node(&instances),
        Some(Role::Load { node, streams, instances }) => roles::load(node, streams, instances),
    }
}

/// The processes of a comparison.
struct Processes {
    backend: Child,
    node: Child,
    /// For what goes over tonic's own channels.
    plain: Child,
    /// For what goes over Waymark's: a process of its own, so that the engine's threads are in
    /// nobody else's processor time.
    balancing: Child,
}

/// The processor time used by one role, and so on.
#[derive(Clone, Copy)]
struct Used {
    client: Duration,
    node: Duration,
    backend: Duration,
}

impl Processes {
    fn start(args: &Args) -> anyhow::Result<Self> {
        let (backend, instances) = Child::start(&["backend", &args.instances.to_string()])?;
        let instances: Vec<&str> = instances.split(' ').collect();
        let (node, address) = Child::start(&[&["node"], &instances[..]].concat())?;
        let streams = args.streams.to_string();
        let load = [&["load", "--node", &address, "--streams", &streams], &instances[..]].concat();
        let ((plain, _), (balancing, _)) = (Child::start(&load)?, Child::start(&load)?);
        Ok(Self { backend, node, plain, balancing })
    }

    fn run(&mut self, contestant: Contestant, time: Duration) -> anyhow::Result<(Tally, Used)> {
        let before = self.used(contestant)?;
        let answer = self.client(contestant).ask(&format!("run {} {}", contestant.name(), time.as_millis()))?;
        let after = self.used(contestant)?;
        let tally: Tally =
            serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", contestant.title()))?;
        anyhow::ensure!(tally.calls > 0, "{}: no call ended within {time:?}", contestant.title());
        let used = Used {
            client: after.client.saturating_sub(before.client),
            node: after.node.saturating_sub(before.node),
            backend: after.backend.saturating_sub(before.backend),
        };
        Ok((tally, used))
    }

    fn client(&mut self, contestant: Contestant) -> &mut Child {
        if contestant.is_in_process() { &mut self.balancing } else { &mut self.plain }
    }

    fn used(&mut self, contestant: Contestant) -> anyhow::Result<Used> {
        let client = self.client(contestant).cpu()?;
        Ok(Used { client, node: self.node.cpu()?, backend: self.backend.cpu()? })
    }
}

/// What a contestant showed, a sample a round.
struct Figures {
    contestant: Contestant,
    client: Samples,
    node: Samples,
    backend: Samples,
    all: Samples,
    rate: Samples,
    p50: Samples,
    p99: Samples,
}

impl Figures {
    fn new(contestant: Contestant) -> Self {
        let (client, node, backend, all, rate, p50, p99) = Default::default();
        Self { contestant, client, node, backend, all, rate, p50, p99 }
    }

    fn push(&mut self, tally: &Tally, used: Used) {
        let a_call = |time: Duration| time.as_nanos() as f64 / 1e3 / tally.calls as f64;
        self.client.push(a_call(used.client));
        self.backend.push(a_call(used.backend));
        let mut all = used.client + used.backend;
        if self.contestant.is_proxied() {
            self.node.push(a_call(used.node));
            all += used.node;
        }
        self.all.push(a_call(all));
        self.rate.push(tally.calls as f64 / tally.seconds);
        self.p50.push(tally.p50_us);
        self.p99.push(tally.p99_us);
    }
}

fn compare(args: &Args) -> anyhow::Result<()> {
    let options = &args.options;
    let round = Duration::from_millis(args.round_ms.unwrap_or(if options.quick { 150 } else { 2_000 }));
    let mut report = Report::new("calls");
    report.note(format!(
        "unary calls with {} bytes each way, {} at once, closed loop; {} instances and connections; every answer verified",
        echo::PAYLOAD,
        args.streams,
        args.instances,
    ));
    report.note(format!("rounds of {} ms in which the contestants take turns; median (quartiles)", round.as_millis()));
    report.note("processor time of each process, the kernel's on its behalf (TCP over loopback) included");
    let mut processes = Processes::start(args)?;
    let mut contestants = Contestant::ALL.map(Figures::new);
    for figures in &contestants {
        // Connects, and warms up.
        processes.run(figures.contestant, round / 4)?;
    }
    rounds(options.rounds(11, 1), &mut contestants, |figures| {
        let (tally, used) = processes.run(figures.contestant, round)?;
        figures.push(&tally, used);
        anyhow::Ok(())
    })?;
    let mut cost = Table::new(
        "Processor time a call",
        [
            ("client", Unit::Microseconds),
            ("node", Unit::Microseconds),
            ("backend", Unit::Microseconds),
            ("all", Unit::Microseconds),
            ("all, to direct", Unit::Ratio),
            ("client, to direct", Unit::Ratio),
            ("client, over direct", Unit::Microseconds),
        ],
    );
    let mut rate = Table::new(
        "Rate and latency, all processes on this machine",
        [
            ("calls", Unit::PerSecond),
            ("calls a CPU-second of all", Unit::PerSecond),
            ("calls a CPU-second of the node", Unit::PerSecond),
            ("p50", Unit::Microseconds),
            ("p50, to direct", Unit::Ratio),
            ("p99", Unit::Microseconds),
            ("p99, to direct", Unit::Ratio),
        ],
    );
    let [direct, ..] = &contestants;
    let baseline = [&direct.all, &direct.client, &direct.p50, &direct.p99].map(Clone::clone);
    for Figures { contestant, client, node, backend, all, rate: calls, p50, p99 } in contestants {
        let [all_ratio, client_ratio] = [all.ratio(&baseline[0]), client.ratio(&baseline[1])];
        let [p50_ratio, p99_ratio] = [p50.ratio(&baseline[2]), p99.ratio(&baseline[3])];
        let over = client.minus(&baseline[1]);
        let [of_all, of_node] = [&all, &node].map(|us| us.map(|us| 1e6 / us));
        cost.row(contestant.title(), vec![client, node, backend, all, all_ratio, client_ratio, over]);
        rate.row(contestant.title(), vec![calls, of_all, of_node, p50, p50_ratio, p99, p99_ratio]);
    }
    report.table(cost);
    report.table(rate);
    report.table(swaps::under_load(&mut processes, options)?);
    report.print(options.json);
    Ok(())
}
