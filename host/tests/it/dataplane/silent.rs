//! Instances that hang: their connections stand and take what is sent, and nothing comes back.

use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, channel},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot, time::Instant};
use waymark_node::{
    balancer::EndpointStatus,
    dataplane::{ConnectOptions, Options, Routes},
    traffic::Traffic,
};

use super::support::{Answer, Client, Instance, Node, at, echo, message, soon, until};

/// An instance on a thread of its own, that can be made to stand still as a stopped process does.
struct Stoppable {
    address: SocketAddr,
    commands: Option<tokio::sync::mpsc::UnboundedSender<(Sender<()>, Receiver<()>)>>,
    thread: Option<JoinHandle<()>>,
}

/// It stands still until this is dropped.
struct Still(#[expect(dead_code, reason = "its end is the sign")] Sender<()>);

impl Stoppable {
    async fn echo(name: &'static str) -> Self {
        let (tell, told) = oneshot::channel();
        let (commands, mut received) = tokio::sync::mpsc::unbounded_channel::<(Sender<()>, Receiver<()>)>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let instance = Instance::on(listener, move |request| echo(name, request));
                tell.send(instance.address).unwrap();
                while let Some((stopped, go_on)) = received.recv().await {
                    stopped.send(()).unwrap();
                    // The whole runtime stands still: it has no other thread.
                    let _ = go_on.recv();
                }
            });
        });
        Self { address: told.await.unwrap(), commands: Some(commands), thread: Some(thread) }
    }

    fn stop(&self) -> Still {
        let ((stopped, has_stopped), (go, go_on)) = (channel(), channel());
        self.commands.as_ref().unwrap().send((stopped, go_on)).unwrap();
        has_stopped.recv().unwrap();
        Still(go)
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        self.commands = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn node(instances: &[SocketAddr]) -> Node {
    let node = Node::new().await;
    node.set("svc", instances.iter().copied().map(at).collect()).await;
    node
}

fn status(node: &Node, address: SocketAddr) -> EndpointStatus {
    let state = node.services.get("svc").unwrap().state();
    let found = state.endpoints.iter().find(|state| state.endpoint.address.as_str() == address.to_string());
    found.unwrap().cell.status()
}

/// Begins a call, and says what came of it.
fn begin(mut client: Client) -> tokio::task::JoinHandle<(Answer, Client)> {
    tokio::spawn(async move { (client.echo("svc", "x").await, client) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_hangs_gets_no_calls_until_it_is_heard_again() {
    let (hangs, good) = (Stoppable::echo("hangs").await, Instance::echo("good").await);
    let node = node(&[hangs.address, good.address]).await;
    let mut client = node.client().await;
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!(status(&node, hangs.address), EndpointStatus::Ready);
    let still = hangs.stop();
    // Of two calls one is for the one that hangs. Nobody may answer it a second time, so it waits.
    let waiting = [begin(node.client().await), begin(node.client().await)];
    until(|| status(&node, hangs.address) == EndpointStatus::Silent).await;
    let before = good.n_calls();
    for _ in 0..20 {
        assert_eq!(client.echo("svc", "x").await.data, message(b"\n\x06good:x"));
    }
    assert_eq!(good.n_calls() - before, 20);
    drop(still);
    for call in waiting {
        assert_eq!(soon(call).await.unwrap().0.code(), "0", "it is answered after all");
    }
    until(|| status(&node, hangs.address) == EndpointStatus::Ready).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.echo("svc", "x").await.data);
    }
    assert!(answers.contains(&message(b"\n\x07hangs:x")), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_hang_calls_go_to_them_and_wait() {
    let hangs = Stoppable::echo("hangs").await;
    let node = node(&[hangs.address]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    let still = hangs.stop();
    let first = begin(node.client().await);
    until(|| status(&node, hangs.address) == EndpointStatus::Silent).await;
    let second = begin(client);
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && !second.is_finished());
    drop(still);
    assert_eq!(soon(first).await.unwrap().0.code(), "0");
    assert_eq!(soon(second).await.unwrap().0.code(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_may_be_repeated_leaves_an_instance_that_hangs() {
    let (hangs, good) = (Stoppable::echo("hangs").await, Instance::echo("good").await);
    let node = Node::idempotent().await;
    node.set("svc", vec![at(hangs.address), at(good.address)]).await;
    let mut client = node.client().await;
    for _ in 0..4 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    let _still = hangs.stop();
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.data, message(b"\n\x06good:x"));
    }
    assert_eq!(status(&node, hangs.address), EndpointStatus::Silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_only_slow_keeps_its_calls() {
    let slow = Instance::new(|request| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        echo("slow", request).await
    });
    let slow = slow.await;
    let node = node(&[slow.address]).await;
    let mut client = node.client().await;
    let seen = Arc::new(AtomicBool::new(false));
    let call = tokio::spawn(async move { (client.echo("svc", "x").await, client) });
    while !call.is_finished() {
        if status(&node, slow.address) == EndpointStatus::Silent {
            seen.store(true, SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(call.await.unwrap().0.code(), "0");
    assert!(!seen.load(SeqCst), "it answers pings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_handlers_hang_gets_one_call_now_and_then() {
    let hangs = Instance::new(|_| std::future::pending()).await;
    let good = Instance::echo("good").await;
    let traffic = Traffic { unanswered: 2, ..Traffic::default() };
    let node = Node::of(Routes::default(), Options::default(), traffic).await;
    node.serve("svc", &[&hangs, &good]).await;
    let began = Instant::now();
    let calls = (0..4).map(|_| async {
        let body = tonic::body::Body::new(http_body_util::Full::new(message(b"\n\x01x")));
        let request = Client::request("svc", "/test.Echo/Unary").header("grpc-timeout", "1100m").body(body).unwrap();
        node.client().await.answer(request).await.code().to_owned()
    });
    let codes = futures::future::join_all(calls).await;
    assert!(
        codes.iter().filter(|code| *code == "4").count() >= 2 && began.elapsed() >= Duration::from_secs(1),
        "{codes:?}"
    );
    assert_eq!(status(&node, hangs.address), EndpointStatus::Silent);
    let (mut client, before) = (node.client().await, hangs.n_calls());
    for _ in 0..10 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!(hangs.n_calls(), before);
}

/// A way to an instance that forgets the connections of now, and takes new ones.
async fn way_to(address: SocketAddr, forgotten: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut near, _) = listener.accept().await.unwrap();
            let forgotten = Arc::clone(&forgotten);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
                let carry = tokio::io::copy_bidirectional(&mut near, &mut far);
                let forget = async {
                    while number > 0 || !forgotten.load(SeqCst) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::select! {
                    _ = carry => return,
                    () = forget => {}
                }
                // Neither side hears of it.
                std::future::pending::<()>().await;
            });
        }
    });
    way
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_the_connection_is_silent_a_new_one_takes_the_calls() {
    let (instance, forgotten) = (Instance::echo("a").await, Arc::new(AtomicBool::new(false)));
    let way = way_to(instance.address, Arc::clone(&forgotten)).await;
    // One that is silent is kept for longer than the test takes.
    let hour = Duration::from_secs(3600);
    let connect = ConnectOptions { keep_alive_timeout: hour, max_connections: 1, ..ConnectOptions::default() };
    let node = Node::with(Routes::default(), Options { connect, ..Options::default() }).await;
    node.set("svc", vec![at(way)]).await;
    let mut client = node.client().await;
    assert_eq!(client.echo("svc", "x").await.code(), "0");
    forgotten.store(true, SeqCst);
    let lost = begin(node.client().await);
    until(|| instance.n_connections() == 2 && status(&node, way) == EndpointStatus::Ready).await;
    for _ in 0..10 {
        assert_eq!(soon(client.echo("svc", "x")).await.code(), "0");
    }
    assert!(!lost.is_finished(), "nobody may carry it out a second time");
}
