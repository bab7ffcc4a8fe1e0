//! What the port says without gRPC: to a probe, to a person, and to a client that speaks the wrong
//! protocol.

use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::fixture::{Registry, on_both};

/// Head and body of the answer to such a request.
async fn ask(r: &Registry, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(r.url.trim_start_matches("http://")).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn health_is_that_of_etcd(mut r: Registry) {
    let (head, body) = ask(&r, "GET /health").await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(body.contains(r#"{"health":"true""#), "{body}");
    let (head, _) = ask(&r, "POST /health").await;
    assert!(head.starts_with("HTTP/1.1 405") && head.to_ascii_lowercase().contains("allow: get"), "{head}");
    let (head, body) = ask(&r, "GET /version").await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.contains(r#""etcdserver":"3."#), "{head} {body}");
    assert!(body.contains(r#""etcdcluster":"3."#), "{body}");
    let member = r.client.status().await.unwrap().leader();
    let mut options = AlarmOptions::new();
    options.with_member(member);
    r.client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options)).await.unwrap();
    let (head, body) = ask(&r, "GET /health").await;
    assert!(head.starts_with("HTTP/1.1 503") && body.contains(r#""health":"false""#), "{head} {body}");
    let (head, _) = ask(&r, "GET /health?exclude=NOSPACE").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

async fn metrics_count_calls_by_service_method_and_code(mut r: Registry) {
    r.client.put("a", "b", None).await.unwrap();
    r.client.put("a", "b", None).await.unwrap();
    r.client.put("", "b", None).await.unwrap_err();
    let (head, body) = ask(&r, "GET /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.to_ascii_lowercase().contains("text/plain"), "{head}");
    let method = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
    for line in [
        format!(r#"grpc_server_handled_total{{grpc_code="OK",{method}}} 2"#),
        format!(r#"grpc_server_handled_total{{grpc_code="InvalidArgument",{method}}} 1"#),
        format!("grpc_server_started_total{{{method}}} 3"),
        "etcd_server_has_leader 1".to_owned(),
    ] {
        assert!(body.lines().any(|it| it == line), "{line} in {body}");
    }
}

on_both!(health_is_that_of_etcd, metrics_count_calls_by_service_method_and_code);

#[tokio::test]
async fn a_call_that_its_client_left_counts_as_cancelled() {
    let mut r = Registry::embedded().await;
    drop(r.client.watch("a", None).await.unwrap());
    let line = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 1"#;
    let counted = async {
        while !ask(&r, "GET /metrics").await.1.contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), counted).await.expect("it is counted");
}

#[tokio::test]
async fn whoever_speaks_http_1_is_told_what_is_spoken_here() {
    let r = Registry::embedded().await;
    for request in ["GET /", "POST /v3/kv/range", "GET /nothing", "POST /etcdserverpb.KV/Range"] {
        let (head, body) = ask(&r, request).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        assert!(body.contains("gRPC") && body.contains("JSON gateway") && body.contains("/health"), "{body}");
    }
    assert_eq!(ask(&r, "GET /readyz").await.1, "ok\n");
    assert_eq!(ask(&r, "GET /livez").await.1, "ok\n");
}
