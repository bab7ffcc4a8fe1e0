//! A node in a process of its own, so that its memory and descriptors can be told from the test's.

use std::{
    fs,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::support::{LONG, soon};

/// `waymark node` with an embedded registry. It ends with this value.
pub(super) struct Process {
    /// Where it takes calls.
    pub(super) node: SocketAddr,
    /// Where its metrics are.
    #[allow(dead_code, reason = "for the soak")]
    pub(super) admin: SocketAddr,
    /// The registry's URL.
    pub(super) registry: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these flags besides.
    pub(super) async fn with(flags: &[&str]) -> Self {
        Self::of(Stdio::null(), flags, &[]).await
    }

    /// The same, and it may have so many descriptors at most.
    #[allow(dead_code, reason = "for the isolation drills")]
    pub(super) async fn with_descriptors(most: u32, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!(r#"ulimit -n {most} && exec "$0" "$@""#), env!("CARGO_BIN_EXE_waymark")]);
        Self::run(shell, Stdio::null(), flags, &[]).await
    }

    /// On a socket that somebody else listens on, and keeps, as a service manager does (its first
    /// descriptor is 0 here).
    pub(super) async fn on(listener: &std::net::TcpListener, flags: &[&str]) -> Self {
        let socket = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let given = [("LISTEN_FDS", "1"), ("LISTEN_FDS_FIRST_FD", "0"), ("LISTEN_FDNAMES", "proxy")];
        Self::of(socket, flags, &given).await
    }

    async fn of(stdin: Stdio, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_waymark")), stdin, flags, environment).await
    }

    async fn run(mut command: Command, stdin: Stdio, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", "none"])
            // Shared by all tests of this run and of the next: an unoptimized compiler takes
            // seconds for each component.
            .arg("--plugin-cache")
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins"))
            .args(flags)
            .env_remove("WAYMARK_LOG")
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<String>>::default();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let into = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                *into.lock().unwrap() += &(line + "\n");
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = async |word: &str, scheme: &str| {
            let mut line = String::from(" ");
            // A Unix socket has a line of its own.
            while line.starts_with(' ') {
                let next = soon(lines.next_line()).await.unwrap();
                line = next.unwrap_or_else(|| panic!("the node ended: {}", log.lock().unwrap()));
            }
            let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("{word} was expected, not {line:?}"));
            rest.split_whitespace().next().unwrap().trim_start_matches(scheme).to_owned()
        };
        let node = line("node", "grpc://").await.parse().unwrap();
        let admin = line("admin", "http://").await.parse().unwrap();
        let registry = line("registry", "").await;
        Self { node, admin, registry, child, log }
    }

    /// Puts an instance into its registry.
    pub(super) async fn register(&self, service: &str, address: SocketAddr) {
        let mut registry = etcd_client::Client::connect([&self.registry], None).await.unwrap();
        registry.put(format!("{service}/{address}"), format!(r#"{{"Addr":"{address}"}}"#), None).await.unwrap();
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether it runs.
    #[allow(dead_code, reason = "for the drills")]
    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(super) async fn exit_code(&mut self) -> i32 {
        let ended = tokio::time::timeout(LONG, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the node does not end: {}", self.log())).unwrap().code().unwrap()
    }

    /// Lets the peak of its memory count from here on (proc(5), `clear_refs`). Returns its resident
    /// bytes.
    pub(super) fn forget_peak(&self) -> u64 {
        fs::write(self.proc("clear_refs"), "5").unwrap();
        self.resident("VmRSS")
    }

    /// At no time since then was its memory so many bytes larger. Returns by how much it was.
    pub(super) fn grew_by_less_than(&self, limit: u64, before: u64) -> u64 {
        let grown = self.resident("VmHWM").saturating_sub(before);
        assert!(grown < limit, "the node grew by {grown} bytes, over {limit}; it says: {}", self.log());
        eprintln!("grew by {} KiB", grown >> 10);
        grown
    }

    /// A file of its folder in `/proc`.
    pub(super) fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id().expect("it runs"))
    }

    /// Resident bytes: `VmRSS`, or the most there were, `VmHWM`.
    pub(super) fn resident(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
        kilobytes << 10
    }

    /// All that it has said.
    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log has these words.
    pub(super) async fn logged(&self, words: &str) {
        let logged = tokio::time::timeout(Duration::from_secs(10), async {
            while !self.log.lock().unwrap().contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(logged.await.is_ok(), "{words:?} is not in the log: {}", self.log());
    }
}
