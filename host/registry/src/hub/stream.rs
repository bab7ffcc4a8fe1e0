//! One open watch stream: which watch has which number on it, what is still to be sent, and whether
//! it is alive.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use waymark_core::model::Revision;

use super::{
    CATCH_UP_INTERVAL, Notice, Place, Tracked, Watchers,
    renewal::{self, FRESH},
};
use crate::{
    error::RegistryError,
    etcd::{Event, Range, WatchAnswer, WatchRequest, WatchRx, WatchTx},
    metrics::RestartReason,
};

/// The number asked for by the first watch of a stream. Not 0, which leaves the choice to the
/// server.
pub(super) const FIRST_ID: i64 = 1;

/// The number a server gives an answer that concerns no watch, or all of them.
const NO_WATCH: i64 = -1;

/// What a watch is created for that only has to be answered: nobody's. It is cancelled as soon as
/// it is created.
const NOBODYS: Place = Place { watcher: 0, range: 0 };

/// Why a watch ended, where the server does not say it.
pub(super) const ENDED: &str = "etcd ended the watch";

/// Something to ask for on the stream.
pub(super) enum Ask {
    Create(Place, Range, Revision),
    Cancel(i64),
}

pub(super) fn create_request(id: i64, tracked: &Tracked) -> WatchRequest {
    WatchRequest::Create { id, range: tracked.range.clone(), from: tracked.next }
}

pub(super) struct Link {
    tx: Box<dyn WatchTx>,
    rx: Box<dyn WatchRx>,
    /// Not sent yet. Sending waits while the server takes nothing, and answers must be read
    /// meanwhile.
    outbox: VecDeque<WatchRequest>,
    /// Asked for and not answered yet, with the numbers asked for. etcd answers in order, under
    /// those numbers; its proxy answers under numbers of its own, so the order is what counts where
    /// no number fits.
    creating: VecDeque<(i64, Place)>,
    /// The server's numbers.
    places: HashMap<i64, Place>,
    next_id: i64,
    /// Created, and not known to have caught up. May hold some that nobody wants any more.
    behind: HashSet<Place>,
    last_heard: Instant,
    last_asked: Instant,
    idle_timeout: Duration,
    /// A range that may be watched.
    allowed: Range,
    /// Whether what is refused may be so for the token's age alone.
    renews: bool,
    /// When it was opened with a new token, if it was.
    renewed_at: Option<Instant>,
    /// Those that were refused although a new token may be taken, with the server's words.
    pub(super) refused: Vec<(Place, String)>,
}

impl Link {
    /// A stream that was opened with a request for `first`, which watches `range`.
    pub(super) fn new(
        tx: Box<dyn WatchTx>,
        rx: Box<dyn WatchRx>,
        first: Place,
        range: Range,
        idle_timeout: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            tx,
            rx,
            allowed: range,
            outbox: VecDeque::new(),
            creating: VecDeque::from([(FIRST_ID, first)]),
            places: HashMap::new(),
            next_id: FIRST_ID + 1,
            behind: HashSet::new(),
            last_heard: now,
            last_asked: now,
            idle_timeout,
            renews: false,
            renewed_at: None,
            refused: Vec::new(),
        }
    }

    /// A stream of a user: what is refused there is put aside, to be tried with a new token.
    pub(super) fn of_user(mut self, renews: bool) -> Self {
        self.renews = renews;
        self
    }

    /// One that was opened with a token of this moment.
    pub(super) fn renewed(mut self, at: Instant) -> Self {
        (self.renews, self.renewed_at) = (true, Some(at));
        self
    }

    /// Whether a refusal may be no more than the end of a token.
    fn may_be_old(&self) -> bool {
        self.renews && self.renewed_at.is_none_or(|at| at.elapsed() >= FRESH)
    }

    /// Takes back the asking for a watch, and says for which it was. `None`: none is awaited.
    pub(super) fn refuse(&mut self, answer: &WatchAnswer) -> Option<Place> {
        self.take_creating(answer.id)
    }

    /// Whether it was asked for a watch and has not answered yet.
    pub(super) fn awaits_some(&self) -> bool {
        self.creating.iter().any(|(_, place)| *place != NOBODYS)
    }

    /// Whether it was asked for this one and has not answered yet.
    pub(super) fn awaits(&self, place: Place) -> bool {
        self.creating.iter().any(|(_, asked)| *asked == place)
    }

    /// Asks for a watch that is known to the watchers.
    pub(super) fn create(&mut self, watchers: &mut Watchers, place: Place) {
        if let Some(tracked) = watchers.get(place) {
            let ask = Ask::Create(place, tracked.range.clone(), tracked.next);
            self.ask(vec![ask]);
        }
    }

    pub(super) fn ask(&mut self, asked: Vec<Ask>) {
        for ask in asked {
            match ask {
                Ask::Create(place, range, from) => {
                    let id = self.next_id;
                    self.next_id += 1;
                    self.outbox.push_back(WatchRequest::Create { id, range, from });
                    self.creating.push_back((id, place));
                }
                Ask::Cancel(id) => {
                    self.places.remove(&id);
                    self.outbox.push_back(WatchRequest::Cancel { id });
                }
            }
        }
    }

    /// Sends what is due and waits for an answer, whichever comes first. An error ends the stream.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was not sent stays in the outbox, and an answer is returned at once.
    pub(super) async fn turn(&mut self) -> Result<Option<WatchAnswer>, RegistryError> {
        let (ask_at, dead_at) = (self.ask_at(), self.last_heard + self.idle_timeout);
        let to_send = self.outbox.front().cloned();
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
                self.outbox.pop_front();
            }
            () = sleep_until(dead_at) => {
                let endpoint = self.rx.endpoint().to_owned();
                return Err(RegistryError::TimedOut { endpoint, after: self.idle_timeout });
            }
            () = sleep_until(ask_at) => {
                self.last_asked = Instant::now();
                if !self.behind.is_empty() {
                    self.outbox.push_back(WatchRequest::Progress);
                }
                // How far the store is would not be told while a watch begins after that, as after
                // a list all do: etcd from 3.5.8 on keeps silent then (`progressIfSync` in its
                // watchable_store.go). That a watch was created is always told.
                let asked = self.creating.iter().any(|(_, place)| *place == NOBODYS);
                if !asked && self.last_heard.elapsed() >= self.idle_timeout / 2 {
                    self.ask(vec![Ask::Create(NOBODYS, self.allowed.clone(), Revision(0))]);
                }
            }
        }
        Ok(None)
    }

    /// When to ask something: how far the store is, soon, while somebody has yet to catch up;
    /// otherwise whether it is alive.
    fn ask_at(&self) -> Instant {
        if !self.behind.is_empty() {
            return self.last_asked + CATCH_UP_INTERVAL;
        }
        (self.last_heard + self.idle_timeout / 2).max(self.last_asked + self.idle_timeout / 4)
    }

    /// Returns the server's numbers of watches that nobody wants any more.
    #[must_use]
    pub(super) fn on_answer(&mut self, watchers: &mut Watchers, answer: WatchAnswer) -> Vec<i64> {
        let mut cancel = Vec::new();
        let place = if answer.created { self.take_creating(answer.id) } else { self.places.get(&answer.id).copied() };
        let Some(place) = place else {
            if answer.id == NO_WATCH && !answer.canceled {
                cancel.extend(self.on_progress(watchers, answer.revision));
            }
            return cancel;
        };
        let Some(watcher) = watchers.by_id.get(&place.watcher) else {
            // It was dropped while its watch was being created, or it is nobody's.
            if answer.created && !answer.canceled {
                cancel.push(answer.id);
            }
            return cancel;
        };
        if answer.canceled {
            self.places.remove(&answer.id);
            if renewal::is_refusal(&answer) && self.may_be_old() {
                self.refused.push((place, renewal::words(&answer)));
                return cancel;
            }
            let (reason, detail) = match answer.compacted {
                Some(at) => (RestartReason::Compacted, format!("history before revision {at} was compacted")),
                None => (RestartReason::Refused, renewal::words(&answer)),
            };
            let others = watchers.restart(place.watcher, reason, &detail);
            cancel.extend(others.into_iter().filter(|id| *id != answer.id));
            return cancel;
        }
        if answer.created {
            self.places.insert(answer.id, place);
            if let Some(tracked) = watchers.get(place) {
                tracked.server_id = Some(answer.id);
            }
        } else if watcher.is_of_another(answer.cluster) {
            let detail = format!("cluster {:x} answers instead of {:x}", answer.cluster, watcher.cluster);
            cancel.extend(watchers.restart(place.watcher, RestartReason::ClusterChanged, &detail));
            return cancel;
        }
        if answer.created {
            cancel.extend(self.on_created(watchers, place, &answer));
        } else if answer.events.is_empty() {
            // A notification for this one watch, which is in step: it may resume from there.
            if let Some(tracked) = watchers.get(place) {
                tracked.next = tracked.next.max(answer.revision.next());
            }
            cancel.extend(self.reached(watchers, place, answer.revision));
        } else {
            let last = answer.events.iter().map(Event::mod_revision).max().unwrap_or_default();
            watchers.metrics.events(answer.events.len());
            if let Some(tracked) = watchers.get(place) {
                tracked.next = tracked.next.max(last.next());
            }
            cancel.extend(watchers.tell(place.watcher, Notice::Events(answer.events)));
            cancel.extend(self.reached(watchers, place, last));
        }
        cancel
    }

    fn take_creating(&mut self, id: i64) -> Option<Place> {
        let index = self.creating.iter().position(|(asked, _)| *asked == id).unwrap_or(0);
        self.creating.remove(index).map(|(_, place)| place)
    }

    /// A watch has begun. Is it the same history?
    fn on_created(&mut self, watchers: &mut Watchers, place: Place, answer: &WatchAnswer) -> Vec<i64> {
        let Some(cluster) = watchers.by_id.get(&place.watcher).map(|watcher| watcher.cluster) else {
            return Vec::new();
        };
        if watchers.by_id.get(&place.watcher).is_some_and(|watcher| watcher.is_of_another(answer.cluster)) {
            let detail = format!("cluster {:x} answers instead of {cluster:x}", answer.cluster);
            return watchers.restart(place.watcher, RestartReason::ClusterChanged, &detail);
        }
        let Some(tracked) = watchers.get(place) else { return Vec::new() };
        let next = tracked.next;
        if answer.revision.next() < next {
            // etcd would wait in silence for its store to get there.
            let detail = format!("the store is at revision {}, and was at {} before", answer.revision, next.0 - 1);
            return watchers.restart(place.watcher, RestartReason::RevisionWentBack, &detail);
        }
        tracked.goal = Some(answer.revision);
        self.behind.insert(place);
        if answer.revision < next { self.reached(watchers, place, answer.revision) } else { Vec::new() }
    }

    /// How far the whole stream is. It does not move the resume revision: etcd before 3.4.25 and
    /// 3.5.8 answers this before it has sent all events (etcd-io/etcd#15220), and a loss just then
    /// would skip them.
    fn on_progress(&mut self, watchers: &mut Watchers, revision: Revision) -> Vec<i64> {
        self.behind.retain(|place| watchers.get(*place).is_some());
        let behind = self.behind.iter().copied().collect::<Vec<_>>();
        behind.into_iter().flat_map(|place| self.reached(watchers, place, revision)).collect()
    }

    /// Everything up to `revision` was told in this range. Tells the watcher when that puts all its
    /// ranges in step.
    fn reached(&mut self, watchers: &mut Watchers, place: Place, revision: Revision) -> Vec<i64> {
        let Some(tracked) = watchers.get(place) else { return Vec::new() };
        if tracked.in_step || tracked.goal.is_none_or(|goal| revision < goal) {
            return Vec::new();
        }
        tracked.in_step = true;
        self.behind.remove(&place);
        let Some(watcher) = watchers.by_id.get(&place.watcher) else { return Vec::new() };
        if !watcher.ranges.iter().all(|tracked| tracked.in_step) {
            return Vec::new();
        }
        let synced = watcher.ranges.iter().filter_map(|tracked| tracked.goal).min().unwrap_or_default();
        watchers.tell(place.watcher, Notice::Synced(synced))
    }
}
