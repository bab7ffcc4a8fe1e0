//! What a node costs as it grows, and while it does nothing.
//!
//! ```text
//!   cargo bench --bench growth                 the figures, in about two minutes
//!   cargo bench --bench growth -- --quick      whether it still works
//!
//!   this process: callers, the instance ──put──▶ server    the embedded registry
//!        └──call, scrape────────────────────────▶ node     a whole node, as `waymark node` starts it
//! ```
//!
//! The node's processor time and wake-ups are its own: each box is a process.

#[path = "../calls/echo.rs"]
#[allow(dead_code, reason = "the calls' benchmark uses the rest")]
mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod node;
#[path = "../registry/processes.rs"]
mod processes;
#[path = "../registry/server.rs"]
#[allow(dead_code, reason = "the registry's benchmark uses the rest")]
mod server;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser as _;
use etcd_client::{Client as EtcdClient, Txn, TxnOp};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tonic::transport::{Channel, Server as TonicServer, server::TcpIncoming};

use self::{
    echo::{Client, Echo, Kind, PAYLOAD},
    harness::{
        Options, Samples, quantile,
        report::{Report, Table, Unit},
    },
    node::Node,
    processes::runtime,
    server::Server,
};

/// What services, names and scrapes cost, and what an idle node does.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Run against this etcd program instead of the embedded registry.
    #[arg(long, value_name = "PROGRAM")]
    etcd: Option<std::path::PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this process is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// An embedded registry.
    #[command(hide = true)]
    Server { listen: SocketAddr },
    /// A whole node.
    #[command(hide = true)]
    Node { url: String },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.role {
        None => measure(&args),
        Some(Role::Server { listen }) => processes::server(*listen),
        Some(Role::Node { url }) => processes::node(url),
    }
}

/// How many services there are in the end, in steps of as many, and how many are looked at one by
/// one at each step.
struct Scale {
    services: usize,
    step: usize,
    looked_at: usize,
    away: usize,
    still: Duration,
    /// How many endpoints large services have.
    large: &'static [usize],
}

impl Scale {
    fn of(options: &Options) -> Self {
        if options.quick {
            let still = Duration::from_millis(500);
            return Self { services: 40, step: 20, looked_at: 10, away: 10, still, large: &[200] };
        }
        let (still, large): (_, &[_]) = (Duration::from_secs(5), &[1_000, 10_000, 100_000]);
        Self { services: 9_000, step: 1_500, looked_at: 200, away: 1_000, still, large }
    }
}

fn name(n: usize) -> String {
    format!("growth/service-{n:05}")
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let scale = Scale::of(&args.options);
    let runtime = runtime()?;
    let mut report = Report::new("growth");
    report.note("the embedded registry, the node, and callers with the instance: a process each");
    let mut server = Server::start(args, &runtime)?;
    let mut node = Node::start(&server.url)?;
    report.table(idle(&mut node, "no service yet", &scale)?);
    let (services, scrapes) = runtime.block_on(grow(&mut node, &server.url, &scale))?;
    report.table(services);
    report.table(scrapes);
    report.table(idle(&mut node, "with all services, after calls", &scale)?);
    report.table(runtime.block_on(large(&mut node, &server.url, &scale))?);
    server.kill();
    report.table(runtime.block_on(away(&server.url, &scale))?);
    report.print(args.options.json);
    Ok(())
}

/// An idle node wakes for nobody.
fn idle(node: &mut Node, when: &str, scale: &Scale) -> anyhow::Result<Table> {
    // What was begun before has its time to end.
    std::thread::sleep(scale.still);
    let (before, cpu) = (node.wakes()?, node.cpu()?);
    std::thread::sleep(scale.still);
    let seconds = scale.still.as_secs_f64();
    let (woke, used) = (node.wakes()?.since(&before), node.cpu()?.saturating_sub(cpu).as_secs_f64());
    let mut table =
        Table::new("An idle node", [("wake-ups", Unit::PerSecond), ("processor ms a second", Unit::Milliseconds)]);
    table.row(when, vec![Samples::one(woke / seconds), Samples::one(used * 1e3 / seconds)]);
    Ok(table)
}

/// First calls of new services as there are more and more of them, beside calls of a known one; and
/// scrapes at each step.
async fn grow(node: &mut Node, url: &str, scale: &Scale) -> anyhow::Result<(Table, Table)> {
    let address = serve(Ipv4Addr::LOCALHOST).await?.to_string();
    fill(url, &address, scale.services).await?;
    let channel = Channel::from_shared(format!("http://{}", node.proxy))?.connect().await?;
    let milliseconds = Unit::Milliseconds;
    let mut services = Table::new(
        "First calls of new services, each after the other",
        [
            ("first call", milliseconds),
            ("known service's call", milliseconds),
            ("node's processor time a service", milliseconds),
        ],
    );
    let mut scrapes = Table::new(
        "A scrape of /metrics, and calls of a known service meanwhile",
        [
            ("whole page", milliseconds),
            ("first bytes", milliseconds),
            ("page", Unit::KiB),
            ("calls' p99 meanwhile", milliseconds),
            ("calls' p99 before", milliseconds),
        ],
    );
    for begin in (0..scale.services).step_by(scale.step) {
        let (mut first, mut known) = (Samples::default(), Samples::default());
        let cpu = node.cpu()?;
        for n in begin..begin + scale.looked_at {
            first.push(call(&channel, &name(n)).await?);
        }
        let each = node.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3 / scale.looked_at as f64;
        for _ in 0..scale.looked_at {
            known.push(call(&channel, &name(0)).await?);
        }
        services.row(format!("{begin} before"), vec![first, known, Samples::one(each)]);
        let rest = begin + scale.looked_at..(begin + scale.step).min(scale.services);
        let rest = stream::iter(rest.map(|n| {
            let channel = channel.clone();
            async move { call(&channel, &name(n)).await.map(drop) }
        }));
        rest.buffer_unordered(64).try_collect::<()>().await?;
        scrapes.row(format!("{} services", begin + scale.step), scrape(node, &channel).await?);
    }
    Ok((services, scrapes))
}

async fn fill(url: &str, address: &str, services: usize) -> anyhow::Result<()> {
    let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
    let puts: Vec<_> =
        (0..services).map(|n| TxnOp::put(format!("{}/{address}", name(n)), value.clone(), None)).collect();
    put(url, &puts).await
}

/// Writes entries, as many at once as a transaction takes.
async fn put(url: &str, puts: &[TxnOp]) -> anyhow::Result<()> {
    let etcd = EtcdClient::connect([url], None).await?;
    for batch in puts.chunks(128) {
        etcd.kv_client().txn(Txn::new().and_then(batch)).await.context("cannot fill the registry")?;
    }
    Ok(())
}

/// Starts the instance, on a free port.
async fn serve(on: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((on, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(
        TonicServer::builder().serve_with_incoming(Echo, TcpIncoming::from(listener).with_nodelay(Some(true))),
    );
    Ok(address)
}

/// First calls of services with many endpoints, which the node has to read whole before it can send
/// one anywhere.
async fn large(node: &mut Node, url: &str, scale: &Scale) -> anyhow::Result<Table> {
    // Every address of loopback is this one server.
    let port = serve(Ipv4Addr::UNSPECIFIED).await?.port();
    let channel = Channel::from_shared(format!("http://{}", node.proxy))?.connect().await?;
    let mut table = Table::new(
        "First call of one large service",
        [
            ("first call", Unit::Milliseconds),
            ("second call", Unit::Milliseconds),
            ("node's processor time", Unit::Milliseconds),
        ],
    );
    for endpoints in scale.large {
        let service = format!("growth/large-{endpoints}");
        let entry = |n: usize| {
            let address = format!("127.{}.{}.{}:{port}", 1 + (n >> 16), n >> 8 & 255, n & 255);
            TxnOp::put(
                format!("{service}/{address}"),
                format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#),
                None,
            )
        };
        let puts: Vec<_> = (0..*endpoints).map(entry).collect();
        put(url, &puts).await?;
        let cpu = node.cpu()?;
        let first = call(&channel, &service).await?;
        let used = node.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3;
        let second = call(&channel, &service).await?;
        table.row(format!("{endpoints} endpoints"), [first, second, used].map(Samples::one).into());
    }
    Ok(table)
}

/// One call, in milliseconds.
async fn call(channel: &Channel, service: &str) -> anyhow::Result<f64> {
    let mut client = Client::new(channel.clone(), service);
    let began = Instant::now();
    let answered = timeout(Duration::from_secs(30), client.call(Kind::Unary, PAYLOAD, 0, 0)).await;
    answered.with_context(|| format!("{service} was not answered"))??;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Calls of a known service, one after another, until `end`: their p99.
async fn p99(channel: Channel, mut end: oneshot::Receiver<()>) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    while times.len() < 20 || end.try_recv().is_err() {
        times.push(call(&channel, &name(0)).await?);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(quantile(&times, 0.99))
}

async fn scrape(node: &Node, channel: &Channel) -> anyhow::Result<Vec<Samples>> {
    let (stop, end) = oneshot::channel();
    let before = tokio::spawn(p99(channel.clone(), end));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _ = stop.send(());
    let before = before.await??;
    let (stop, end) = oneshot::channel();
    let meanwhile = tokio::spawn(p99(channel.clone(), end));
    let began = Instant::now();
    let mut connection = TcpStream::connect(&node.admin).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nhost: {}\r\nconnection: close\r\n\r\n", node.admin);
    connection.write_all(request.as_bytes()).await?;
    let (mut page, mut first) = (Vec::new(), None);
    while connection.read_buf(&mut page).await? > 0 {
        first.get_or_insert_with(|| began.elapsed());
    }
    let whole = began.elapsed().as_secs_f64() * 1e3;
    let _ = stop.send(());
    let meanwhile = meanwhile.await??;
    anyhow::ensure!(page.windows(5).any(|end| end == b"# EOF"), "the page does not end");
    let first = first.context("no answer to a scrape")?.as_secs_f64() * 1e3;
    let figures = [whole, first, page.len() as f64 / 1024.0, meanwhile, before];
    Ok(figures.map(Samples::one).into())
}

/// Names that are asked for while the registry is away, and what they cost afterwards, when nobody
/// asks any more.
async fn away(url: &str, scale: &Scale) -> anyhow::Result<Table> {
    let mut node = Node::start(url)?;
    let channel = Channel::from_shared(format!("http://{}", node.proxy))?.connect().await?;
    let asking = stream::iter((0..scale.away).map(|n| {
        let channel = channel.clone();
        async move {
            // It fails, as it must.
            let _ = timeout(Duration::from_millis(200), call(&channel, &format!("away/service-{n:05}"))).await;
        }
    }));
    asking.buffer_unordered(64).collect::<()>().await;
    tokio::time::sleep(scale.still).await;
    let cpu = node.cpu()?;
    tokio::time::sleep(scale.still).await;
    let used = node.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e3 / scale.still.as_secs_f64();
    let mut table = Table::new("A registry that is away", [("processor ms a second", Unit::Milliseconds)]);
    table.row(format!("{} names that were never listed", scale.away), vec![Samples::one(used)]);
    Ok(table)
}
