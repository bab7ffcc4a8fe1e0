//! Instances that join, leave, restart and crash.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use etcd_client::Client;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{process::Process, support::Instance};

/// The fewest and the most instances there are.
const FEWEST: usize = 2;
pub(super) const MOST: usize = 6;

/// How long an instance is known to be gone, or not known to be, before it is.
const NOTICE: Duration = Duration::from_millis(500);

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(300);

/// How many instances have crashed.
pub(super) static CRASHES: AtomicUsize = AtomicUsize::new(0);

/// After so many changes the registry's history is given up.
const HISTORY: usize = 50;

pub(super) struct Churn {
    stop: oneshot::Sender<()>,
    changes: JoinHandle<usize>,
}

fn key(instance: &Instance) -> String {
    format!("svc/{}", instance.address)
}

async fn join(registry: &mut Client) -> Instance {
    let instance = Instance::echo("a").await;
    registry.put(key(&instance), format!(r#"{{"Addr":"{}"}}"#, instance.address), None).await.unwrap();
    instance
}

impl Churn {
    /// With some instances registered.
    pub(super) async fn start(node: &Process) -> Self {
        let mut registry = Client::connect([&node.registry], None).await.unwrap();
        let mut instances = Vec::new();
        for _ in 0..=FEWEST {
            instances.push(join(&mut registry).await);
        }
        let (stop, mut stopped) = oneshot::channel();
        let changes = tokio::spawn(async move {
            // The same in every run.
            let mut random = fastrand::Rng::with_seed(1);
            let mut changes = 0;
            while stopped.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty) {
                tokio::time::sleep(PAUSE).await;
                let full = instances.len() >= MOST;
                if instances.len() <= FEWEST || !full && random.bool() {
                    instances.push(join(&mut registry).await);
                } else {
                    let instance = instances.swap_remove(random.usize(..instances.len()));
                    go(instance, registry.clone(), random.u8(..3));
                }
                changes += 1;
                if changes % HISTORY == 0 {
                    // The registry keeps its history in the node's memory, which is no leak and
                    // would look like one.
                    let revision = registry.get("svc", None).await.unwrap().header().unwrap().revision();
                    registry.compact(revision, None).await.unwrap();
                }
            }
            // Those that are left serve until the load has ended.
            std::mem::forget(instances);
            changes
        });
        Self { stop, changes }
    }

    /// How often something changed.
    pub(super) async fn stop(self) -> usize {
        drop(self.stop);
        self.changes.await.unwrap()
    }
}

/// Takes an instance away, in one of the ways that instances go.
fn go(instance: Instance, mut registry: Client, how: u8) {
    tokio::spawn(async move {
        let key = key(&instance);
        match how {
            // As it should be.
            0 => {
                registry.delete(key, None).await.unwrap();
                tokio::time::sleep(NOTICE).await;
                instance.drain().await;
            }
            // In good order, and still registered.
            1 => {
                instance.drain().await;
                tokio::time::sleep(NOTICE).await;
                registry.delete(key, None).await.unwrap();
            }
            _ => {
                CRASHES.fetch_add(1, SeqCst);
                instance.kill().await;
                tokio::time::sleep(NOTICE).await;
                registry.delete(key, None).await.unwrap();
            }
        }
    });
}
