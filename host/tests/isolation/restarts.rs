//! A node that restarts, and an instance that hangs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use waymark_node::embedded;

use super::{
    Scale,
    arena::{BYSTANDER, Bounds, Verdict},
    bystander::Calls,
    process::Process,
    support::{Caller, Instance, soon, was_not_seen},
    table::Row,
};

/// Three instances, and a registry that outlives any node.
struct World {
    registry: embedded::Handle,
    instances: Vec<Instance>,
}

impl World {
    async fn new() -> Self {
        let options = embedded::Options::default();
        let registry = embedded::Server::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let mut instances = Vec::new();
        for name in ["a", "b", "c"] {
            instances.push(Instance::echo(name).await);
        }
        Self { registry, instances }
    }

    async fn register(&self, node: &Process) {
        for instance in &self.instances {
            node.register(BYSTANDER, instance.address).await;
        }
        answered(node.node).await;
    }

    fn n_calls(&self) -> usize {
        self.instances.iter().map(Instance::n_calls).sum()
    }

    /// `had`: the instances' calls before these.
    fn row(&self, control: Calls, (calls, again): (Calls, usize), had: usize, slowest: Duration) -> Row {
        let verdict = Verdict { word: format!("{RESTARTS} restarts, {again} sent again unseen"), after: Some(slowest) };
        let (carried_out, made) = (self.n_calls() - had, calls.took.len());
        let mut faults = Vec::new();
        // What was given up may still be carried out.
        if control.lost.is_empty() && calls.lost.is_empty() && carried_out != made {
            faults.push(format!("{made} calls were carried out {carried_out} times"));
        }
        // The memory is not of one process.
        Row { control, calls, had: 0, grown: 0, bounds: Bounds::mib(0), verdict, faults }
    }
}

/// Waits until a call is answered.
async fn answered(node: SocketAddr) {
    let channel = Endpoint::from_shared(format!("http://{node}")).unwrap().connect_lazy();
    let mut caller = Caller::new(channel, Some(BYSTANDER));
    soon(async {
        while caller.unary("x").await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn control(node: SocketAddr, scale: Scale) -> Calls {
    let callers = Callers::start(node);
    sleep(scale.length).await;
    callers.stop().await.0
}

/// As the bystander, with one difference: a call that no server can have seen is sent again, as
/// every client of gRPC's own does by itself, and tonic's does not. tonic begins calls on a
/// connection that has been told to end.
struct Callers {
    stop: CancellationToken,
    tasks: JoinSet<(Calls, usize)>,
}

impl Callers {
    fn start(node: SocketAddr) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..TASKS {
            let channel = Endpoint::from_shared(format!("http://{node}")).unwrap().connect_lazy();
            let stop = stop.clone();
            tasks.spawn(async move {
                let mut caller = Caller::new(channel, Some(BYSTANDER));
                let (mut calls, mut again) = (Calls::default(), 0);
                let mut pace = interval(Duration::from_secs(1) * TASKS / CALLS_PER_SECOND);
                pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while !stop.is_cancelled() {
                    pace.tick().await;
                    let began = Instant::now();
                    let call = async {
                        loop {
                            match caller.unary("x").await {
                                Err(status) if was_not_seen(&status) => again += 1,
                                answer => return answer,
                            }
                        }
                    };
                    let lost = match timeout(PATIENCE, call).await {
                        Ok(Ok(_)) => None,
                        Ok(Err(status)) => Some(format!("{status:?}")),
                        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
                    };
                    calls.took.push(began.elapsed());
                    calls.lost.extend(lost);
                }
                (calls, again)
            });
        }
        Self { stop, tasks }
    }

    /// The calls, and how many were sent again.
    async fn stop(mut self) -> (Calls, usize) {
        self.stop.cancel();
        let (mut all, mut all_again) = (Calls::default(), 0);
        while let Some(ended) = self.tasks.join_next().await {
            let (calls, again) = ended.unwrap();
            all.took.extend(calls.took);
            all.lost.extend(calls.lost);
            all_again += again;
        }
        all.took.sort_unstable();
        (all, all_again)
    }
}

/// How often a node is restarted.
const RESTARTS: u32 = 3;

/// One node takes over from another, again and again.
pub(crate) async fn a_node_takes_over(scale: Scale) -> Result<Row, String> {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("take-over");
    let flags = ["--registry", world.registry.url(), "--take-over", path.to_str().unwrap()];
    let mut node = Process::with(&flags).await;
    world.register(&node).await;
    let control = control(node.node, scale).await;
    let (had, callers) = (world.n_calls(), Callers::start(node.node));
    let mut slowest = Duration::ZERO;
    for _ in 0..RESTARTS {
        sleep(scale.length / RESTARTS).await;
        let begun = Instant::now();
        let next = Process::with(&flags).await;
        let code = node.exit_code().await;
        slowest = slowest.max(begun.elapsed());
        if code != 0 {
            return Err(format!("a node ended with {code}: {}", node.log()));
        }
        node = next;
    }
    sleep(scale.length / RESTARTS).await;
    Ok(world.row(control, callers.stop().await, had, slowest))
}

/// A node is ended and started again on a socket that its service manager keeps.
pub(crate) async fn a_node_restarts_under_a_service_manager(scale: Scale) -> Result<Row, String> {
    let world = World::new().await;
    let flags = ["--registry", world.registry.url()];
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut node = Process::on(&socket, &flags).await;
    world.register(&node).await;
    let control = control(node.node, scale).await;
    let (had, callers) = (world.n_calls(), Callers::start(node.node));
    let mut slowest = Duration::ZERO;
    for _ in 0..RESTARTS {
        sleep(scale.length / RESTARTS).await;
        let begun = Instant::now();
        node.signal(Signal::TERM);
        let code = node.exit_code().await;
        if code != 0 {
            return Err(format!("a node ended with {code}: {}", node.log()));
        }
        node = Process::on(&socket, &flags).await;
        slowest = slowest.max(begun.elapsed());
    }
    sleep(scale.length / RESTARTS).await;
    Ok(world.row(control, callers.stop().await, had, slowest))
}

/// What this program is when it is one of the instances: it says where it serves, and serves.
pub(crate) async fn instance() -> ! {
    let instance = Instance::echo("i").await;
    println!("{}", instance.address);
    std::future::pending().await
}

/// An instance in a process of its own.
struct Alone {
    child: Child,
    address: SocketAddr,
}

impl Alone {
    async fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(INSTANCE).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = soon(lines.next_line()).await.unwrap().unwrap().parse().unwrap();
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap(), signal).unwrap();
    }
}

/// With this argument alone the program is an instance.
pub(crate) const INSTANCE: &str = "--be-an-instance";

/// Calls that wait while a node is started are not lost. On a busy machine that takes seconds.
const PATIENCE: Duration = Duration::from_secs(8);
const TASKS: u32 = 4;
const CALLS_PER_SECOND: u32 = 200;
const DEADLINE: Duration = Duration::from_secs(2);

/// When each call began, how long it took, and how it failed, if it did.
type Made = Arc<Mutex<Vec<(Instant, Duration, Option<String>)>>>;

/// Calls that begin when they are due, whether the ones before have ended or not, each with a
/// deadline.
async fn keep_calling(node: SocketAddr, time: impl Future<Output = ()>) -> Made {
    let made = Made::default();
    let channels: Vec<_> =
        (0..4).map(|_| Endpoint::from_shared(format!("http://{node}")).unwrap().connect_lazy()).collect();
    let mut tasks = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut time = std::pin::pin!(time);
    let mut turn = channels.iter().cycle();
    loop {
        tokio::select! {
            () = &mut time => break,
            _ = pace.tick() => {}
        }
        let (channel, made) = (turn.next().unwrap().clone(), Arc::clone(&made));
        tasks.spawn(async move {
            let began = Instant::now();
            let mut caller = Caller::new(channel, Some(BYSTANDER)).with_timeout(DEADLINE);
            let lost = match timeout(DEADLINE * 2, caller.unary("x")).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(format!("{:?}: {}", status.code(), status.message())),
                Err(_) => Some("no answer at all".to_owned()),
            };
            made.lock().unwrap().push((began, began.elapsed(), lost));
        });
    }
    while tasks.join_next().await.is_some() {}
    made
}

fn calls(made: &Made) -> Calls {
    let made = made.lock().unwrap();
    let mut calls = Calls::default();
    for (_, took, lost) in made.iter() {
        calls.took.push(*took);
        calls.lost.extend(lost.clone());
    }
    calls.took.sort_unstable();
    calls
}

/// One of three instances is stopped for a while (SIGSTOP), under calls with a deadline.
async fn hangs(scale: Scale, toml: &str, may_lose: bool) -> Result<Row, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("waymark.toml");
    std::fs::write(&file, toml).unwrap();
    let node = Process::with(&["--config", file.to_str().unwrap()]).await;
    let mut instances = Vec::new();
    for _ in 0..3 {
        let instance = Alone::start().await;
        node.register(BYSTANDER, instance.address).await;
        instances.push(instance);
    }
    answered(node.node).await;
    let control = calls(&keep_calling(node.node, sleep(scale.length)).await);
    let stopped = Arc::new(Mutex::new(None));
    let made = keep_calling(node.node, async {
        sleep(scale.length / 4).await;
        instances[0].signal(Signal::STOP);
        *stopped.lock().unwrap() = Some(Instant::now());
        sleep(scale.length.max(Duration::from_secs(4))).await;
        instances[0].signal(Signal::CONT);
        sleep(scale.length / 4).await;
    });
    let made = made.await;
    let stopped = stopped.lock().unwrap().unwrap();
    let mut all = calls(&made);
    let lost_at = |(began, _, lost): &(Instant, Duration, Option<String>)| {
        lost.as_ref().map(|_| began.saturating_duration_since(stopped))
    };
    let last = made.lock().unwrap().iter().filter_map(lost_at).max();
    let word = last.map_or("no call noticed", |_| "the last that was lost began").to_owned();
    let (mut faults, mut had) = (Vec::new(), 0);
    if may_lose {
        // A call that an instance has is its alone: what it was given before anybody could know is
        // lost. One begun later need not be.
        if last.is_some_and(|last| last > Duration::from_secs(1)) {
            faults.push(format!("calls were lost for {last:?}: {:?}", kinds(&all)));
        }
        had = std::mem::take(&mut all.lost).len();
    }
    if !faults.is_empty() || !all.lost.is_empty() {
        let mut halves = BTreeMap::<u128, usize>::new();
        let made = made.lock().unwrap();
        made.iter().filter_map(lost_at).for_each(|at| *halves.entry(at.as_millis() / 500).or_default() += 1);
        faults.push(format!("lost, by half seconds since it was stopped: {halves:?}; the node says: {}", node.log()));
    }
    let verdict = Verdict { word, after: last };
    Ok(Row { control, calls: all, had, grown: 0, bounds: Bounds::mib(0), verdict, faults })
}

fn kinds(calls: &Calls) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for lost in &calls.lost {
        *kinds.entry(lost.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    kinds
}

/// With default settings.
pub(crate) async fn an_instance_hangs(scale: Scale) -> Result<Row, String> {
    hangs(scale, "", true).await
}

/// Of a service whose calls may be carried out twice.
pub(crate) async fn an_instance_hangs_whose_calls_may_be_repeated(scale: Scale) -> Result<Row, String> {
    hangs(scale, &format!("[[service]]\nname = \"{BYSTANDER}\"\nidempotent = true\n"), false).await
}
