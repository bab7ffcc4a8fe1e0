//! gRPC's public interoperability tests through the node: our client and server
//! (`examples/interop`), and grpc-go's own, of the release that `examples/go/go.mod` names.
//!
//! Each case is run directly too, so that one which fails without the node is not blamed on it.
//! Without Go (or without the modules, which the first run downloads) the tests with Go say that
//! they were skipped, and fail if `REQUIRE_GO=1`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use clap::ValueEnum as _;
use interop::{Case, Target, run};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use waymark_node::dataplane::{Options, Route, Routes};

use super::support::{LONG, Node, at, closed_port, soon};
use crate::go_interop::go_or_skip;

/// A node with all services of the tests, and a server at `address` behind it.
async fn node(address: SocketAddr) -> Node {
    let route = |name: &str| Route { grpc_service: Some(name.into()), ..Route::to("svc".parse().unwrap()) };
    let names = ["grpc.testing.TestService", "grpc.testing.UnimplementedService", "xds.service.orca.v3.OpenRcaService"];
    let node = Node::with(Routes::new(names.map(route)).unwrap(), Options::default()).await;
    node.set("svc", vec![at(address)]).await;
    node
}

async fn our_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(interop::serve(listener, std::future::pending()));
    address
}

/// Runs our client's cases, and fails with all that did.
async fn our_cases(directly: SocketAddr, through: SocketAddr) {
    let mut wrong = Vec::new();
    for case in Case::value_variants() {
        for (way, address) in [("directly", directly), ("through the node", through)] {
            if let Err(error) = run(*case, &Target { uri: format!("http://{address}") }).await {
                wrong.push(format!("{case:?} {way}: {error:#}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_of_our_client_and_server() {
    let server = our_server().await;
    let node = node(server).await;
    our_cases(server, node.address).await;
}

/// grpc-go's programs.
struct Go {
    client: PathBuf,
    server: PathBuf,
}

impl Go {
    /// None, and a line on stderr, when they are not to be had and are not required.
    async fn programs() -> Option<&'static Self> {
        static PROGRAMS: OnceLock<Result<Go, String>> = OnceLock::new();
        let programs = tokio::task::spawn_blocking(|| PROGRAMS.get_or_init(Self::install)).await.unwrap();
        go_or_skip(programs, "the interoperability tests with grpc-go")
    }

    /// `go install` takes a version only outside of a module, and then needs no go.sum of ours.
    fn install() -> Result<Self, String> {
        const MODULE: &str = "google.golang.org/grpc";
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/go/go.mod");
        let modules = fs::read_to_string(modules).unwrap();
        let mut words = modules.split_whitespace().skip_while(|word| *word != MODULE);
        let version = words.nth(1).expect("examples/go needs grpc-go");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("grpc-go-{version}"));
        let programs = Self { client: target.join("client"), server: target.join("server") };
        if programs.client.exists() && programs.server.exists() {
            return Ok(programs);
        }
        let packages = ["client", "server"].map(|name| format!("{MODULE}/interop/{name}@{version}"));
        let output = std::process::Command::new("go")
            .arg("install")
            .args(packages)
            .env("GOBIN", &target)
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("there is no Go on the PATH: {error}"))?;
        if output.status.success() {
            return Ok(programs);
        }
        Err(format!("grpc-go {version} is not to be had:\n{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The server, listening.
    async fn server(&self) -> (SocketAddr, Child) {
        let address = closed_port().await;
        let mut command = Command::new(&self.server);
        command.arg("-port").arg(address.port().to_string());
        let server = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        soon(async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        (address, server)
    }

    /// What went wrong with a case, if anything.
    async fn case(&self, case: &str, address: SocketAddr) -> Result<(), String> {
        let mut command = Command::new(&self.client);
        command.args(["-server_host", "127.0.0.1", "-test_case", case]);
        command.arg("-server_port").arg(address.port().to_string());
        // Time is not what is tested.
        command.args(["-soak_per_iteration_max_acceptable_latency_ms", "20000", "-soak_overall_timeout_seconds", "30"]);
        if case.starts_with("orca") {
            command.arg("-service_config_json");
            command.arg(r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#);
        }
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(LONG, run).await.map_err(|_| "it hangs".to_owned())?.unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

/// Those that need nothing of Google's. `pick_first_unary` is about a client that knows several
/// servers.
const GO_CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
    "orca_oob",
];

async fn go_cases(go: &Go, cases: &[&str], directly: SocketAddr, through: SocketAddr) {
    let mut wrong = Vec::new();
    for case in cases {
        for (way, address) in [("directly", directly), ("through the node", through)] {
            if let Err(error) = go.case(case, address).await {
                wrong.push(format!("{case} {way}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_of_grpc_go_s_client_and_server() {
    let Some(go) = Go::programs().await else { return };
    let (server, _process) = go.server().await;
    let node = node(server).await;
    go_cases(go, &GO_CASES, server, node.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_of_grpc_go_s_client_and_our_server() {
    let Some(go) = Go::programs().await else { return };
    let server = our_server().await;
    let node = node(server).await;
    // Ours has no stream of load reports.
    let cases: Vec<_> = GO_CASES.into_iter().filter(|case| *case != "orca_oob").collect();
    go_cases(go, &cases, server, node.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_of_our_client_and_grpc_go_s_server() {
    let Some(go) = Go::programs().await else { return };
    let (server, _process) = go.server().await;
    let node = node(server).await;
    our_cases(server, node.address).await;
}
