//! Continuous calls through the node, each checked and written down.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use greeter::{
    INSTANCE_HEADER,
    hello::{HelloRequest, greeter1_client::Greeter1Client},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Status, transport::Endpoint};

const TASKS: u32 = 4;
const CALLS_PER_SECOND: u32 = 200;

/// A call that takes so long has failed. Longer than any process of a drill is stopped.
const GIVE_UP: Duration = Duration::from_secs(15);

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
    /// Which instance answered, or what the caller was told.
    pub(crate) result: Result<String, String>,
}

/// The callers, until they are stopped.
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    /// Nobody calls yet.
    pub(crate) fn none() -> Self {
        Self { stop: Arc::default(), calls: Arc::default(), tasks: Vec::new() }
    }

    pub(crate) fn start(proxy: SocketAddr, service: &'static str) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Call>>>::default());
        let tasks = (0..TASKS).map(|_| {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let channel = Endpoint::from_shared(format!("http://{proxy}")).unwrap().connect_lazy();
            let mut client = Greeter1Client::new(channel);
            tokio::spawn(async move {
                let mut pace = interval(Duration::from_secs(1) * TASKS / CALLS_PER_SECOND);
                pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while !stop.load(SeqCst) {
                    pace.tick().await;
                    let at = Instant::now();
                    let result = match timeout(GIVE_UP, call(&mut client, service)).await {
                        Ok(result) => result.map_err(|status| format!("{:?}: {}", status.code(), status.message())),
                        Err(_) => Err(format!("no answer within {GIVE_UP:?}")),
                    };
                    calls.lock().unwrap().push(Call { at, took: at.elapsed(), result });
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, calls, tasks }
    }

    /// Ends the calls, waits for the last ones, and returns all.
    pub(crate) async fn stop(self) -> Vec<Call> {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.sort_by_key(|call| call.at);
        calls
    }
}

async fn call(client: &mut Greeter1Client<tonic::transport::Channel>, service: &str) -> Result<String, Status> {
    let mut request = Request::new(HelloRequest { name: "hello".into() });
    request.metadata_mut().insert("waymark-service", service.parse().unwrap());
    let answer = client.say_hello1(request).await?;
    let instance = answer.metadata().get(INSTANCE_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match instance {
        Some(instance) if answer.get_ref().reply == "server1:hello" => Ok(instance),
        _ => Err(Status::data_loss(format!("a wrong answer: {:?}", answer.get_ref()))),
    }
}
