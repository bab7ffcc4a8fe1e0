//! Every guest in turn in one real node, while calls run: none of them may cost a call.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use greeter::hello::greeter1_client::Greeter1Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use waymark_node::{
    admin::client::{ClientError, NodeClient, PolicySource, PolicyStatus, SetPolicy},
    app::Node,
    config::{ClientConfig, NodeConfig, Ports, ServiceConfig},
    plugin::{Grants, Kind, Limits, bundled},
};

use super::{
    bytes,
    fates::{Fate, Guest, fates},
    flipped, padded, taken_out_for,
};
use crate::node::{SERVICE, Server, call, dial, free, sees, service};

/// Callers that never rest, and what they were answered.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    lost: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(node: &Node, callers: usize) -> Self {
        let channel = dial(node).await;
        let mut load =
            Self { stop: Arc::default(), calls: Arc::default(), lost: Arc::default(), callers: Vec::default() };
        for _ in 0..callers {
            let (stop, calls, lost) = (Arc::clone(&load.stop), Arc::clone(&load.calls), Arc::clone(&load.lost));
            let mut client = Greeter1Client::new(channel.clone());
            load.callers.push(tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    match call(&mut client, SERVICE).await {
                        Ok(_) => _ = calls.fetch_add(1, SeqCst),
                        Err(status) => {
                            lost.lock().unwrap().push(status.to_string());
                            // A test that failed takes its node away: calls that fail at once must
                            // not keep its runtime from its end.
                            tokio::task::yield_now().await;
                        }
                    }
                }
            }));
        }
        load
    }

    /// Waits until so many more calls were made.
    async fn more(&self, n: u64) {
        let until = self.calls.load(SeqCst) + n;
        let made = async {
            while self.calls.load(SeqCst) < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), made).await.unwrap();
    }

    fn lost_none(&self, because_of: &str) {
        let lost = self.lost.lock().unwrap();
        assert!(lost.is_empty(), "{because_of} cost {} calls: {:?}", lost.len(), lost.first());
    }
}

async fn get(node: &Node, path: &str) -> String {
    let mut stream = TcpStream::connect(node.admin_addr()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn set(admin: &NodeClient, bytes: Vec<u8>, origin: &str, config: &str) -> Result<PolicyStatus, ClientError> {
    let source = PolicySource::Component { bytes, origin: origin.into() };
    let set = SetPolicy {
        service: service(SERVICE),
        source,
        config: config.into(),
        by: "test".into(),
        discover: false,
        allow: Grants::NONE,
    };
    admin.set_policy(set).await
}

/// A policy that was taken out is told of everywhere, and the node stays ready.
async fn says_degraded(node: &Node, admin: &NodeClient, version: u64, (reason, least): (&str, u64)) {
    let status = admin.policy(&service(SERVICE)).await.unwrap();
    assert!(status.degraded.contains(reason), "{}", status.degraded);
    assert_ne!(status.running.version, version);
    let entry = status.history.iter().find(|entry| entry.version == version).unwrap();
    assert!(entry.outcome == "quarantined" && entry.pick_failures >= least, "{entry:?}");
    let ready = get(node, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.0 200") || ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.contains(r#""degraded":true"#) && ready.contains("degraded: "), "{ready}");
    let metrics = get(node, "/metrics").await;
    assert!(metrics.contains(&format!("waymark_policy_degraded{{service=\"{SERVICE}\"}} 1\n")), "{metrics}");
    assert!(metrics.contains(&format!("waymark_pick_seconds_count{{service=\"{SERVICE}\"}} ")), "{metrics}");
    assert!(!metrics.contains(&format!("waymark_policy_quarantines_total{{service=\"{SERVICE}\"}} 0\n")), "{metrics}");
}

async fn says_healthy(node: &Node, admin: &NodeClient) {
    let status = admin.policy(&service(SERVICE)).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.degraded.as_str()), ("round_robin", ""));
    assert!(get(node, "/readyz").await.contains(r#""degraded":false"#));
    assert!(get(node, "/metrics").await.contains(&format!("waymark_policy_degraded{{service=\"{SERVICE}\"}} 0\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_guest_costs_a_running_node_a_call() {
    let limits = Limits { build_deadline: Duration::from_secs(1), ..Limits::default() };
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        client: ClientConfig {
            services: vec![ServiceConfig::new(service(SERVICE))],
            // Client and server run in this process too, not optimized, and leave picks less of it
            // than a node alone would.
            limits: Limits { quarantine_window: Duration::from_secs(60), pick_share: 10, ..limits },
            ..ClientConfig::default()
        },
        ports: Ports { drain_timeout: Duration::from_secs(5), ..Ports::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(&node, SERVICE, "a", 1).await);
    }
    sees(&node, SERVICE, 3).await;
    // One is registered and not there: no policy can know, and some insist on it.
    servers[0].crash();
    let admin = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    let handle = node.services().get(SERVICE).unwrap();
    let load = Load::start(&node, 4).await;
    load.more(50).await;
    load.lost_none("nobody");

    for guest in Guest::ALL.iter().copied() {
        let name = guest.name();
        for fate in fates(guest).iter().copied() {
            match fate {
                Fate::NotLoaded(reason) | Fate::Refused(_, reason) => {
                    let config = if let Fate::Refused(config, _) = fate { config } else { "" };
                    let error = set(&admin, bytes(guest), name, config).await.unwrap_err().to_string();
                    assert!(error.contains(reason), "{name} {config}: {error}");
                    assert_eq!(&*handle.state().policy_name, "round_robin");
                    load.more(10).await;
                }
                Fate::Serves(config) => {
                    let soon = handle.state().counters().picks() as u32 + 60;
                    let config = config.replace("SOON", &soon.to_string());
                    let version = set(&admin, bytes(guest), name, &config).await.unwrap().running.version;
                    load.more(150).await;
                    let state = Arc::clone(&handle.state());
                    assert_eq!((state.policy_version, &state.degraded), (version, &None), "{name} {config}");
                    admin.roll_back(&service(SERVICE), 0, "test").await.unwrap();
                }
                Fate::TakenOut(config, _) | Fate::TooSlow(config) => {
                    let why = taken_out_for(fate);
                    let began = Instant::now();
                    let version = set(&admin, bytes(guest), name, config).await.unwrap().running.version;
                    let mut reader = handle.subscribe();
                    let taken_out = async {
                        while reader.current().policy_version == version {
                            reader.changed().await.unwrap();
                        }
                    };
                    timeout(Duration::from_secs(60), taken_out).await.unwrap();
                    let gone = began.elapsed();
                    says_degraded(&node, &admin, version, why).await;
                    let history = handle.history();
                    let entry = history.iter().find(|entry| entry.version == version).unwrap();
                    let replaced_in = entry.replaced_in.unwrap();
                    eprintln!(
                        "{name}: {} failed picks, gone {gone:.1?} after it was set, replaced {replaced_in:.1?} after the last of them",
                        entry.pick_failures
                    );
                    // 100 ms is what is promised; a machine that runs other tests beside this one
                    // gets more.
                    assert!(replaced_in < Duration::from_secs(5), "{name}: {replaced_in:?}");
                    admin.roll_back(&service(SERVICE), 0, "test").await.unwrap();
                    says_healthy(&node, &admin).await;
                    load.more(10).await;
                }
            }
            load.lost_none(name);
        }
    }

    let slow = r#"{"mib": 8, "trial": true}"#;
    let status = set(&admin, bytes(Guest::FillsMemory), "slow.wasm", slow).await.unwrap();
    assert!(status.warning.starts_with("a pick takes ") && status.warning.contains("NOT fit"), "{status:?}");
    let status = admin.roll_back(&service(SERVICE), 0, "test").await.unwrap();
    assert_eq!(status.warning, "", "it plans ahead");

    let round_robin = bundled::of(Kind::Policy).find(|bundled| bundled.name == "round_robin").unwrap().bytes;
    let error = set(&admin, padded(round_robin, 50_000_000), "large.wasm", "").await.unwrap_err().to_string();
    assert!(error.contains("large.wasm has 50000000 bytes"), "{error}");
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..20 {
        let before = handle.state().policy_version;
        if set(&admin, flipped(round_robin, &mut random), "flipped.wasm", "").await.is_ok() {
            load.more(10).await;
            admin.roll_back(&service(SERVICE), before, "test").await.unwrap();
        }
    }
    load.more(50).await;
    load.lost_none("a component that is too large, or has one wrong byte");
    load.stop.store(true, SeqCst);
    for caller in load.callers {
        caller.await.unwrap();
    }
    node.shutdown().await;
}
