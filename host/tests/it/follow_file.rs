//! A policy that is a file, changed in every way that files are changed, while calls run.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use greeter::hello::greeter1_client::Greeter1Client;
use tokio::time::{sleep, timeout};
use tonic::Status;
use waymark_node::{
    admin::client::{NodeClient, PolicySource, PolicyStatus, SetPolicy},
    app::Node,
    config::{ClientConfig, NodeConfig, PluginChoice, ServiceConfig},
    plugin::{Grants, Limits, bundled},
};

use super::node::{SERVICE, Server, call, dial, free, sees, service};

fn bytes(policy: &str) -> &'static [u8] {
    bundled::ALL.iter().find(|bundled| bundled.name == policy).unwrap().bytes
}

/// As editors and Kubernetes do it: the new file takes the place of the old one.
fn rename_over(file: &Path, bytes: &[u8]) {
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(&beside, file).unwrap();
}

/// Polls the node's API until `seen`.
async fn wait(client: &NodeClient, what: &str, seen: impl Fn(&PolicyStatus) -> bool) -> PolicyStatus {
    let polled = async {
        loop {
            let status = client.policy(&service(SERVICE)).await.unwrap();
            if seen(&status) {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), polled).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

fn runs<'a>(policy: &'a str, by: &'a str) -> impl Fn(&PolicyStatus) -> bool + 'a {
    move |status| status.running.name == policy && status.running.by == by
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_follows_its_file_and_no_call_is_lost_whatever_is_done_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.wasm");
    fs::write(&file, bytes("round_robin")).unwrap();
    let policy = PluginChoice { plugin: file.to_str().unwrap().parse().unwrap(), ..PluginChoice::bundled("") };
    let greeter = ServiceConfig { policy: Some(policy), ..ServiceConfig::new(service(SERVICE)) };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig { services: vec![greeter], ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Server::start(&node, SERVICE, "a", 1).await);
    }
    sees(&node, SERVICE, 2).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let channel = dial(&node).await;
    let mut callers = Vec::new();
    for _ in 0..2 {
        let (stop, calls, mut client) = (Arc::clone(&stop), Arc::clone(&calls), Greeter1Client::new(channel.clone()));
        callers.push(tokio::spawn(async move {
            while !stop.load(SeqCst) {
                call(&mut client, SERVICE).await?;
                calls.fetch_add(1, SeqCst);
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, Status>(())
        }));
    }
    let client = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();

    rename_over(&file, bytes("weighted"));
    let status = wait(&client, "the renamed file runs", runs("weighted", "file changed")).await;
    assert_eq!(status.running.origin, file.display().to_string());
    let first_from_file = status.running.version;

    // Written in place, by somebody slow.
    let whole = bytes("zone_aware");
    let mut slow = fs::File::create(&file).unwrap();
    for part in whole.chunks(whole.len() / 4) {
        slow.write_all(part).unwrap();
        slow.sync_data().unwrap();
        sleep(Duration::from_millis(700)).await;
    }
    drop(slow);
    let status = wait(&client, "the written file runs", runs("zone_aware", "file changed")).await;
    assert!(status.history.iter().all(|version| version.outcome != "refused"), "{:?}", status.history);
    assert_eq!(status.history.len(), 3);

    // A core module is bad at once, half a component when nothing comes after it.
    let refused = |n: usize| {
        move |status: &PolicyStatus| status.history.iter().filter(|version| version.outcome == "refused").count() == n
    };
    rename_over(&file, b"\0asm\x01\0\0\0");
    let status = wait(&client, "a core module is refused", refused(1)).await;
    assert!(status.history[0].reason.contains("not a component"), "{:?}", status.history[0]);
    assert_eq!(status.history[0].by, "file changed");
    assert_eq!(status.running.name, "zone_aware");
    rename_over(&file, &whole[..whole.len() / 2]);
    let status = wait(&client, "half a component is refused", refused(2)).await;
    assert!(status.history[0].reason.contains("not a valid component"), "{:?}", status.history[0]);
    assert_eq!(status.history[0].sha256.len(), 64);
    assert_eq!(status.running.name, "zone_aware");

    // A hand wins over a file that has not changed, and a changed file over the hand.
    let by_hand = SetPolicy {
        service: service(SERVICE),
        source: PolicySource::Bundled("least_request".into()),
        config: String::new(),
        allow: Grants::NONE,
        by: "anna".into(),
        discover: false,
    };
    client.set_policy(by_hand).await.unwrap();
    rename_over(&file, &whole[..whole.len() / 2]);
    fs::remove_file(&file).unwrap();
    sleep(Duration::from_millis(1500)).await;
    assert!(runs("least_request", "anna")(&client.policy(&service(SERVICE)).await.unwrap()));
    fs::write(&file, bytes("round_robin")).unwrap();
    let status = wait(&client, "the changed file runs", runs("round_robin", "file changed")).await;
    assert_eq!(status.history[1].by, "anna");
    assert!(refused(2)(&status), "each bad file is told of once");

    // The version's own bytes come back, though its file has others now.
    let back = client.roll_back(&service(SERVICE), first_from_file, "anna").await.unwrap();
    assert_eq!(back.running.name, "weighted");
    assert_eq!(back.running.by, "anna");

    stop.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(calls.load(SeqCst) > 500);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_file_may_be_as_large_as_its_own_service_lets_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.wasm");
    fs::write(&file, bytes("round_robin")).unwrap();
    let policy = PluginChoice { plugin: file.to_str().unwrap().parse().unwrap(), ..PluginChoice::bundled("") };
    // Under what all may have, and over it for this one.
    let all = bytes("canary_by_header").len() - 1;
    let limits = |component_size| Limits { component_size, ..Limits::default() };
    let own =
        ServiceConfig { policy: Some(policy), limits: Some(limits(2 * all)), ..ServiceConfig::new(service(SERVICE)) };
    let client = ClientConfig { services: vec![own], limits: limits(all), ..ClientConfig::default() };
    let node = Node::start(NodeConfig { listen: free(), admin: free(), client, ..NodeConfig::default() }).await;
    let node = node.unwrap();
    let client = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    rename_over(&file, bytes("canary_by_header"));
    let status = wait(&client, "the larger file is looked at", |status| status.history.len() > 1).await;
    assert_eq!(status.running.name, "canary_by_header", "{:?}", status.history);
    node.shutdown().await;
}

/// As a ConfigMap is mounted: the file is a link through a folder that is a link, and only the
/// latter changes.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_follows_its_file_through_links_above_it() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, policy) in [("..1", "round_robin"), ("..2", "weighted")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("policy.wasm"), bytes(policy)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/policy.wasm", path("policy.wasm")).unwrap();
    let file = path("policy.wasm");
    let policy = PluginChoice { plugin: file.to_str().unwrap().parse().unwrap(), ..PluginChoice::bundled("") };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig { policy, ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    node.services().add(&service(SERVICE)).await.unwrap();
    let client = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    assert_eq!(client.policy(&service(SERVICE)).await.unwrap().running.name, "round_robin");
    symlink("..2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    wait(&client, "the linked file runs", runs("weighted", "file changed")).await;
    // The old folder goes afterwards, and nothing changes.
    fs::remove_dir_all(path("..1")).unwrap();
    symlink("..gone", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    symlink("..2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    let status = client.policy(&service(SERVICE)).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.history.len()), ("weighted", 2));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shall_not_follow_files_keeps_what_it_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.wasm");
    fs::write(&file, bytes("round_robin")).unwrap();
    let policy = PluginChoice { plugin: file.to_str().unwrap().parse().unwrap(), ..PluginChoice::bundled("") };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig { policy, follow_files: false, ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let handle = node.services().add(&service("svc")).await.unwrap();
    rename_over(&file, bytes("weighted"));
    // Twice as long as a change takes.
    sleep(Duration::from_secs(2)).await;
    let history = handle.history();
    assert_eq!(history.len(), 1);
    assert_eq!(&*history[0].info.name, "round_robin");
    node.shutdown().await;
}
