//! A node in a process of its own, so that its memory and descriptors can be told from the test's.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::support::soon;

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
        let mut child = Command::new(env!("CARGO_BIN_EXE_waymark"))
            .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", "none"])
            // Shared by all tests of this run and of the next: an unoptimized compiler takes seconds for each component.
            .arg("--plugin-cache")
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins"))
            .env_remove("WAYMARK_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
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
            let line = soon(lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the node ended: {}", log.lock().unwrap()));
            let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("{word} was expected, not {line:?}"));
            rest.split_whitespace().next().unwrap().trim_start_matches(scheme).to_owned()
        };
        let node = line("node", "grpc://").await.parse().unwrap();
        let admin = line("admin", "http://").await.parse().unwrap();
        let registry = line("registry", "").await;
        Self { node, admin, registry, child, log }
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
