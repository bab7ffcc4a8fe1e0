//! One open watch stream: sends what is due on it, and sees whether it is alive.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::watches::{Effect, RangeId, TokenAge, Wanted, Watches};
use crate::{
    error::RegistryError,
    etcd::{Range, WatchAnswer, WatchHalves, WatchRx, WatchTx},
};

/// How soon etcd is asked again how far it is, while some watch has yet to catch up after a
/// reconnect.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct WatchStream {
    tx: Box<dyn WatchTx>,
    rx: Box<dyn WatchRx>,
    watches: Watches,
    last_heard: Instant,
    last_asked: Instant,
    idle_timeout: Duration,
    /// A range that may be watched.
    allowed: Range,
}

impl WatchStream {
    /// A stream that was opened with a request for `first`, by the right of a token of this age.
    pub(super) fn new((tx, rx): WatchHalves, first: Wanted, token: TokenAge, idle_timeout: Duration) -> Self {
        let now = Instant::now();
        let watches = Watches::new(&first, token);
        Self { tx, rx, watches, last_heard: now, last_asked: now, idle_timeout, allowed: first.range }
    }

    /// Asks for one more watch.
    pub(super) fn create(&mut self, wanted: &Wanted) {
        self.watches.create(wanted);
    }

    /// Ends a watch, if there is one: nobody wants it any more.
    pub(super) fn cancel(&mut self, id: RangeId) {
        self.watches.cancel(id);
    }

    /// Watches these and nothing else.
    pub(super) fn watch_all(&mut self, wanted: impl Iterator<Item = Wanted>, is_wanted: impl Fn(RangeId) -> bool) {
        self.watches.retain(is_wanted);
        for wanted in wanted {
            if !self.watches.has(wanted.id) {
                self.watches.create(&wanted);
            }
        }
    }

    /// Whether it was asked for a watch that somebody wants, and has not answered yet.
    pub(super) fn awaits_some(&self) -> bool {
        self.watches.awaits_some()
    }

    /// Takes back the asking for a watch, and says for which range it was. `None`: nobody's.
    pub(super) fn refuse(&mut self, answer: &WatchAnswer) -> Option<RangeId> {
        self.watches.refuse(answer)
    }

    /// Takes what the server says, and answers what is to be done.
    #[must_use]
    pub(super) fn on_answer(&mut self, answer: WatchAnswer) -> Vec<Effect> {
        self.watches.on_answer(answer)
    }

    /// Sends what is due and waits for an answer, whichever comes first. An error ends the stream.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was not sent stays to be sent, and an answer is returned at once.
    pub(super) async fn drive(&mut self) -> Result<Option<WatchAnswer>, RegistryError> {
        let (ask_at, dead_at) = (self.ask_at(), self.last_heard + self.idle_timeout);
        let to_send = self.watches.to_send().cloned();
        tokio::select! {
            answer = self.rx.next() => {
                self.last_heard = Instant::now();
                return answer.map(Some);
            }
            sent = async {
                match to_send {
                    Some(request) => self.tx.send(request).await,
                    None => std::future::pending().await,
                }
            } => {
                sent?;
                self.watches.sent();
            }
            () = sleep_until(dead_at) => {
                let endpoint = self.rx.endpoint().to_owned();
                return Err(RegistryError::TimedOut { endpoint, after: self.idle_timeout });
            }
            () = sleep_until(ask_at) => {
                self.last_asked = Instant::now();
                if self.watches.is_behind() {
                    self.watches.ask_progress();
                }
                // How far the store is would not be told while a watch begins after that, as after
                // a list all do: etcd from 3.5.8 on keeps silent then (`progressIfSync` in its
                // watchable_store.go). That a watch was created is always told.
                if !self.watches.awaits_probe() && self.last_heard.elapsed() >= self.idle_timeout / 2 {
                    self.watches.probe(self.allowed.clone());
                }
            }
        }
        Ok(None)
    }

    /// When to ask something: how far the store is, soon, while somebody has yet to catch up;
    /// otherwise whether it is alive.
    fn ask_at(&self) -> Instant {
        if self.watches.is_behind() {
            return self.last_asked + CATCH_UP_INTERVAL;
        }
        (self.last_heard + self.idle_timeout / 2).max(self.last_asked + self.idle_timeout / 4)
    }
}
