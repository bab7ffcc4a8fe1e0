//! Who pays: a caller of a service that has nothing to do with the attack.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::transport::Endpoint;

use super::support::Caller;

const TASKS: u32 = 4;
const CALLS_PER_SECOND: u32 = 200;

/// A call that takes so long is lost. Far more than any of them takes undisturbed, also on a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of the calls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Calls {
    /// How long each of them took, the lost ones too, sorted.
    pub(crate) took: Vec<Duration>,
    /// What the callers of the lost ones were told.
    pub(crate) lost: Vec<String>,
}

impl Calls {
    /// The time within which this share of the calls ended.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        let at = (share * last as f64).round() as usize;
        self.took.get(at).copied().unwrap_or_default()
    }
}

/// The callers, until they are stopped. Each has a connection of its own.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Calls>>,
    tasks: JoinSet<()>,
}

impl Bystander {
    /// Calls this service through the node at `proxy`. The connections are made at the first call
    /// of each.
    pub(crate) fn start(proxy: SocketAddr, service: &'static str) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Calls>>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let channel = Endpoint::from_shared(format!("http://{proxy}")).unwrap().connect_lazy();
            tasks.spawn(async move {
                let mut caller = Caller::new(channel, Some(service));
                let mut pace = interval(Duration::from_secs(1) * TASKS / CALLS_PER_SECOND);
                pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while !stop.load(SeqCst) {
                    pace.tick().await;
                    let began = Instant::now();
                    let lost = match timeout(PATIENCE, caller.unary("x")).await {
                        Ok(Ok(answer)) if answer.ends_with(":x") => None,
                        Ok(Ok(answer)) => Some(format!("a wrong answer: {answer:?}")),
                        Ok(Err(status)) => Some(format!("{:?}: {}", status.code(), status.message())),
                        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
                    };
                    let mut calls = calls.lock().unwrap();
                    calls.took.push(began.elapsed());
                    calls.lost.extend(lost);
                }
            });
        }
        Self { stop, calls, tasks }
    }

    /// Ends the calls, waits for the last ones, and returns all.
    pub(crate) async fn stop(mut self) -> Calls {
        self.stop.store(true, SeqCst);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.took.sort_unstable();
        calls
    }
}
