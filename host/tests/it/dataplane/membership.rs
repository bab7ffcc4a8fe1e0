//! Endpoints that join, and services that go.

use std::{sync::Arc, time::Duration};

use waymark_node::traffic::{SlowStart, Traffic};

use super::support::{Client, Instance, Node, until};

/// How many of so many calls an instance gets.
async fn share(client: &mut Client, instance: &Instance, calls: usize) -> usize {
    let before = instance.n_calls();
    for _ in 0..calls {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    instance.n_calls() - before
}

/// Lets this much time have passed, for whoever asks tokio.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_instance_that_joins_gets_a_growing_share_of_calls() {
    const WINDOW: Duration = Duration::from_secs(1000);
    let node = Node::traffic(Traffic { slow_start: Some(SlowStart::new(WINDOW)), ..Traffic::default() }).await;
    let (old, new) = (Instance::echo("old").await, Instance::echo("new").await);
    node.serve("svc", &[&old]).await;
    let mut client = node.client().await;
    assert_eq!(share(&mut client, &old, 10).await, 10);
    node.serve("svc", &[&old, &new]).await;
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    let n_in_slow_start = || state.endpoints.iter().filter(|endpoint| endpoint.cell.is_in_slow_start()).count();
    assert_eq!(n_in_slow_start(), 1);
    // A tenth of its turns, and of those that it did not take and got again by chance.
    let first = share(&mut client, &new, 400).await;
    pass(WINDOW / 2).await;
    let half = share(&mut client, &new, 400).await;
    pass(WINDOW).await;
    until(|| n_in_slow_start() == 0).await;
    let all = share(&mut client, &new, 400).await;
    assert!((1..80).contains(&first) && (80..190).contains(&half) && all == 200, "{first} {half} {all}");
}

#[tokio::test]
async fn the_figures_of_a_service_go_with_it() {
    const ENDED: &str = "dataplane_requests_total{service=\"svc\",code=\"OK\"}";
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    until(|| node.metric(ENDED) == Some(1)).await;
    assert!(node.services.remove(&"svc".parse().unwrap()));
    assert_eq!(node.metric(ENDED), None);
    // It begins anew where it comes back.
    node.serve("svc", &[&a]).await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    until(|| node.metric(ENDED) == Some(1)).await;
}
