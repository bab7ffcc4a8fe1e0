//! `waymark register` as a program: checks, signals and exit codes, on an embedded registry.

use std::{process::Stdio, time::Duration};

use etcd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::embedded::fixture::{LOOPBACK, Registry};

const PATIENCE: Duration = Duration::from_secs(30);

/// `waymark register svc …`, with what its COMMAND prints.
struct Register {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Register {
    fn start(registry: &Registry, arguments: &[&str]) -> Self {
        Self::start_at(&registry.url, arguments)
    }

    fn start_at(url: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_waymark"))
            .args(["register", "svc", "--registry", url])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").unwrap().expect("it goes on")
    }

    async fn exit_code(&mut self) -> i32 {
        timeout(PATIENCE, self.process.wait()).await.expect("an end in time").unwrap().code().unwrap()
    }
}

async fn is_registered(client: &mut Client, address: &str) -> bool {
    client.get(format!("svc/{address}"), None).await.unwrap().count() == 1
}

/// Waits until the instance is registered, or is not.
async fn until_registered(client: &mut Client, address: &str, wanted: bool) {
    let waiting = async {
        while is_registered(client, address).await != wanted {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{address} registered: not {wanted} in time"));
}

/// A listener of the test's own, so that a COMMAND need not listen.
async fn instance() -> (TcpListener, String) {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn the_commands_exit_code_is_passed_on_and_the_instance_deregistered() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let script = "sleep 1000 & trap 'kill $!; exit 7' USR1; echo up; wait";
    let mut register = Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", script]);
    assert_eq!(register.line().await, "up");
    until_registered(&mut registry.client, &address, true).await;
    register.signal(Signal::USR1);
    assert_eq!(register.exit_code().await, 7);
    assert!(!is_registered(&mut registry.client, &address).await);
}

#[tokio::test]
async fn a_command_that_a_signal_ends_is_told_from_one_that_fails() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let mut register =
        Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let pid = register.line().await.parse().unwrap();
    until_registered(&mut registry.client, &address, true).await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(register.exit_code().await, 128 + 9);
    assert!(!is_registered(&mut registry.client, &address).await);
}

#[tokio::test]
async fn the_instance_is_gone_before_the_command_hears_of_the_end() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let script = "trap 'echo term' TERM; echo up; while kill -0 $PPID; do sleep 0.05; done";
    let mut register = Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", script]);
    assert_eq!(register.line().await, "up");
    until_registered(&mut registry.client, &address, true).await;
    register.signal(Signal::TERM);
    assert_eq!(register.line().await, "term");
    assert!(!is_registered(&mut registry.client, &address).await);
    // It did not end; what follows reaches it too.
    register.signal(Signal::TERM);
    assert_eq!(register.line().await, "term");
}

#[tokio::test]
async fn signals_that_mean_no_end_reach_the_command_alone() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let script = "trap 'echo hup' HUP; trap 'echo usr2' USR2; echo up; while kill -0 $PPID; do sleep 0.05; done";
    let mut register = Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", script]);
    assert_eq!(register.line().await, "up");
    until_registered(&mut registry.client, &address, true).await;
    for (signal, said) in [(Signal::HUP, "hup"), (Signal::USR2, "usr2")] {
        register.signal(signal);
        assert_eq!(register.line().await, said);
        assert!(is_registered(&mut registry.client, &address).await);
    }
}

#[tokio::test]
async fn a_command_runs_before_its_registry_does_and_is_registered_when_that_comes() {
    let (_listener, address) = instance().await;
    let at = TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
    let url = format!("http://{at}");
    let port = address.rsplit_once(':').unwrap().1;
    let mut register =
        Register::start_at(&url, &["--advertise", &format!(":{port}"), "--", "sh", "-c", "echo up; exec sleep 1000"]);
    assert_eq!(register.line().await, "up");
    let _server = waymark_node::embedded::Server::start(at, waymark_node::embedded::Options::default()).await.unwrap();
    let mut client = Client::connect([&url], None).await.unwrap();
    until_registered(&mut client, &address, true).await;
    register.signal(Signal::TERM);
    assert_eq!(register.exit_code().await, 128 + 15);
    assert!(!is_registered(&mut client, &address).await);
}

#[tokio::test]
async fn a_command_is_asked_to_end_when_what_registers_it_is_killed() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let script = "trap 'echo term; exit' TERM; echo up; while :; do sleep 0.05; done";
    let mut register = Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", script]);
    assert_eq!(register.line().await, "up");
    until_registered(&mut registry.client, &address, true).await;
    register.signal(Signal::KILL);
    assert_eq!(register.line().await, "term");
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_said_and_not_registered() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    for program in ["/no/such/program", "no-such-program", "/etc/passwd", "/"] {
        let output = Command::new(env!("CARGO_BIN_EXE_waymark"))
            .args(["register", "svc", "--registry", &registry.url, "--advertise", &address, "--no-wait", "--", program])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("cannot start"), "{program}: {said}");
        assert!(!is_registered(&mut registry.client, &address).await);
    }
}

#[tokio::test]
async fn signals_that_ask_for_no_end_end_no_registration_without_a_command() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let mut register = Register::start(&registry, &["--advertise", &address]);
    until_registered(&mut registry.client, &address, true).await;
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM] {
        register.signal(signal);
        sleep(Duration::from_millis(100)).await;
        assert!(is_registered(&mut registry.client, &address).await, "{signal:?}");
    }
    register.signal(Signal::INT);
    assert_eq!(register.exit_code().await, 0);
    assert!(!is_registered(&mut registry.client, &address).await);
}

#[tokio::test]
async fn a_registration_outlives_whoever_read_what_it_says() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let mut process = Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["register", "svc", "--registry", &registry.url, "--advertise", &address, "--", "sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop((process.stdout.take(), process.stderr.take()));
    until_registered(&mut registry.client, &address, true).await;
    // It says that the registration is lost, and that it is back.
    let leases = registry.client.leases().await.unwrap();
    for lease in leases.leases() {
        registry.client.lease_revoke(lease.id()).await.unwrap();
    }
    until_registered(&mut registry.client, &address, true).await;
    assert_eq!(process.try_wait().unwrap(), None);
}

#[tokio::test]
async fn a_unix_socket_is_registered_as_it_is() {
    let mut registry = Registry::embedded().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let mut register =
        Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", "echo up; exec sleep 1000"]);
    assert_eq!(register.line().await, "up");
    until_registered(&mut registry.client, &address, true).await;
}

/// What stands in the registry for an instance.
async fn value(client: &mut Client, address: &str) -> String {
    let found = client.get(format!("svc/{address}"), None).await.unwrap();
    found.kvs().first().map_or(String::new(), |kv| kv.value_str().unwrap().to_owned())
}

async fn until_value(client: &mut Client, address: &str, part: &str) {
    let waiting = async {
        while !value(client, address).await.contains(part) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{address}: nothing with {part:?} in time"));
}

#[tokio::test]
async fn a_registration_follows_its_settings_and_whoever_writes_its_entry() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    let settings = path.to_str().unwrap();
    let script = ["--", "sh", "-c", "echo up; exec sleep 1000"];
    let arguments = [&["--advertise", &address, "--weight", "2", "--settings", settings][..], &script].concat();
    let mut register = Register::start(&registry, &arguments);
    assert_eq!(register.line().await, "up");
    let client = &mut registry.client;
    until_value(client, &address, "\"weight\":2").await;
    std::fs::write(&path, "weight = 7\n").unwrap();
    until_value(client, &address, "\"weight\":7").await;
    std::fs::write(&path, "drain = true\n").unwrap();
    until_registered(client, &address, false).await;
    std::fs::write(&path, "").unwrap();
    until_value(client, &address, "\"weight\":2").await;
    // An operator's hand, under no lease.
    let theirs = value(client, &address).await.replace("\"weight\":2", "\"weight\":0");
    client.put(format!("svc/{address}"), theirs.clone(), None).await.unwrap();
    let leased = async {
        while client.get(format!("svc/{address}"), None).await.unwrap().kvs()[0].lease() == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, leased).await.expect("it goes with the instance");
    assert_eq!(value(client, &address).await, theirs);
    register.signal(Signal::TERM);
    assert_eq!(register.exit_code().await, 128 + 15);
    assert!(!is_registered(&mut registry.client, &address).await);
}

#[tokio::test]
async fn settings_that_say_something_else_are_refused_before_anything_starts() {
    let registry = Registry::embedded().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, "weight = -3").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["register", "svc", "--registry", &registry.url, "--advertise", "192.0.2.1:1"])
        .args(["--settings", path.to_str().unwrap(), "--", "echo", "started"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("settings.toml"), "{said}");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_command_that_never_serves_is_never_registered() {
    let mut registry = Registry::embedded().await;
    let (listener, address) = instance().await;
    drop(listener);
    let script = "sleep 1000 & trap 'kill $!; exit 3' USR1; echo up; wait";
    let mut register = Register::start(&registry, &["--advertise", &address, "--", "sh", "-c", script]);
    assert_eq!(register.line().await, "up");
    // Long enough for some checks; being registered meanwhile could only be missed, not made up.
    sleep(Duration::from_millis(500)).await;
    assert!(!is_registered(&mut registry.client, &address).await);
    register.signal(Signal::USR1);
    assert_eq!(register.exit_code().await, 3);
}

async fn health_server() -> (String, HealthReporter) {
    let (listener, address) = instance().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, reporter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_registered_while_it_says_that_it_serves() {
    let mut registry = Registry::embedded().await;
    let (address, reporter) = health_server().await;
    reporter.set_service_status("hello", ServingStatus::NotServing).await;
    let arguments = ["--advertise", &address, "--check", "grpc:hello", "--check-interval", "0.05", "--check-fall", "2"];
    let _register = Register::start(&registry, &arguments);
    reporter.set_service_status("hello", ServingStatus::Serving).await;
    until_registered(&mut registry.client, &address, true).await;
    reporter.set_service_status("hello", ServingStatus::NotServing).await;
    until_registered(&mut registry.client, &address, false).await;
    reporter.set_service_status("hello", ServingStatus::Serving).await;
    until_registered(&mut registry.client, &address, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_check_heeds_the_status() {
    let mut registry = Registry::embedded().await;
    let (listener, address) = instance().await;
    let fit = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let answering = std::sync::Arc::clone(&fit);
    let app = axum::Router::new().route(
        "/healthz",
        axum::routing::get(move || async move {
            if answering.load(std::sync::atomic::Ordering::SeqCst) {
                Ok("fine")
            } else {
                Err(http::StatusCode::SERVICE_UNAVAILABLE)
            }
        }),
    );
    tokio::spawn(axum::serve(listener, app).into_future());
    let arguments =
        ["--advertise", &address, "--check", "http:/healthz", "--check-interval", "0.05", "--check-fall", "1"];
    let _register = Register::start(&registry, &arguments);
    until_registered(&mut registry.client, &address, true).await;
    fit.store(false, std::sync::atomic::Ordering::SeqCst);
    until_registered(&mut registry.client, &address, false).await;
}

#[tokio::test]
async fn a_port_alone_is_advertised_with_the_address_that_reaches_the_registry() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    let port = address.rsplit_once(':').unwrap().1;
    let _register = Register::start(&registry, &["--advertise", &format!("0.0.0.0:{port}"), "--check", "tcp"]);
    until_registered(&mut registry.client, &address, true).await;
    let _other = Register::start(&registry, &["--advertise", &format!(":{port}"), "--advertise-host", "192.0.2.7"]);
    until_registered(&mut registry.client, &format!("192.0.2.7:{port}"), true).await;
}

#[tokio::test]
async fn a_check_that_is_none_is_refused_with_those_there_are() {
    let registry = Registry::embedded().await;
    let output = Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["register", "svc", "--registry", &registry.url, "--advertise", "127.0.0.1:1", "--check", "udp"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("tcp, http:/PATH, grpc"), "{said}");
}

#[tokio::test]
async fn what_the_registry_will_never_take_ends_it_with_a_code_of_its_own() {
    let mut registry = Registry::embedded().await;
    let (_listener, address) = instance().await;
    // Over the 1.5 MiB of etcd's requests; one argument must not be that long.
    let metadata: Vec<_> = (0..18).map(|key| format!("--meta=k{key}={}", "x".repeat(100_000))).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["register", "svc", "--registry", &registry.url, "--advertise", &address, "--no-wait"])
        .args(metadata)
        .args(["--", "sleep", "1000"])
        .output();
    let output = timeout(PATIENCE, output).await.expect("the command is asked to end").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("request is too large"), "{said}");
    assert!(!is_registered(&mut registry.client, &address).await);
}
