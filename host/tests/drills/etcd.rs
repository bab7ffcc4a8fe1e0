//! Real etcd processes: a cluster of one or three, whose members can be killed, stopped, wiped and
//! put back.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, GetOptions, ResponseHeader};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::record::EraCount;

/// Where the key scheme of the drills keeps its entries.
pub(crate) const PREFIX: &str = "drill/";

/// How long a member may take until it serves. A busy machine needs some of it.
const START: Duration = Duration::from_secs(30);

/// The etcd to drill with, or why there is none.
pub(crate) fn program() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("WAYMARK_TEST_ETCD").map(PathBuf::from) {
        return if named.is_file() {
            Ok(named)
        } else {
            Err(format!("WAYMARK_TEST_ETCD names {}, which is no file", named.display()))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    found.ok_or_else(|| "neither WAYMARK_TEST_ETCD nor `etcd` on the PATH".to_owned())
}

/// One member, running or not.
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    data: PathBuf,
    process: Option<Child>,
}

/// A cluster. Its processes and its data end with it.
pub(crate) struct Cluster {
    program: PathBuf,
    members: Vec<Member>,
    /// Part of what the cluster id is made from.
    token: String,
    /// Counts how often its history was another from then on.
    era: EraCount,
    folder: TempDir,
}

impl Cluster {
    /// Starts a fresh one and waits until it serves.
    pub(crate) async fn start(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // All held until all are known, so that no two are the same.
        let listeners = (0..2 * size).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect::<Vec<_>>();
        let ports = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect::<Vec<_>>();
        drop(listeners);
        let members = ports.chunks(2).enumerate().map(|(n, ports)| Member {
            name: format!("m{n}"),
            client: ports[0],
            peer: ports[1],
            data: folder.path().join(format!("m{n}")),
            process: None,
        });
        let members = members.collect();
        let mut cluster =
            Self { program: program().unwrap(), members, token: token(), era: EraCount::default(), folder };
        cluster.start_all();
        cluster.wait_until_it_serves().await;
        cluster
    }

    pub(crate) fn era(&self) -> EraCount {
        EraCount::clone(&self.era)
    }

    pub(crate) fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}", member.client)).collect()
    }

    /// Ends with the cluster.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts all members on what they have.
    pub(crate) fn start_all(&mut self) {
        for n in 0..self.members.len() {
            self.start_member(n);
        }
    }

    /// Starts a member on the data it has. Does not wait.
    pub(crate) fn start_member(&mut self, n: usize) {
        let all = self.members.iter().map(|member| format!("{}=http://{}", member.name, member.peer));
        let all = all.collect::<Vec<_>>().join(",");
        let member = &mut self.members[n];
        let (client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
        let child = Command::new(&self.program)
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(&member.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all, "--initial-cluster-token", &self.token, "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        member.process = Some(child.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display())));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn kill_all(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
    }

    /// SIGSTOP: it takes connections, and answers nothing.
    pub(crate) fn freeze(&self, n: usize) {
        self.signal(n, Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, n: usize) {
        self.signal(n, Signal::CONT);
    }

    fn signal(&self, n: usize, signal: Signal) {
        let process = self.members[n].process.as_ref().expect("the member runs");
        signal_process(process.id(), signal);
    }

    /// Deletes what a stopped cluster knew. Started again it is another cluster, at the same
    /// addresses.
    pub(crate) fn wipe(&mut self) {
        for member in &self.members {
            std::fs::remove_dir_all(&member.data).unwrap();
        }
        self.token = token();
        self.era.fetch_add(1, Ordering::SeqCst);
    }

    /// Copies the data of a stopped single member aside.
    pub(crate) fn back_up(&self) {
        copy(&self.members[0].data, &self.folder.path().join("backup"));
    }

    /// Puts that copy back.
    pub(crate) fn restore(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
        std::fs::remove_dir_all(&self.members[0].data).unwrap();
        copy(&self.folder.path().join("backup"), &self.members[0].data);
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        for (n, url) in self.urls().iter().enumerate() {
            let mut client = Client::connect([url], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().map(ResponseHeader::member_id) == Some(status.leader()) {
                return n;
            }
        }
        panic!("a cluster that serves has a leader");
    }

    async fn wait_until_it_serves(&self) {
        for url in self.urls() {
            answered(&[url], START).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn token() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("drill-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal_process(id: u32, signal: Signal) {
    let id = Pid::from_raw(id.cast_signed()).expect("a process id");
    kill_process(id, signal).unwrap();
}

/// When a plain client, that comes anew for each attempt, first had a Range answered at one of
/// these endpoints.
pub(crate) async fn answered(urls: &[String], within: Duration) -> Instant {
    let deadline = Instant::now() + within;
    loop {
        for url in urls {
            if keys(url, Duration::from_millis(500)).await.is_some() {
                return Instant::now();
            }
        }
        assert!(Instant::now() < deadline, "no etcd answers at {} within {within:?}", urls.join(", "));
        sleep(Duration::from_millis(10)).await;
    }
}

/// What stands under [`PREFIX`], if the endpoint says so in time.
pub(crate) async fn keys(url: &str, within: Duration) -> Option<Vec<String>> {
    let reading = async {
        let options = ConnectOptions::new().with_connect_timeout(within);
        let mut client = Client::connect([url], Some(options)).await.ok()?;
        let found = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await.ok()?;
        found.kvs().iter().map(|kv| Some(kv.key_str().ok()?.strip_prefix(PREFIX)?.to_owned())).collect()
    };
    timeout(within, reading).await.ok().flatten()
}
