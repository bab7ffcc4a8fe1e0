//! A node in a process of its own, so that its memory can be told from the test's, with one instance behind it and one client that
//! behaves well and calls all the while.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use http_body::Frame;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};
use tonic::transport::Endpoint;

use super::support::{Caller, Instance, Reply, echo, message, soon};

/// Never answers, and never reads its request.
pub(super) const NEVER: &str = "/hostile/Never";

/// Answers with messages of as many bytes as the path says, without end.
pub(super) fn endless(message_len: usize) -> String {
    format!("/hostile/Endless/{message_len}")
}

async fn serve(request: Request<Incoming>) -> Reply {
    let path = request.uri().path();
    if path == NEVER {
        std::future::pending::<()>().await;
    }
    let Some(len) = path.strip_prefix("/hostile/Endless/") else { return echo("a", request).await };
    let chunk = message(&vec![7; len.parse().unwrap()]);
    let frames = tokio_stream::iter(std::iter::repeat_with(move || Ok::<_, tonic::Status>(Frame::data(chunk.clone()))));
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(frames));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

pub(super) struct Arena {
    /// Where the node takes calls.
    pub(super) node: SocketAddr,
    _instance: Instance,
    process: Child,
    log: Arc<Mutex<String>>,
    /// Resident bytes before the attack.
    before: u64,
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    healthy: JoinHandle<Vec<tonic::Status>>,
}

impl Arena {
    pub(super) async fn new() -> Self {
        let instance = Instance::new(serve).await;
        let mut process = Command::new(env!("CARGO_BIN_EXE_waymark"))
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
        let mut errors = BufReader::new(process.stderr.take().unwrap()).lines();
        let into = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                *into.lock().unwrap() += &(line + "\n");
            }
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = async |word: &str| {
            let line = soon(lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the node ended: {}", log.lock().unwrap()));
            let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("{word} was expected, not {line:?}"));
            rest.split_whitespace().next().unwrap().to_owned()
        };
        let node = line("node").await.strip_prefix("grpc://").unwrap().parse().unwrap();
        line("admin").await;
        let mut registry = etcd_client::Client::connect([line("registry").await], None).await.unwrap();
        let address = instance.address.to_string();
        registry.put(format!("svc/{address}"), format!(r#"{{"Addr":"{address}"}}"#), None).await.unwrap();
        let (calls, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let channel = Endpoint::new(format!("http://{node}")).unwrap().connect().await.unwrap();
        let healthy = tokio::spawn(healthy(Caller::new(channel, Some("svc")), Arc::clone(&calls), Arc::clone(&stop)));
        let mut arena = Self { node, _instance: instance, process, log, before: 0, calls, stop, healthy };
        arena.more_calls(100).await;
        arena.before = arena.resident("VmRSS");
        // The peak counts from here on (proc(5), clear_refs).
        fs::write(arena.proc("clear_refs"), "5").unwrap();
        arena
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.process.id().expect("it runs"))
    }

    /// Resident bytes of the node: `VmRSS`, or the most there were, `VmHWM`.
    fn resident(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
        kilobytes << 10
    }

    /// Waits for so many more calls of the client that behaves well.
    pub(super) async fn more_calls(&self, n: usize) {
        let until = self.calls.load(SeqCst) + n;
        soon(async {
            while self.calls.load(SeqCst) < until && !self.healthy.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Waits until the node's log has these words.
    pub(super) async fn logged(&self, words: &str) {
        let logged = tokio::time::timeout(Duration::from_secs(10), async {
            while !self.log.lock().unwrap().contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(logged.await.is_ok(), "{words:?} is not in the log: {}", self.log.lock().unwrap());
    }

    /// With the attack still going on or just over: other calls go on, none of them has failed, and the node has not grown by more
    /// than so many bytes at any time. Returns by how much it has.
    pub(super) async fn is_unharmed(self, limit: u64) -> u64 {
        self.more_calls(50).await;
        self.stop.store(true, SeqCst);
        let grown = self.resident("VmHWM").saturating_sub(self.before);
        let failed = soon(self.healthy).await.unwrap();
        assert!(failed.is_empty(), "{} calls of another client failed: {:?}", failed.len(), failed[0]);
        let log = self.log.lock().unwrap();
        assert!(!log.contains("panicked"), "{log}");
        assert!(grown < limit, "the node grew by {grown} bytes, over {limit}; it says: {log}");
        eprintln!("grew by {} KiB", grown >> 10);
        grown
    }
}

/// Calls until told to stop, or until a call fails.
async fn healthy(
    mut caller: Caller<tonic::transport::Channel>,
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<tonic::Status> {
    let mut failed = Vec::new();
    while !stop.load(SeqCst) && failed.len() < 10 {
        let number = calls.load(SeqCst).to_string();
        match caller.unary(&number).await {
            Ok(answer) => assert_eq!(answer, format!("a:{number}")),
            Err(status) => failed.push(status),
        }
        calls.fetch_add(1, SeqCst);
    }
    failed
}
