//! Processes of ours that are stopped past the TTL: a debugger, a snapshot of the machine, a
//! starved host.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    etcd::Cluster,
    table::{Limit, Row, Scale, conclude},
    world::{Plan, World, pause},
};

pub(crate) async fn a_register_process_is_stopped_past_its_ttl(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(1).await;
    let path = cluster.urls();
    let world = World::new(cluster, path, Plan { ttl: 2, with_register: true, ..Plan::default() }).await;
    let since = pause(world.register_id(), Duration::from_secs(6)).await;
    conclude(world, since, Limit::Second).await
}

/// The calls that it has taken wait as well, and are answered when it goes on.
pub(crate) async fn a_node_process_is_stopped_past_the_ttl(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(1).await;
    let path = cluster.urls();
    let mut world = World::new(cluster, path, Plan { ttl: 2, node_is_a_child: true, ..Plan::default() }).await;
    let node = world.node_id();
    let pausing = tokio::spawn(pause(node, Duration::from_secs(6)));
    sleep(Duration::from_secs(1)).await;
    world.join().await;
    world.leave();
    let since = pausing.await.unwrap();
    conclude(world, since, Limit::Second).await
}
