//! The instances as the demo sees them: child processes that are started, killed and stopped.
//!
//! No child outlives the demo. It is killed when its handle is dropped, and should the demo itself
//! be killed, the child's standard input ends, which it takes for the order to stop.

use std::{
    collections::VecDeque,
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use greeter::Serving;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, Command},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::DemoError;

/// What a child prints before its address once it serves and is registered.
pub(super) const READY: &str = "serving and registered: ";

/// A child that is not ready by then never will be. Long, because the first start of a debug build
/// compiles its key scheme.
const START: Duration = Duration::from_secs(30);

/// How long the last words of a child that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a child may take to deregister and drain before it is killed.
const STOP: Duration = Duration::from_secs(4);

/// Lines of a child's standard error that are kept for the report of its failure.
const KEPT_LINES: usize = 12;

/// How to start an instance.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// The service it registers under.
    pub(super) service: String,
    /// Which Greeter it serves.
    pub(super) greeter: Serving,
    /// Where it listens; port 0 for a free one.
    pub(super) listen: SocketAddr,
    /// Its zone; empty for none.
    pub(super) zone: &'static str,
    /// Its weight.
    pub(super) weight: u32,
    /// How long each of its calls takes.
    pub(super) delay: Duration,
    /// Its lease's time to live, in seconds.
    pub(super) ttl: u32,
}

impl Spec {
    fn arguments(&self, registry: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["demo-server".into()];
        for (flag, value) in [
            ("--service", self.service.clone()),
            ("--greeter", self.greeter.to_string()),
            ("--listen", self.listen.to_string()),
            ("--zone", self.zone.to_owned()),
            ("--weight", self.weight.to_string()),
            ("--delay-ms", self.delay.as_millis().to_string()),
            ("--ttl", self.ttl.to_string()),
            ("--registry", registry.to_owned()),
        ] {
            // In one word, so that an empty value stays one.
            arguments.push(format!("{flag}={value}").into());
        }
        arguments
    }
}

/// A running instance.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Dropping it tells the child to stop.
    rope: Option<ChildStdin>,
    address: SocketAddr,
}

impl Process {
    /// Starts an instance from this program and waits until it serves and is registered.
    ///
    /// # Cancel safety
    ///
    /// The child is killed when the future is dropped.
    pub(super) async fn start(program: &PathBuf, spec: &Spec, registry: &str) -> Result<Self, DemoError> {
        let failed = |what: &str| {
            let what = format!("{what} ({})", program.display());
            move |source| DemoError::Io { what, source }
        };
        let mut command = Command::new(program);
        command
            .args(spec.arguments(registry))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is for the demo, which then stops its instances in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failed("start an instance"))?;
        let (errors, all_read) = keep_last_lines(child.stderr.take());
        let rope = child.stdin.take();
        let mut lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        let ready = async {
            let lines = lines.as_mut()?;
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(Ok(address)) = line.strip_prefix(READY).map(str::parse) {
                    return Some(address);
                }
            }
            None
        };
        let problem = match timeout(START, ready).await {
            Ok(Some(address)) => return Ok(Self { child, rope, address }),
            Ok(None) => {
                let status = timeout(STOP, child.wait()).await;
                status.ok().and_then(Result::ok).map_or_else(|| "gave up".to_owned(), |s| format!("ended with {s}"))
            }
            Err(_) => format!("was not ready after {} s", START.as_secs()),
        };
        // Its end may be seen before its last words are read; something it left running may keep
        // them open.
        let _ = timeout(LAST_WORDS, all_read).await;
        let errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        let said = errors.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
        Err(DemoError::Instance { service: spec.service.clone(), listen: spec.listen, problem, said })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id; 0 when it has ended.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it (SIGKILL), as a crash would. Returns when it began to die and when it was dead: its
    /// sockets are closed then.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it is killed.
    pub(super) async fn kill(&mut self) -> Result<(Instant, Instant), DemoError> {
        let failed = |source| DemoError::Io { what: "kill an instance".into(), source };
        let began = Instant::now();
        self.child.start_kill().map_err(failed)?;
        self.child.wait().await.map_err(failed)?;
        Ok((began, Instant::now()))
    }

    /// Lets it deregister and drain, and kills it if that takes too long.
    ///
    /// # Cancel safety
    ///
    /// It is killed when the future is dropped.
    pub(super) async fn stop(mut self) {
        drop(self.rope.take());
        if timeout(STOP, self.child.wait()).await.is_err() {
            // Its key goes with its lease.
            let _ = self.child.kill().await;
        }
    }
}

/// Reads a child's standard error to its end, so that the child never waits for a reader, and keeps
/// what it said last.
fn keep_last_lines(stderr: Option<ChildStderr>) -> (Arc<Mutex<VecDeque<String>>>, JoinHandle<()>) {
    let kept = Arc::<Mutex<VecDeque<String>>>::default();
    let reader = {
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            let Some(stderr) = stderr else { return };
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > KEPT_LINES {
                    kept.pop_front();
                }
            }
        })
    };
    (kept, reader)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Written by another process: while this one has the file open for writing, a child that
    /// another test forks keeps it open, and the kernel does not start what is being written.
    fn script(body: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let written = std::process::Command::new("sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0"; chmod +x "$0""#])
            .args([path.as_os_str(), body.as_ref()])
            .status();
        assert!(written.unwrap().success());
        (dir, path)
    }

    fn spec() -> Spec {
        Spec {
            service: "demo/greeter".into(),
            greeter: Serving::Both,
            listen: "127.0.0.1:0".parse().unwrap(),
            zone: "",
            weight: 2,
            delay: Duration::ZERO,
            ttl: 5,
        }
    }

    #[tokio::test]
    async fn an_instance_that_fails_to_start_is_reported_in_its_own_words() {
        let (_dir, program) = script("echo 'no registry there' >&2; exit 3");
        let error = Process::start(&program, &spec(), "http://192.0.2.1:2379").await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no registry there"), "{error}");
    }

    #[tokio::test]
    async fn an_instance_ends_when_its_rope_is_let_go() {
        let (dir, program) = script(&format!("echo '{READY}127.0.0.1:4001'; cat; touch \"$0.ended\""));
        let process = Process::start(&program, &spec(), "http://192.0.2.1:2379").await.unwrap();
        assert_eq!(process.address().port(), 4001);
        process.stop().await;
        assert!(dir.path().join("program.ended").exists());
    }

    #[tokio::test]
    async fn a_killed_instance_is_dead_when_that_is_said() {
        let (_dir, program) = script(&format!("echo '{READY}127.0.0.1:4001'; exec cat"));
        let mut process = Process::start(&program, &spec(), "http://192.0.2.1:2379").await.unwrap();
        assert_ne!(process.pid(), 0);
        let (began, dead) = process.kill().await.unwrap();
        assert!(began <= dead);
        assert_eq!(process.pid(), 0);
    }

    #[test]
    fn an_empty_zone_is_passed_as_one() {
        let arguments = spec().arguments("http://192.0.2.1:2379");
        assert!(arguments.contains(&"--zone=".into()), "{arguments:?}");
    }
}
