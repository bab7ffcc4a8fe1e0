//! Policies of another service that take time: in picks, which run on the threads that serve
//! everybody, and in builds.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::transport::Endpoint;
use waymark_node::{
    admin::{
        NodeClient,
        client::{PolicySource, SetPolicy},
    },
    plugin::Grants,
};

use super::{
    Scale,
    arena::{Arena, Bounds, Verdict},
    support::Caller,
    table::Row,
};

/// Whose policy takes the time.
const GREEDY: &str = "greedy";

/// How long a slow policy may stay. Far more than it takes, since a busy machine takes its time
/// too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each pick goes round for just less than its deadline.
pub(crate) async fn picks_that_end_just_in_time(scale: Scale) -> Result<Row, String> {
    slow_picks(scale, "spins", r#"{"thousands": 7000}"#).await
}

/// Each pick takes about a millisecond.
pub(crate) async fn picks_of_a_millisecond(scale: Scale) -> Result<Row, String> {
    slow_picks(scale, "spins", r#"{"thousands": 1000}"#).await
}

/// Each pick moves megabytes by one instruction, which no deadline ends.
pub(crate) async fn picks_that_fill_memory(scale: Scale) -> Result<Row, String> {
    slow_picks(scale, "fills_memory", r#"{"mib": 48, "times": 4}"#).await
}

/// Each pick hands over megabytes of text.
pub(crate) async fn picks_that_talk_at_length(scale: Scale) -> Result<Row, String> {
    slow_picks(scale, "talks_at_length", r#"{"kib": 8192}"#).await
}

fn guest(name: &str) -> PolicySource {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test").join(name).with_extension("wasm");
    PolicySource::Component { bytes: std::fs::read(file).unwrap(), origin: name.into() }
}

async fn set(admin: &NodeClient, service: &str, policy: &str, config: &str) -> Result<u64, String> {
    let set = SetPolicy {
        service: service.parse().map_err(|error| format!("{error:?}"))?,
        source: guest(policy),
        config: config.into(),
        by: "isolation".into(),
        discover: true,
        allow: Grants::NONE,
    };
    Ok(admin.set_policy(set).await.map_err(|error| error.to_string())?.running.version)
}

/// Callers of a service, each as fast as it is answered, whatever it is answered.
fn crowd(arena: &Arena, service: &'static str, callers: usize) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..callers {
        let channel = Endpoint::from_shared(format!("http://{}", arena.node.node)).unwrap().connect_lazy();
        crowd.spawn(async move {
            let mut caller = Caller::new(channel, Some(service));
            loop {
                if caller.unary("x").await.is_err() {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    crowd
}

async fn slow_picks(scale: Scale, policy: &'static str, config: &'static str) -> Result<Row, String> {
    // Where the callers get little of a busy machine, picks get little of the node.
    let toml = format!("[[service]]\nname = \"{GREEDY}\"\nlimits = {{ pick-share-percent = 5 }}\n");
    let arena = Arena::configured(&toml).await;
    for instance in &arena.instances {
        arena.node.register(GREEDY, instance.address).await;
    }
    arena.settle(GREEDY, 3).await;
    let admin = NodeClient::connect(&arena.node.admin.to_string()).await.map_err(|error| error.to_string())?;
    let attack = async |arena: &Arena| {
        let version = set(&admin, GREEDY, policy, config).await?;
        let began = Instant::now();
        let crowd = crowd(arena, GREEDY, 8);
        let service = GREEDY.parse().map_err(|error| format!("{error:?}"))?;
        let taken_out = async {
            loop {
                let status = admin.policy(&service).await.map_err(|error| error.to_string())?;
                let entry = status.history.into_iter().find(|entry| entry.version == version);
                match entry {
                    Some(entry) if entry.outcome == "quarantined" => return Ok::<_, String>(entry.reason),
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let reason = timeout(PATIENCE, taken_out).await.map_err(|_| "the policy was not taken out of service")??;
        let word =
            if reason.contains("failed picks") { "quarantined for failures" } else { "quarantined for its time" };
        let verdict = Verdict::after(word, began);
        sleep(scale.length.saturating_sub(began.elapsed())).await;
        drop(crowd);
        Ok(verdict)
    };
    arena.attacked(scale, Bounds::mib(256), attack).await
}

/// Eight services whose policies take 100 ms to build, each with five changes a second. Meanwhile
/// another service is called for the first time.
pub(crate) async fn builds_of_eight_services_at_once(scale: Scale) -> Result<Row, String> {
    const SERVICES: [&str; 8] = ["slow-0", "slow-1", "slow-2", "slow-3", "slow-4", "slow-5", "slow-6", "slow-7"];
    let arena = Arena::with(&[]).await;
    for service in SERVICES.into_iter().chain(["newcomer"]) {
        arena.node.register(service, arena.instances[0].address).await;
    }
    let admin = NodeClient::connect(&arena.node.admin.to_string()).await.map_err(|error| error.to_string())?;
    let config = r#"{"thousands": 100000, "asked": true}"#;
    for service in SERVICES {
        set(&admin, service, "builds_slowly", config).await?;
    }
    let attack = async |arena: &Arena| {
        let began = Instant::now();
        let mut writers = JoinSet::new();
        for service in SERVICES {
            let mut registry =
                etcd_client::Client::connect([&arena.node.registry], None).await.map_err(|error| error.to_string())?;
            writers.spawn(async move {
                let mut pace = interval(Duration::from_millis(200));
                pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let (mut there, key) = (false, format!("{service}/192.0.2.1:80"));
                loop {
                    pace.tick().await;
                    // A registry that is late is no part of this.
                    let _ = if there {
                        registry.delete(key.as_str(), None).await.map(drop)
                    } else {
                        registry.put(key.as_str(), r#"{"Addr":"192.0.2.1:80"}"#, None).await.map(drop)
                    };
                    there = !there;
                }
            });
        }
        sleep(scale.length / 2).await;
        let first = Instant::now();
        arena.settle("newcomer", 1).await;
        let verdict = Verdict { word: "a new service called".into(), after: Some(first.elapsed()) };
        sleep(scale.length.saturating_sub(began.elapsed())).await;
        drop(writers);
        Ok(verdict)
    };
    arena.attacked(scale, Bounds::mib(160), attack).await
}
