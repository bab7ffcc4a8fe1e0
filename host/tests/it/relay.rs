//! A TCP relay between a client and a server: open, shut, hung, or slow. What a network does,
//! without touching the network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// The relay. It ends with its runtime.
pub(crate) struct Relay {
    /// Where clients connect to, as an endpoint of etcd.
    pub(crate) url: String,
    mode: watch::Sender<Mode>,
    passed: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections break, and new ones are closed at once.
    Shut,
    /// Connections stay, new ones are taken, and nothing passes. What was sent meanwhile arrives
    /// once that is over, as TCP would send it again.
    Hung,
    /// New connections are answered with these bytes as soon as something is asked on them, and
    /// closed; the others break.
    Answering(&'static [u8]),
    /// Everything arrives so much later, in pieces of a few bytes a time.
    Slow(Duration),
}

/// The largest piece that a slow relay hands on, and how long after it the next one follows.
const TRICKLE: (usize, Duration) = (512, Duration::from_millis(2));

impl Relay {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mode, state) = watch::channel(Mode::Open);
        let passed = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&passed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, state.clone(), Arc::clone(&count)));
            }
        });
        Self { url, mode, passed }
    }

    /// How many bytes the server has sent through it.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Relaxed)
    }

    pub(crate) fn shut(&self) {
        self.mode.send_replace(Mode::Shut);
    }

    pub(crate) fn hang(&self) {
        self.mode.send_replace(Mode::Hung);
    }

    pub(crate) fn slow_down(&self, by: Duration) {
        self.mode.send_replace(Mode::Slow(by));
    }

    pub(crate) fn answer(&self, bytes: &'static [u8]) {
        self.mode.send_replace(Mode::Answering(bytes));
    }

    pub(crate) fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut mode: watch::Receiver<Mode>, passed: Arc<AtomicUsize>) {
    match not_hung(&mut mode).await {
        Mode::Shut => return,
        Mode::Answering(bytes) => {
            let mut client = client;
            let mut asked = [0; 1024];
            // Whoever asked may have gone.
            let _ = client.read(&mut asked).await;
            let _ = client.write_all(bytes).await;
            return;
        }
        Mode::Open | Mode::Hung | Mode::Slow(_) => {}
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut shut = mode.clone();
    let sent = pass(from_client, to_server, mode.clone(), Arc::default());
    let answered = pass(from_server, to_client, mode, passed);
    tokio::select! {
        ((), ()) = async { tokio::join!(sent, answered) } => {}
        _ = shut.wait_for(|mode| matches!(mode, Mode::Shut | Mode::Answering(_))) => {}
    }
}

/// Waits while nothing passes, and says how things are then.
async fn not_hung(mode: &mut watch::Receiver<Mode>) -> Mode {
    // An error means that the test is over.
    mode.wait_for(|mode| *mode != Mode::Hung).await.map_or(Mode::Shut, |mode| *mode)
}

/// One direction: what is read is due at once, or later, and is written when it is due and
/// something may pass.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    passed: Arc<AtomicUsize>,
) {
    let (due, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let mut now = mode.clone();
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let delay = if let Mode::Slow(delay) = *now.borrow_and_update() { delay } else { Duration::ZERO };
            if due.send((Instant::now() + delay, buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((at, bytes)) = pieces.recv().await {
            sleep_until(at).await;
            let slow = matches!(not_hung(&mut mode).await, Mode::Slow(_));
            for piece in bytes.chunks(if slow { TRICKLE.0 } else { bytes.len() }) {
                if to.write_all(piece).await.is_err() {
                    return;
                }
                passed.fetch_add(piece.len(), Relaxed);
                if slow && bytes.len() > TRICKLE.0 {
                    tokio::time::sleep(TRICKLE.1).await;
                }
            }
        }
        // The other side has said all it had to say.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
