//! Members of etcd that die, hang and come back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    etcd::Cluster,
    relay::Relay,
    table::{Limit, Row, Scale, conclude},
    world::{Plan, World},
};

pub(crate) async fn a_member_is_killed_and_restarted(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(1).await;
    let path = cluster.urls();
    let mut world = World::new(cluster, path, Plan::default()).await;
    world.cluster.kill(0);
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(3)).await;
    world.cluster.start_member(0);
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

pub(crate) async fn the_leader_of_three_is_killed(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(3).await;
    let path = cluster.urls();
    let mut world = World::new(cluster, path, Plan::default()).await;
    let leader = world.cluster.leader().await;
    world.cluster.kill(leader);
    world.join().await;
    world.leave();
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

pub(crate) async fn all_members_are_down(scale: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(3).await;
    let path = cluster.urls();
    let mut world = World::new(cluster, path, Plan::default()).await;
    world.cluster.kill_all();
    sleep(scale.outage / 2).await;
    world.join().await;
    world.leave();
    sleep(scale.outage / 2).await;
    world.cluster.start_all();
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

/// The one that the node watches. The others go on, so etcd never ceases to answer: the time counts
/// from the hanging on.
pub(crate) async fn one_of_three_members_hangs(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(3).await;
    let path = cluster.urls();
    let relays = [
        Relay::before(cluster.address(0)).await,
        Relay::before(cluster.address(1)).await,
        Relay::before(cluster.address(2)).await,
    ];
    let node_path = Some(relays.iter().map(|relay| relay.url.clone()).collect());
    let mut world = World::new(cluster, path, Plan { node_path, ..Plan::default() }).await;
    let before = relays.each_ref().map(Relay::passed);
    world.join().await;
    world.until(Instant::now(), World::is_right).await?;
    let watched = (0..relays.len()).max_by_key(|n| relays[*n].passed() - before[*n]).expect("there are three");
    world.cluster.freeze(watched);
    let since = Instant::now();
    world.join().await;
    world.leave();
    let row = conclude_and(world, since, Limit::Silence, |world| world.cluster.thaw(watched)).await?;
    Ok(row)
}

pub(crate) async fn the_only_member_hangs_past_the_ttl(_: Scale) -> Result<Row, String> {
    let cluster = Cluster::start(1).await;
    let path = cluster.urls();
    let mut world = World::new(cluster, path, Plan { ttl: 3, ..Plan::default() }).await;
    world.cluster.freeze(0);
    world.join().await;
    world.leave();
    sleep(Duration::from_secs(8)).await;
    world.cluster.thaw(0);
    let since = world.answered().await;
    conclude(world, since, Limit::Second).await
}

/// Like [`conclude`], with something done once all is right that must change nothing.
async fn conclude_and(world: World, since: Instant, limit: Limit, then: impl FnOnce(&World)) -> Result<Row, String> {
    let healed = world.until(since, World::is_right).await?;
    then(&world);
    let row = conclude(world, since, limit).await?;
    Ok(Row { healed, ..row })
}
