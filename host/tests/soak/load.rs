//! Clients that make calls of all kinds without pause, and cancel some.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    churn::CRASHES,
    support::{Caller, text},
};

/// Each makes one call at a time.
pub(super) const CLIENTS: usize = 6;

/// Less than what the node keeps to send again, so that every call can be.
const LARGE: usize = 40 << 10;

/// What became of the calls.
#[derive(Default)]
pub(super) struct Load {
    pub(super) calls: AtomicUsize,
    /// Calls that an instance may have had when it crashed.
    pub(super) lost: AtomicUsize,
    /// What else went wrong.
    pub(super) failed: Mutex<Vec<String>>,
    stop: AtomicBool,
    clients: tokio::sync::Mutex<JoinSet<()>>,
}

impl Load {
    /// With all clients calling.
    pub(super) async fn start(node: SocketAddr) -> Arc<Self> {
        let load = Arc::new(Self::default());
        for number in 0..CLIENTS {
            let channel = Endpoint::new(format!("http://{node}")).unwrap().connect().await.unwrap();
            let calling = Arc::clone(&load);
            load.clients.lock().await.spawn(async move { calling.call(channel, number).await });
        }
        load
    }

    /// Lets the calls that run end.
    pub(super) async fn stop(&self) {
        self.stop.store(true, SeqCst);
        while let Some(client) = self.clients.lock().await.join_next().await {
            client.unwrap();
        }
    }

    async fn call(&self, channel: Channel, first: usize) {
        let mut caller = Caller::new(channel, Some("svc"));
        let large = "x".repeat(LARGE);
        for number in first.. {
            if self.stop.load(SeqCst) {
                return;
            }
            let ended = match number % 8 {
                0 => caller.unary(&large).await.map(|answer| answer.len() == LARGE + 2),
                1 => caller.client_stream(&["a", "b", "c"]).await.map(|answer| answer == "a:abc"),
                2 => caller.server_stream("a b c d").await.map(|answers| answers.len() == 4),
                3 => bidi(&mut caller).await,
                // Given up somewhere between its beginning and its end.
                4 => {
                    let given_up = timeout(Duration::from_micros(number as u64 % 3000), caller.unary("x")).await;
                    given_up.unwrap_or_else(|_| Ok(String::new())).map(|_| true)
                }
                _ => caller.unary("x").await.map(|answer| answer == "a:x"),
            };
            self.calls.fetch_add(1, SeqCst);
            match ended {
                Ok(true) => {}
                Ok(false) => self.failed.lock().unwrap().push(format!("call {number} has a wrong answer")),
                Err(status) if is_of_a_crash(&status) && CRASHES.load(SeqCst) > 0 => {
                    self.lost.fetch_add(1, SeqCst);
                }
                Err(status) => self.failed.lock().unwrap().push(format!("call {number}: {status:?}")),
            }
        }
    }
}

/// The connection broke while the instance had the call.
fn is_of_a_crash(status: &Status) -> bool {
    status.metadata().get("waymark-error").is_some_and(|kind| kind == "endpoint-lost")
}

async fn bidi(caller: &mut Caller<Channel>) -> Result<bool, Status> {
    let mut answers = caller.bidi(tokio_stream::iter((0..5).map(|n| text(n.to_string())))).await?;
    let mut got = 0;
    while let Some(answer) = answers.message().await? {
        if answer.text != format!("a:{got}") {
            return Ok(false);
        }
        got += 1;
    }
    Ok(got == 5)
}

/// How many instances have crashed so far.
pub(super) fn crashes() -> usize {
    CRASHES.load(SeqCst)
}
