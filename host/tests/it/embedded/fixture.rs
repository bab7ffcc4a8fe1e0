//! A registry to test against: the embedded one, or a real etcd in a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, Error, WatchResponse, WatchStream};
use tempfile::TempDir;
use tonic::Status;
use waymark_node::embedded::{Handle, Options, Server};

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A fresh registry and a client of it.
pub(crate) struct Registry {
    pub(crate) client: Client,
    pub(crate) url: String,
    /// The revision it started at.
    origin: i64,
    _server: Kind,
}

#[allow(dead_code, reason = "held until the test ends")]
enum Kind {
    Embedded(Handle),
    Etcd(Process, TempDir),
}

/// A child that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    pub(crate) async fn embedded() -> Self {
        Self::embedded_with(Options::default()).await
    }

    pub(super) async fn embedded_with(options: Options) -> Self {
        let server = Server::start(LOOPBACK, options).await.unwrap();
        let url = server.url().to_owned();
        Self::new(url, Kind::Embedded(server)).await
    }

    /// None, and a line on stderr, when there is no etcd and none is required.
    pub(crate) async fn etcd(test: &str) -> Option<Self> {
        let Some(program) = program("WAYMARK_TEST_ETCD", "etcd") else {
            eprintln!("SKIPPED {test} on real etcd: neither WAYMARK_TEST_ETCD nor `etcd` on the PATH");
            return None;
        };
        Some(Self::etcd_of(&program).await)
    }

    /// A fresh etcd of this program.
    pub(super) async fn etcd_of(program: &Path) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::etcd_in(program, data).await
    }

    /// An etcd of this program that goes on with what lies in a folder.
    pub(super) async fn etcd_from(program: &Path, restored: &Path) -> Self {
        let data = tempfile::tempdir_in(restored.parent().unwrap()).unwrap();
        std::fs::rename(restored.join("member"), data.path().join("member")).unwrap();
        Self::etcd_in(program, data).await
    }

    async fn etcd_in(program: &Path, data: TempDir) -> Self {
        let [client, peer] = free_ports();
        let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
        Self::new(url, Kind::Etcd(Process::start(&mut command), data)).await
    }

    async fn new(url: String, server: Kind) -> Self {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(mut client) = Client::connect([&url], None).await
                && let Ok(found) = client.get("any", None).await
            {
                let origin = found.header().unwrap().revision();
                return Self { client, url, origin, _server: server };
            }
            assert!(tokio::time::Instant::now() < deadline, "no registry answers at {url}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The revision `n` writes after the start.
    pub(super) fn revision(&self, n: i64) -> i64 {
        self.origin + n
    }

    /// Puts `value`s one after the other under one key.
    pub(super) async fn put_all(&mut self, key: &str, values: &[&str]) {
        for value in values {
            self.client.put(key, *value, None).await.unwrap();
        }
    }
}

/// The program named by a variable, else one on the `PATH`.
pub(crate) fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    if let Some(named) = &named {
        assert!(named.is_file(), "{variable} names {}, which is no file", named.display());
    }
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| Path::is_file(file))
    });
    let required = std::env::var_os("REQUIRE_ETCD").is_some_and(|value| value == "1");
    assert!(found.is_some() || !required, "REQUIRE_ETCD=1, but neither {variable} nor `{name}` on the PATH was found");
    found
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind(LOOPBACK).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Runs the named tests on the embedded registry and on a real etcd.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_embedded {
            use crate::embedded::fixture::Registry;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Registry::embedded().await).await;
                }
            )*
        }
        mod on_etcd {
            use crate::embedded::fixture::Registry;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(registry) = Registry::etcd(stringify!($name)).await {
                        super::$name(registry).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_both;

/// The status in an error of the client.
pub(super) fn status<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    match result {
        Err(Error::GRpcStatus(status)) => status,
        other => panic!("expected a gRPC status, got {other:?}"),
    }
}

/// Code and text of the error, as one line.
pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let status = status(result);
    format!("{:?}: {}", status.code(), status.message())
}

/// The next message of a watch; fails the test if none comes.
pub(super) async fn next(watch: &mut WatchStream) -> WatchResponse {
    tokio::time::timeout(Duration::from_secs(15), watch.message())
        .await
        .expect("a watch message within 15 s")
        .unwrap()
        .expect("the watch goes on")
}

/// The events of a message in short form: `+key=value` or `-key`, with `(previous)` if there is
/// one.
pub(super) fn events(message: &WatchResponse) -> Vec<String> {
    message
        .events()
        .iter()
        .map(|event| {
            let kv = event.kv().unwrap();
            let text = match event.event_type() {
                etcd_client::EventType::Put => format!("+{}={}", kv.key_str().unwrap(), kv.value_str().unwrap()),
                etcd_client::EventType::Delete => format!("-{}", kv.key_str().unwrap()),
            };
            match event.prev_kv() {
                Some(prev) => format!("{text}({})", prev.value_str().unwrap()),
                None => text,
            }
        })
        .collect()
}
