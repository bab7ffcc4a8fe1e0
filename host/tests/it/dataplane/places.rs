//! How many calls run and wait, and what becomes of those that are too many.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use waymark_node::{
    dataplane::WaitForReady,
    model::Update,
    traffic::{CallLimits, MethodConfig, Methods, Traffic},
};

use super::support::{Answer, Caller, Instance, Node, at, closed_port, echo, soon, text};

/// An instance that answers a call for each permit it is given.
async fn held(name: &'static str) -> (Instance, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&permits);
    let instance = Instance::new(move |request| {
        let given = Arc::clone(&given);
        async move {
            given.acquire().await.unwrap().forget();
            echo(name, request).await
        }
    });
    (instance.await, permits)
}

fn limited(limits: CallLimits) -> Traffic {
    Traffic { limits, ..Traffic::default() }
}

async fn until(mut done: impl FnMut() -> bool) {
    soon(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

type Call = AbortOnDropHandle<Answer>;

/// A call on a connection of its own.
async fn begin(node: &Node) -> Call {
    let mut client = node.client().await;
    AbortOnDropHandle::new(tokio::spawn(async move { client.echo("svc", "x").await }))
}

fn pending(node: &Node) -> u32 {
    node.services.get("svc").unwrap().state().limiter.pending()
}

#[tokio::test]
async fn calls_over_the_service_s_limit_wait_in_line_and_those_over_the_line_are_refused_at_once() {
    let limits = CallLimits { max_in_flight: Some(2), max_pending: 1, ..CallLimits::default() };
    let (node, (a, permits)) = (Node::traffic(limited(limits)).await, held("a").await);
    node.serve("svc", &[&a]).await;
    let (first, second) = (begin(&node).await, begin(&node).await);
    until(|| a.n_calls() == 2).await;
    let third = begin(&node).await;
    until(|| pending(&node) == 1).await;
    let refused = node.client().await.echo("svc", "x").await;
    assert_eq!((refused.code(), refused.kind()), ("14", "overloaded"));
    assert!(refused.message().contains("as many of its calls run on this node as may, and 1 call(s) wait already"));
    assert_eq!(a.n_calls(), 2, "neither the waiting one nor the refused one was sent");
    // A caller that gives up leaves the line, and another one may have its place there.
    drop(third);
    until(|| pending(&node) == 0).await;
    let third = begin(&node).await;
    until(|| pending(&node) == 1).await;
    permits.add_permits(1);
    until(|| a.n_calls() == 3).await;
    permits.add_permits(2);
    for call in [first, second, third] {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    assert_eq!((state.limiter.pending(), state.limiter.refused()), (0, 1));
}

#[tokio::test]
async fn a_place_is_held_to_the_end_of_the_answer() {
    let limits = CallLimits { max_in_flight: Some(1), max_pending: 0, ..CallLimits::default() };
    let (node, a) = (Node::traffic(limited(limits)).await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let (words, input) = tokio::sync::mpsc::channel(1);
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let mut answer = caller.bidi(tokio_stream::wrappers::ReceiverStream::new(input)).await.unwrap();
    words.send(text("x")).await.unwrap();
    assert_eq!(soon(answer.message()).await.unwrap(), Some(text("a:x")));
    assert_eq!(node.client().await.echo("svc", "x").await.kind(), "overloaded");
    drop(words);
    assert_eq!(soon(answer.message()).await.unwrap(), None);
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
}

#[tokio::test]
async fn a_full_endpoint_is_passed_over_and_when_all_are_full_calls_wait_for_the_next_place() {
    let limits = CallLimits { max_in_flight_per_endpoint: Some(1), max_pending: 2, ..CallLimits::default() };
    let (node, (a, of_a), b) = (Node::traffic(limited(limits)).await, held("a").await, held("b").await);
    let (b, of_b) = b;
    node.serve("svc", &[&a, &b]).await;
    let calls = [begin(&node).await, begin(&node).await];
    until(|| a.n_calls() == 1 && b.n_calls() == 1).await;
    let waiting = [begin(&node).await, begin(&node).await];
    until(|| pending(&node) == 2).await;
    let refused = node.client().await.echo("svc", "x").await;
    assert_eq!((refused.code(), refused.kind()), ("14", "overloaded"));
    assert!(refused.message().contains("on each of its usable endpoints"), "{}", refused.message());
    // Whoever is free takes whoever waits.
    of_b.add_permits(2);
    until(|| b.n_calls() == 3).await;
    assert_eq!(a.n_calls(), 1);
    of_b.add_permits(1);
    of_a.add_permits(1);
    for call in calls.into_iter().chain(waiting) {
        assert_eq!(soon(call).await.unwrap().code(), "0");
    }
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    until(|| state.endpoints.iter().all(|endpoint| endpoint.cell.in_flight() == 0)).await;
    assert_eq!(pending(&node), 0);
}

#[tokio::test]
async fn a_wait_in_line_ends_at_the_deadline_or_after_the_longest_wait() {
    let limits = CallLimits { max_in_flight_per_endpoint: Some(1), ..CallLimits::default() };
    let (node, (a, permits)) = (Node::traffic(limited(limits)).await, held("a").await);
    node.serve("svc", &[&a]).await;
    let call = begin(&node).await;
    until(|| a.n_calls() == 1).await;
    let request = super::support::Client::request("svc", "/a.B/C").header("grpc-timeout", "10m");
    let late = node.client().await.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
    assert_eq!((late.code(), late.kind()), ("4", "deadline-exceeded"));
    assert!(late.message().contains("as many calls run on each of its usable endpoints as may"), "{}", late.message());
    permits.add_permits(1);
    assert_eq!(soon(call).await.unwrap().code(), "0");
}

fn patient() -> Traffic {
    let config = MethodConfig { wait_for_ready: true, ..MethodConfig::default() };
    Traffic { methods: Methods::all(config), ..Traffic::default() }
}

#[tokio::test]
async fn a_call_that_waits_for_readiness_goes_on_when_an_endpoint_can_be_reached() {
    let (node, address) = (Node::traffic(patient()).await, closed_port().await);
    node.set("svc", vec![at(address)]).await;
    let call = begin(&node).await;
    until(|| pending(&node) == 1).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let _a = Instance::on(listener, |request| echo("a", request));
    assert_eq!(soon(call).await.unwrap().code(), "0");
    assert_eq!(pending(&node), 0);
}

#[tokio::test]
async fn a_call_that_waits_for_readiness_goes_on_when_there_are_endpoints() {
    let (node, a) = (Node::traffic(patient()).await, Instance::echo("a").await);
    node.set("svc", vec![]).await;
    let call = begin(&node).await;
    until(|| pending(&node) == 1).await;
    node.update("svc", Update::Stale { reason: "away".into() }).await;
    node.serve("svc", &[&a]).await;
    assert_eq!(soon(call).await.unwrap().code(), "0");
}

#[tokio::test]
async fn one_call_in_process_may_wait_for_readiness_or_not_and_says_at_its_deadline_what_it_waited_for() {
    let node = Node::traffic(patient()).await;
    node.set("svc", vec![at(closed_port().await)]).await;
    let channel = node.dataplane.channel("svc".parse().unwrap());
    let mut grpc = tonic::client::Grpc::new(channel);
    let mut call = async |request| {
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Unary");
        soon(grpc.unary(request, path, super::support::Codec::default())).await.unwrap_err()
    };
    let mut hasty = tonic::Request::new(text("x"));
    hasty.extensions_mut().insert(WaitForReady(false));
    let status = call(hasty).await;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let mut bounded = tonic::Request::new(text("x"));
    bounded.set_timeout(Duration::from_millis(50));
    let status = call(bounded).await;
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    assert_eq!(status.metadata().get("waymark-error").unwrap(), "never-ready");
    assert!(status.message().contains("none can be reached"), "{}", status.message());
}

#[tokio::test]
async fn a_method_s_timeout_bounds_calls_without_a_nearer_deadline() {
    let mut methods = Methods::default();
    let config = MethodConfig { timeout: Some(Duration::from_millis(50)), ..MethodConfig::default() };
    methods.insert("test.Echo", Some("Unary"), config);
    let node = Node::traffic(Traffic { methods, ..Traffic::default() }).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let a = Instance::new(move |request| {
        told.lock().unwrap().push(request.headers().get("grpc-timeout").is_some());
        std::future::pending()
    });
    let a = a.await;
    node.serve("svc", &[&a]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("4", "deadline-exceeded"));
    assert_eq!(*seen.lock().unwrap(), [true], "the instance is told");
    assert_eq!(a.calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_caller_that_holds_its_calls_leaves_places_of_the_service_to_others() {
    let limits = CallLimits { max_in_flight: Some(16), max_pending: 0, ..CallLimits::default() };
    let node = Node::traffic(limited(limits)).await;
    let a = Instance::new(|request| async {
        if request.uri().path() == "/a.B/Hold" {
            std::future::pending::<()>().await;
        }
        echo("a", request).await
    });
    let a = a.await;
    node.serve("svc", &[&a]).await;
    let holder = node.client().await;
    let mut held = Vec::new();
    for _ in 0..14 {
        let mut sender = holder.sender.clone();
        let request = super::support::Client::request("svc", "/a.B/Hold").body(tonic::body::Body::empty()).unwrap();
        held.push(AbortOnDropHandle::new(tokio::spawn(async move { sender.send_request(request).await })));
    }
    until(|| a.n_calls() == 14).await;
    let refused = super::support::Client { sender: holder.sender.clone() }.echo("svc", "x").await;
    assert_eq!((refused.code(), refused.kind()), ("14", "overloaded"));
    let mut other = node.client().await;
    for _ in 0..20 {
        assert_eq!(other.echo("svc", "x").await.code(), "0");
    }
}
