//! Who gets into the node's API: web pages do not, and who may change something has to prove it
//! where that is asked.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use waymark_node::{
    admin::{
        ClientError, Credentials, NodeClient,
        client::{PolicySource, SetPolicy},
    },
    app::{AppError, Node},
    config::{ClientConfig, ControlConfig, NodeConfig, ServiceConfig, TlsFiles},
    plugin::Grants,
};

use super::{
    certificates::Authority,
    node::{free, service},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn node(control: ControlConfig) -> Node {
    let services = vec![ServiceConfig::new(service("svc"))];
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        control,
        client: ClientConfig { services, ..ClientConfig::default() },
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

fn weighted(by: &str) -> SetPolicy {
    SetPolicy {
        service: service("svc"),
        source: PolicySource::Bundled("weighted".into()),
        config: String::new(),
        allow: Grants::NONE,
        by: by.into(),
        discover: false,
    }
}

fn policy(node: &Node) -> String {
    node.services().get("svc").unwrap().state().policy_name.to_string()
}

/// A set of the policy, as its bytes are on the wire.
fn set_message() -> Bytes {
    let message = b"\x0a\x03svc\x12\x06random";
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    framed.into()
}

const SET: &str = "/waymark.v1.Node/SetPolicy";

/// A request over HTTP/1.1 with these headers: the status of its answer, and the rest.
async fn http1(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        head += header;
        head += "\r\n";
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).await.unwrap();
    let mut answer = Vec::new();
    // What is refused unread may be reset behind its answer.
    let _ = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}")), answer)
}

/// The same over HTTP/2 in cleartext: the status, and gRPC's if there is one.
async fn http2(to: SocketAddr, authority: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let stream = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(Method::POST).uri(format!("http://{authority}{SET}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(set_message())).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let code = head.headers.get("grpc-status").or_else(|| trailers.get("grpc-status"));
    (head.status, code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn no_web_page_changes_a_policy_or_reads_anything() {
    let node = node(ControlConfig::default()).await;
    let admin = node.admin_addr();
    let host = format!("host: {admin}");
    for content_type in ["text/plain", "application/grpc", "application/x-www-form-urlencoded"] {
        let content_type = format!("content-type: {content_type}");
        for page in [&["origin: http://evil.example", "sec-fetch-site: cross-site"][..], &[]] {
            let headers = [&[host.as_str(), content_type.as_str()], page].concat();
            let (status, answer) = http1(admin, "POST", SET, &headers, &set_message()).await;
            assert!((400..500).contains(&status), "{headers:?}: {answer}");
        }
    }
    let grpc = ("content-type", "application/grpc");
    let own = admin.to_string();
    for (authority, headers, expected) in [
        ("evil.example", vec![grpc], StatusCode::MISDIRECTED_REQUEST),
        (&own, vec![grpc, ("origin", "http://evil.example")], StatusCode::FORBIDDEN),
        (&own, vec![grpc, ("origin", "null")], StatusCode::FORBIDDEN),
        (&own, vec![grpc, ("sec-fetch-site", "cross-site")], StatusCode::FORBIDDEN),
        (&own, vec![("content-type", "text/plain")], StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let (status, code) = http2(admin, authority, &headers).await;
        assert_eq!(status, expected, "{authority} {headers:?}");
        assert_ne!(code, "0");
    }
    for path in ["/", "/metrics", "/readyz"] {
        assert_eq!(http1(admin, "GET", path, &["host: evil.example"], b"").await.0, 421, "{path}");
        assert_eq!(http1(admin, "GET", path, &[&host, "origin: http://evil.example"], b"").await.0, 403, "{path}");
        assert_eq!(http1(admin, "GET", path, &[&host, "sec-fetch-site: cross-site"], b"").await.0, 403, "{path}");
        assert_eq!(http1(admin, "GET", path, &[&host], b"").await.0, 200, "{path}");
    }
    assert_eq!(policy(&node), "round_robin");
    // And what a client of gRPC's sends goes through.
    assert_eq!(http2(admin, &own, &[grpc, ("te", "trailers")]).await, (StatusCode::OK, "0".into()));
    assert_eq!(policy(&node), "random");
    let metrics = http1(admin, "GET", "/metrics", &[&host], b"").await.1;
    for series in [r#"{reason="host"} 4"#, r#"{reason="origin"} 12"#] {
        assert!(metrics.contains(&format!("waymark_admin_requests_refused_total{series}")), "{series} in {metrics}");
    }
    node.shutdown().await;
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn with_token(token: &str) -> Credentials {
    Credentials { token: Some(token.into()), ..Credentials::default() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { reason } => reason,
        other => panic!("not refused by the node: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_of_who_changes_something_and_of_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    write_private(&file, &format!("release:{TOKEN}\n"));
    let node = node(ControlConfig { token_file: Some(file.clone()), ..ControlConfig::default() }).await;
    let address = node.admin_addr().to_string();
    let without = NodeClient::connect(&address).await.unwrap();
    let reason = refused(without.set_policy(weighted("anna")).await);
    assert!(reason.contains("--token-file") && reason.contains("unix:"), "{reason}");
    refused(without.roll_back(&service("svc"), 0, "anna").await);
    let reason = refused(without.service(&service("other"), true).await);
    assert!(reason.contains("discover"), "{reason}");
    assert_eq!(
        without.policy(&service("svc")).await.unwrap().running.name,
        "round_robin",
        "who only reads is not asked"
    );
    let wrong = NodeClient::connect_as(&address, &with_token("0123456789abcdef0123456789abcdeX")).await.unwrap();
    assert!(refused(wrong.set_policy(weighted("anna")).await).contains("does not know this token"));

    let with = NodeClient::connect_as(&address, &with_token(TOKEN)).await.unwrap();
    let status = with.set_policy(weighted("anna")).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.by.as_str()), ("weighted", "anna (release)"));
    assert_eq!(with.roll_back(&service("svc"), 0, "").await.unwrap().running.by, "release");
    with.service(&service("other"), true).await.unwrap();

    // Another takes the place of the token, and counts for connections that are there.
    write_private(&file, "release:fedcba9876543210fedcba9876543210\n");
    let gone = async {
        while with.set_policy(weighted("anna")).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.expect("the file is followed");
    let with = NodeClient::connect_as(&address, &with_token("fedcba9876543210fedcba9876543210")).await.unwrap();
    with.set_policy(weighted("anna")).await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn over_the_socket_the_nodes_own_user_may_and_probes_have_a_port_without_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let control = ControlConfig {
        unix: Some(path.clone()),
        probe: Some(free()),
        require_auth: true,
        protect_reads: true,
        ..ControlConfig::default()
    };
    let node = node(control).await;
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let socket = NodeClient::connect(&format!("unix:{}", path.display())).await.unwrap();
    let uid = rustix_uid();
    assert_eq!(socket.set_policy(weighted("")).await.unwrap().running.by, format!("uid:{uid}"));

    let port = NodeClient::connect(&node.admin_addr().to_string()).await.unwrap();
    refused(port.set_policy(weighted("")).await);
    refused(port.services(false).await);
    let host = format!("host: {}", node.admin_addr());
    assert_eq!(http1(node.admin_addr(), "GET", "/", &[&host], b"").await.0, 401);
    assert_eq!(http1(node.admin_addr(), "GET", "/healthz", &[&host], b"").await.0, 200);

    let probe = node.probe_addr().unwrap();
    for (path, expected) in
        [("/healthz", 200), ("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/", 403), ("/x", 404)]
    {
        assert_eq!(http1(probe, "GET", path, &["host: probe"], b"").await.0, expected, "{path}");
    }
    let client = NodeClient::connect_as(&probe.to_string(), &with_token(TOKEN)).await.unwrap();
    assert!(refused(client.set_policy(weighted("")).await).contains("answers probes"));
    refused(client.services(false).await);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{probe}")).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health.check(tonic_health::pb::HealthCheckRequest { service: "waymark.v1.Node".into() }).await.unwrap();
    node.shutdown().await;
    assert!(!path.exists(), "the socket goes with the node");
}

/// The user that this process runs as.
fn rustix_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn a_certificate_that_is_named_may_change_something_and_others_may_look() {
    let ours = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let (certificate, key) = ours.issue(&["127.0.0.1"]);
    let tls = TlsFiles {
        identity: Some((write("node.pem", certificate), write("node.key", key))),
        authorities: Some(write("ca.pem", ours.pem())),
        server_name: None,
    };
    let clients = vec!["DNS:ops.example".parse().unwrap()];
    let node = node(ControlConfig { tls: Some(tls), clients, ..ControlConfig::default() }).await;
    let address = format!("https://{}", node.admin_addr());
    let of = |name: Option<&str>| Credentials {
        authorities: Some(ours.pem()),
        identity: name.map(|name| ours.issue(&[name])),
        ..Credentials::default()
    };
    let ops = NodeClient::connect_as(&address, &of(Some("ops.example"))).await.unwrap();
    assert_eq!(ops.set_policy(weighted("anna")).await.unwrap().running.by, "anna (DNS:ops.example)");
    let other = NodeClient::connect_as(&address, &of(Some("other.example"))).await.unwrap();
    assert!(refused(other.set_policy(weighted("anna")).await).contains("DNS:other.example may not"));
    assert_eq!(other.policy(&service("svc")).await.unwrap().running.name, "weighted");
    let nobody = NodeClient::connect_as(&address, &of(None)).await.unwrap();
    assert!(refused(nobody.set_policy(weighted("anna")).await).contains("--cert-file"));
    nobody.services(false).await.unwrap();
    // A certificate of somebody else's authority is none.
    let theirs = Authority::new("theirs").issue(&["ops.example"]);
    let forged = Credentials { identity: Some(theirs), ..of(None) };
    let outcome = match NodeClient::connect_as(&address, &forged).await {
        Ok(client) => client.set_policy(weighted("")).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(ClientError::Unreachable { .. })), "{outcome:?}");
    // Who has it mixed up is told.
    let (status, answer) = http1(node.admin_addr(), "GET", "/", &["host: a"], b"").await;
    assert!(status == 400 && answer.contains("https://"), "{answer}");
    node.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_open_to_everybody_keeps_a_node_from_starting() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let config = |control| NodeConfig { listen: free(), admin: everywhere, control, ..NodeConfig::default() };
    let error = Node::start(config(ControlConfig::default())).await.err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, AppError::AdminIsOpen { .. }), "{text}");
    for flag in ["--admin-token-file", "--probe", "--admin 127.0.0.1", "--admin-insecure"] {
        assert!(text.contains(flag), "{text}");
    }
    let node = Node::start(config(ControlConfig { insecure: true, ..ControlConfig::default() })).await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn connections_that_do_nothing_shut_nobody_out() {
    let node = node(ControlConfig::default()).await;
    let address = node.admin_addr().to_string();
    let mut idle = Vec::new();
    for nth in 0..200 {
        let mut connection = TcpStream::connect(node.admin_addr()).await.unwrap();
        // Some say nothing, some half of something, some all but a request.
        let said: &[u8] = match nth % 3 {
            0 => b"",
            1 => b"GET / HTT",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        connection.write_all(said).await.unwrap();
        idle.push(connection);
    }
    let client = NodeClient::connect(&address).await.unwrap();
    client.set_policy(weighted("anna")).await.unwrap();
    // Those that had to go have been closed, so that their descriptors are free.
    let mut closed = 0;
    for connection in idle.iter_mut().take(100) {
        let mut answer = Vec::new();
        // A reset is an end, too.
        let ended = timeout(Duration::from_secs(30), connection.read_to_end(&mut answer)).await;
        closed += usize::from(ended.is_ok());
    }
    assert_eq!(closed, 100);
    node.shutdown().await;
}
