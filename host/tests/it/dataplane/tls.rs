//! TLS with clients and with endpoints, and what is said to whoever has it wrong.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use waymark_node::dataplane::{ClientTls, EndpointTls, InboundOptions, Options, Pem, Routes, ServerTls};

use super::support::{Caller, Instance, Node, at, echo, soon};
use crate::certificates::{Authority, Pair};

const LOOPBACK: &str = "127.0.0.1";

fn server(identity: Pair, clients: Option<&Authority>) -> ServerTls {
    ServerTls::new(&Pem { identity: Some(identity), authorities: clients.map(Authority::pem) }).unwrap()
}

/// A node whose clients speak TLS, and an instance behind it.
async fn node(tls: ServerTls) -> (Node, Instance) {
    let inbound = InboundOptions {
        tls: Some(tls),
        handshake_timeout: Duration::from_millis(300),
        first_bytes_timeout: Duration::from_millis(300),
        ..InboundOptions::default()
    };
    let node = Node::with(Routes::default(), Options { inbound, ..Options::default() }).await;
    let a = Instance::echo("a").await;
    node.serve("svc", &[&a]).await;
    (node, a)
}

async fn dial(node: &Node, trusted: &Authority, identity: Option<Pair>) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem()));
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    soon(Endpoint::new(format!("https://{}", node.address)).unwrap().tls_config(tls).unwrap().connect()).await
}

async fn answers(node: &Node, trusted: &Authority, identity: Option<Pair>) {
    let mut caller = Caller::new(dial(node, trusted, identity).await.unwrap(), Some("svc"));
    assert_eq!(caller.unary("x").await.unwrap(), "a:x");
}

/// Whether a call fails, be it in the handshake or, where TLS 1.3 tells of a refusal only after it,
/// on the first call.
async fn refused(node: &Node, trusted: &Authority, identity: Option<Pair>) {
    if let Ok(channel) = dial(node, trusted, identity).await {
        let status = Caller::new(channel, Some("svc")).unary("x").await.unwrap_err();
        assert!(status.metadata().get("waymark-error").is_none(), "the call did not come in: {status:?}");
    }
}

#[tokio::test]
async fn all_call_kinds_pass_through_tls() {
    let ours = Authority::new("ours");
    let (node, a) = node(server(ours.issue(&[LOOPBACK]), None)).await;
    let mut caller = Caller::new(dial(&node, &ours, None).await.unwrap(), Some("svc"));
    assert_eq!(caller.unary("hello").await.unwrap(), "a:hello");
    assert_eq!(caller.client_stream(&["he", "llo"]).await.unwrap(), "a:hello");
    assert_eq!(caller.server_stream("one two").await.unwrap(), ["a:one", "a:two"]);
    // Far over what one TLS record and one window hold.
    let large = "x".repeat(4 << 20);
    assert_eq!(caller.unary(large.clone()).await.unwrap().len(), large.len() + 2);
    assert_eq!(a.n_connections(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_node_disturbs_no_other() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (node, _a) = node(server(ours.issue(&[LOOPBACK]), None)).await;
    let mut before = Caller::new(dial(&node, &ours, None).await.unwrap(), Some("svc"));
    assert!(dial(&node, &theirs, None).await.is_err());
    assert_eq!(before.unary("x").await.unwrap(), "a:x");
    answers(&node, &ours, None).await;
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_right_authority_are_taken() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (node, a) = node(server(ours.issue(&[LOOPBACK]), Some(&ours))).await;
    answers(&node, &ours, Some(ours.issue(&["client.example"]))).await;
    refused(&node, &ours, None).await;
    refused(&node, &ours, Some(theirs.issue(&["client.example"]))).await;
    answers(&node, &ours, Some(ours.issue(&["client.example"]))).await;
    assert_eq!(a.n_calls(), 2);
}

#[tokio::test]
async fn clients_that_do_not_shake_hands_hold_up_nobody_and_are_closed() {
    let ours = Authority::new("ours");
    let (node, _a) = node(server(ours.issue(&[LOOPBACK]), None)).await;
    let mut silent = Vec::new();
    // Nothing at all, the first byte of a handshake, and what only looks like one.
    for first in [&b""[..], &[0x16], b"\x16\x03\x01\x00\x05hello"] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(first).await.unwrap();
        silent.push(stream);
    }
    answers(&node, &ours, None).await;
    for mut stream in silent {
        let mut rest = Vec::new();
        // Closed, with or without an alert.
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    answers(&node, &ours, None).await;
}

#[tokio::test]
async fn a_client_in_cleartext_is_told_that_the_port_speaks_tls() {
    let ours = Authority::new("ours");
    let (node, _a) = node(server(ours.issue(&[LOOPBACK]), None)).await;
    let answer_to = async |sent: &[u8]| {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        while soon(stream.read_buf(&mut answer)).await.unwrap() > 0 {}
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = answer_to(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("over TLS"), "{answer}");
    // As a client sees it: the connection's end says why.
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (_sender, connection) = h2::client::handshake(stream).await.unwrap();
    let error = soon(connection).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INADEQUATE_SECURITY), "{error:?}");
    let answer = answer_to(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(answer.contains("use https:// or TLS credentials"), "{answer}");
    assert_eq!(node.metric("dataplane_client_connections_refused_total{reason=\"cleartext\"}"), Some(3));
}

/// TLS as a client that asks for these protocols.
async fn shake_hands(address: SocketAddr, trusted: &Authority, alpn: &[&[u8]]) -> std::io::Result<impl Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&trusted.pem()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(LOOPBACK).unwrap(), stream)).await
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for T {}

#[tokio::test]
async fn a_client_that_does_not_ask_for_http2_is_told() {
    let ours = Authority::new("ours");
    let (node, _a) = node(server(ours.issue(&[LOOPBACK]), None)).await;
    let mut stream = shake_hands(node.address, &ours, &[]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("ALPN h2"), "{answer}");
    // One that asks for something else is refused in the handshake itself.
    let error = shake_hands(node.address, &ours, &[b"http/1.1"]).await.err().unwrap().to_string();
    assert!(error.contains("NoApplicationProtocol") || error.contains("application protocol"), "{error}");
    answers(&node, &ours, None).await;
}

/// An instance that speaks TLS.
async fn secure((certificate, key): Pair, clients: Option<&Authority>, alpn: &[&[u8]]) -> SocketAddr {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::new(default_provider()));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(&certificate).unwrap()];
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap()).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    let scheme = request.uri().scheme_str().unwrap_or_default().to_owned();
                    let mut reply = echo("secure", request).await;
                    reply.headers_mut().insert("x-scheme", scheme.parse().unwrap());
                    Ok::<_, std::convert::Infallible>(reply)
                });
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn trusting(authority: &Authority, identity: Option<Pair>, name: Option<&str>) -> ClientTls {
    ClientTls::new(&Pem { identity, authorities: Some(authority.pem()) }, name).unwrap()
}

/// A node whose endpoints speak TLS.
async fn outward(tls: Option<ClientTls>, endpoint: SocketAddr) -> Node {
    let endpoint_tls = EndpointTls { default: tls, ..EndpointTls::default() };
    let node = Node::with(Routes::default(), Options { endpoint_tls, ..Options::default() }).await;
    node.set("svc", vec![at(endpoint)]).await;
    node
}

#[tokio::test]
async fn calls_reach_endpoints_through_tls() {
    let ours = Authority::new("ours");
    let endpoint = secure(ours.issue(&[LOOPBACK]), None, &[b"h2"]).await;
    let node = outward(Some(trusting(&ours, None, None)), endpoint).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!((answer.code(), answer.headers["x-scheme"].to_str().unwrap()), ("0", "https"));
    let mut caller = Caller::new(node.dial().await, Some("svc"));
    let large = "x".repeat(4 << 20);
    assert_eq!(caller.unary(large.clone()).await.unwrap().len(), large.len() + 7);
}

#[tokio::test]
async fn a_service_of_its_own_kind_is_reached_in_its_own_way() {
    let ours = Authority::new("ours");
    let (endpoint, plain) = (secure(ours.issue(&[LOOPBACK]), None, &[b"h2"]).await, Instance::echo("plain").await);
    let endpoint_tls =
        EndpointTls { default: Some(trusting(&ours, None, None)), services: [("plain".parse().unwrap(), None)].into() };
    let node = Node::with(Routes::default(), Options { endpoint_tls, ..Options::default() }).await;
    node.set("svc", vec![at(endpoint)]).await;
    node.serve("plain", &[&plain]).await;
    assert_eq!(Caller::new(node.dial().await, Some("svc")).unary("x").await.unwrap(), "secure:x");
    assert_eq!(Caller::new(node.dial().await, Some("plain")).unary("x").await.unwrap(), "plain:x");
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_certificate_gets_ours() {
    let ours = Authority::new("ours");
    let endpoint = secure(ours.issue(&["backend.example"]), Some(&ours), &[b"h2"]).await;
    let identity = Some(ours.issue(&["node.example"]));
    let node = outward(Some(trusting(&ours, identity, Some("backend.example"))), endpoint).await;
    assert_eq!(Caller::new(node.dial().await, Some("svc")).unary("x").await.unwrap(), "secure:x");
    let node = outward(Some(trusting(&ours, None, Some("backend.example"))), endpoint).await;
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "14");
}

#[tokio::test]
async fn what_is_wrong_between_node_and_endpoint_is_named() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let plain = Instance::echo("a").await;
    let local = ours.issue(&[LOOPBACK]);
    for (tls, endpoint, says) in [
        (Some(trusting(&theirs, None, None)), secure(local.clone(), None, &[b"h2"]).await, "UnknownIssuer"),
        (Some(trusting(&ours, None, Some("other.example"))), secure(local.clone(), None, &[b"h2"]).await, "not valid"),
        (
            Some(trusting(&ours, None, None)),
            secure(local.clone(), None, &[]).await,
            "did not agree on HTTP/2 (ALPN h2)",
        ),
        (Some(trusting(&ours, None, None)), secure(local.clone(), None, &[b"x"]).await, "TLS"),
        (Some(trusting(&ours, None, None)), plain.address, "it does not speak TLS"),
        (None, secure(local.clone(), None, &[b"h2"]).await, "where it speaks TLS"),
    ] {
        let answer = outward(tls, endpoint).await.client().await.echo("svc", "x").await;
        assert_eq!((answer.code(), answer.kind()), ("14", "all-tried"));
        assert!(answer.message().contains(says), "{says:?} is not in {:?}", answer.message());
        assert!(answer.message().contains(&endpoint.to_string()), "{}", answer.message());
    }
}

#[test]
fn certificates_that_cannot_be_used_are_refused_with_the_reason() {
    let ours = Authority::new("ours");
    let ((certificate, key), (_, other)) = (ours.issue(&[LOOPBACK]), ours.issue(&[LOOPBACK]));
    let half = certificate[..certificate.len() / 2].to_vec();
    let tls = server((certificate.clone(), key.clone()), None);
    for (identity, says) in [
        ((certificate.clone(), other), "Key { .. }"),
        ((half, key.clone()), "Certificate { .. }"),
        ((key.clone(), key.clone()), "Certificate { .. }"),
        ((certificate.clone(), certificate.clone()), "Key { .. }"),
        ((Vec::new(), key), "Certificate { .. }"),
    ] {
        let error = tls.replace(&Pem { identity: Some(identity), authorities: None }).unwrap_err();
        let part = format!("{:?} {{ .. }}", error.part().unwrap());
        assert_eq!(part, says, "{error:?}");
    }
}

#[tokio::test]
async fn replaced_certificates_are_for_new_connections_and_bad_ones_for_none() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let tls = server(first.issue(&[LOOPBACK]), None);
    let (node, _a) = node(tls.clone()).await;
    let mut before = Caller::new(dial(&node, &first, None).await.unwrap(), Some("svc"));
    before.unary("x").await.unwrap();
    tls.replace(&Pem { identity: Some(second.issue(&[LOOPBACK])), authorities: None }).unwrap();
    answers(&node, &second, None).await;
    assert!(dial(&node, &first, None).await.is_err());
    assert_eq!(before.unary("x").await.unwrap(), "a:x", "what stands goes on");
    tls.replace(&Pem { identity: Some((b"no".to_vec(), b"no".to_vec())), authorities: None }).unwrap_err();
    answers(&node, &second, None).await;
}
