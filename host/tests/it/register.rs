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
        let mut process = Command::new(env!("CARGO_BIN_EXE_waymark"))
            .args(["register", "svc", "--registry", &registry.url])
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
    let script = "echo up; sleep 1000 & trap 'kill $!; exit 7' USR1; wait";
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
async fn a_command_that_never_serves_is_never_registered() {
    let mut registry = Registry::embedded().await;
    let (listener, address) = instance().await;
    drop(listener);
    let script = "echo up; sleep 1000 & trap 'kill $!; exit 3' USR1; wait";
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
