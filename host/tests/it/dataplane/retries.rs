//! Calls that are sent again because their service's owner said so.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use waymark::traffic::{Code, MethodConfig, Methods, Repeat, RetryBudget, RetryPolicy, Traffic};

use super::support::{Client, Instance, Node, message, soon};

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
async fn a_call_that_failed_is_sent_to_others_and_never_twice_to_one() {
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
    // Where every one fails, each is asked once, and the last one's answer is the call's.
    node.serve("svc", &[&a, &b]).await;
    let before = (a.n_calls(), b.n_calls());
    let answer = client.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.message().as_str(), answer.kind()), ("14", "not now", ""));
    assert_eq!((a.n_calls(), b.n_calls()), (before.0 + 1, before.1 + 1));
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
