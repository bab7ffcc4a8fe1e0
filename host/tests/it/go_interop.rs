//! Together with the etcd project's own Go client: its naming package, its resolver and gRPC's
//! round_robin.
//!
//! The Go programs are those of `examples/go`; they know nothing of Waymark. Each test runs twice,
//! on the embedded registry and on a real etcd. Without Go (or without its modules, which the first
//! run downloads) they say that they were skipped, and fail if `REQUIRE_GO=1`.
//!
//! Nothing here waits for a time to pass: the programs print what happens, and the tests wait for
//! lines.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use greeter::{
    GreeterConfig, INSTANCE_HEADER,
    hello::{HelloRequest, greeter1_client::Greeter1Client},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout},
    time::{Instant, timeout},
};
use tonic::{Request, Status, transport::Channel};
use waymark_node::{
    app::Node,
    config::{ClientConfig, NodeConfig, PluginChoice, Ports, RegistrySource},
    model::{Endpoint, Locality, ServiceName, Ttl},
    registry::{Registration, RegistrationConfig, RegistryConfig},
    snapshot::{Reader, Snapshot},
};

use crate::embedded::fixture::{Registry, on_both};

const SERVICE: &str = "ayang/server1";

/// How long anything may take to be seen: far over every TTL here.
const PATIENCE: Duration = Duration::from_secs(30);

/// etcd's least one, for the instances whose lease expires.
const SHORT_TTL: i64 = 2;

on_both!(
    the_go_client_reaches_servers_on_tonic,
    the_go_client_reaches_waymark_s_instances_and_follows_them,
    waymark_reaches_go_s_instances_and_follows_them,
    both_write_the_same_bytes_and_go_reads_waymark_s_metadata,
    waymark_reads_go_s_metadata_and_balances_by_it,
);

/// Programs in Go. None, and a line on stderr about `what`, when they are not to be had and are not
/// required.
pub(crate) fn go_or_skip<T>(programs: &'static Result<T, String>, what: &str) -> Option<&'static T> {
    match programs {
        Ok(programs) => Some(programs),
        Err(missing) => {
            let required = std::env::var_os("REQUIRE_GO").is_some_and(|value| value == "1");
            assert!(!required, "REQUIRE_GO=1, but {missing}");
            eprintln!("SKIPPED {what}: {missing}");
            None
        }
    }
}

/// The Go programs.
struct Go {
    server: PathBuf,
    client: PathBuf,
}

impl Go {
    /// Builds the programs, once a run. None, and a line on stderr, when that cannot be and is not
    /// required.
    async fn programs() -> Option<&'static Self> {
        static PROGRAMS: OnceLock<Result<Go, String>> = OnceLock::new();
        let programs = tokio::task::spawn_blocking(|| PROGRAMS.get_or_init(Self::build)).await.unwrap();
        go_or_skip(programs, "the test with the Go client")
    }

    /// An error says what is missing on this machine. That the programs do not compile is a failure
    /// everywhere.
    fn build() -> Result<Self, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/go");
        let go = |args: &[&OsStr]| {
            let output = Command::new("go").args(args).current_dir(&source).stdin(Stdio::null()).output();
            let output = output.map_err(|error| format!("there is no Go on the PATH: {error}"))?;
            Ok::<_, String>((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
        };
        // Also fails where this Go is too old and cannot download the release that go.mod asks for.
        let (there, said) = go(&["mod", "download"].map(OsStr::new))?;
        if !there {
            return Err(format!("Go's modules for examples/go are not to be had:\n{said}"));
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        std::fs::create_dir_all(&target).unwrap();
        let build = ["build", "-buildvcs=false", "-o"].map(OsStr::new);
        let what = ["./server", "./client"].map(OsStr::new);
        let (compiled, said) = go(&[&build[..], &[target.join("").as_os_str()], &what[..]].concat())?;
        assert!(compiled, "examples/go does not build:\n{said}");
        Ok(Self { server: target.join("server"), client: target.join("client") })
    }

    fn client(&self, registry: &Registry, args: &[&str]) -> GoClient {
        let args = [&["-etcd", &registry.url, "-interval", "5ms"], args].concat();
        GoClient { program: Program::start(&self.client, &args), answers: VecDeque::new(), up: BTreeMap::new() }
    }

    async fn server(&self, registry: &Registry, args: &[&str]) -> GoServer {
        let mut program = Program::start(&self.server, &[&["-etcd", &registry.url], args].concat());
        let address = program.line_of("serving").await;
        let registered = program.line_of("registered").await;
        let key = registered.split(' ').next().unwrap().to_owned();
        GoServer { program, address, key }
    }
}

/// A running Go program, killed when dropped.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = tokio::process::Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line: its first word, and the rest.
    async fn line(&mut self) -> (String, String) {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("another line in time").unwrap();
        let line = line.expect("the Go program goes on");
        let (word, rest) = line.split_once(' ').expect("a word and more");
        (word.to_owned(), rest.to_owned())
    }

    /// The next line, which must begin with this word.
    async fn line_of(&mut self, expected: &str) -> String {
        let (word, rest) = self.line().await;
        assert_eq!(word, expected, "{rest}");
        rest
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }
}

/// The Go client, calling all the time.
struct GoClient {
    program: Program,
    /// Who answered the last calls, the newest last.
    answers: VecDeque<String>,
    /// The endpoints as Go's naming package reads them: key to address and metadata.
    up: BTreeMap<String, (String, Value)>,
}

impl GoClient {
    /// Takes one line in. A failed call fails the test: every instance stays reachable for as long
    /// as it is registered.
    async fn step(&mut self) {
        let (word, rest) = self.program.line().await;
        match word.as_str() {
            "answer" => {
                let (instance, reply) = rest.split_once(' ').unwrap();
                assert_eq!(reply, "server1:hello");
                self.answers.push_back(instance.to_owned());
                if self.answers.len() > 100 {
                    self.answers.pop_front();
                }
            }
            "up" => {
                let mut parts = rest.splitn(3, ' ').map(str::to_owned);
                let (key, address, metadata) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
                self.up.insert(key.unwrap(), (address, serde_json::from_str(&metadata).unwrap()));
            }
            "down" => {
                self.up.remove(&rest).expect("it was up");
            }
            _ => panic!("the Go client: {word} {rest}"),
        }
    }

    /// Waits until calls are answered by these instances alone, by each in its turn.
    async fn answered_by(&mut self, instances: &[&str]) {
        const ROUNDS: usize = 3;
        let mut expected: Vec<_> = instances.iter().flat_map(|instance| vec![instance.to_string(); ROUNDS]).collect();
        expected.sort();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut last: Vec<_> = self.answers.iter().rev().take(expected.len()).cloned().collect();
            last.sort();
            if last == expected {
                return;
            }
            assert!(Instant::now() < deadline, "expected {instances:?}, got {:?}, knows {:?}", self.answers, self.up);
            self.step().await;
        }
    }

    /// Waits until this many endpoints are known.
    async fn knows(&mut self, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.up.len() != n {
            assert!(Instant::now() < deadline, "expected {n} endpoints, got {:?}", self.up);
            self.step().await;
        }
    }
}

/// A registered Go server.
struct GoServer {
    program: Program,
    address: String,
    key: String,
}

impl GoServer {
    /// Asks it to stop, and waits until it has taken itself out of the registry.
    async fn leave(mut self) {
        self.program.signal("TERM");
        assert_eq!(self.program.line_of("deregistered").await, self.key);
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

async fn node(registry: &Registry, policy: &str) -> Node {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = NodeConfig {
        listen: free,
        admin: free,
        client: ClientConfig {
            registry: RegistrySource::Etcd(Box::new(RegistryConfig::new([registry.url.clone()]))),
            policy: PluginChoice::bundled(policy),
            // Shared by all tests of this run and of the next: an unoptimized compiler takes
            // seconds for each component.
            plugin_cache: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins")),
            ..ClientConfig::default()
        },
        ports: Ports { drain_timeout: Duration::from_secs(1), ..Ports::default() },
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

async fn register(node: &Node, name: &str, endpoint: Endpoint, ttl: i64) -> Registration {
    let config =
        RegistrationConfig { ttl: Ttl::from_secs(ttl).unwrap(), ..RegistrationConfig::new(service(name), endpoint) };
    let registration = node.registry().register(config, node.key_scheme()).await.unwrap();
    registration.registered().await.unwrap();
    registration
}

/// An instance that Waymark registers. It serves until it is dropped, registered or not: only the
/// registry tells clients to leave it.
struct Instance {
    address: String,
    registration: Registration,
    _server: Program,
}

impl Instance {
    async fn start(go: &Go, node: &Node, ttl: i64) -> Self {
        let mut server = Program::start(&go.server, &["-register=false"]);
        let address = server.line_of("serving").await;
        let registration = register(node, SERVICE, Endpoint::at(address.parse().unwrap()), ttl).await;
        Self { address, registration, _server: server }
    }
}

/// Waits for a snapshot that is as it should be.
async fn until(reader: &mut Reader, right: impl Fn(&Snapshot) -> bool) -> Vec<Endpoint> {
    let seen = async {
        while !right(&reader.current()) {
            reader.changed().await.unwrap();
        }
    };
    let done = timeout(PATIENCE, seen).await;
    assert!(done.is_ok(), "the snapshot stays {:?}", reader.current());
    reader.current().endpoints.to_vec()
}

/// Calls through the node's proxy, and says which instance answered.
async fn try_call(client: &mut Greeter1Client<Channel>) -> Result<String, Status> {
    let mut request = Request::new(HelloRequest { name: "hello".into() });
    request.metadata_mut().insert("waymark-service", SERVICE.parse().unwrap());
    let response = client.say_hello1(request).await?;
    assert_eq!(response.get_ref().reply, "server1:hello");
    Ok(response.metadata().get(INSTANCE_HEADER).unwrap().to_str().unwrap().to_owned())
}

/// Calls until each of the instances has answered its share of the last calls, and nobody else. At
/// first it may be otherwise: a call does not wait long for a connection while another instance can
/// serve it. No call may fail.
async fn served_by(client: &mut Greeter1Client<Channel>, shares: &[(&str, usize)]) {
    let mut expected: Vec<_> = shares.iter().flat_map(|(instance, n)| vec![(*instance).to_owned(); *n]).collect();
    expected.sort();
    let mut answers = VecDeque::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut last: Vec<_> = answers.iter().cloned().collect();
        last.sort();
        if last == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {shares:?}, got {answers:?}");
        answers.push_back(try_call(client).await.unwrap());
        if answers.len() > expected.len() {
            answers.pop_front();
        }
    }
}

async fn dial(node: &Node) -> Greeter1Client<Channel> {
    Greeter1Client::connect(format!("http://{}", node.proxy_addr())).await.unwrap()
}

async fn the_go_client_reaches_servers_on_tonic(registry: Registry) {
    let Some(go) = Go::programs().await else { return };
    let node = node(&registry, "round_robin").await;
    // grpc-go's default authority is the service's name, with `%2F` for its slashes, and h2 refuses
    // a `%` there.
    for args in [&["-service", "greeter"][..], &["-service", SERVICE, "-authority", "greeter"]] {
        let mut addresses = Vec::new();
        let mut registrations = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            tokio::spawn(greeter::serve(listener, GreeterConfig::default(), std::future::pending()));
            registrations.push(register(&node, args[1], Endpoint::at(address.parse().unwrap()), 10).await);
            addresses.push(address);
        }
        go.client(&registry, args).answered_by(&[&addresses[0], &addresses[1]]).await;
    }
    node.shutdown().await;
}

async fn the_go_client_reaches_waymark_s_instances_and_follows_them(registry: Registry) {
    let Some(go) = Go::programs().await else { return };
    let node = node(&registry, "round_robin").await;
    let first = Instance::start(go, &node, 10).await;
    let mut client = go.client(&registry, &["-service", SERVICE]);
    client.answered_by(&[&first.address]).await;
    // Joins.
    let second = Instance::start(go, &node, 10).await;
    let expiring = Instance::start(go, &node, SHORT_TTL).await;
    client.answered_by(&[&first.address, &second.address, &expiring.address]).await;
    // A leave.
    first.registration.deregister().await.unwrap();
    client.answered_by(&[&second.address, &expiring.address]).await;
    // An expiry: nobody deletes the key, nobody keeps its lease alive. The last keep-alive was at
    // most a third of the TTL ago.
    let begun = Instant::now();
    expiring.registration.orphan();
    client.knows(1).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "the key went before its lease could have expired");
    client.answered_by(&[&second.address]).await;
    // And a join after all that.
    let third = Instance::start(go, &node, 10).await;
    client.answered_by(&[&second.address, &third.address]).await;
    node.shutdown().await;
}

async fn waymark_reaches_go_s_instances_and_follows_them(registry: Registry) {
    let Some(go) = Go::programs().await else { return };
    let node = node(&registry, "round_robin").await;
    let mut reader = node.registry().subscribe(service(SERVICE), node.key_scheme()).await.unwrap();
    let mut balanced = node.services().discover(&service(SERVICE)).await.unwrap().subscribe();
    let mut see = async |servers: &[&GoServer]| {
        let mut expected: Vec<_> = servers.iter().map(|server| server.address.clone()).collect();
        expected.sort();
        let read = until(&mut reader, |snapshot| snapshot.endpoints.len() == expected.len()).await;
        let mut read: Vec<_> = read.iter().map(|endpoint| endpoint.address.to_string()).collect();
        read.sort();
        assert_eq!(read, expected);
        let followed = async {
            while balanced.current().endpoints.len() != expected.len() {
                balanced.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, followed).await.expect("the balancer follows");
    };

    let first = go.server(&registry, &["-service", SERVICE]).await;
    see(&[&first]).await;
    let mut client = dial(&node).await;
    served_by(&mut client, &[(&first.address, 5)]).await;
    // Joins.
    let second = go.server(&registry, &["-service", SERVICE]).await;
    let expiring = go.server(&registry, &["-service", SERVICE, "-ttl", &SHORT_TTL.to_string()]).await;
    see(&[&first, &second, &expiring]).await;
    served_by(&mut client, &[(&first.address, 5), (&second.address, 5), (&expiring.address, 5)]).await;
    // A leave.
    first.leave().await;
    see(&[&second, &expiring]).await;
    served_by(&mut client, &[(&second.address, 5), (&expiring.address, 5)]).await;
    // An expiry: killed, it can say nothing to the registry. Calls that another can answer do not
    // fail meanwhile.
    let begun = Instant::now();
    expiring.program.signal("KILL");
    // One call may meet the dying process: it may have seen the request, so gRPC forbids sending
    // that again.
    let mut lost = 0;
    while node.registry().entries(&expiring.key, 1).await.unwrap().len() == 1 {
        match try_call(&mut client).await {
            Ok(_) => {}
            Err(status) if status.metadata().get("waymark-error").is_some_and(|kind| kind == "endpoint-lost") => {
                lost += 1;
            }
            Err(status) => panic!("{status}"),
        }
        assert!(begun.elapsed() < PATIENCE, "the key of a killed server stays");
    }
    assert!(lost <= 1, "{lost} calls were lost");
    assert!(begun.elapsed() > Duration::from_secs(1), "the key went before its lease could have expired");
    see(&[&second]).await;
    served_by(&mut client, &[(&second.address, 5)]).await;
    // And a join after all that.
    let third = go.server(&registry, &["-service", SERVICE]).await;
    see(&[&second, &third]).await;
    served_by(&mut client, &[(&second.address, 5), (&third.address, 5)]).await;
    node.shutdown().await;
}

async fn both_write_the_same_bytes_and_go_reads_waymark_s_metadata(registry: Registry) {
    let Some(go) = Go::programs().await else { return };
    let node = node(&registry, "round_robin").await;
    let nested = r#"{"rack":{"row":[1,2,null]}}"#;
    let awkward = "<a> & \"b\" \\ é 😀 \u{2028} \u{7f} \n";
    let metadata = [("note".to_owned(), awkward.to_owned()), ("place".to_owned(), nested.to_owned())];
    let rich = Endpoint {
        locality: Locality::zone("eu-1"),
        weight: 3,
        metadata: metadata.into(),
        ..Endpoint::at("192.0.2.7:8080".parse().unwrap())
    };
    let rich_in_go = json!({"zone": "eu-1", "weight": 3, "note": awkward, "place": nested});
    for (endpoint, in_go) in [(Endpoint::at("127.0.0.1:8080".parse().unwrap()), Value::Null), (rich, rich_in_go)] {
        let address = endpoint.address.to_string();
        let ours = register(&node, SERVICE, endpoint, 10).await;
        let entries = node.registry().entries("ayang/server1/", 10).await.unwrap();
        let mut client = go.client(&registry, &["-service", SERVICE]);
        client.knows(1).await;
        assert_eq!(client.up[&format!("ayang/server1/{address}")], (address.clone(), in_go.clone()));
        ours.deregister().await.unwrap();

        let args = ["-service", SERVICE, "-advertise", &address, "-metadata", &in_go.to_string()];
        let theirs = go.server(&registry, &args).await;
        assert_eq!(
            node.registry().entries("ayang/server1/", 10).await.unwrap(),
            entries,
            "what Go writes for the same"
        );
        if in_go.is_null() {
            assert_eq!(entries[0].key, "ayang/server1/127.0.0.1:8080");
            assert_eq!(entries[0].value, br#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#);
        }
        theirs.leave().await;
    }
    node.shutdown().await;
}

async fn waymark_reads_go_s_metadata_and_balances_by_it(registry: Registry) {
    let Some(go) = Go::programs().await else { return };
    let node = node(&registry, "weighted").await;
    let metadata = json!({
        "zone": "eu-1", "weight": 3, "version": "1.4", "ok": true, "none": null,
        "place": {"rack": {"row": [1, 2.5, null]}, "city": "Zürich <west>"},
    });
    let rich = go.server(&registry, &["-service", SERVICE, "-metadata", &metadata.to_string()]).await;
    let plain = go.server(&registry, &["-service", SERVICE, "-metadata", r#""blue""#]).await;
    let mut reader = node.registry().subscribe(service(SERVICE), node.key_scheme()).await.unwrap();
    let mut endpoints = until(&mut reader, |snapshot| snapshot.endpoints.len() == 2).await;
    endpoints.sort_by_key(|endpoint| endpoint.weight);
    let [one, three] = &endpoints[..] else { panic!("{endpoints:?}") };
    let pairs = |endpoint: &Endpoint| endpoint.metadata.iter().cloned().collect::<BTreeMap<_, _>>();

    assert_eq!((one.address.as_str(), &*one.locality.zone, one.weight), (plain.address.as_str(), "", 1));
    assert_eq!(pairs(one), BTreeMap::from([("metadata".to_owned(), "blue".to_owned())]));

    assert_eq!((three.address.as_str(), &*three.locality.zone, three.weight), (rich.address.as_str(), "eu-1", 3));
    let mut read = pairs(three);
    let place: Value = serde_json::from_str(&read.remove("place").unwrap()).unwrap();
    assert_eq!(place, metadata["place"]);
    let expected = [("version", "1.4"), ("ok", "true"), ("none", "null")];
    assert_eq!(read, expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());

    let mut balanced = node.services().discover(&service(SERVICE)).await.unwrap().subscribe();
    let followed = async {
        while balanced.current().endpoints.len() != 2 {
            balanced.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, followed).await.expect("the balancer follows");
    served_by(&mut dial(&node).await, &[(&rich.address, 15), (&plain.address, 5)]).await;
    node.shutdown().await;
}
