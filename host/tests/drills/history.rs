//! etcd comes back with another past: compacted, gone, or older; and leases that somebody ends.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use tokio::time::{Instant, sleep};

use super::{
    etcd::Cluster,
    relay::Relay,
    table::{Limit, Row, Scale, conclude},
    world::{Plan, World},
};

async fn single(ttl: i64) -> World {
    let cluster = Cluster::start(1).await;
    let path = cluster.urls();
    World::new(cluster, path, Plan { ttl, ..Plan::default() }).await
}

async fn client(world: &World) -> Client {
    Client::connect(world.cluster.urls(), None).await.unwrap()
}

/// Writes elsewhere, to move the revision.
async fn write_elsewhere(client: &mut Client, times: usize) -> i64 {
    let mut revision = 0;
    for n in 0..times {
        let put = client.put("elsewhere", n.to_string(), None).await.unwrap();
        revision = put.header().unwrap().revision();
    }
    revision
}

/// Only the node is away: what it misses is no longer told.
pub(crate) async fn history_is_compacted_while_the_node_is_away(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(1).await;
    let relay = Relay::before(cluster.address(0)).await;
    let path = cluster.urls();
    let node_path = Some(vec![relay.url.clone()]);
    let mut world = World::new(cluster, path, Plan { node_path, ..Plan::default() }).await;
    relay.shut();
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(2)).await;
    let mut client = client(&world).await;
    let now = write_elsewhere(&mut client, 20).await;
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    relay.open();
    let since = Instant::now();
    conclude(world, since, Limit::Second).await
}

pub(crate) async fn the_data_is_wiped(_: Scale) -> Result<Row, String> {
    let mut world = single(5).await;
    world.caught_up().await;
    world.cluster.kill(0);
    world.cluster.wipe();
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(2)).await;
    world.cluster.start_member(0);
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

/// A copy of the data from before an instance joined and another left, put back.
pub(crate) async fn the_data_goes_back(_: Scale) -> Result<Row, String> {
    let mut world = single(5).await;
    world.cluster.kill(0);
    world.cluster.back_up();
    world.cluster.start_member(0);
    world.answered().await;
    world.join().await;
    world.leave();
    world.until(Instant::now(), World::is_exact).await?;
    write_elsewhere(&mut client(&world).await, 500).await;
    world.caught_up().await;
    world.cluster.kill(0);
    world.cluster.restore();
    world.cluster.start_member(0);
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

/// Two instances of three: the third serves meanwhile.
pub(crate) async fn leases_are_revoked_by_somebody(_: Scale) -> Result<Row, String> {
    let world = single(5).await;
    let mut client = client(&world).await;
    let leases = world.leases(2).await;
    let since = Instant::now();
    for lease in leases {
        client.lease_revoke(lease).await.unwrap();
    }
    conclude(world, since, Limit::Second).await
}
