//! What `check` says about what answers, or does not.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use waymark_node::{
    embedded::{Options, Server as Embedded},
    registry::{Registry, RegistryConfig, RegistryError, TlsConfig},
};

use super::fixture::connect;
use crate::embedded::fixture::LOOPBACK;

/// A server that answers the first bytes of every connection with these.
async fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut greeting = [0; 16];
                let _ = stream.read(&mut greeting).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.read(&mut greeting).await;
            });
        }
    });
    address.to_string()
}

async fn check(endpoint: &str) -> RegistryError {
    let config = RegistryConfig {
        request_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        ..RegistryConfig::new([endpoint])
    };
    let registry = Registry::connect(config).unwrap();
    registry.check().await.expect_err("there is no etcd")
}

#[tokio::test]
async fn an_etcd_that_answers_is_named_with_its_revision() {
    let server = Embedded::start(LOOPBACK, Options::default()).await.unwrap();
    let answered = connect(server.url()).check().await.unwrap();
    assert_eq!(answered.endpoint, server.url());
    assert!(answered.cluster != 0 && answered.revision.0 > 0);
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_named() {
    let address = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let error = check(&format!("http://{address}")).await;
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("refused"), "{source}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unreachable_and_named() {
    let error = check("http://no-such-host.invalid:2379").await;
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

#[tokio::test]
async fn a_server_that_wants_tls_is_told_from_one_that_is_away() {
    // An alert: what TLS servers answer to plain text.
    let address = answering(&[21, 3, 1, 0, 2, 2, 22]).await;
    let error = check(&format!("http://{address}")).await;
    assert!(matches!(error, RegistryError::WantsTls { .. }), "{error:?}");
    assert!(error.to_string().contains("https://"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_with_another_certificate() {
    let server = Embedded::start(LOOPBACK, Options::default()).await.unwrap();
    let error = check(&server.url().replace("http://", "https://")).await;
    assert!(matches!(error, RegistryError::SpeaksPlaintext { .. }), "{error:?}");
}

#[tokio::test]
async fn a_web_server_is_no_etcd() {
    let address = answering(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let error = check(&format!("http://{address}")).await;
    assert!(matches!(error, RegistryError::NotEtcd { .. }), "{error:?}");
    assert!(error.to_string().contains("web server"), "{error}");
}

#[tokio::test]
async fn a_grpc_server_of_another_kind_is_no_etcd() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    let error = check(&format!("http://{address}")).await;
    assert!(matches!(error, RegistryError::NotEtcd { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let asked_at = tokio::time::Instant::now();
    let error = check(&format!("http://{}", listener.local_addr().unwrap())).await;
    assert!(matches!(error, RegistryError::NotEtcd { .. } | RegistryError::TimedOut { .. }), "{error:?}");
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    let none = Registry::connect(RegistryConfig::new(Vec::<String>::new())).unwrap_err();
    assert!(matches!(none, RegistryError::NoEndpoint));
    let odd = Registry::connect(RegistryConfig::new(["redis://192.0.2.1:6379"])).unwrap_err();
    assert!(odd.to_string().contains("redis://192.0.2.1:6379"), "{odd}");
    let tls = RegistryConfig { tls: Some(TlsConfig::default()), ..RegistryConfig::new(["http://192.0.2.1:2379"]) };
    assert!(Registry::connect(tls).unwrap_err().to_string().contains("https://"));
}

#[tokio::test]
async fn a_certificate_that_does_not_parse_is_the_configurations_fault() {
    let tls = TlsConfig {
        ca: Some(b"-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n".to_vec()),
        ..TlsConfig::default()
    };
    let config = RegistryConfig { tls: Some(tls), ..RegistryConfig::new(["https://127.0.0.1:1"]) };
    let error = Registry::connect(config).unwrap().check().await.unwrap_err();
    assert!(matches!(error, RegistryError::Endpoint { .. }), "{error:?}");
}
