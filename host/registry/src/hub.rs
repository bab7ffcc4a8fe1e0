//! The one watch stream of this process: every watched key range is a watch on it, told apart by
//! numbers.
//!
//! ```text
//!            somebody watches                opened
//!   Idle ───────────────────────▶ Opening ───────────▶ Open
//!    ▲                             ▲    │ failed         │ error, or silent for too long
//!    │ nobody watches any more     │    ▼                │
//!    └─────────────────────────── Waiting ◀──────────────┘
//! ```
//!
//! On a new stream every watch resumes after the last revision it has seen, so that nothing is lost
//! and nothing comes twice. A watch that cannot resume (compacted history, another cluster, a store
//! that went back) is over, and whoever wanted it lists again. What keys mean is left to others
//! (`codec`), and so is what to do about a loss (`follow`, `session`).

mod link;
mod renewal;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, mem, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use waymark_core::model::Revision;

use self::{
    link::Link,
    renewal::{Renewal, Turn},
};
use super::{
    backoff::{Backoff, spread},
    error::{RegistryError, chain},
    etcd::{Etcd, Event, Range, Token, WatchAnswer},
    metrics::{Metrics, RestartReason},
};

/// How many notices may wait for one watcher. One that does not take them in time lists again
/// instead of filling the memory, and never holds up the others.
const QUEUE: usize = 1024;

/// How long what is to be listed waits at least for an etcd that cannot be watched.
const UNWATCHED: Duration = Duration::from_secs(30);

/// How soon etcd is asked again how far it is, while some watch has yet to catch up after a
/// reconnect.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(500);

/// For a watch that depends on nothing that was read before. No cluster has this id.
const ANY_CLUSTER: u64 = 0;

/// What a watcher is told, in order.
#[derive(Debug)]
pub(super) enum Notice {
    /// What one or more revisions changed in one of the ranges.
    Events(Vec<Event>),
    /// The stream was lost. The watch resumes by itself.
    Down(Arc<str>),
    /// Everything up to this revision has been told, in all ranges.
    Synced(Revision),
    /// The watch is over: list again. There is no further notice.
    Restart(RestartReason, Arc<str>),
}

/// The hub's task, seen from outside. The task ends when the last handle and watch are dropped.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    commands: mpsc::UnboundedSender<Command>,
    ups: watch::Receiver<u64>,
    down: watch::Receiver<bool>,
}

/// Some ranges being tracked, until this is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    id: u64,
    /// Boxed, because a channel keeps room for 32 from the start, and there may be ten thousand
    /// channels.
    notices: mpsc::Receiver<Box<Notice>>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Watching {
    /// The next notice; `None` when this watcher was too slow and lost its place: list again.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await.map(|notice| *notice)
    }

    /// A notice that is there already.
    pub(super) fn try_next(&mut self) -> Option<Notice> {
        self.notices.try_recv().ok().map(|notice| *notice)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Without a task there is nothing to cancel.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

#[derive(Debug)]
enum Command {
    Watch { ranges: Vec<Range>, from: Revision, cluster: u64, reply: mpsc::Sender<Box<Notice>>, id: u64 },
    Cancel(u64),
}

/// How long the hub waits for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct HubConfig {
    pub(super) idle_timeout: Duration,
    pub(super) backoff_base: Duration,
    pub(super) backoff_cap: Duration,
    /// Whether etcd knows us by tokens, which end.
    pub(super) has_user: bool,
}

impl Hub {
    /// Starts the task.
    pub(super) fn spawn(etcd: Arc<dyn Etcd>, config: HubConfig, metrics: Metrics) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (ups_tx, ups) = watch::channel(0);
        let (down_tx, down) = watch::channel(false);
        let task = Task {
            etcd,
            inbox,
            watchers: Watchers { metrics, by_id: HashMap::new(), n_ranges: 0 },
            state: State::Idle,
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            idle_timeout: config.idle_timeout,
            has_user: config.has_user,
            renewal: Renewal::default(),
            down: None,
            ups: ups_tx,
            is_down: down_tx,
        };
        tokio::spawn(task.run());
        Self { commands, ups, down }
    }

    /// Watches all these ranges from this revision (inclusive) of this cluster on.
    pub(super) fn watch(&self, ranges: Vec<Range>, from: Revision, cluster: u64) -> Watching {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, notices) = mpsc::channel(QUEUE);
        // The task lives as long as this handle.
        let _ = self.commands.send(Command::Watch { ranges, from, cluster, reply, id });
        Watching { id, notices, commands: self.commands.clone() }
    }

    /// Has the hub look out for etcd while this is kept, even if nobody watches anything yet:
    /// [`Self::ups`] changes when it is back. It does that by watching this range, whose notices
    /// are of no interest.
    pub(super) fn look_out(&self, range: Range) -> Watching {
        self.watch(vec![range], Revision(0), ANY_CLUSTER)
    }

    /// Changes whenever a lost stream is back: for those who wait before they try again, a sign
    /// that it may work now.
    pub(super) fn ups(&self) -> watch::Receiver<u64> {
        self.ups.clone()
    }

    /// Waits until then; and, while the hub looks out for etcd in vain, until it is back, for it is
    /// enough that one of us tries. In case that watches alone do not get through, it is over after
    /// [`UNWATCHED`] all the same.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn worth_trying(&self, from: Instant) {
        sleep_until(from).await;
        let mut down = self.down.clone();
        // Where the task has ended, it is tried as if there were none.
        let _ = timeout(UNWATCHED + spread(UNWATCHED), down.wait_for(|down| !down)).await;
    }
}

/// One watched range.
struct Tracked {
    range: Range,
    /// The revision that has not been told yet.
    next: Revision,
    /// Where the store was when the watch was created on this stream: in step when everything up to
    /// there was told. `None`: not created yet on this stream.
    goal: Option<Revision>,
    in_step: bool,
    /// The server's number for it on this stream.
    server_id: Option<i64>,
}

struct Watcher {
    cluster: u64,
    ranges: Vec<Tracked>,
    notices: mpsc::Sender<Box<Notice>>,
}

impl Watcher {
    /// Whether what this cluster says is about another history than the one that was read.
    fn is_of_another(&self, cluster: u64) -> bool {
        self.cluster != ANY_CLUSTER && self.cluster != cluster
    }
}

/// A range of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    watcher: u64,
    range: usize,
}

/// All watchers, whether or not there is a stream.
struct Watchers {
    metrics: Metrics,
    by_id: HashMap<u64, Watcher>,
    /// How many ranges they have together.
    n_ranges: usize,
}

impl Watchers {
    fn get(&mut self, place: Place) -> Option<&mut Tracked> {
        self.by_id.get_mut(&place.watcher)?.ranges.get_mut(place.range)
    }

    fn places(&self) -> Vec<Place> {
        let of = |(watcher, it): (&u64, &Watcher)| {
            let watcher = *watcher;
            (0..it.ranges.len()).map(move |range| Place { watcher, range })
        };
        self.by_id.iter().flat_map(of).collect()
    }

    fn insert(&mut self, id: u64, watcher: Watcher) {
        self.n_ranges += watcher.ranges.len();
        self.by_id.insert(id, watcher);
        self.metrics.watches(self.n_ranges);
    }

    /// Tells one watcher. One that does not take its notices is dropped, and learns of it by the
    /// end of its channel. Returns the server's numbers of watches to cancel.
    #[must_use]
    fn tell(&mut self, id: u64, notice: Notice) -> Vec<i64> {
        let Some(watcher) = self.by_id.get(&id) else { return Vec::new() };
        match watcher.notices.try_send(Box::new(notice)) {
            Ok(()) => Vec::new(),
            // It dropped its end, and its command to cancel is on its way.
            Err(mpsc::error::TrySendError::Closed(_)) => self.remove(id),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(queue = QUEUE, "a watcher does not keep up; it lists again");
                self.metrics.restarted(RestartReason::Lagged);
                self.remove(id)
            }
        }
    }

    /// Ends one watcher for good.
    #[must_use]
    fn restart(&mut self, id: u64, reason: RestartReason, detail: &str) -> Vec<i64> {
        self.metrics.restarted(reason);
        let mut cancel = self.tell(id, Notice::Restart(reason, detail.into()));
        cancel.extend(self.remove(id));
        cancel
    }

    #[must_use]
    fn remove(&mut self, id: u64) -> Vec<i64> {
        let removed = self.by_id.remove(&id);
        self.n_ranges -= removed.as_ref().map_or(0, |watcher| watcher.ranges.len());
        self.metrics.watches(self.n_ranges);
        removed.into_iter().flat_map(|watcher| watcher.ranges).filter_map(|tracked| tracked.server_id).collect()
    }

    /// Forgets what belonged to a stream that is gone.
    fn forget_stream(&mut self) {
        for tracked in self.by_id.values_mut().flat_map(|watcher| &mut watcher.ranges) {
            (tracked.goal, tracked.server_id, tracked.in_step) = (None, None, false);
        }
    }

    /// Forgets what belonged to a stream that is gone, and tells everybody.
    fn disconnected(&mut self, reason: &Arc<str>) {
        self.forget_stream();
        for id in self.by_id.keys().copied().collect::<Vec<_>>() {
            // Without a stream there is nothing to cancel.
            let _ = self.tell(id, Notice::Down(Arc::clone(reason)));
        }
    }
}

enum State {
    /// Nobody watches, and there is no stream.
    Idle,
    /// A stream is to be opened.
    Opening,
    /// Watching.
    Open(Box<Link>),
    /// The stream was lost, or could not be opened. Until this moment nothing is tried.
    Waiting(Instant),
}

/// Why the task ends: nobody is left who could ask it for anything.
struct Unused;

struct Task {
    etcd: Arc<dyn Etcd>,
    inbox: mpsc::UnboundedReceiver<Command>,
    watchers: Watchers,
    state: State,
    backoff: Backoff,
    idle_timeout: Duration,
    has_user: bool,
    /// What is done about watches that were refused on the stream that is open.
    renewal: Renewal,
    /// Why there is no stream, while there should be one.
    down: Option<Arc<str>>,
    ups: watch::Sender<u64>,
    /// Whether there is a reason in `down`, for others.
    is_down: watch::Sender<bool>,
}

impl Task {
    async fn run(mut self) {
        while self.step().await.is_ok() {}
        self.watchers.metrics.connected(false);
    }

    /// Goes from one state to the next. Every way out of a state is one arm.
    async fn step(&mut self) -> Result<(), Unused> {
        match &mut self.state {
            State::Idle => {
                let command = self.inbox.recv().await.ok_or(Unused)?;
                let _ = self.on_command(command);
                if !self.watchers.by_id.is_empty() {
                    self.state = State::Opening;
                }
            }
            State::Opening => self.open().await?,
            State::Open(link) => {
                let outcome = tokio::select! {
                    command = self.inbox.recv() => {
                        let asked = self.on_command(command.ok_or(Unused)?);
                        let State::Open(link) = &mut self.state else { return Ok(()) };
                        link.ask(asked);
                        if self.watchers.by_id.is_empty() {
                            self.state = State::Idle;
                            self.renewal = Renewal::default();
                            self.watchers.metrics.connected(false);
                        }
                        return Ok(());
                    }
                    turn = self.renewal.turn(self.idle_timeout) => {
                        self.on_renewal(turn);
                        return Ok(());
                    }
                    outcome = link.turn() => outcome,
                };
                match outcome {
                    Ok(Some(answer)) => self.on_answer(answer),
                    Ok(None) => {}
                    Err(error) => self.on_loss(&error),
                }
            }
            State::Waiting(until) => {
                let until = *until;
                tokio::select! {
                    command = self.inbox.recv() => {
                        let _ = self.on_command(command.ok_or(Unused)?);
                    }
                    () = sleep_until(until) => self.state = State::Opening,
                }
            }
        }
        Ok(())
    }

    /// Opens a stream with the first watch; the others follow on it.
    async fn open(&mut self) -> Result<(), Unused> {
        let Some((first, range, request)) = self.first_request() else {
            self.state = State::Idle;
            self.set_down(None);
            return Ok(());
        };
        let etcd = Arc::clone(&self.etcd);
        let mut opening = pin!(etcd.watch(request, Token::AtHand));
        let opened = loop {
            tokio::select! {
                command = self.inbox.recv() => {
                    let _ = self.on_command(command.ok_or(Unused)?);
                }
                opened = &mut opening => break opened,
            }
        };
        match opened {
            Ok((tx, rx)) => {
                let others = self.watchers.places().into_iter().filter(|place| *place != first).collect::<Vec<_>>();
                let mut link = Link::new(tx, rx, first, range, self.idle_timeout).of_user(self.has_user);
                for place in others {
                    link.create(&mut self.watchers, place);
                }
                self.state = State::Open(Box::new(link));
                self.watchers.metrics.connected(true);
                if let Some(reason) = self.set_down(None) {
                    tracing::info!(reason = &*reason, "the watch stream is back");
                    self.ups.send_modify(|ups| *ups += 1);
                }
            }
            Err(error) => self.on_loss(&error),
        }
        Ok(())
    }

    fn first_request(&mut self) -> Option<(Place, Range, super::etcd::WatchRequest)> {
        let place = *self.watchers.places().first()?;
        let tracked = self.watchers.get(place)?;
        Some((place, tracked.range.clone(), link::create_request(link::FIRST_ID, tracked)))
    }

    /// Returns what it was.
    fn set_down(&mut self, reason: Option<Arc<str>>) -> Option<Arc<str>> {
        self.is_down.send_if_modified(|down| mem::replace(down, reason.is_some()) != reason.is_some());
        mem::replace(&mut self.down, reason)
    }

    fn on_loss(&mut self, error: &RegistryError) {
        let reason: Arc<str> = chain(error).into();
        let was_open = matches!(self.state, State::Open(_));
        if self.down.is_none() {
            tracing::warn!(reason = &*reason, "the watch stream is lost; what is known stays in use");
        } else {
            tracing::debug!(reason = &*reason, attempts = self.backoff.attempts(), "the watch stream cannot be opened");
        }
        if was_open {
            self.watchers.metrics.restarted(RestartReason::Disconnected);
            self.watchers.metrics.connected(false);
        }
        if was_open || self.down.is_none() {
            self.watchers.disconnected(&reason);
        }
        self.set_down(Some(reason));
        self.renewal = Renewal::default();
        self.state = State::Waiting(Instant::now() + self.backoff.next());
    }

    /// Returns what must be asked for on an open stream.
    fn on_command(&mut self, command: Command) -> Vec<link::Ask> {
        match command {
            Command::Watch { ranges, from, cluster, reply, id } => {
                let ranges = ranges.into_iter().map(|range| Tracked {
                    range,
                    next: from,
                    goal: None,
                    in_step: false,
                    server_id: None,
                });
                let watcher = Watcher { cluster, ranges: ranges.collect(), notices: reply };
                let n_ranges = watcher.ranges.len();
                self.watchers.insert(id, watcher);
                if let Some(reason) = &self.down {
                    let _ = self.watchers.tell(id, Notice::Down(Arc::clone(reason)));
                }
                let places = (0..n_ranges).map(|range| Place { watcher: id, range });
                places
                    .filter_map(|place| {
                        let tracked = self.watchers.get(place)?;
                        Some(link::Ask::Create(place, tracked.range.clone(), tracked.next))
                    })
                    .collect()
            }
            Command::Cancel(id) => self.watchers.remove(id).into_iter().map(link::Ask::Cancel).collect(),
        }
    }

    fn on_answer(&mut self, answer: WatchAnswer) {
        let State::Open(link) = &mut self.state else { return };
        self.backoff.reset();
        let cancel = link.on_answer(&mut self.watchers, answer);
        link.ask(cancel.into_iter().map(link::Ask::Cancel).collect());
        let refused = mem::take(&mut link.refused);
        for (place, words) in refused {
            self.renew(place, words);
        }
    }

    /// Tries a watch that was refused with a new token.
    fn renew(&mut self, place: Place, words: String) {
        let Some(tracked) = self.watchers.get(place) else { return };
        self.renewal.refused.push((place, words));
        if let Some(link) = self.renewal.link() {
            link.create(&mut self.watchers, place);
        } else if self.renewal.is_idle() {
            let first = (place, tracked.range.clone());
            let (etcd, request) = (Arc::clone(&self.etcd), link::create_request(link::FIRST_ID, tracked));
            self.renewal.open(first, async move { etcd.watch(request, Token::New).await }.boxed());
        }
    }

    fn on_renewal(&mut self, turn: Turn) {
        match turn {
            Turn::Opened => {
                let refused = self.renewal.refused.iter().map(|(place, _)| *place).collect::<Vec<_>>();
                let Some(link) = self.renewal.link() else { return };
                for place in refused {
                    if !link.awaits(place) {
                        link.create(&mut self.watchers, place);
                    }
                }
            }
            Turn::Answer(answer) if renewal::is_refusal(&answer) => {
                let Some(link) = self.renewal.link() else { return };
                let (place, over) = (link.refuse(&answer), !link.awaits_some());
                if let Some(place) = place {
                    self.renewal.settle(place);
                    self.refuse(vec![(place, renewal::words(&answer))]);
                }
                if over {
                    self.renewal = Renewal::default();
                }
            }
            Turn::Answer(answer) if answer.created => {
                let (Some(mut link), _) = self.renewal.end() else { return };
                tracing::info!("the watch stream is opened anew, since its token had ended");
                self.watchers.forget_stream();
                for place in self.watchers.places() {
                    if !link.awaits(place) {
                        link.create(&mut self.watchers, place);
                    }
                }
                self.state = State::Open(link);
                self.on_answer(answer);
            }
            Turn::Answer(_) => {}
            Turn::Lost(error) => {
                let (_, refused) = self.renewal.end();
                tracing::debug!(error = chain(&error), "no watch stream can be opened with a new token");
                self.refuse(refused);
            }
        }
    }

    /// These are refused for good.
    fn refuse(&mut self, refused: Vec<(Place, String)>) {
        for (place, words) in refused {
            let cancel = self.watchers.restart(place.watcher, RestartReason::Refused, &words);
            if let State::Open(link) = &mut self.state {
                link.ask(cancel.into_iter().map(link::Ask::Cancel).collect());
            }
        }
    }
}
