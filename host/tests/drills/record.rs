//! Writes down what etcd held and what the node believed, for [`belief`](super::belief) to compare.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, EventType, WatchOptions};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use waymark_node::{admin::client::NodeClient, model::ServiceName};

use super::{
    belief::{Believed, Era, Event},
    etcd::PREFIX,
};

/// A key of ours: when its event has come, all before it have.
const MARK: &str = "recorder/mark";

/// Nothing here takes so long while etcd serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a mark may take before the watch is made anew: the member that it hangs on may be
/// stopped.
const SILENCE: Duration = Duration::from_secs(2);

/// Which era a cluster is in: it counts the times that its data were emptied or put back.
pub(crate) type EraCount = Arc<AtomicUsize>;

#[derive(Default)]
struct Told {
    eras: Vec<Era>,
    /// The last mark that was seen.
    mark: u64,
}

/// A watch of all keys, from the first revision on, with a client of its own and on no detour.
pub(crate) struct StoreRecorder {
    urls: Vec<String>,
    told: Arc<Mutex<Told>>,
    again: Arc<Notify>,
    marks: AtomicUsize,
    task: JoinHandle<()>,
}

impl StoreRecorder {
    pub(crate) fn start(urls: Vec<String>, era: EraCount) -> Self {
        let (told, again) = (Arc::<Mutex<Told>>::default(), Arc::<Notify>::default());
        let task = {
            let (urls, told, again) = (urls.clone(), Arc::clone(&told), Arc::clone(&again));
            tokio::spawn(async move {
                let (mut seen, mut next) = (0, 1);
                told.lock().unwrap().eras.push(Era::new());
                loop {
                    tokio::select! {
                        _ = follow(&urls, &era, &mut seen, &mut next, &told) => sleep(Duration::from_millis(20)).await,
                        () = again.notified() => {}
                    }
                }
            })
        };
        Self { urls, told, again, marks: AtomicUsize::new(0), task }
    }

    /// Waits until all that etcd holds now has been written down.
    pub(crate) async fn catch_up(&self) {
        let mark = self.marks.fetch_add(1, SeqCst) as u64 + 1;
        let caught_up = async {
            while put(&self.urls, mark).await.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            let mut since = Instant::now();
            while self.told.lock().unwrap().mark < mark {
                if since.elapsed() > SILENCE {
                    self.again.notify_one();
                    since = Instant::now();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, caught_up).await.expect("an etcd that serves tells its history");
    }

    /// The history until now.
    pub(crate) async fn end(self) -> Vec<Era> {
        self.catch_up().await;
        self.task.abort();
        std::mem::take(&mut self.told.lock().unwrap().eras)
    }
}

async fn put(urls: &[String], mark: u64) -> Option<()> {
    let putting = async {
        let mut client = connect(urls).await?;
        client.put(MARK, mark.to_string(), None).await.ok().map(drop)
    };
    timeout(SILENCE, putting).await.ok().flatten()
}

async fn connect(urls: &[String]) -> Option<Client> {
    // One by one: of several at once, one that is away would be asked now and then all the same.
    for url in urls {
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_millis(500));
        let connecting = async {
            let mut client = Client::connect([url], Some(options)).await.ok()?;
            client.get(MARK, None).await.ok().map(|_| client)
        };
        if let Some(client) = timeout(Duration::from_millis(500), connecting).await.ok().flatten() {
            return Some(client);
        }
    }
    None
}

/// Watches from the next revision on, until the watch ends.
async fn follow(urls: &[String], era: &EraCount, seen: &mut usize, next: &mut i64, told: &Mutex<Told>) -> Option<()> {
    let now = era.load(SeqCst);
    let mut client = connect(urls).await?;
    if now != *seen {
        (*seen, *next) = (now, 1);
        told.lock().unwrap().eras.push(Era::new());
    }
    let options = WatchOptions::new().with_all_keys().with_start_revision(*next);
    let mut stream = client.watch("", Some(options)).await.ok()?;
    while let Some(answer) = stream.message().await.ok()? {
        let mut told = told.lock().unwrap();
        for event in answer.events() {
            let kv = event.kv()?;
            let key = kv.key_str().unwrap_or_default();
            let there = event.event_type() == EventType::Put;
            if key == MARK {
                told.mark = kv.value_str().ok().and_then(|mark| mark.parse().ok()).unwrap_or(told.mark).max(told.mark);
            } else if let Some(instance) = key.strip_prefix(PREFIX) {
                let event = Event { revision: kv.mod_revision(), instance: instance.to_owned(), there };
                told.eras.last_mut().expect("there is one from the start").push(event);
            }
            *next = kv.mod_revision() + 1;
        }
    }
    Some(())
}

/// A watch of the service, by the node's API.
pub(crate) struct NodeRecorder {
    steps: Arc<Mutex<Vec<Believed>>>,
    task: JoinHandle<()>,
}

impl NodeRecorder {
    pub(crate) fn start(node: NodeClient, service: ServiceName) -> Self {
        let steps = Arc::<Mutex<Vec<Believed>>>::default();
        let task = {
            let steps = Arc::clone(&steps);
            tokio::spawn(async move {
                let begun = Instant::now();
                loop {
                    if let Ok(mut watch) = node.watch(&service, false).await {
                        while let Ok(seen) = watch.next().await {
                            let step = Believed {
                                at: begun.elapsed(),
                                revision: seen.revision,
                                listed: seen.listed,
                                stale: seen.stale_seconds.is_some(),
                                instances: seen.endpoints.into_iter().map(|it| it.address).collect::<BTreeSet<_>>(),
                            };
                            let mut steps = steps.lock().unwrap();
                            // Calls and connections are told as well.
                            if steps.last().is_none_or(|last| (Believed { at: step.at, ..last.clone() }) != step) {
                                steps.push(step);
                            }
                        }
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            })
        };
        Self { steps, task }
    }

    /// The steps until now.
    pub(crate) fn end(self) -> Vec<Believed> {
        self.task.abort();
        std::mem::take(&mut self.steps.lock().unwrap())
    }
}
