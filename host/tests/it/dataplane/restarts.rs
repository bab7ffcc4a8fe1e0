//! A node restarts, and nobody who calls notices: one takes over from another, or both listen on
//! the service manager's socket.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http_body::Frame;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tonic::transport::Endpoint;
use waymark_node::embedded;

use super::{
    process::Process,
    support::{Caller, Client, Instance, Node, echo, message, reply, soon, trailers, until, was_not_seen},
};

/// Callers that never rest, half of them with a connection a call.
struct Callers {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Callers {
    fn of(address: SocketAddr) -> Self {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (lost, mut tasks) = (Arc::<Mutex<Vec<String>>>::default(), JoinSet::new());
        for n in 0..4 {
            let (stop, made, lost) = (Arc::clone(&stop), Arc::clone(&made), Arc::clone(&lost));
            let channel = move || Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
            tasks.spawn(async move {
                let mut caller = Caller::new(channel(), Some("svc"));
                while !stop.load(SeqCst) {
                    if n % 2 == 0 {
                        caller = Caller::new(channel(), Some("svc"));
                    }
                    let mut answer = caller.unary("x").await;
                    while answer.as_ref().is_err_and(was_not_seen) {
                        answer = caller.unary("x").await;
                    }
                    if let Err(status) = answer {
                        lost.lock().unwrap().push(format!("{status:?}"));
                    }
                    made.fetch_add(1, SeqCst);
                    // A machine that has nothing else to do would never get to start a node.
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Self { stop, made, lost, tasks }
    }

    /// Waits until they have made so many calls more.
    async fn more(&self, calls: usize) {
        let goal = self.made.load(SeqCst) + calls;
        until(|| self.made.load(SeqCst) >= goal).await;
    }

    /// Ends them. Nothing was lost, and nothing carried out twice: so many calls this instance had
    /// beside theirs.
    async fn end(mut self, instance: &Instance, others: usize) {
        self.stop.store(true, SeqCst);
        while let Some(ended) = soon(self.tasks.join_next()).await {
            ended.unwrap();
        }
        let lost = self.lost.lock().unwrap();
        assert!(lost.is_empty(), "{} of {} calls were lost: {:?}", lost.len(), self.made.load(SeqCst), lost[0]);
        assert_eq!(instance.n_calls() - others, self.made.load(SeqCst));
    }
}

async fn registry() -> embedded::Handle {
    embedded::Server::start("127.0.0.1:0".parse().unwrap(), embedded::Options::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_after_the_other_takes_over_and_no_call_is_lost() {
    let (registry, folder) = (registry().await, tempfile::tempdir().unwrap());
    let (path, unix) = (folder.path().join("take-over"), folder.path().join("calls"));
    let (path, unix_path) = (path.to_str().unwrap(), unix.to_str().unwrap());
    let flags = ["--registry", registry.url(), "--take-over", path, "--listen-unix", unix_path];
    let (release, released) = watch::channel(false);
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let instance = Instance::new(move |request| {
        let (mut released, arrived) = (released.clone(), arrived.clone());
        async move {
            if request.uri().path() == "/test.Slow/Call" {
                arrived.send(()).unwrap();
                released.wait_for(|released| *released).await.unwrap();
                return reply([Frame::data(message(b"late")), Frame::trailers(trailers(&[("grpc-status", "0")]))]);
            }
            echo("a", request).await
        }
    });
    let instance = instance.await;
    let mut first = Process::with(&flags).await;
    first.register("svc", instance.address).await;
    let callers = Callers::of(first.node);
    callers.more(50).await;
    let mut client = Client::to(first.node).await;
    let slow = tokio::spawn(async move {
        let request = Client::request("svc", "/test.Slow/Call").body(tonic::body::Body::empty()).unwrap();
        client.answer(request).await
    });
    soon(arrivals.recv()).await.unwrap();

    let mut second = Process::with(&flags).await;
    assert_eq!((second.node, second.admin), (first.node, first.admin));
    first.logged("another node has taken over").await;
    callers.more(50).await;
    assert!(first.is_running(), "a call of its own runs");
    release.send(true).unwrap();
    let late = soon(slow).await.unwrap();
    assert_eq!((late.code(), late.data.clone()), ("0", message(b"late")));
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    assert!(UnixStream::connect(&unix).await.is_ok(), "the socket's file was handed over too");

    let mut third = Process::with(&flags).await;
    assert_eq!(second.exit_code().await, 0, "{}", second.log());
    callers.more(50).await;
    callers.end(&instance, 1).await;
    third.signal(Signal::TERM);
    assert_eq!(third.exit_code().await, 0, "{}", third.log());
    assert!(!unix.exists() && TcpStream::connect(third.node).await.is_err(), "nobody comes after the last one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_start_leaves_the_one_before_as_it_was() {
    let (registry, folder) = (registry().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("take-over");
    let flags = ["--registry", registry.url(), "--take-over", path.to_str().unwrap()];
    let instance = Instance::echo("a").await;
    let mut first = Process::with(&flags).await;
    first.register("svc", instance.address).await;
    let callers = Callers::of(first.node);
    callers.more(20).await;
    let failed = tokio::process::Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--policy", "/nowhere/p.wasm"])
        .args(flags)
        .output();
    let failed = soon(failed).await.unwrap();
    assert!(!failed.status.success(), "{}", String::from_utf8_lossy(&failed.stderr));
    first.logged("this one goes on").await;
    callers.more(20).await;
    assert!(first.is_running());
    let second = Process::with(&flags).await;
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    callers.more(20).await;
    callers.end(&instance, 0).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_in_the_service_managers_socket_while_one_node_goes_and_the_next_one_comes() {
    let registry = registry().await;
    let flags = ["--registry", registry.url()];
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let instance = Instance::echo("a").await;
    let mut first = Process::on(&socket, &flags).await;
    assert_eq!(first.node, socket.local_addr().unwrap());
    first.register("svc", instance.address).await;
    let callers = Callers::of(first.node);
    callers.more(50).await;
    first.signal(Signal::TERM);
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    let _second = Process::on(&socket, &flags).await;
    callers.more(50).await;
    callers.end(&instance, 0).await;
}

#[tokio::test]
async fn a_client_that_connects_as_a_node_begins_to_drain_is_told_to_connect_anew() {
    let mut node = Node::new().await;
    let mut greeted = TcpStream::connect(node.address).await.unwrap();
    // The node has it, and knows nothing of it yet. Another may still be in the queue.
    until(|| node.metric("dataplane_client_connections ") == Some(1)).await;
    let mut queued = TcpStream::connect(node.address).await.unwrap();
    node.stop();
    until(|| std::net::TcpStream::connect(node.address).is_err()).await;
    for stream in [&mut greeted, &mut queued] {
        // The preface with empty settings.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut seen = Vec::new();
        while !seen.contains(&7) {
            let mut head = [0; 9];
            soon(stream.read_exact(&mut head)).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut rest = vec![0; length as usize];
            soon(stream.read_exact(&mut rest)).await.unwrap();
            seen.push(head[3]);
        }
        assert_eq!(seen[0], 4, "settings come before GOAWAY: {seen:?}");
    }
    drop((greeted, queued));
    assert_eq!(node.stopped().await.cut_off, 0);
}

#[tokio::test]
async fn who_says_nothing_while_a_node_drains_does_not_hold_it_up() {
    let mut node = Node::new().await;
    let _silent = TcpStream::connect(node.address).await.unwrap();
    until(|| node.metric("dataplane_client_connections ") == Some(1)).await;
    node.stop();
    let drained = tokio::time::timeout(Duration::from_secs(9), node.stopped()).await.unwrap();
    assert_eq!(drained.cut_off, 0);
}
