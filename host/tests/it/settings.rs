//! What flags, variables and files say, as the program takes it.

use std::{fs, process::Output};

use etcd_client::Client;
use tokio::process::Command;
use waymark_node::{
    app::Node,
    config::{ClientConfig, Embedded, NodeConfig, RegistrySource},
};

use crate::{
    embedded::fixture::{LOOPBACK, Registry},
    node::sees,
};

async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.args(arguments).envs(variables.iter().copied()).kill_on_drop(true);
    let Output { status, stderr, .. } = command.output().await.unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let registry = Registry::embedded().await;
    let empty = [
        "WAYMARK_NAMESPACE",
        "WAYMARK_REGISTRY_USER",
        "WAYMARK_REGISTRY_PASSWORD",
        "WAYMARK_REGISTRY_PASSWORD_FILE",
        "WAYMARK_REGISTRY_CA",
        "WAYMARK_REGISTRY_CERT",
        "WAYMARK_REGISTRY_KEY",
        "WAYMARK_KEY_SCHEME",
        "WAYMARK_CONFIG",
        "WAYMARK_LOG",
        "WAYMARK_LOG_JSON",
    ];
    let empty = empty.map(|name| (name, ""));
    let (code, said) = run(&["resolve", "svc", "--registry", &registry.url], &empty).await;
    assert!(code == Some(1) && said.contains("svc has no endpoints"), "{code:?}: {said}");
    // Neither a number nor an address: the default is.
    let more = [("WAYMARK_REGISTRY", ""), ("WAYMARK_TTL", ""), ("WAYMARK_WEIGHT", ""), ("WAYMARK_ADVERTISE_HOST", "")];
    let (code, said) = run(&["register", "svc", "--advertise", "192.0.2.1:1"], &more).await;
    assert!(code == Some(2) && said.contains("no registry is named"), "{code:?}: {said}");
}

#[tokio::test]
async fn a_relative_path_in_a_file_is_looked_for_in_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("node.toml");
    fs::write(&config, "[admin]\ntoken-file = \"sub/tokens\"\n").unwrap();
    let (code, said) = run(&["node", "--config", config.to_str().unwrap(), "--state-dir", "none"], &[]).await;
    let wanted = folder.path().join("sub/tokens");
    assert!(code != Some(0) && said.contains(wanted.to_str().unwrap()), "{code:?}: {said}");
}

#[tokio::test]
async fn a_ttl_out_of_its_range_is_refused_before_anything_is_asked() {
    for ttl in ["0", "-1", "31622401", "9223372036854775807"] {
        let arguments =
            ["register", "svc", "--registry", "http://192.0.2.1:1", "--advertise", "192.0.2.1:1", "--ttl", ttl];
        let (code, said) = run(&arguments, &[]).await;
        assert!(code == Some(2) && said.contains("--ttl") && said.contains("1 s to a year"), "{ttl}: {said}");
    }
}

#[tokio::test]
async fn an_embedded_registry_is_refused_what_it_does_not_have() {
    for flags in [
        ["--registry-user", "anna"],
        ["--registry-password", "secret"],
        ["--registry-ca", "ca.pem"],
        ["--namespace", "prod"],
    ] {
        let (code, said) =
            run(&[&["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], &flags[..]].concat(), &[]).await;
        assert!(code == Some(2) && said.contains("registry."), "{flags:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_embedded_registry_keeps_to_its_namespace() {
    let embedded = Embedded { namespace: Some("prod/".into()), ..Embedded::new(LOOPBACK) };
    let registry = RegistrySource::Embedded(embedded);
    let node = Node::start(NodeConfig {
        listen: LOOPBACK,
        admin: LOOPBACK,
        client: ClientConfig { registry, ..ClientConfig::default() },
        ..NodeConfig::default()
    });
    let node = node.await.unwrap();
    let mut client = Client::connect([&node.registry_urls()[0]], None).await.unwrap();
    client.put("svc/192.0.2.1:1", r#"{"Addr":"192.0.2.1:1"}"#, None).await.unwrap();
    client.put("prod/svc/192.0.2.2:1", r#"{"Addr":"192.0.2.2:1"}"#, None).await.unwrap();
    sees(&node, "svc", 1).await;
    let state = node.services().get("svc").unwrap();
    assert_eq!(state.state().endpoints[0].endpoint.address.as_str(), "192.0.2.2:1");
}
