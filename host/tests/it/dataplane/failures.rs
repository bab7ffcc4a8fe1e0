//! Calls that nobody answers: each says which case it was.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waymark_node::{
    dataplane::{Options, Routes},
    model::{Endpoint, Update},
    policy::{Decision, PickContext, PickError, Picker, Plan, RequestFacts},
};

use super::support::{Answer, Client, Instance, Node, TestPolicy, at, closed_port, soon};

/// Answers every pick alike.
struct Always(Decision);

impl Picker for Always {
    fn pick(&self, _: PickContext, _: &dyn RequestFacts) -> Result<Decision, PickError> {
        Ok(self.0.clone())
    }
}

fn always(decision: Decision) -> TestPolicy {
    TestPolicy(Box::new(move |_| Plan::EachRequest(Box::new(Always(decision.clone())))))
}

#[track_caller]
fn check(answer: &Answer, code: &str, kind: &str, says: &[&str]) {
    assert!(answer.only_head, "one frame: {answer:?}");
    assert_eq!((answer.status, answer.code(), answer.kind()), (200, code, kind), "{}", answer.message());
    assert_eq!(answer.headers["content-type"], "application/grpc");
    for words in says {
        assert!(answer.message().contains(words), "{words:?} is not in {:?}", answer.message());
    }
}

#[tokio::test]
async fn no_route() {
    let node = Node::new().await;
    let request = http::Request::post(format!("http://{}/hello.Greeter1/SayHello1", node.address))
        .header("content-type", "application/grpc");
    let answer = node.client().await.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
    check(&answer, "12", "no-route", &["127.0.0.1", "waymark-service", "hello.Greeter1"]);
}

#[tokio::test]
async fn a_name_that_no_service_could_have() {
    let node = Node::new().await;
    let answer = node.client().await.echo("a b", "x").await;
    check(&answer, "12", "bad-service-name", &["\"a b\"", "white space"]);
}

#[tokio::test]
async fn a_service_the_registry_has_not_told_of_yet() {
    let node = Node::new().await;
    let answer = node.client().await.echo("unheard", "x").await;
    check(&answer, "14", "not-listed", &["service unheard", "not answered within 0.1 s"]);
}

#[tokio::test]
async fn a_call_for_an_unknown_service_waits_for_its_first_list() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    let mut client = node.client().await;
    let call = tokio::spawn(async move { client.echo("new", "x").await });
    // The call itself makes the node look.
    soon(async {
        while node.services.get("new").is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.serve("new", &[&a]).await;
    assert_eq!(soon(call).await.unwrap().code(), "0");
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached() {
    let node = Node::new().await;
    node.update("svc", Update::Stale { reason: "connection refused by 192.0.2.1:2379".into() }).await;
    let answer = node.client().await.echo("svc", "x").await;
    check(&answer, "14", "registry-unreachable", &["service svc", "192.0.2.1:2379"]);
}

#[tokio::test]
async fn losing_the_registry_loses_no_call() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    node.update("svc", Update::Stale { reason: "gone".into() }).await;
    let mut reader = node.services.get("svc").unwrap().subscribe();
    while reader.current().stale.is_none() {
        soon(reader.changed()).await.unwrap();
    }
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
}

#[tokio::test]
async fn no_endpoints() {
    let node = Node::new().await;
    node.set("svc", vec![]).await;
    let answer = node.client().await.echo("svc", "x").await;
    check(&answer, "14", "no-endpoints", &["service svc", "no instance", "revision"]);
}

#[tokio::test]
async fn endpoints_that_cannot_be_reached() {
    let node = Node::new().await;
    let dead = [closed_port().await, closed_port().await];
    node.set("svc", dead.map(at).to_vec()).await;
    let mut client = node.client().await;
    let answer = client.echo("svc", "x").await;
    check(&answer, "14", "all-tried", &["service svc", "2 attempt(s)", "2 known", "127.0.0.1:", "efused"]);
    let answer = client.echo("svc", "x").await;
    check(&answer, "14", "none-reachable", &["service svc", "2 known", "2 wait", "127.0.0.1:", "efused"]);
    let names_one = dead.iter().any(|address| answer.message().contains(&address.to_string()));
    assert!(names_one, "{}", answer.message());
}

#[tokio::test]
async fn endpoints_that_may_not_be_used() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.set("svc", vec![Endpoint { weight: 0, ..at(a.address) }]).await;
    node.policy("svc", TestPolicy(Box::new(|_| Plan::Rotation(Box::default())))).await;
    let answer = node.client().await.echo("svc", "x").await;
    check(&answer, "14", "none-usable", &["service svc", "1 known", "weight is 0"]);
}

#[tokio::test]
async fn a_policy_that_fails_drops_or_holds_a_call_back() {
    let options = Options { queue_timeout: Duration::from_millis(50), ..Options::default() };
    let node = Node::with(Routes::default(), options).await;
    let a = Instance::echo("a").await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    node.policy("svc", always(Decision::Fail("too hot".into()))).await;
    check(&client.echo("svc", "x").await, "14", "policy-fail", &["policy test", "too hot"]);
    node.policy("svc", always(Decision::Drop("shed".into()))).await;
    check(&client.echo("svc", "x").await, "14", "policy-drop", &["policy test", "shed"]);
    node.policy("svc", always(Decision::Queue)).await;
    check(&client.echo("svc", "x").await, "14", "queue-timeout", &["service svc", "policy test", "0.1 s"]);
    let request = Client::request("svc", "/a.B/C").header("grpc-timeout", "10m");
    let answer = client.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
    check(&answer, "4", "deadline-exceeded", &["while the call waited", "policy test holds calls back"]);
    assert_eq!(a.n_calls(), 0);
}

#[tokio::test]
async fn a_call_held_back_goes_on_with_the_next_generation() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    node.policy("svc", always(Decision::Queue)).await;
    let mut client = node.client().await;
    let handle = node.services.get("svc").unwrap();
    let before = handle.state().counters().picks();
    let call = tokio::spawn(async move { client.echo("svc", "x").await });
    soon(async {
        while handle.state().counters().picks() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.policy("svc", TestPolicy::rotation()).await;
    assert_eq!(soon(call).await.unwrap().code(), "0");
}

#[tokio::test]
async fn what_is_not_grpc_gets_an_http_status() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let get = http::Request::get("http://127.0.0.1/").header("waymark-service", "svc");
    let answer = client.answer(get.body(tonic::body::Body::empty()).unwrap()).await;
    assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, "POST"));
    let json = http::Request::post("http://127.0.0.1/").header("content-type", "application/json");
    assert_eq!(client.answer(json.body(tonic::body::Body::empty()).unwrap()).await.status, 415);
    assert_eq!(a.n_calls(), 0);
    for reason in ["method", "content-type"] {
        assert_eq!(node.metric(&format!("dataplane_requests_refused_total{{reason=\"{reason}\"}}")), Some(1));
    }
}

#[tokio::test]
async fn http1_is_told_what_this_port_speaks() {
    let node = Node::new().await;
    for request in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST /hello.Greeter1/SayHello1 HTTP/1.1\r\n", "PROPFIND"] {
        let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let mut len = 0;
        while !answer[..len].ends_with(b"not HTTP/1\n") {
            let read = soon(stream.read(&mut answer[len..])).await.unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer[..len]));
            len += read;
        }
        assert!(answer.starts_with(b"HTTP/1.1 505 "), "{}", String::from_utf8_lossy(&answer[..len]));
        assert_eq!(soon(stream.read(&mut answer)).await.unwrap(), 0, "and the connection is closed");
    }
    assert_eq!(node.metric("dataplane_client_connections_refused_total{reason=\"http1\"}"), Some(3));
}

#[tokio::test]
async fn a_failure_in_process_is_a_status_like_any_other() {
    let node = Node::new().await;
    node.set("svc", vec![]).await;
    let channel = node.dataplane.channel("svc".parse().unwrap());
    let status = super::support::Caller::new(channel, None).unary("x").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(status.metadata().get("waymark-error").unwrap(), "no-endpoints");
    assert!(status.message().starts_with("service svc: "), "{}", status.message());
}
