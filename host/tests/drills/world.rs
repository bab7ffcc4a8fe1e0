//! What a drill happens to: instances, each with a registry client of its own, a node, and calls
//! through it.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use greeter::GreeterConfig;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
    sync::{OnceCell, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use waymark_node::{
    admin::client::NodeClient,
    app::Node,
    config::{ClientConfig, NodeConfig, PluginChoice, RegistrySource, ServiceConfig},
    model::{Endpoint, ServiceName, Ttl},
    naming::KeyScheme,
    plugin::{Engine, EngineConfig},
    registry::{Registration, RegistrationConfig, Registry, RegistryConfig},
    stages::load,
};

use super::{
    belief::{self, Checked},
    calls::{Call, Callers},
    etcd::{self, Cluster, PREFIX},
    record::{NodeRecorder, StoreRecorder},
};

/// The service of every drill: its entries stand under [`PREFIX`].
pub(crate) const SERVICE: &str = "drill";

/// How long an instance that left goes on serving: others learn of it first. What it answers then
/// is a call to a gone endpoint.
const LINGER: Duration = Duration::from_millis(500);

/// How often the view and the registry are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn service() -> ServiceName {
    ServiceName::new(SERVICE).unwrap()
}

/// Where the node runs.
enum Place {
    Here(Box<Node>),
    Child(Child),
}

/// One live instance.
pub(crate) struct Instance {
    address: SocketAddr,
    registered: Registered,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

enum Registered {
    /// By this process, as a server written in Rust would.
    Here(Registration),
    /// By `waymark register`.
    Child(Child),
}

/// Everything of one drill but etcd.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// Where the node and the instances reach etcd.
    path: Vec<String>,
    ttl: Ttl,
    scheme: Arc<dyn KeyScheme>,
    node: Option<Place>,
    admin: NodeClient,
    pub(crate) instances: Vec<Instance>,
    leaving: Vec<JoinHandle<Gone>>,
    callers: Callers,
    /// What etcd held, and what the node believed.
    store: StoreRecorder,
    steps: NodeRecorder,
}

/// An instance that has left: since when it was out of the registry, if it got that through.
struct Gone {
    address: SocketAddr,
    out_at: Option<Instant>,
}

/// How a world is made.
pub(crate) struct Plan {
    pub(crate) ttl: i64,
    /// `waymark node` and not a node in this process.
    pub(crate) node_is_a_child: bool,
    /// One more instance, that `waymark register` registers.
    pub(crate) with_register: bool,
    /// Where the node reaches etcd, if not where all do.
    pub(crate) node_path: Option<Vec<String>>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { ttl: 5, node_is_a_child: false, with_register: false, node_path: None }
    }
}

impl World {
    /// Three instances, a node that sees them, and calls that have begun.
    pub(crate) async fn new(cluster: Cluster, path: Vec<String>, plan: Plan) -> Self {
        let scheme = scheme().await;
        let node_path = plan.node_path.as_ref().unwrap_or(&path);
        let (node, proxy, admin) = if plan.node_is_a_child {
            child_node(node_path, cluster.folder()).await
        } else {
            node_here(node_path).await
        };
        let admin = NodeClient::connect(&admin).await.unwrap();
        let store = StoreRecorder::start(cluster.urls(), cluster.era());
        let steps = NodeRecorder::start(admin.clone(), service());
        let ttl = Ttl::from_secs(plan.ttl).unwrap();
        let mut instances = Vec::new();
        for _ in 0..3 {
            instances.push(instance(&path, Arc::clone(&scheme), ttl).await);
        }
        if plan.with_register {
            instances.push(registered_by_child(&path, ttl).await);
        }
        // Before there are endpoints a call fails, and rightly.
        let mut world = Self {
            cluster,
            path,
            ttl,
            scheme,
            node: Some(node),
            admin,
            instances,
            leaving: Vec::new(),
            callers: Callers::none(),
            store,
            steps,
        };
        world.until(Instant::now(), World::is_exact).await.expect("a world without a fault comes right");
        world.callers = Callers::start(proxy, SERVICE);
        sleep(Duration::from_millis(500)).await;
        world
    }

    /// One more instance comes up. Whether it gets registered now is another matter.
    pub(crate) async fn join(&mut self) {
        self.instances.push(instance(&self.path, Arc::clone(&self.scheme), self.ttl).await);
    }

    /// One instance deregisters as well as that goes, serves on for a moment, drains and ends.
    pub(crate) fn leave(&mut self) {
        let Instance { address, registered, stop, serving } = self.instances.remove(0);
        let Registered::Here(registration) = registered else { panic!("the first instance is one of ours") };
        self.leaving.push(tokio::spawn(async move {
            let out_at = registration.deregister().await.is_ok().then(Instant::now);
            sleep(LINGER).await;
            let _ = stop.send(());
            let _ = serving.await;
            Gone { address, out_at }
        }));
    }

    /// Waits until all that etcd holds has been written down: before it forgets.
    pub(crate) async fn caught_up(&self) {
        self.store.catch_up().await;
    }

    /// When etcd answers again where the node and the instances reach it.
    pub(crate) async fn answered(&self) -> Instant {
        etcd::answered(&self.path, PATIENCE).await
    }

    /// The leases of these many instances, the last ones.
    pub(crate) async fn leases(&self, n: usize) -> Vec<i64> {
        let mut leases = Vec::new();
        for instance in self.instances.iter().rev().take(n) {
            let Registered::Here(registration) = &instance.registered else { panic!("registered by this process") };
            leases.push(registration.registered().await.unwrap().0);
        }
        leases
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl.as_duration()
    }

    /// The `waymark register` of the drill.
    pub(crate) fn register_id(&self) -> u32 {
        let child = self.instances.iter().find_map(|instance| match &instance.registered {
            Registered::Child(child) => child.id(),
            Registered::Here(_) => None,
        });
        child.expect("the plan has one")
    }

    /// The `waymark node` of the drill.
    pub(crate) fn node_id(&self) -> u32 {
        match &self.node {
            Some(Place::Child(child)) => child.id().expect("the node runs"),
            _ => panic!("the plan has none"),
        }
    }

    fn live(&self) -> BTreeSet<String> {
        self.instances.iter().map(|instance| instance.address.to_string()).collect()
    }

    /// What etcd holds, read by a plain client on no detour.
    pub(crate) async fn in_etcd(&self) -> Option<BTreeSet<String>> {
        for url in self.cluster.urls() {
            if let Some(keys) = etcd::keys(&url, Duration::from_secs(1)).await {
                return Some(keys.into_iter().collect());
            }
        }
        None
    }

    /// What the node's calls may go to, if it holds that for current.
    pub(crate) async fn in_view(&self) -> Option<BTreeSet<String>> {
        let asked = timeout(Duration::from_secs(2), self.admin.service(&service(), false)).await;
        let seen = asked.ok()?.ok()?;
        let current = seen.listed && seen.stale_seconds.is_none();
        current.then(|| seen.endpoints.into_iter().map(|endpoint| endpoint.address).collect())
    }

    /// Every live instance is in etcd, and all that is in etcd is in the view.
    pub(crate) async fn is_right(&self) -> Result<(), String> {
        let (etcd, view) = (self.in_etcd().await, self.in_view().await);
        let live = self.live();
        match (&etcd, &view) {
            (Some(etcd), Some(view)) if etcd.is_subset(view) && live.is_subset(etcd) => Ok(()),
            _ => Err(format!("live {live:?}\n    etcd {etcd:?}\n    view {view:?}")),
        }
    }

    /// The same, and nobody else is in it.
    pub(crate) async fn is_exact(&self) -> Result<(), String> {
        self.is_right().await?;
        let (etcd, view, live) = (self.in_etcd().await, self.in_view().await, Some(self.live()));
        if etcd == live && view == live {
            Ok(())
        } else {
            Err(format!("live {live:?}\n    etcd {etcd:?}\n    view {view:?}"))
        }
    }

    /// How long after `since` that was so for the first time.
    pub(crate) async fn until(
        &self,
        since: Instant,
        wanted: impl AsyncFn(&Self) -> Result<(), String>,
    ) -> Result<Duration, String> {
        loop {
            let looked_at = Instant::now();
            match wanted(self).await {
                Ok(()) => return Ok(looked_at.saturating_duration_since(since)),
                Err(_) if looked_at < since + PATIENCE => sleep(LOOK).await,
                Err(wrong) => return Err(format!("not right after {PATIENCE:?}:\n    {wrong}")),
            }
        }
    }

    /// Ends everything, and says what became of the calls: all, those failed, those that a gone
    /// instance answered.
    pub(crate) async fn end(mut self) -> Outcome {
        let calls = self.callers.stop().await;
        let steps = self.steps.end();
        let believed = belief::check(&self.store.end().await, &steps);
        let mut gone = Vec::new();
        for leaving in std::mem::take(&mut self.leaving) {
            gone.push(leaving.await.unwrap());
        }
        for Instance { registered, serving, .. } in self.instances.drain(..) {
            match registered {
                Registered::Here(registration) => drop(registration),
                Registered::Child(mut child) => child.kill().await.unwrap(),
            }
            serving.abort();
        }
        match self.node.take() {
            Some(Place::Here(node)) => drop(node.shutdown().await),
            Some(Place::Child(mut child)) => child.kill().await.unwrap(),
            None => {}
        }
        let to_gone = calls.iter().filter(|call| {
            let answered_by = |gone: &&Gone| call.result.as_ref().is_ok_and(|it| *it == gone.address.to_string());
            gone.iter().find(answered_by).and_then(|gone| gone.out_at).is_some_and(|out_at| call.at > out_at)
        });
        let to_gone = to_gone.count();
        Outcome { calls, to_gone, believed }
    }
}

/// What became of the calls of a drill.
pub(crate) struct Outcome {
    pub(crate) calls: Vec<Call>,
    pub(crate) to_gone: usize,
    /// Each step of the node's view held against what etcd had at that revision.
    pub(crate) believed: Result<Checked, String>,
}

/// One for all drills of a run: its engine compiles for a while.
async fn scheme() -> Arc<dyn KeyScheme> {
    static SCHEME: OnceCell<Arc<dyn KeyScheme>> = OnceCell::const_new();
    let load = || async {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let loaded = load::load_key_scheme(&engine, &PluginChoice::bundled("etcd_naming")).await.unwrap();
        Arc::new(loaded) as Arc<dyn KeyScheme>
    };
    Arc::clone(SCHEME.get_or_init(load).await)
}

async fn node_here(path: &[String]) -> (Place, SocketAddr, String) {
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig {
            registry: RegistrySource::Etcd(Box::new(RegistryConfig::new(path))),
            services: vec![ServiceConfig::new(service())],
            ..ClientConfig::default()
        },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let (proxy, admin) = (node.proxy_addr(), node.admin_addr().to_string());
    (Place::Here(Box::new(node)), proxy, admin)
}

fn waymark() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    for variable in ["WAYMARK_REGISTRY", "WAYMARK_CONFIG", "WAYMARK_NAMESPACE", "WAYMARK_KEY_SCHEME"] {
        command.env_remove(variable);
    }
    command
}

async fn child_node(path: &[String], folder: &Path) -> (Place, SocketAddr, String) {
    let config = folder.join("waymark.toml");
    std::fs::write(&config, format!("[[service]]\nname = {SERVICE:?}\n")).unwrap();
    let mut child = waymark()
        .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--registry", &path.join(",")])
        .arg("--config")
        .arg(&config)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        let (mut proxy, mut admin) = (None, None);
        while let Some(line) = lines.next_line().await.unwrap() {
            let address =
                line.split_once("://").and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned);
            match line.split_whitespace().next() {
                Some("node") => proxy = address,
                Some("admin") => admin = address,
                _ => break,
            }
        }
        (proxy.expect("it says where calls come in").parse().unwrap(), admin.expect("it says where its API is"))
    };
    let (proxy, admin) = timeout(PATIENCE, reading).await.expect("a node starts in time");
    (Place::Child(child), proxy, admin)
}

/// A Greeter on a port of its own.
async fn serve() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind(free()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        greeter::serve(listener, GreeterConfig::default(), stopped).await.unwrap();
    });
    (address, stop, serving)
}

async fn instance(path: &[String], scheme: Arc<dyn KeyScheme>, ttl: Ttl) -> Instance {
    let (address, stop, serving) = serve().await;
    let endpoint = Endpoint::at(address.to_string().parse().unwrap());
    let config = RegistrationConfig { ttl, ..RegistrationConfig::new(service(), endpoint) };
    // Its own connections, as a process of its own would have.
    let registry = Registry::connect(RegistryConfig::new(path)).unwrap();
    let registration = registry.register(config, scheme).await.unwrap();
    Instance { address, registered: Registered::Here(registration), stop, serving }
}

async fn registered_by_child(path: &[String], ttl: Ttl) -> Instance {
    let (address, stop, serving) = serve().await;
    let mut command = waymark();
    command.args(["register", SERVICE, "--advertise", &address.to_string(), "--ttl", &ttl.as_secs().to_string()]);
    let child = command.args(["--registry", &path.join(",")]).stdout(Stdio::null()).spawn().unwrap();
    Instance { address, registered: Registered::Child(child), stop, serving }
}

/// Stops a process for so long, as a debugger, a snapshot of the machine or a starved host does.
pub(crate) async fn pause(process: u32, time: Duration) -> Instant {
    etcd::signal_process(process, Signal::STOP);
    sleep(time).await;
    etcd::signal_process(process, Signal::CONT);
    Instant::now()
}

const _: () = assert!(PREFIX.len() == SERVICE.len() + 1);
