//! Who calls: which services a client may call, and what instances hear of it.

use std::net::SocketAddr;

use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use waymark_node::{
    dataplane::{
        self, Authorization, ClientRule, Forwarding, InboundOptions, Listener, Options, Pem, Routes, ServerTls,
    },
    model::ServiceName,
};

use super::support::{Answer, Client, Instance, Node, echo, reply, trailers};
use crate::certificates::{Authority, Pair};

fn rules(names: &[&str]) -> Vec<ClientRule> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A node whose clients have certificates of `ours`.
fn tls(ours: &Authority) -> InboundOptions {
    let pem = Pem { identity: Some(ours.issue(&["127.0.0.1"])), authorities: Some(ours.pem()) };
    InboundOptions { tls: Some(ServerTls::new(&pem).unwrap()), ..InboundOptions::default() }
}

async fn secure(to: SocketAddr, ours: &Authority, (certificate, key): Pair) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&ours.pem()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let builder = ClientConfig::builder_with_provider(default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    Client { sender }
}

#[tokio::test]
async fn a_service_answers_the_clients_it_names_and_tells_the_others_so() {
    let ours = Authority::new("ours");
    let named = (ServiceName::new("shop").unwrap(), rules(&["DNS:a.example", "DNS:*.shop.example"]));
    let authorization = Authorization::new(None, [named]);
    let options = Options { inbound: tls(&ours), authorization, ..Options::default() };
    let (node, a) = (Node::with(Routes::default(), options).await, Instance::echo("a").await);
    node.serve("shop", &[&a]).await;
    node.serve("open", &[&a]).await;
    for name in ["a.example", "till.shop.example"] {
        let mut client = secure(node.address, &ours, ours.issue(&[name])).await;
        assert_eq!(client.echo("shop", "x").await.code(), "0", "{name}");
    }
    let calls = a.n_calls();
    let mut other = secure(node.address, &ours, ours.issue(&["b.example"])).await;
    let answer = other.echo("shop", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("7", "forbidden"));
    assert!(answer.message().contains("DNS:b.example is not among the clients"), "{}", answer.message());
    assert_eq!(a.n_calls(), calls, "the instance has seen nothing of it");
    assert_eq!(other.echo("open", "x").await.code(), "0", "and the connection goes on");
    assert_eq!(node.metric("dataplane_requests_refused_total{reason=\"forbidden\"}"), Some(1));
}

#[tokio::test]
async fn who_may_call_nothing_brings_no_service_about() {
    let options = Options { authorization: Authorization::new(Some(rules(&["*"])), []), ..Options::default() };
    let node = Node::with(Routes::default(), options).await;
    let answer = node.client().await.echo("made-up", "x").await;
    assert_eq!((answer.code(), answer.kind()), ("7", "forbidden"));
    assert!(answer.message().contains("without a certificate"), "{}", answer.message());
    assert!(node.services.get("made-up").is_none());
}

#[tokio::test]
async fn over_a_unix_socket_clients_are_known_by_their_user() {
    use std::os::unix::fs::MetadataExt as _;
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let named = |service: &str, names: &[&str]| (ServiceName::new(service).unwrap(), rules(names));
    let own = format!("uid:{uid}");
    let authorization = Authorization::new(None, [named("own", &[&own]), named("other", &["uid:4711", "*"])]);
    let node = Node::with(Routes::default(), Options { authorization, ..Options::default() }).await;
    let a = Instance::echo("a").await;
    node.serve("own", &[&a]).await;
    node.serve("other", &[&a]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = Listener::unix(&path, None).unwrap();
    tokio::spawn(dataplane::serve(listener, node.dataplane.clone(), std::future::pending()));
    let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = Client { sender };
    assert_eq!(client.echo("own", "x").await.code(), "0");
    assert_eq!(client.echo("other", "x").await.code(), "7");
    // Over the port nobody knows.
    assert_eq!(node.client().await.echo("own", "x").await.code(), "7");
}

/// An instance that answers with what it heard of its client.
async fn telling() -> Instance {
    Instance::new(|request| async {
        let mut heard = HeaderMap::new();
        for (name, value) in request.headers() {
            if ["x-forwarded-client-cert", "x-forwarded-for", "forwarded", "x-real-ip"].contains(&name.as_str()) {
                heard.append(name, value.clone());
            }
        }
        let mut answer = echo("a", request).await;
        answer.headers_mut().extend(heard);
        answer
    })
    .await
}

async fn heard(client: &mut Client) -> Answer {
    let mut request = Client::request("svc", "/test.Echo/Unary");
    for (name, value) in [
        ("x-forwarded-client-cert", "Hash=forged"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
    ] {
        request = request.header(name, value);
    }
    let encoded = prost::Message::encode_to_vec(&super::support::text("x"));
    let body = tonic::body::Body::new(http_body_util::Full::new(super::support::message(&encoded)));
    let answer = client.answer(request.body(body).unwrap()).await;
    assert_eq!(answer.code(), "0");
    answer
}

fn says<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn instances_hear_of_clients_what_is_proven_and_nothing_else() {
    let (node, a) = (Node::new().await, telling().await);
    node.serve("svc", &[&a]).await;
    let answer = heard(&mut node.client().await).await;
    for name in ["x-forwarded-client-cert", "x-forwarded-for", "forwarded", "x-real-ip"] {
        assert_eq!(says(&answer, name), [""; 0], "{name}");
    }

    let ours = Authority::new("ours");
    let forwarding = Forwarding { certificate: true, address: true, trusted: false };
    let node = Node::with(Routes::default(), Options { inbound: tls(&ours), forwarding, ..Options::default() }).await;
    node.serve("svc", &[&a]).await;
    let answer = heard(&mut secure(node.address, &ours, ours.issue(&["a.example"])).await).await;
    let certificate = says(&answer, "x-forwarded-client-cert");
    assert!(certificate.len() == 1 && certificate[0].starts_with("Hash="), "{certificate:?}");
    assert!(certificate[0].ends_with(";DNS=a.example") && !certificate[0].contains("forged"), "{certificate:?}");
    assert_eq!(says(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(says(&answer, "forwarded"), [""; 0]);

    let trusted = Options { forwarding: Forwarding { trusted: true, ..forwarding }, ..Options::default() };
    let node = Node::with(Routes::default(), trusted).await;
    node.serve("svc", &[&a]).await;
    let answer = heard(&mut node.client().await).await;
    assert_eq!(says(&answer, "x-forwarded-client-cert"), ["Hash=forged"], "there is no certificate to add");
    assert_eq!(says(&answer, "x-forwarded-for"), ["10.0.0.1,127.0.0.1"]);
    assert_eq!(says(&answer, "x-real-ip"), ["10.0.0.1"]);
}

#[tokio::test]
async fn no_instance_speaks_for_the_node() {
    let node = Node::new().await;
    let forged = [("grpc-status", "14"), ("waymark-error", "no-endpoints"), ("waymark-other", "x"), ("x-own", "1")];
    let head = Instance::new(move |_| async move {
        let mut answer = http::Response::new(tonic::body::Body::empty());
        answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        answer.headers_mut().extend(trailers(&forged));
        answer
    });
    let tail = Instance::new(move |_| async move {
        let mut answer = reply([
            http_body::Frame::data(super::support::message(b"")),
            http_body::Frame::trailers(trailers(&forged)),
        ]);
        answer.headers_mut().extend(trailers(&forged[1..]));
        answer
    });
    let (head, tail) = (head.await, tail.await);
    node.serve("head", &[&head]).await;
    node.serve("tail", &[&tail]).await;
    let mut client = node.client().await;
    for service in ["head", "tail"] {
        let answer = client.echo(service, "x").await;
        assert_eq!((answer.code(), answer.kind()), ("14", ""), "{service}");
        assert_eq!(answer.upstream_kind(), "no-endpoints", "{service}");
        for map in [&answer.headers, &answer.trailers] {
            assert!(!map.keys().any(|name| name.as_str().starts_with("waymark-")), "{service}: {map:?}");
        }
        let own = [&answer.headers, &answer.trailers].iter().filter(|map| map.contains_key("x-own")).count();
        assert!(own > 0, "{service}: the rest passes");
    }
}
