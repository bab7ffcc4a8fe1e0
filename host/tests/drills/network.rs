//! The network between etcd and everybody: cut in two ways, and slow.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    etcd::Cluster,
    relay::Relay,
    table::{Limit, Row, Scale, conclude},
    world::{Plan, World},
};

async fn behind_a_relay(ttl: i64) -> (Relay, World) {
    let cluster = Cluster::start(1).await;
    let relay = Relay::before(cluster.address(0)).await;
    let path = vec![relay.url.clone()];
    let world = World::new(cluster, path, Plan { ttl, ..Plan::default() }).await;
    (relay, world)
}

/// Connections stay and nothing passes, for longer than the TTL.
pub(crate) async fn the_network_swallows_everything(_: Scale) -> Result<Row, String> {
    let (relay, mut world) = behind_a_relay(3).await;
    relay.hang();
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(12)).await;
    relay.open();
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

pub(crate) async fn the_network_resets_every_connection(_: Scale) -> Result<Row, String> {
    let (relay, mut world) = behind_a_relay(5).await;
    relay.shut();
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(3)).await;
    relay.open();
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

/// 300 ms each way, and answers in small pieces. Nothing is lost, so the time counts from the
/// change on.
pub(crate) async fn etcd_is_slow(_: Scale) -> Result<Row, String> {
    let (relay, mut world) = behind_a_relay(5).await;
    relay.slow_down(Duration::from_millis(300));
    // Past the TTL: leases are kept alive all the same.
    sleep(Duration::from_secs(7)).await;
    world.join().await;
    world.leave();
    // Connecting, granting and writing take a round trip each at the least, and more with TCP's and
    // HTTP/2's own.
    let since = Instant::now();
    let row = conclude(world, since, Limit::RoundTrips).await;
    relay.open();
    row
}
