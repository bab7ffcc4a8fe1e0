//! gRPC's service config in a file of a `[[service]]`, in a node as a program.

use std::{fs, path::PathBuf};

use waymark_node::admin::NodeClient;

use super::{
    process::Process,
    support::{Client, Instance, echo, soon},
};

/// A configuration whose service `svc` has this service config.
struct Files {
    config: PathBuf,
    _folder: tempfile::TempDir,
}

impl Files {
    fn new(json: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, path) = (folder.path().join("waymark.toml"), folder.path().join("svc.json"));
        fs::write(&path, json).unwrap();
        fs::write(&config, format!("[[service]]\nname = \"svc\"\nservice-config = '{}'", path.display())).unwrap();
        Self { config, _folder: folder }
    }

    fn flags(&self) -> [&str; 2] {
        ["--config", self.config.to_str().unwrap()]
    }
}

/// A node with this service config, in front of these instances.
async fn node(json: &str, instances: &[&Instance]) -> Process {
    let process = Process::with(&Files::new(json).flags()).await;
    for instance in instances {
        process.register("svc", instance.address).await;
    }
    let admin = NodeClient::connect(&process.admin.to_string()).await.unwrap();
    let mut watch = admin.watch(&"svc".parse().unwrap(), true).await.unwrap();
    soon(async { while watch.next().await.unwrap().endpoints.len() < instances.len() {} }).await;
    process
}

#[tokio::test]
async fn methods_are_called_as_it_says() {
    let fails = Instance::new(|_| async { tonic::Status::aborted("again").into_http() }).await;
    let serves = Instance::new(|request| async move {
        if request.uri().path().starts_with("/test.Slow/") {
            std::future::pending::<()>().await;
        }
        echo("a", request).await
    });
    let serves = serves.await;
    let json = r#"{"methodConfig": [
        {"name": [{"service": "test.Echo"}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.001s",
            "maxBackoff": "0.01s", "backoffMultiplier": 2, "retryableStatusCodes": ["ABORTED"]}},
        {"name": [{"service": "test.Slow", "method": "Call"}], "timeout": "0.2s"}
    ]}"#;
    let process = node(json, &[&fails, &serves]).await;
    let mut client = Client::to(process.node).await;
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!((fails.n_calls(), serves.n_calls()), (5, 10), "every second call had to be sent again");
    // A method with a timeout and no retries: each instance is asked in its turn.
    let mut codes = Vec::new();
    for _ in 0..2 {
        let request = Client::request("svc", "/test.Slow/Call").body(tonic::body::Body::empty()).unwrap();
        codes.push(client.answer(request).await.code().to_owned());
    }
    codes.sort();
    assert_eq!(codes, ["10", "4"]);
}

#[tokio::test]
async fn a_service_is_balanced_as_it_says() {
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    let json = r#"{"loadBalancingConfig": [{"grpclb": {}}, {"pick_first": {}}, {"round_robin": {}}]}"#;
    let process = node(json, &[&a, &b]).await;
    let mut client = Client::to(process.node).await;
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    let mut calls = [a.n_calls(), b.n_calls()];
    calls.sort_unstable();
    assert_eq!(calls, [0, 10]);
}

#[tokio::test]
async fn a_mistake_in_it_stops_the_start_with_where_it_is() {
    for (json, says) in [
        (r#"{"methodConfig": [{"name": [{}], "timeout": "soon"}]}"#, "svc.json: methodConfig[0].timeout: "),
        (r#"{"methodConfig": "#, "svc.json: no service config: "),
    ] {
        let files = Files::new(json);
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_waymark"))
            .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", "none"])
            .args(files.flags())
            .output();
        let output = soon(output).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("service svc: service-config") && said.contains(says),
            "{said}"
        );
    }
}

/// As gRPC's clients are given them.
#[tokio::test]
async fn what_clients_really_have_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = String::new();
    for (name, policy) in [
        ("shuffled", r#"{"pick_first": {"shuffleAddressList": true}}"#),
        (
            "ring",
            r#"{"ring_hash_experimental": {"minRingSize": "512", "maxRingSize": 4096, "requestHashHeader": "x-user"}}"#,
        ),
        ("least", r#"{"least_request_experimental": {"choiceCount": 3}}"#),
        (
            "weighted",
            r#"{"weighted_round_robin": {"blackoutPeriod": "10s", "weightExpirationPeriod": "180s", "errorUtilizationPenalty": 1.5}}"#,
        ),
    ] {
        let path = folder.path().join(format!("{name}.json"));
        fs::write(
            &path,
            format!(r#"{{"loadBalancingConfig": [{{"xds_experimental": {{}}}}, {policy}, {{"round_robin": {{}}}}]}}"#),
        )
        .unwrap();
        let service = ["[[service]]\nname = \"", name, "\"\nservice-config = '", path.to_str().unwrap(), "'\n"];
        config += &service.concat();
    }
    let path = folder.path().join("waymark.toml");
    fs::write(&path, config).unwrap();
    let process = Process::with(&["--config", path.to_str().unwrap()]).await;
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    let admin = NodeClient::connect(&process.admin.to_string()).await.unwrap();
    for name in ["shuffled", "ring", "least", "weighted"] {
        for instance in [&a, &b] {
            process.register(name, instance.address).await;
        }
        let mut watch = admin.watch(&name.parse().unwrap(), true).await.unwrap();
        soon(async { while watch.next().await.unwrap().endpoints.len() < 2 {} }).await;
    }
    let mut client = Client::to(process.node).await;
    for name in ["shuffled", "ring", "least", "weighted"] {
        assert_eq!(client.echo(name, "x").await.code(), "0", "{name}");
    }
    // The header is the key of the ring's calls: each user stays at one instance.
    for user in ["ann", "bob", "eve"] {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let body = tonic::body::Body::new(http_body_util::Full::new(super::support::message(b"\x0a\x01x")));
            let request = Client::request("ring", "/test.Echo/Unary").header("x-user", user).body(body).unwrap();
            names.insert(client.answer(request).await.data);
        }
        assert_eq!(names.len(), 1, "{user}");
    }
}
