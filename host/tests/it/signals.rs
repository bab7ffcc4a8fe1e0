//! Signals that ask for no end, and output that nobody reads: neither ends a process.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::embedded::fixture::{LOOPBACK, Registry};

const PATIENCE: Duration = Duration::from_secs(30);

/// All that end a process by default, although none of them asks for it.
const NO_END: [Signal; 5] = [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::XFSZ];

/// Some port that was free a moment ago.
async fn free() -> SocketAddr {
    TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap()
}

/// What a program's standard output and error are.
#[derive(Clone, Copy)]
enum Output {
    /// Somebody reads and throws away.
    Null,
    /// Pipes whose readers have gone.
    Gone,
    /// A disk that is full.
    Full,
    /// There is none.
    Closed,
}

struct Program(Child);

impl Program {
    fn start(arguments: &[&str], output: Output) -> Self {
        let program = env!("CARGO_BIN_EXE_waymark");
        let mut command = match output {
            Output::Closed => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"exec "$0" "$@" >&- 2>&-"#, program]);
                shell
            }
            _ => Command::new(program),
        };
        let stdio = || match output {
            Output::Null | Output::Closed => Stdio::null(),
            Output::Gone => Stdio::piped(),
            Output::Full => std::fs::File::options().write(true).open("/dev/full").unwrap().into(),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(stdio()).stderr(stdio()).kill_on_drop(true);
        let mut child = command.env("WAYMARK_LOG", "debug").spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().expect("it runs").cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits until it listens there.
    async fn listens(&mut self, at: SocketAddr) {
        let waiting = async {
            while TcpStream::connect(at).await.is_err() {
                assert!(self.0.try_wait().unwrap().is_none(), "it ended: {:?}", self.0.wait().await);
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it listens in time");
    }

    /// Ends it in order.
    async fn ends(mut self, by: Signal) -> ExitStatus {
        self.signal(by);
        timeout(PATIENCE, self.0.wait()).await.expect("an end in time").unwrap()
    }
}

async fn node(output: Output, workers: &str) -> Program {
    let (listen, admin) = (free().await, free().await);
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let (listen_at, admin_at) = (listen.to_string(), admin.to_string());
    let cache = cache.to_str().unwrap();
    let flags = ["--state-dir", "none", "--plugin-cache", cache, "--workers", workers];
    let arguments = [&["node", "--listen", &listen_at, "--admin", &admin_at], &flags[..]].concat();
    let mut node = Program::start(&arguments, output);
    node.listens(listen).await;
    node.listens(admin).await;
    // Listening comes first: it is up when it answers.
    let ready = async {
        while http_status(admin).await != Some(200) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("ready in time");
    node
}

/// The status of `/readyz`.
async fn http_status(admin: SocketAddr) -> Option<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(admin).await.ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

async fn etcd(output: Output) -> Program {
    let listen = free().await;
    let mut etcd = Program::start(&["etcd", "--listen", &listen.to_string()], output);
    etcd.listens(listen).await;
    etcd
}

#[tokio::test]
async fn a_server_outlives_signals_that_ask_for_no_end() {
    for mut server in [node(Output::Null, "1").await, node(Output::Null, "2").await, etcd(Output::Null).await] {
        for signal in NO_END {
            server.signal(signal);
            // What it does with one is over when it takes the next.
            sleep(Duration::from_millis(100)).await;
            assert_eq!(server.0.try_wait().unwrap(), None, "{signal:?} ended it");
        }
        assert!(server.ends(Signal::QUIT).await.success(), "an end in order");
    }
}

#[tokio::test]
async fn a_server_outlives_whoever_read_its_output() {
    for output in [Output::Gone, Output::Full, Output::Closed] {
        for server in [node(output, "2").await, etcd(output).await] {
            // Each is a line of the log.
            server.signal(Signal::HUP);
            server.signal(Signal::USR2);
            sleep(Duration::from_millis(100)).await;
            assert!(server.ends(Signal::TERM).await.success(), "an end in order");
        }
    }
}

#[tokio::test]
async fn commands_that_print_end_in_order_when_nobody_reads() {
    let registry = Registry::embedded().await;
    let commands: [&[&str]; 5] = [
        &["resolve", "svc", "--registry", &registry.url],
        &["policy", "list", "--node", "127.0.0.1:1"],
        &["plugin", "list"],
        &["--help"],
        &["no-such-command"],
    ];
    for arguments in commands {
        for output in [Output::Gone, Output::Full, Output::Closed] {
            let mut program = Program::start(arguments, output);
            let status = timeout(PATIENCE, program.0.wait()).await.expect("an end in time").unwrap();
            let code = status.code().unwrap_or_else(|| panic!("{arguments:?}: {status}"));
            assert!(code < 5, "{arguments:?}: a panic exits with 101, it was {code}");
        }
    }
}
