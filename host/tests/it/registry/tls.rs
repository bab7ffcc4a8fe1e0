//! TLS towards a real etcd: authorities of our own, certificates on both sides, names, users. The
//! embedded registry speaks no TLS.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, TlsOptions};
use tempfile::TempDir;
use waymark_node::registry::{Registry, RegistryConfig, RegistryError, TlsConfig, User};

use super::fixture::{register, subscribe, until_addresses};
use crate::{
    certificates::Authority,
    embedded::fixture::{LOOPBACK, Process, program},
};

const A: &str = "192.0.2.1:80";
const B: &str = "192.0.2.2:80";

/// An etcd with TLS, in a process of its own.
struct Server {
    url: String,
    folder: TempDir,
    _process: Process,
}

impl Server {
    /// One whose certificate is for these names. `clients`: the authority that clients must have a
    /// certificate of.
    async fn start(test: &str, authority: &Authority, names: &[&str], clients: Option<&Authority>) -> Option<Self> {
        let Some(program) = program("WAYMARK_TEST_ETCD", "etcd") else {
            eprintln!("SKIPPED {test}: neither WAYMARK_TEST_ETCD nor `etcd` on the PATH");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.issue(names);
        let file = |name: &str, content: &[u8]| {
            fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let [client, peer] = [(); 2].map(|()| TcpListener::bind(LOOPBACK).unwrap()).map(|it| it.local_addr().unwrap());
        let (url, peer) = (format!("https://{client}"), format!("http://{peer}"));
        let mut command = Command::new(&program);
        command
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .arg("--cert-file")
            .arg(file("server.pem", &certificate))
            .arg("--key-file")
            .arg(file("server.key", &key));
        if let Some(clients) = clients {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("clients.pem", &clients.pem()));
        }
        let server = Self { url, _process: Process::start(&mut command), folder };
        // Any answer will do, also a refusal: it listens.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(client).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "no etcd listens at {}", server.url);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(server)
    }

    fn connect(&self, tls: TlsConfig) -> Registry {
        self.connect_as(tls, None)
    }

    fn connect_as(&self, tls: TlsConfig, user: Option<(&str, &str)>) -> Registry {
        let user = user.map(|(name, password)| User::new(name, password));
        Registry::connect(RegistryConfig { tls: Some(tls), user, ..RegistryConfig::new([&self.url]) }).unwrap()
    }

    async fn refused(&self, tls: TlsConfig) -> String {
        let error = self.connect(tls).check().await.unwrap_err();
        assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
        let source = std::error::Error::source(&error).unwrap();
        format!("{error}: {source}")
    }
}

fn trusting(authority: &Authority) -> TlsConfig {
    TlsConfig { ca: Some(authority.pem()), ..TlsConfig::default() }
}

/// An instance registered is seen, outlives its TTL, and is gone when deregistered: reads, writes,
/// leases and the watch.
async fn everything_works(registry: &Registry) {
    let mut seen = subscribe(registry, "svc").await;
    let first = register(registry, "svc", A, 2).await;
    until_addresses(&mut seen, &[A]).await;
    let gone = tokio::time::timeout(Duration::from_secs(5), until_addresses(&mut seen, &[])).await;
    assert!(gone.is_err(), "its lease is kept alive");
    let second = register(registry, "svc", B, 10).await;
    until_addresses(&mut seen, &[A, B]).await;
    first.deregister().await.unwrap();
    second.deregister().await.unwrap();
    until_addresses(&mut seen, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_a_private_authority_is_trusted_and_every_other_is_not() {
    let ours = Authority::new("ours");
    let test = "a_server_of_a_private_authority_is_trusted_and_every_other_is_not";
    let Some(server) = Server::start(test, &ours, &["127.0.0.1"], None).await else { return };
    everything_works(&server.connect(trusting(&ours))).await;

    let error = server.refused(trusting(&Authority::new("theirs"))).await;
    assert!(error.contains("the registry at https://127.0.0.1:") && error.contains("UnknownIssuer"), "{error}");
    // The system's authorities do not know it either.
    let error = server.refused(TlsConfig::default()).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let plain = Registry::connect(RegistryConfig::new([server.url.replace("https", "http")])).unwrap();
    let error = plain.check().await.unwrap_err();
    assert!(matches!(error, RegistryError::WantsTls { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_refused_unless_that_name_is_asked_for() {
    let ours = Authority::new("ours");
    let test = "a_certificate_for_another_name_is_refused_unless_that_name_is_asked_for";
    let Some(server) = Server::start(test, &ours, &["etcd.example"], None).await else { return };
    let error = server.refused(trusting(&ours)).await;
    assert!(error.contains("not valid for name") || error.contains("NotValidForName"), "{error}");
    let named = TlsConfig { server_name: Some("etcd.example".to_owned()), ..trusting(&ours) };
    everything_works(&server.connect(named)).await;
    let other = TlsConfig { server_name: Some("other.example".to_owned()), ..trusting(&ours) };
    server.refused(other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_asked_for_and_only_one_of_the_right_authority_is_taken() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let test = "a_client_certificate_is_asked_for_and_only_one_of_the_right_authority_is_taken";
    let Some(server) = Server::start(test, &ours, &["127.0.0.1"], Some(&ours)).await else { return };
    let (certificate, key) = ours.issue(&["client.example"]);
    let right = TlsConfig { identity: Some((certificate.clone(), key.clone())), ..trusting(&ours) };
    everything_works(&server.connect(right)).await;

    // Both say what to give, unless the refusal, which comes after the handshake, is lost with the
    // connection.
    let theirs = TlsConfig { identity: Some(theirs.issue(&["client.example"])), ..trusting(&ours) };
    for wrong in [trusting(&ours), theirs] {
        let error = server.connect(wrong).check().await.unwrap_err();
        let says_it = matches!(error, RegistryError::Tls { .. }) && error.to_string().contains("--registry-cert");
        assert!(says_it || matches!(error, RegistryError::TimedOut { .. }), "{error:?}");
    }

    // The same by flags.
    let file = |name: &str, content: &[u8]| {
        fs::write(server.folder.path().join(name), content).unwrap();
        server.folder.path().join(name)
    };
    let (ca, certificate, key) =
        (file("ca.pem", &ours.pem()), file("client.pem", &certificate), file("client.key", &key));
    let resolve = |identity: Option<(&Path, &Path)>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
        command.args(["resolve", "svc", "--registry", &server.url, "--registry-ca"]).arg(&ca);
        if let Some((certificate, key)) = identity {
            command.arg("--registry-cert").arg(certificate).arg("--registry-key").arg(key);
        }
        let output = command.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let said = resolve(Some((&certificate, &key)));
    assert!(said.contains("svc has no endpoints"), "etcd was read: {said}");
    let said = resolve(None);
    assert!(said.contains("--registry-cert") || said.contains("did not answer within"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_and_a_password_go_over_tls() {
    let ours = Authority::new("ours");
    let Some(server) = Server::start("a_user_and_a_password_go_over_tls", &ours, &["127.0.0.1"], None).await else {
        return;
    };
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ours.pem()));
    let client = Client::connect([&server.url], Some(ConnectOptions::new().with_tls(tls))).await.unwrap();
    let mut auth = client.auth_client();
    auth.user_add("root", "secret", None).await.unwrap();
    auth.role_add("root").await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.auth_enable().await.unwrap();
    everything_works(&server.connect_as(trusting(&ours), Some(("root", "secret")))).await;
    let wrong = server.connect_as(trusting(&ours), Some(("root", "wrong"))).check().await.unwrap_err();
    assert!(matches!(wrong, RegistryError::AuthenticationRefused { .. }), "{wrong:?}");
    let nobody = server.connect(trusting(&ours)).check().await.unwrap_err();
    assert!(matches!(nobody, RegistryError::AuthenticationNeeded { .. }), "{nobody:?}");
}

/// A key that is not the certificate's is our own configuration's fault.
#[tokio::test]
async fn a_key_of_another_certificate_is_named_before_anything_is_sent() {
    let ours = Authority::new("ours");
    let ((certificate, _), (_, key)) = (ours.issue(&["client.example"]), ours.issue(&["client.example"]));
    let tls = TlsConfig { identity: Some((certificate, key)), ..trusting(&ours) };
    let config = RegistryConfig { tls: Some(tls), ..RegistryConfig::new(["https://127.0.0.1:1"]) };
    let error = Registry::connect(config).unwrap().check().await.unwrap_err();
    assert!(matches!(error, RegistryError::Endpoint { .. }), "{error:?}");
}
