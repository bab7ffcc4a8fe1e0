//! One watch stream: what was received, what of it was said, how far it is.

use std::{collections::HashMap, time::Duration};

use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use super::{say::refusal, script::Create};

/// The id of the watcher on each stream that shows how far the stream is.
pub(crate) const FENCE_WATCHER: i64 = 1_000_000;

/// One watcher of the script.
pub(crate) struct Watcher {
    pub(crate) id: i64,
    pub(crate) create: Create,
    /// Canceled by the server.
    pub(crate) over: bool,
}

/// One watch stream.
pub(crate) struct Stream {
    pub(crate) requests: Option<mpsc::UnboundedSender<PbWatchRequest>>,
    answers: mpsc::UnboundedReceiver<Result<PbWatchResponse, Status>>,
    /// Those of the script that were created and not cancelled by it.
    pub(crate) watchers: Vec<Watcher>,
    /// Received and not said yet.
    pub(crate) pending: Vec<PbWatchResponse>,
    /// The newest revision that each watcher has had an event of.
    pub(crate) seen: HashMap<i64, i64>,
    /// The watcher of the fence is there.
    pub(crate) begun: bool,
    /// Ended, or did not say what was waited for: not waited for again.
    dead: bool,
}

impl Stream {
    pub(crate) fn new(
        requests: mpsc::UnboundedSender<PbWatchRequest>,
        mut messages: Streaming<PbWatchResponse>,
    ) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let message = match messages.message().await {
                    Ok(Some(message)) => Ok(message),
                    Ok(None) => Err(Status::ok("the stream ended")),
                    Err(status) => Err(status),
                };
                let last = message.is_err();
                if sender.send(message).is_err() || last {
                    return;
                }
            }
        });
        let requests = Some(requests);
        Self {
            requests,
            answers,
            watchers: Vec::new(),
            pending: Vec::new(),
            seen: HashMap::new(),
            begun: false,
            dead: false,
        }
    }

    pub(crate) fn send(&self, union: PbWatchRequestUnion) {
        if let Some(requests) = &self.requests {
            // A stream that ended says so when it is read.
            let _ = requests.send(PbWatchRequest { request_union: Some(union) });
        }
    }

    /// Whether all watchers that can be have been told of this revision, which all of them cover.
    pub(crate) fn has_reached(&self, revision: i64) -> bool {
        let reached = |id| self.seen.get(&id).is_some_and(|seen| *seen >= revision);
        let covering =
            |watcher: &&Watcher| !watcher.over && watcher.create.covers_fence() && watcher.create.start <= revision;
        reached(FENCE_WATCHER) && self.watchers.iter().filter(covering).all(|watcher| reached(watcher.id))
    }

    /// Reads until `done`, which is asked again after each message; says why when that does not
    /// come.
    pub(crate) async fn read_until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        while !self.dead && !done(self) {
            let failure = match timeout(patience, self.answers.recv()).await {
                Ok(Some(Ok(message))) => {
                    self.take(message);
                    continue;
                }
                Ok(Some(Err(status))) => format!("the stream ended: {}", refusal(&status)),
                Ok(None) => "the stream ended".into(),
                Err(_) => format!("nothing came within {} s", patience.as_secs()),
            };
            self.dead = true;
            return Err(failure);
        }
        Ok(())
    }

    pub(crate) fn take(&mut self, message: PbWatchResponse) {
        let newest = message.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        if let Some(newest) = newest.filter(|_| !message.fragment) {
            self.seen.insert(message.watch_id, newest);
        }
        if message.canceled {
            self.watchers.iter_mut().filter(|watcher| watcher.id == message.watch_id).for_each(|w| w.over = true);
        }
        if message.watch_id == FENCE_WATCHER {
            self.begun |= message.created;
        } else {
            self.pending.push(message);
        }
    }

    /// Takes the first pending message that is of this kind.
    pub(crate) fn pick(&mut self, of: impl Fn(&PbWatchResponse) -> bool) -> Option<PbWatchResponse> {
        let at = self.pending.iter().position(of)?;
        Some(self.pending.remove(at))
    }
}
