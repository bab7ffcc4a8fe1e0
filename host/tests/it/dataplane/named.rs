//! Whom a call is for, by what its client says and leaves out; and what instances and callers hear
//! of that.

use std::sync::{Arc, Mutex};

use http::HeaderMap;
use http_body::Frame;
use tokio::net::TcpListener;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use waymark_node::dataplane::{self, Listener, Options, Route, Routes};

use super::{
    frames::{Raw, block, flag, frame, kind},
    support::{Caller, Client, Instance, Node, echo, message, reply, soon, trailers, until},
};

type Seen = Arc<Mutex<Vec<(Option<String>, HeaderMap)>>>;

/// An instance that notes the authority and the headers of each call, and answers well.
async fn noting() -> (Instance, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let instance = Instance::new(move |request| {
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
        noted.lock().unwrap().push((authority, request.headers().clone()));
        async move { reply([Frame::data(message(b"")), Frame::trailers(trailers(&[("grpc-status", "0")]))]) }
    });
    (instance.await, seen)
}

/// A call with these headers beside those that it must have.
fn call(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let must = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C")];
    // Pseudo-headers come first.
    let (pseudo, others): (Vec<_>, Vec<_>) = more.iter().copied().partition(|(name, _)| name.starts_with(':'));
    let all = [&must[..], &pseudo, &[("content-type", "application/grpc")], &others].concat();
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(&all))
}

#[tokio::test]
async fn an_instance_gets_one_authority_and_te_whatever_came() {
    let (node, (a, seen)) = (Node::new().await, noting().await);
    for service in ["svc", "host.example"] {
        node.serve(service, &[&a]).await;
    }
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("host", "host.example:81"), ("te", "trailers")], "host.example:81"),
        (&[("host", "host.example."), ("waymark-service", "svc")], "host.example."),
        (&[(":authority", "svc"), ("host", "other.example")], "svc"),
        (&[(":authority", "svc"), ("host", "svc")], "svc"),
        // What is no authority is none: the instance's address stands in for it.
        (&[("host", "a b"), ("waymark-service", "svc")], &a.address.to_string()),
    ];
    let mut raw = Raw::connect(node.address, &[]).await;
    for (n, (headers, authority)) in cases.into_iter().enumerate() {
        raw.write(&call(2 * n as u32 + 1, headers)).await.unwrap();
        until(|| seen.lock().unwrap().len() == n + 1).await;
        let (got, headers) = seen.lock().unwrap()[n].clone();
        assert_eq!(got.as_deref(), Some(authority), "{n}");
        assert!(!headers.contains_key("host"), "{headers:?}");
        let te: Vec<_> = headers.get_all("te").iter().collect();
        assert_eq!(te, ["trailers"], "{n}");
    }
}

#[tokio::test]
async fn a_call_that_names_no_service_is_for_its_listener_s() {
    let node = Node::new().await;
    let (a, b) = (Instance::echo("a").await, Instance::echo("b").await);
    node.serve("ayang/server1", &[&a]).await;
    node.serve("other", &[&b]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Listener::from(listener).for_service(Some("ayang/server1".parse().unwrap()));
    let served = tokio::spawn(dataplane::serve(listener, node.dataplane.clone(), std::future::pending()));
    let dialled = || async move {
        tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap()
    };
    assert_eq!(Caller::new(dialled().await, None).unary("x").await.unwrap(), "a:x");
    assert_eq!(Caller::new(dialled().await, Some("other")).unary("x").await.unwrap(), "b:x");
    // The node's other listener is for none.
    let refused = Caller::new(node.dial().await, None).unary("x").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    assert!(refused.message().contains("listen-service"), "{}", refused.message());
    served.abort();
}

async fn check(node: &Node, service: &str) -> Result<ServingStatus, tonic::Code> {
    let request = HealthCheckRequest { service: service.into() };
    let answer = soon(HealthClient::new(node.dial().await).check(request)).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn whoever_names_no_service_is_told_of_the_node_s_own_health() {
    let route = Route { grpc_service: Some("hello.Greeter1".into()), ..Route::to("routed".parse().unwrap()) };
    let (mut node, a) =
        (Node::with(Routes::new([route]).unwrap(), Options::default()).await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    node.serve("routed", &[&a]).await;
    node.set("nobody", vec![]).await;
    for (service, said) in [
        ("", Ok(ServingStatus::Serving)),
        ("svc", Ok(ServingStatus::Serving)),
        ("hello.Greeter1", Ok(ServingStatus::Serving)),
        ("nobody", Ok(ServingStatus::NotServing)),
        ("unheard", Err(tonic::Code::NotFound)),
    ] {
        assert_eq!(check(&node, service).await, said, "{service}");
    }
    assert!(node.services.get("unheard").is_none(), "to ask of a service does not bring it about");
    assert_eq!(node.metric("dataplane_requests_total{service=\"\",code=\"OK\"}"), Some(4));
    assert_eq!(node.metric("dataplane_requests_total{service=\"\",code=\"NOT_FOUND\"}"), Some(1));
    // One that names a service is for its instances, as any other call.
    let mut named = tonic::Request::new(HealthCheckRequest::default());
    named.metadata_mut().insert("waymark-service", "svc".parse().unwrap());
    let answer = soon(HealthClient::new(node.dial().await).check(named)).await;
    assert_eq!((answer.unwrap_err().code(), a.n_calls()), (tonic::Code::Unimplemented, 1));
    // Who watches hears when the node shuts down.
    let mut watch = HealthClient::new(node.dial().await);
    let mut said = soon(watch.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    assert_eq!(soon(said.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    node.stop();
    assert_eq!(soon(said.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(soon(said.message()).await.unwrap(), None);
    assert_eq!(node.stopped().await.cut_off, 0);
}

#[tokio::test]
async fn what_a_caller_sends_comes_back_short_and_printable() {
    let (node, a) = (Node::new().await, Instance::new(|request| echo("a", request)).await);
    node.serve("svc", &[&a]).await;
    let mut client = node.client().await;
    let long = "x".repeat(20_000);
    let nothing = || tonic::body::Body::empty();
    let cases = [
        (Client::request(&long, "/a.B/C").body(nothing()), "bad-service-name"),
        (Client::request("svc", "/a.B/C").header("grpc-timeout", &long).body(nothing()), "bad-timeout"),
        (Client::request("svc", "/a.B/C").header("grpc-timeout", &b"\xff\xfe\x80S"[..]).body(nothing()), "bad-timeout"),
        (
            http::Request::post(format!("http://127.0.0.1/{long}/C"))
                .header("content-type", "application/grpc")
                .body(nothing()),
            "no-route",
        ),
        (
            http::Request::post(format!("http://{}.example/a.B/C", "x".repeat(600)))
                .header("content-type", "application/grpc")
                .body(nothing()),
            "bad-service-name",
        ),
    ];
    for (request, kind) in cases {
        let answer = client.answer(request.unwrap()).await;
        assert_eq!(answer.kind(), kind);
        let told = answer.headers["grpc-message"].as_bytes();
        assert!(told.len() < 1500 && told.iter().all(|b| matches!(b, b' '..=b'~')), "{answer:?}");
    }
    assert_eq!(a.n_calls(), 0);
}

#[tokio::test]
async fn a_name_in_any_language_is_found() {
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("größe/東京", &[&a]).await;
    let mut request = Client::request("svc", "/test.Echo/Unary")
        .body(tonic::body::Body::new(http_body_util::Full::new(message(b"\x0a\x01x"))));
    let name = http::HeaderValue::from_bytes("größe/東京".as_bytes()).unwrap();
    request.as_mut().unwrap().headers_mut().insert("waymark-service", name);
    let answer = node.client().await.answer(request.unwrap()).await;
    assert_eq!(answer.code(), "0", "{}", answer.message());
}
