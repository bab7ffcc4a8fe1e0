//! What stands in the registry attacks: entries on which the key scheme loops, entries that decode
//! to crowds, and addresses that are the node's own.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Endpoint};

use super::{
    Scale,
    arena::{Arena, BYSTANDER, Bounds, Verdict},
    support::{Caller, Instance},
    table::Row,
};

/// How long a change may take to be seen, whatever others' entries do: on a busy machine, and far
/// less than the minute that it once took.
const SEEN: Duration = Duration::from_secs(5);

/// A node whose key scheme does what values say.
async fn hostile() -> Arena {
    let scheme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test/hostile_decode.wasm");
    Arena::configured(&format!("[registry]\nkey-scheme = {:?}\n", scheme.to_str().unwrap())).await
}

async fn put(arena: &Arena, service: &str, entries: usize, value: &str) {
    let mut registry = etcd_client::Client::connect([&arena.node.registry], None).await.unwrap();
    for n in 0..entries {
        registry.put(format!("{service}/{n:04}"), value, None).await.unwrap();
    }
}

fn caller(arena: &Arena, service: &'static str) -> Caller<tonic::transport::Channel> {
    let channel = Endpoint::from_shared(format!("http://{}", arena.node.node)).unwrap();
    Caller::new(channel.connect_lazy(), Some(service))
}

/// Has the node follow a service: its first call does.
async fn call(arena: &Arena, service: &'static str) -> Result<String, Status> {
    let call = timeout(Duration::from_secs(10), async { caller(arena, service).unary("x").await });
    call.await.unwrap_or_else(|_| Err(Status::cancelled("no answer within 10 s")))
}

/// Two services whose every entry loops in `decode`. Meanwhile an instance of the bystander's
/// joins, and a new service is called.
pub(crate) async fn entries_that_loop(scale: Scale) -> Result<Row, String> {
    let arena = hostile().await;
    put(&arena, "loops-a", 300, "loop").await;
    put(&arena, "loops-b", 300, "loop").await;
    let (joins, fresh) = (Instance::echo("joins").await, Instance::echo("fresh").await);
    arena
        .attacked(scale, Bounds::mib(24), async |arena| {
            let began = Instant::now();
            let attack = async { tokio::join!(call(arena, "loops-a"), call(arena, "loops-b")) };
            let others = async {
                // Amid the attack.
                sleep(scale.length / 10).await;
                let changed = Instant::now();
                arena.node.register(BYSTANDER, joins.address).await;
                arena.node.register("fresh", fresh.address).await;
                let seen = timeout(SEEN, arena.settle(BYSTANDER, 4)).await;
                seen.map_err(|_| format!("a change of another service was not seen within {SEEN:?}"))?;
                let seen = changed.elapsed();
                let answer = timeout(SEEN, async { call(arena, "fresh").await }).await;
                let answer = answer.map_err(|_| "the first call of a new service had no answer".to_owned())?;
                answer.map_err(|status| format!("the first call of a new service failed: {status:?}"))?;
                Ok::<_, String>(seen)
            };
            let (_, seen) = tokio::join!(attack, others);
            let seen = seen?;
            arena.node.logged("the key scheme keeps failing on this service's entries").await;
            let said = Verdict::after(format!("put off; a change was seen after {} ms", seen.as_millis()), began);
            sleep(scale.length.saturating_sub(began.elapsed())).await;
            Ok(said)
        })
        .await
}

/// Twelve entries that decode to 100,000 instances each, and some that decode to ids and metadata
/// without end.
pub(crate) async fn entries_that_are_crowds(scale: Scale) -> Result<Row, String> {
    let arena = hostile().await;
    put(&arena, "crowd", 12, "bomb 100000").await;
    put(&arena, "many", 12, "bomb 1000").await;
    put(&arena, "names", 12, "id 10000000").await;
    put(&arena, "pairs", 12, "metadata 100000").await;
    arena
        .attacked(scale, Bounds::mib(64), async |arena| {
            let began = Instant::now();
            for service in ["crowd", "many", "names", "pairs"] {
                let _ = call(arena, service).await;
            }
            arena.node.logged("what it decodes to is over the limit of 256 KiB").await;
            arena.node.logged("it registers 1000 instances, of which 64 are taken").await;
            let said = Verdict::after("over the limit", began);
            sleep(scale.length.saturating_sub(began.elapsed())).await;
            Ok(said)
        })
        .await
}

/// Endpoints that are the node's own ports, in every way to write them, and the registry. Nobody
/// reaches them through the node.
pub(crate) async fn endpoints_of_the_node(scale: Scale) -> Result<Row, String> {
    let arena = Arena::with(&[]).await;
    let (admin, proxy) = (arena.node.admin.port(), arena.node.node.port());
    let registry = arena.node.registry.rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let evil = [
        ("evil-api", format!("127.0.0.1:{admin}")),
        ("evil-mapped", format!("[::ffff:127.0.0.1]:{admin}")),
        ("evil-name", format!("localhost:{admin}")),
        // Names to us, and an address to the resolver.
        ("evil-short", format!("127.1:{admin}")),
        ("evil-number", format!("2130706433:{admin}")),
        ("evil-wildcard", format!("0.0.0.0:{admin}")),
        ("evil-any", format!("[::]:{admin}")),
        ("evil-loop", format!("127.0.0.1:{proxy}")),
        ("evil-etcd", format!("127.0.0.1:{registry}")),
    ];
    for (service, address) in &evil {
        put(&arena, service, 1, &format!(r#"{{"Addr":"{address}"}}"#)).await;
    }
    arena
        .attacked(scale, Bounds::mib(16), async |arena| {
            let began = Instant::now();
            while began.elapsed() < scale.length {
                for (service, address) in &evil {
                    match call(arena, service).await {
                        Err(status) if status.code() == Code::Unavailable => {}
                        answer => return Err(format!("{address} was reached: {answer:?}")),
                    }
                }
            }
            arena.node.logged("is the node's own API, which is no endpoint").await;
            arena.node.logged("is the registry, which is no endpoint").await;
            Ok(Verdict::word("refused"))
        })
        .await
}
