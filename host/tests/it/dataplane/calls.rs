//! Calls that succeed: the four kinds, metadata, deadlines, routes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use waymark_node::{
    dataplane::{Options, Route, Routes},
    model::ServiceName,
};

use super::support::{Caller, Client, Instance, Node, message, reply, soon, text, trailers};

async fn all_kinds<T>(mut caller: Caller<T>)
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::Error: std::fmt::Debug,
{
    assert_eq!(caller.unary("hello").await.unwrap(), "a:hello");
    assert_eq!(caller.client_stream(&["he", "ll", "o"]).await.unwrap(), "a:hello");
    assert_eq!(caller.server_stream("one two three").await.unwrap(), ["a:one", "a:two", "a:three"]);
    let (tx, rx) = mpsc::channel(1);
    let mut answers = caller.bidi(ReceiverStream::new(rx)).await.unwrap();
    for word in ["ping", "pong"] {
        // The answer to one comes before the next is sent: nothing waits for the end of the
        // request.
        tx.send(text(word)).await.unwrap();
        assert_eq!(soon(answers.message()).await.unwrap().unwrap().text, format!("a:{word}"));
    }
    drop(tx);
    assert_eq!(soon(answers.message()).await.unwrap(), None);
}

#[tokio::test]
async fn all_four_call_kinds_pass_through_the_proxy() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    all_kinds(Caller::new(node.dial().await, Some("svc"))).await;
    assert_eq!(a.n_connections(), 1, "one connection an endpoint");
}

#[tokio::test]
async fn all_four_call_kinds_pass_through_a_channel() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("ayang/server1", &[&a]).await;
    let channel = node.dataplane.channel(ServiceName::new("ayang/server1").unwrap());
    all_kinds(Caller::new(channel, None)).await;
}

#[tokio::test]
async fn calls_take_turns_over_the_endpoints() {
    let node = Node::new().await;
    let instances = [Instance::echo("a").await, Instance::echo("b").await, Instance::echo("c").await];
    node.serve("svc", &[&instances[0], &instances[1], &instances[2]]).await;
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    for _ in 0..30 {
        caller.unary("x").await.unwrap();
    }
    assert_eq!(instances.each_ref().map(Instance::n_calls), [10, 10, 10]);
}

#[tokio::test]
async fn metadata_passes_both_ways_untouched() {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let store = Arc::clone(&seen);
    let a = Instance::new(move |request| {
        *store.lock().unwrap() = request.headers().clone();
        let authority = request.uri().authority().unwrap().to_string();
        let end = trailers(&[("grpc-status", "0"), ("x-end", "1"), ("x-end", "2"), ("x-end-bin", "AAEC")]);
        async move {
            let mut reply = reply([Frame::data(message(b"")), Frame::trailers(end)]);
            reply.headers_mut().extend(trailers(&[("x-head", "1"), ("x-head", "2"), ("x-head-bin", "/w==")]));
            reply.headers_mut().insert("x-authority", authority.parse().unwrap());
            reply
        }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let request = Client::request("svc", "/test.Raw/Any")
        .header("x-token-bin", "AP8")
        .header("x-many", "1")
        .header("x-many", "2")
        .body(tonic::body::Body::empty())
        .unwrap();
    let answer = node.client().await.answer(request).await;
    let all = |map: &HeaderMap, name: &str| {
        map.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(all(&answer.headers, "x-head"), ["1", "2"]);
    assert_eq!(all(&answer.headers, "x-head-bin"), ["/w=="]);
    assert_eq!(all(&answer.headers, "x-authority"), ["127.0.0.1"], "the authority is the client's");
    assert_eq!(all(&answer.trailers, "x-end"), ["1", "2"]);
    assert_eq!(all(&answer.trailers, "x-end-bin"), ["AAEC"]);
    assert_eq!((answer.code(), answer.data.len()), ("0", 5));
    let seen = seen.lock().unwrap();
    assert_eq!(all(&seen, "x-token-bin"), ["AP8"]);
    assert_eq!(all(&seen, "x-many"), ["1", "2"]);
    assert_eq!(all(&seen, "te"), ["trailers"]);
    assert!(!seen.contains_key("waymark-service"), "that one is for the node");
    assert!(!seen.contains_key("grpc-timeout"), "no deadline was set");
}

#[tokio::test]
async fn tracing_large_and_many_headers_pass_as_they_are() {
    let a = Instance::new(|request| {
        let mut sent = request.headers().clone();
        // What is about the request itself.
        for name in ["te", "content-type", "content-length"] {
            sent.remove(name);
        }
        async move {
            // All else goes back, as headers and as trailers.
            let mut end = trailers(&[("grpc-status", "0")]);
            end.extend(sent.clone());
            let mut reply = reply([Frame::data(message(b"")), Frame::trailers(end)]);
            reply.headers_mut().extend(sent);
            reply
        }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let large = "x".repeat(7000);
    let mut request = Client::request("svc", "/a.B/C")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("tracestate", "a=1,b=2")
        .header("tracestate", "c=3")
        .header("x-large-bin", &large)
        .header("x-empty", "");
    for n in 0..100 {
        request = request.header("x-many", n.to_string());
    }
    let answer = node.client().await.answer(request.body(tonic::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.code(), "0", "{}", answer.kind());
    for map in [&answer.headers, &answer.trailers] {
        assert_eq!(map["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(map.get_all("tracestate").iter().collect::<Vec<_>>(), ["a=1,b=2", "c=3"]);
        assert_eq!((map["x-large-bin"].to_str().unwrap(), map["x-empty"].to_str().unwrap()), (&*large, ""));
        let many: Vec<_> = map.get_all("x-many").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        assert_eq!(many, (0..100).map(|n| n.to_string()).collect::<Vec<_>>(), "all of them, in their order");
    }
}

#[tokio::test]
async fn compressed_messages_pass_untouched() {
    let a = Instance::new(|request| async move {
        let encodings = ["grpc-encoding", "grpc-accept-encoding"].map(|name| request.headers()[name].clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut reply = reply([Frame::data(body), Frame::trailers(trailers(&[("grpc-status", "0")]))]);
        for (name, value) in ["grpc-encoding", "grpc-accept-encoding"].into_iter().zip(encodings) {
            reply.headers_mut().insert(name, value);
        }
        reply
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    // Flag 1: compressed. That these bytes are no gzip is nobody's business here.
    let mut compressed = message(b"anything at all").to_vec();
    compressed[0] = 1;
    let body = tonic::body::Body::new(http_body_util::Full::from(compressed.clone()));
    let request = Client::request("svc", "/a.B/C").header("grpc-encoding", "gzip");
    let request = request.header("grpc-accept-encoding", "gzip,identity").body(body).unwrap();
    let answer = node.client().await.answer(request).await;
    assert_eq!((answer.code(), &answer.data[..]), ("0", &compressed[..]));
    assert_eq!(
        (&answer.headers["grpc-encoding"], &answer.headers["grpc-accept-encoding"]),
        (&http::HeaderValue::from_static("gzip"), &http::HeaderValue::from_static("gzip,identity"))
    );
}

#[tokio::test]
async fn a_trailers_only_answer_stays_one_frame() {
    let a = Instance::new(|_| async {
        let mut reply = tonic::Status::not_found("no such thing").into_http();
        reply.headers_mut().insert("x-why", "because".parse().unwrap());
        reply
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert!(answer.only_head);
    assert_eq!((answer.code(), answer.kind(), answer.message().as_str()), ("5", "", "no such thing"));
    assert_eq!(answer.headers["x-why"], "because");
}

#[tokio::test]
async fn an_answer_that_is_not_grpc_becomes_a_status() {
    let a = Instance::new(|_| async {
        let body = tonic::body::Body::new(http_body_util::Full::from("sorry"));
        http::Response::builder().status(503).header("content-type", "text/plain").body(body).unwrap()
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!((answer.status, answer.code(), answer.kind()), (200, "14", "answer-not-grpc"));
    assert!(answer.message().contains("does not speak gRPC: it answered with HTTP status 503"), "{}", answer.message());
}

#[tokio::test]
async fn a_deadline_is_forwarded_less_the_time_spent_here() {
    let (tx, mut rx) = mpsc::unbounded_channel();
    let a = Instance::new(move |request| {
        tx.send(request.headers()["grpc-timeout"].to_str().unwrap().to_owned()).unwrap();
        async { reply([Frame::trailers(trailers(&[("grpc-status", "0")]))]) }
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let request = Client::request("svc", "/a.B/C").header("grpc-timeout", "1M").body(tonic::body::Body::empty());
    assert_eq!(client.answer(request.unwrap()).await.code(), "0");
    let forwarded = rx.recv().await.unwrap();
    let micros: u64 = forwarded.strip_suffix('u').expect("the finest unit that fits").parse().unwrap();
    assert!((30_000_000..60_000_000).contains(&micros), "{forwarded}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_is_not_answered_or_not_read_to_its_end() {
    let a = Instance::new(|request| async move {
        let (tx, body) = super::support::written();
        if request.uri().path() == "/a.B/Never" {
            std::future::pending::<()>().await;
        }
        tokio::spawn(async move {
            tx.send(Frame::data(message(b"first"))).await.unwrap();
            tx.closed().await;
        });
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    for (path, head_only, doing) in
        [("/a.B/Never", true, "while waiting for the answer of"), ("/a.B/Half", false, "was sending its answer")]
    {
        let request = Client::request("svc", path).header("grpc-timeout", "200m").body(tonic::body::Body::empty());
        let answer = client.answer(request.unwrap()).await;
        assert_eq!((answer.code(), answer.kind(), answer.only_head), ("4", "deadline-exceeded", head_only));
        assert!(answer.message().contains(doing), "{}", answer.message());
        assert!(answer.message().contains("service svc"), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_refused() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let request = Client::request("svc", "/a.B/C").header("grpc-timeout", "soon").body(tonic::body::Body::empty());
    let answer = node.client().await.answer(request.unwrap()).await;
    assert_eq!((answer.code(), answer.kind()), ("13", "bad-timeout"));
    assert_eq!(a.n_calls(), 0);
}

#[tokio::test]
async fn a_service_is_found_by_header_route_or_authority() {
    let route = Route { grpc_service: Some("test.Echo".into()), ..Route::to("routed".parse().unwrap()) };
    let node = Node::with(Routes::new([route]).unwrap(), Options::default()).await;
    let (by_header, by_route) = (Instance::echo("header").await, Instance::echo("route").await);
    let by_authority = Instance::new(|_| async { reply([Frame::trailers(trailers(&[("grpc-status", "0")]))]) }).await;
    node.serve("named", &[&by_header]).await;
    node.serve("routed", &[&by_route]).await;
    node.serve("greeter.example", &[&by_authority]).await;
    assert_eq!(Caller::new(node.dial().await, Some("named")).unary("x").await.unwrap(), "header:x");
    assert_eq!(Caller::new(node.dial().await, None).unary("x").await.unwrap(), "route:x");
    let request = http::Request::post("http://greeter.example:50051/other.Service/Method")
        .header("content-type", "application/grpc+proto")
        .body(tonic::body::Body::empty());
    assert_eq!(node.client().await.answer(request.unwrap()).await.code(), "0");
    assert_eq!(by_authority.n_calls(), 1);
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let large = "x".repeat(8 << 20);
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    assert_eq!(caller.unary(large.clone()).await.unwrap().len(), large.len() + 2);
    let channel = node.dataplane.channel(ServiceName::new("svc").unwrap());
    assert_eq!(Caller::new(channel, None).unary(large.clone()).await.unwrap().len(), large.len() + 2);
}

#[tokio::test]
async fn many_calls_at_once_share_one_connection() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let channel = node.dial().await;
    // As many as hyper allows on one.
    let calls = (0..200).map(|n| {
        let mut caller = Caller::new(channel.clone(), Some("svc"));
        async move { assert_eq!(caller.unary(n.to_string()).await.unwrap(), format!("a:{n}")) }
    });
    futures::future::join_all(calls).await;
    assert_eq!((a.n_calls(), a.n_connections()), (200, 1));
}

#[tokio::test]
async fn request_trailers_and_an_empty_request_pass() {
    let a = Instance::new(|request| async move {
        let body = request.into_body().collect().await.unwrap();
        let note = body.trailers().map_or("none", |_| "some");
        reply([Frame::trailers(trailers(&[("grpc-status", "0"), ("x-request-trailers", note)]))])
    })
    .await;
    let node = Node::new().await;
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let empty = Client::request("svc", "/a.B/C").body(tonic::body::Body::empty()).unwrap();
    assert_eq!(client.answer(empty).await.trailers["x-request-trailers"], "none");
    let frames = [Frame::data(message(b"x")), Frame::trailers(trailers(&[("x-more", "1")]))];
    let frames = tokio_stream::iter(frames).map(Ok::<_, tonic::Status>);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    let request = Client::request("svc", "/a.B/C").body(body).unwrap();
    assert_eq!(client.answer(request).await.trailers["x-request-trailers"], "some");
}

#[tokio::test]
async fn a_call_without_a_deadline_outlives_the_waits_of_the_node() {
    let options = Options { queue_timeout: Duration::from_millis(1), ..Options::default() };
    let node = Node::with(Routes::default(), options).await;
    let a = Instance::new(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        reply([Frame::trailers(trailers(&[("grpc-status", "0")]))])
    })
    .await;
    node.serve("svc", &[&a]).await;
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
}
