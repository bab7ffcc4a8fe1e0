//! Certificates in files, renewed while a whole node runs.

use std::{fs, path::Path, time::Duration};

use tokio::time::{sleep, timeout};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use waymark_node::{
    app::Node,
    config::{ClientConfig, NodeConfig, Ports, ServiceConfig, TlsFiles, Transport},
};

use super::{
    certificates::{Authority, Pair},
    node::{free, service},
};

fn write(folder: &Path, (certificate, key): Pair) {
    // One after the other, as whoever renews them does it: for a moment they do not fit.
    for (name, bytes) in [("node.key", key), ("node.pem", certificate)] {
        let beside = folder.join("new");
        fs::write(&beside, bytes).unwrap();
        fs::rename(&beside, folder.join(name)).unwrap();
    }
}

fn files(folder: &Path) -> TlsFiles {
    let identity = Some((folder.join("node.pem"), folder.join("node.key")));
    TlsFiles { identity, ..TlsFiles::default() }
}

async fn connects(node: &Node, trusted: &Authority) -> bool {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem()));
    let endpoint = Endpoint::new(format!("https://{}", node.proxy_addr())).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.is_ok()
}

/// The node's metrics, as a scraper has them.
pub(crate) async fn metrics(node: &Node) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(node.admin_addr()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !done().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), polled).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_taken_and_broken_ones_are_refused() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), first.issue(&["127.0.0.1"]));
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        ports: Ports { tls: Some(files(folder.path())), ..Ports::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    assert!(connects(&node, &first).await && !connects(&node, &second).await);

    write(folder.path(), second.issue(&["127.0.0.1"]));
    until("the renewed certificate is used", async || connects(&node, &second).await).await;
    assert!(!connects(&node, &first).await);
    let counted = |text: &str, result: &str, n: u32| {
        text.contains(&format!("dataplane_tls_reloads_total{{result=\"{result}\"}} {n}"))
    };
    assert!(counted(&metrics(&node).await, "taken", 1), "the half that came first was waited out");

    // A certificate without its key, for good.
    let (certificate, _) = first.issue(&["127.0.0.1"]);
    fs::write(folder.path().join("node.pem"), certificate).unwrap();
    until("the broken pair is refused", async || counted(&metrics(&node).await, "refused", 1)).await;
    assert!(connects(&node, &second).await, "the old one stays");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_hold_now_replaces_no_good_one() {
    let ours = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), ours.issue_for(&["127.0.0.1"], (2020, 2100)));
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        ports: Ports { tls: Some(files(folder.path())), ..Ports::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    // 2100-01-01.
    let shown = "waymark_tls_not_after_seconds{which=\"tls\"} 4102444800";
    until("its end is told", async || metrics(&node).await.contains(shown)).await;
    for (refused, years) in [(1, (2020, 2021)), (2, (2090, 2110))] {
        write(folder.path(), ours.issue_for(&["127.0.0.1"], years));
        let counted = format!("dataplane_tls_reloads_total{{result=\"refused\"}} {refused}");
        until("it is refused", async || metrics(&node).await.contains(&counted)).await;
        assert!(connects(&node, &ours).await, "the old one stays");
    }
    assert!(metrics(&node).await.contains(shown));
    // 2101-01-01.
    write(folder.path(), ours.issue_for(&["127.0.0.1"], (2020, 2101)));
    let shown = "waymark_tls_not_after_seconds{which=\"tls\"} 4133980800";
    until("a good one is taken", async || metrics(&node).await.contains(shown)).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_with_an_expired_certificate_and_any_good_one_replaces_it() {
    let ours = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), ours.issue_for(&["127.0.0.1"], (2020, 2021)));
    let config = NodeConfig {
        listen: free(),
        admin: free(),
        ports: Ports { tls: Some(files(folder.path())), ..Ports::default() },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    assert!(!connects(&node, &ours).await);
    write(folder.path(), ours.issue(&["127.0.0.1"]));
    until("the good one is used", async || connects(&node, &ours).await).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_keep_a_node_from_starting_are_named() {
    let ours = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let base = || NodeConfig { listen: free(), admin: free(), ..NodeConfig::default() };
    let start = async |config: NodeConfig| Node::start(config).await.map(|_| ()).unwrap_err().to_string();
    let error =
        start(NodeConfig { ports: Ports { tls: Some(files(folder.path())), ..Ports::default() }, ..base() }).await;
    assert!(error.contains("tls: cannot read") && error.contains("node.pem"), "{error}");
    let ((certificate, _), (_, key)) = (ours.issue(&["a.example"]), ours.issue(&["a.example"]));
    write(folder.path(), (certificate, key));
    let error =
        start(NodeConfig { ports: Ports { tls: Some(files(folder.path())), ..Ports::default() }, ..base() }).await;
    assert!(error.contains("node.key cannot be used") && error.contains("KeyMismatch"), "{error}");
    let tls = TlsFiles { server_name: Some("not a name".into()), ..TlsFiles::default() };
    let mut own = ServiceConfig::new(service("svc"));
    own.transport = Some(Transport::Tls(TlsFiles { authorities: Some(folder.path().join("node.pem")), ..tls }));
    let error =
        start(NodeConfig { client: ClientConfig { services: vec![own], ..ClientConfig::default() }, ..base() }).await;
    assert!(error.contains("service svc: tls.server-name") && error.contains("not a name"), "{error}");
}
