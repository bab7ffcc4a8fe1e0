//! The servers as a client sees them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use greeter::{
    GreeterConfig, INSTANCE_HEADER, ServeError, Serving,
    hello::{HelloRequest, greeter1_client::Greeter1Client, greeter2_client::Greeter2Client},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

struct Running {
    address: SocketAddr,
    channel: Channel,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

async fn start(config: GreeterConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(greeter::serve(listener, config, async {
        let _ = stopped.await;
    }));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Running { address, channel, stop, task }
}

fn hello() -> HelloRequest {
    HelloRequest { name: "hello".into() }
}

#[tokio::test]
async fn each_service_answers_as_in_the_note_and_tells_its_instance() {
    let running = start(GreeterConfig::default()).await;
    let one = Greeter1Client::new(running.channel.clone()).say_hello1(hello()).await.unwrap();
    assert_eq!(one.metadata().get(INSTANCE_HEADER).unwrap(), &running.address.to_string());
    assert_eq!(one.into_inner().reply, "server1:hello");
    let two = Greeter2Client::new(running.channel.clone()).say_hello2(hello()).await.unwrap();
    assert_eq!(two.into_inner().reply, "server2:hello");
}

#[tokio::test]
async fn a_service_that_is_not_offered_is_unimplemented() {
    let running = start(GreeterConfig { serving: Serving::One, ..GreeterConfig::default() }).await;
    let refused = Greeter2Client::new(running.channel.clone()).say_hello2(hello()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    Greeter1Client::new(running.channel).say_hello1(hello()).await.unwrap();
}

#[tokio::test]
async fn health_is_told_for_each_service() {
    let running = start(GreeterConfig { serving: Serving::Two, ..GreeterConfig::default() }).await;
    let mut health = HealthClient::new(running.channel.clone());
    let mut check = async |service: &str| health.check(HealthCheckRequest { service: service.into() }).await;
    assert_eq!(check("hello.Greeter2").await.unwrap().into_inner().status(), ServingStatus::Serving);
    assert_eq!(check("").await.unwrap().into_inner().status(), ServingStatus::Serving);
    assert_eq!(check("hello.Greeter1").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_call_that_runs_at_shutdown_is_finished() {
    let running = start(GreeterConfig { delay: Duration::from_millis(300), ..GreeterConfig::default() }).await;
    let mut client = Greeter1Client::new(running.channel.clone());
    let call = tokio::spawn(async move { client.say_hello1(hello()).await });
    // Lets the call be sent first. A health check on the same connection is then answered only
    // after the server has it.
    tokio::task::yield_now().await;
    let mut health = HealthClient::new(running.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    running.stop.send(()).unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_inner().reply, "server1:hello");
    drop((running.channel, health));
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_never_ends_does_not_hold_up_shutdown() {
    let config = GreeterConfig { drain: Duration::from_millis(50), ..GreeterConfig::default() };
    let running = start(config).await;
    let mut health = HealthClient::new(running.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    running.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), running.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_name_that_metadata_cannot_hold_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = GreeterConfig { name: Some("two\nlines".into()), ..GreeterConfig::default() };
    let error = greeter::serve(listener, config, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, ServeError::Name(_)), "{error}");
}

#[test]
fn the_two_commands_talk_to_each_other() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_greeter-server"))
        .args(["--listen", "127.0.0.1:0", "--service", "2", "--name", "me"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.rsplit(' ').next().unwrap();

    let client = Command::new(env!("CARGO_BIN_EXE_greeter-client"))
        .args([address, "--greeter", "2", "--calls", "7", "--service", "ignored/without/a/node"])
        .output()
        .unwrap();
    let table = String::from_utf8(client.stdout).unwrap();
    assert!(client.status.success(), "{table}");
    assert!(table.contains("me        server2:hello         7  100.0%"), "{table}");

    let failing = Command::new(env!("CARGO_BIN_EXE_greeter-client")).args([address, "--calls", "1"]).output().unwrap();
    assert!(!failing.status.success());
    assert!(String::from_utf8(failing.stdout).unwrap().contains("1 x Unimplemented"));

    let terminated = Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
    if terminated.is_ok_and(|status| status.success()) {
        assert_eq!(lines.next().unwrap().unwrap(), "greeter-server: stopped");
        assert!(server.wait().unwrap().success());
    } else {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
