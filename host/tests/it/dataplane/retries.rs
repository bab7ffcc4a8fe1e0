//! Calls that are sent again because their service's owner said so.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::net::TcpListener;
use waymark_node::{
    dataplane::{Options, Routes},
    traffic::{Code, MethodConfig, Methods, Repeat, RetryBudget, RetryPolicy, Traffic},
};

use super::support::{Client, Instance, Node, at, closed_port, echo, message, soon, until};

fn retrying(policy: RetryPolicy) -> Traffic {
    let repeat = Some(Arc::new(Repeat::Retry(policy)));
    Traffic { methods: Methods::all(MethodConfig { repeat, ..MethodConfig::default() }), ..Traffic::default() }
}

/// Waits that a test does not notice.
fn quick() -> RetryPolicy {
    RetryPolicy { initial_backoff: Duration::from_millis(1), ..RetryPolicy::default() }
}

type Seen = Arc<Mutex<Vec<Option<String>>>>;

/// An instance that answers each call with this status, and notes which attempt it was told of.
async fn failing(code: tonic::Code, pushback: Option<&'static str>) -> (Instance, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let instance = Instance::new(move |request| {
        let attempt = request.headers().get("grpc-previous-rpc-attempts");
        noted.lock().unwrap().push(attempt.map(|value| value.to_str().unwrap().to_owned()));
        let mut status = tonic::Status::new(code, "not now");
        if let Some(pushback) = pushback {
            status.metadata_mut().insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
        }
        async move { status.into_http() }
    });
    (instance.await, seen)
}

#[tokio::test]
async fn a_call_that_failed_is_sent_to_others_before_it_goes_to_one_again() {
    let node = Node::traffic(retrying(quick())).await;
    let (a, of_a) = failing(tonic::Code::Unavailable, None).await;
    let (b, of_b) = failing(tonic::Code::Unavailable, Some("1")).await;
    let c = Instance::echo("c").await;
    node.serve("svc", &[&a, &b, &c]).await;
    let mut client = node.client().await;
    for _ in 0..6 {
        let answer = client.echo("svc", "x").await;
        assert_eq!((answer.code(), answer.kind()), ("0", ""), "{}", answer.message());
    }
    // Where every one fails, they are asked in turn until the policy has enough, and the last one's
    // answer is the call's.
    node.serve("svc", &[&a, &b]).await;
    let before = (a.n_calls(), b.n_calls());
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.message().as_str(), answer.kind()), ("14", "not now", ""));
    assert_eq!((a.n_calls(), b.n_calls()), (before.0 + 2, before.1 + 2), "four attempts");
    let told: Vec<_> = of_a.lock().unwrap().iter().chain(&*of_b.lock().unwrap()).cloned().collect();
    assert!(told.contains(&None) && told.contains(&Some("1".into())), "{told:?}");
    assert!(c.n_calls() == 6);
}

#[tokio::test]
async fn what_must_not_be_sent_again_is_not() {
    let node = Node::traffic(retrying(quick())).await;
    let serves = Instance::echo("a").await;
    let mut client = node.client().await;
    for (code, pushback) in [
        (tonic::Code::Internal, None),
        (tonic::Code::Unavailable, Some("-1")),
        (tonic::Code::Unavailable, Some("never")),
        // It would be too late.
        (tonic::Code::Unavailable, Some("60000")),
    ] {
        let (fails, _) = failing(code, pushback).await;
        node.serve("svc", &[&fails, &serves]).await;
        let mut failed = 0;
        for _ in 0..4 {
            let request = Client::request("svc", "/test.Echo/Unary").header("grpc-timeout", "20S");
            let body = tonic::body::Body::new(http_body_util::Full::new(message(&[])));
            let answer = client.answer(request.body(body).unwrap()).await;
            failed += usize::from(answer.code() != "0");
        }
        assert_eq!((failed, fails.n_calls()), (2, 2), "{code:?} {pushback:?}: every second call, and once each");
    }
}

#[tokio::test]
async fn a_request_over_the_buffer_is_sent_once() {
    let node = Node::traffic(retrying(quick())).await;
    let read = Instance::new(|request| async move {
        http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
        tonic::Status::unavailable("not now").into_http()
    });
    let (fails, serves) = (read.await, Instance::echo("a").await);
    node.serve("svc", &[&fails, &serves]).await;
    let mut client = node.client().await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let request = Client::request("svc", "/test.Echo/Unary");
        let long = prost::Message::encode_to_vec(&super::support::text("x".repeat(100_000)));
        let body = tonic::body::Body::new(http_body_util::Full::new(message(&long)));
        codes.push(client.answer(request.body(body).unwrap()).await.code().to_owned());
    }
    codes.sort();
    assert_eq!(codes, ["0", "14"]);
}

#[tokio::test]
async fn a_call_whose_instance_was_lost_is_sent_again_if_the_policy_says_so() {
    let node = Node::traffic(retrying(quick())).await;
    let lost = Arc::new(Mutex::new(None::<Arc<Instance>>));
    let (tx, mut called) = tokio::sync::mpsc::unbounded_channel();
    let dies = Instance::new(move |_| {
        tx.send(()).unwrap();
        std::future::pending()
    });
    let dies = Arc::new(dies.await);
    *lost.lock().unwrap() = Some(Arc::clone(&dies));
    let serves = Instance::echo("a").await;
    node.serve("svc", &[&dies, &serves]).await;
    let killer = tokio::spawn(async move {
        soon(called.recv()).await.unwrap();
        dies.kill().await;
    });
    let mut client = node.client().await;
    for _ in 0..2 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    soon(killer).await.unwrap();
}

#[tokio::test]
async fn a_budget_that_is_used_up_stops_retries() {
    let budget = RetryBudget { max_tokens: 4, ratio_thousandths: 1 };
    let policy = RetryPolicy { codes: [Code::Aborted].into_iter().collect(), ..quick() };
    let node = Node::traffic(Traffic { retry_budget: budget, ..retrying(policy) }).await;
    let (a, _) = failing(tonic::Code::Aborted, None).await;
    let (b, _) = failing(tonic::Code::Aborted, None).await;
    node.serve("svc", &[&a, &b]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "10");
    assert_eq!(a.n_calls() + b.n_calls(), 2, "three of four tokens were left for a retry");
    for _ in 0..4 {
        assert_eq!(client.echo("svc", "x").await.code(), "10");
    }
    assert_eq!(a.n_calls() + b.n_calls(), 6, "one attempt each");
}

/// gRFC A6 knows nothing of endpoints.
#[tokio::test]
async fn where_there_is_one_endpoint_it_is_asked_again() {
    let node = Node::traffic(retrying(quick())).await;
    let (a, told) = failing(tonic::Code::Unavailable, None).await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.message().as_str(), answer.kind()), ("14", "not now", ""));
    let attempts: Vec<_> = told.lock().unwrap().iter().map(|told| told.clone().unwrap_or_default()).collect();
    assert_eq!(attempts, ["", "1", "2", "3"]);
    // And one that fails once serves the call.
    let calls = AtomicUsize::new(0);
    let once = Instance::new(move |request| {
        let first = calls.fetch_add(1, SeqCst) == 0;
        async move { if first { tonic::Status::unavailable("not now").into_http() } else { echo("a", request).await } }
    });
    let once = once.await;
    node.serve("svc", &[&once]).await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    assert_eq!(once.n_calls(), 2);
}

#[tokio::test]
async fn a_call_goes_on_with_the_endpoints_there_are_by_then() {
    let policy = RetryPolicy { initial_backoff: Duration::from_secs(1), ..RetryPolicy::default() };
    let node = Node::traffic(retrying(policy)).await;
    let ((a, told), b) = (failing(tonic::Code::Unavailable, Some("300")).await, Instance::echo("b").await);
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let call = tokio::spawn(async move { client.echo("svc", "x").await });
    until(|| !told.lock().unwrap().is_empty()).await;
    node.serve("svc", &[&a, &b]).await;
    assert_eq!(soon(call).await.unwrap().code(), "0");
    assert_eq!((a.n_calls(), b.n_calls()), (1, 1));
}

/// What gRPC's clients retry as well: there is nobody at the moment.
#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_asked_again() {
    // Three waits of up to so long: enough for the endpoint to be there and to be connected to.
    let policy = RetryPolicy {
        initial_backoff: Duration::from_secs(2),
        max_backoff: Duration::from_secs(2),
        ..RetryPolicy::default()
    };
    let mut options = Options::default();
    options.connect.backoff_base = Duration::from_millis(10);
    let node = Node::of(Routes::default(), options, retrying(policy)).await;
    let address = closed_port().await;
    node.set("svc", vec![at(address)]).await;
    let mut client = node.client().await;
    let call = tokio::spawn(async move { client.echo("svc", "x").await });
    let state = Arc::clone(&node.services.get("svc").unwrap().state());
    until(|| state.endpoints[0].cell.is_backing_off()).await;
    let _a = Instance::on(TcpListener::bind(address).await.unwrap(), |request| echo("a", request));
    let answer = soon(call).await.unwrap();
    assert_eq!(answer.code(), "0", "{answer:?}");
}
