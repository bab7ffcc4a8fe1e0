//! Calls that come back to where they were: nodes as one another's endpoints.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use waymark_node::dataplane::WAYMARK_HOPS;

use super::support::{Answer, Client, Instance, Node, at, echo, until};

async fn call(node: &Node, hops: Option<&str>) -> Answer {
    let mut request = Client::request("svc", "/test.Echo/Unary");
    if let Some(hops) = hops {
        request = request.header(WAYMARK_HOPS, hops);
    }
    node.client().await.answer(request.body(tonic::body::Body::empty()).unwrap()).await
}

fn requests(nodes: &[&Node]) -> u64 {
    nodes
        .iter()
        .filter_map(|node| node.metric("dataplane_requests_total{service=\"svc\",code=\"FAILED_PRECONDITION\"}"))
        .sum()
}

#[tokio::test]
async fn a_call_that_goes_in_a_circle_ends_with_a_word_and_leaves_nothing() {
    // One node that is its own endpoint, and two that are one another's.
    let (alone, a, b) = (Node::new().await, Node::new().await, Node::new().await);
    alone.set("svc", vec![at(alone.address)]).await;
    a.set("svc", vec![at(b.address)]).await;
    b.set("svc", vec![at(a.address)]).await;
    // The service is named by the header, which a node takes off: the next one goes by the route or
    // the authority.
    for (nodes, first) in [(vec![&alone], &alone), (vec![&a, &b], &a)] {
        let request = http::Request::post("http://svc/test.Echo/Unary").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(tonic::body::Body::empty()).unwrap();
        let answer = first.client().await.answer(request).await;
        // The last of many nodes says so; each before it takes that for the word of an instance.
        assert_eq!((answer.code(), answer.kind()), ("9", ""), "{}", answer.message());
        assert_eq!(answer.upstream_kind(), "loop");
        assert!(answer.message().contains("service svc: ") && answer.message().contains("go in a circle"));
        // Every node of the circle saw it a few times, and none does any more.
        until(|| requests(&nodes) == 16).await;
        for node in nodes {
            until(|| node.metric("dataplane_requests_in_flight{service=\"svc\"}") == Some(0)).await;
        }
    }
}

#[tokio::test]
async fn an_instance_hears_how_many_nodes_a_call_has_passed_and_a_forged_number_hurts_nobody_else() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&seen);
    let a = Instance::new(move |request| {
        let hops = request.headers().get_all(WAYMARK_HOPS).iter().map(|hops| hops.to_str().unwrap().to_owned());
        told.lock().unwrap().extend(hops);
        echo("a", request)
    });
    let (a, first, second) = (a.await, Node::new().await, Node::new().await);
    second.serve("svc", &[&a]).await;
    first.set("svc", vec![at(second.address)]).await;
    for (hops, passed) in [(None, "1"), (Some("7"), "8"), (Some("-3"), "1"), (Some("never"), "1")] {
        call(&second, hops).await;
        assert_eq!(seen.lock().unwrap().drain(..).collect::<Vec<_>>(), [passed], "{hops:?}");
    }
    let answer = call(&second, Some("16")).await;
    assert_eq!((answer.code(), answer.kind()), ("9", "loop"));
    let answer = call(&second, Some("4000000000")).await;
    assert_eq!((answer.code(), answer.kind()), ("9", "loop"));
    assert_eq!(call(&second, None).await.code(), "13", "an echo without a message is an error of the instance's own");
    assert!(answer.message().contains("4000000000"));
}

/// A client that goes takes its call along, however many nodes it has passed.
#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_on_all_nodes() {
    const NODES: usize = 8;
    let (begun, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counts = (Arc::clone(&begun), Arc::clone(&ended));
    let a = Instance::new(move |_| {
        struct Ends(Arc<AtomicUsize>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        counts.0.fetch_add(1, SeqCst);
        let ends = Ends(Arc::clone(&counts.1));
        async move {
            let _ends = ends;
            std::future::pending().await
        }
    });
    let a = a.await;
    let mut nodes = vec![Node::new().await];
    nodes[0].serve("svc", &[&a]).await;
    for n in 1..NODES {
        let node = Node::new().await;
        node.set("svc", vec![at(nodes[n - 1].address)]).await;
        nodes.push(node);
    }
    let mut client = nodes[NODES - 1].client().await;
    let request = http::Request::post("http://svc/a.B/C").header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(tonic::body::Body::empty()).unwrap();
    let call = tokio::spawn(async move { client.send(request).await });
    until(|| begun.load(SeqCst) == 1).await;
    call.abort();
    until(|| ended.load(SeqCst) == 1).await;
    for node in &nodes {
        until(|| node.metric("dataplane_requests_in_flight{service=\"svc\"}") == Some(0)).await;
    }
}
