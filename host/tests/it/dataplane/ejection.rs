//! Endpoints that fail more than the others.

use std::{sync::Arc, time::Duration};

use waymark_node::traffic::{FailurePercentage, OutlierDetection, Traffic};

use super::support::{Instance, Node, soon};

#[tokio::test]
async fn an_instance_that_fails_its_calls_is_passed_over() {
    let by = FailurePercentage { minimum_hosts: 2, request_volume: 1, ..FailurePercentage::default() };
    let outlier = OutlierDetection {
        interval: Duration::from_millis(50),
        failure_percentage: Some(by),
        ..OutlierDetection::default()
    };
    let node = Node::traffic(Traffic { outlier: Some(outlier), ..Traffic::default() }).await;
    let fails = Instance::new(|_| async { tonic::Status::internal("broken").into_http() }).await;
    let serves = Instance::echo("a").await;
    node.serve("svc", &[&fails, &serves]).await;
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    // Endpoints are in the order of their addresses, which have any ports.
    let address = fails.address.to_string();
    let failing = state.endpoints.iter().find(|state| state.endpoint.address.as_str() == address).unwrap();
    let mut client = node.client().await;
    soon(async {
        while !failing.cell.is_ejected() {
            client.echo("svc", "x").await;
        }
    })
    .await;
    let before = fails.n_calls();
    for _ in 0..20 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!(fails.n_calls(), before);
    // Half of the endpoints are left, as many as the panic threshold asks for; the other one must
    // do when nothing else is there.
    serves.kill().await;
    soon(async { while client.echo("svc", "x").await.code() != "13" {} }).await;
}
