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
//! (`codec`), and so is what to do about a loss (`service_watch`, `session`).
//!
//! `watches` has the protocol of one stream and answers with effects; `stream` is that with its
//! I/O; `watchers` are those who want something; `token_renewal` is what is done about a refusal.
//! The task here carries out what follows.

mod stream;
#[cfg(test)]
mod tests;
mod token_renewal;
mod watchers;
mod watches;

use std::{mem, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use waymark_core::{backoff::Backoff, model::Revision};

pub(super) use self::watchers::Notice;
use self::{
    stream::WatchStream,
    token_renewal::{RenewalEvent, TokenRenewal},
    watchers::{QUEUE, RemovedRanges, Watchers},
    watches::{ANY_CLUSTER, Effect, FIRST_ID, RangeId, TokenAge, Wanted},
};
use super::{
    error::{RegistryError, chain},
    etcd::{Etcd, Range, Token, WatchAnswer},
    jitter::jitter,
    metrics::{Metrics, RestartReason},
};

/// How long what is to be listed waits at least for an etcd that cannot be watched.
const UNWATCHED: Duration = Duration::from_secs(30);

/// When etcd is back, those who waited come within this time, at random.
pub(super) const RECONNECT_JITTER: Duration = Duration::from_millis(250);

/// The multiplexer's task, seen from outside. The task ends when the last handle and watch are
/// dropped.
#[derive(Debug, Clone)]
pub(super) struct WatchMux {
    commands: mpsc::UnboundedSender<Command>,
    reconnects: watch::Receiver<u64>,
    down: watch::Receiver<bool>,
}

/// Some ranges being tracked, until this is dropped.
#[derive(Debug)]
pub(super) struct WatchHandle {
    id: u64,
    /// Boxed, because a channel keeps room for 32 from the start, and there may be ten thousand
    /// channels.
    notices: mpsc::Receiver<Box<Notice>>,
    commands: mpsc::UnboundedSender<Command>,
}

impl WatchHandle {
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

impl Drop for WatchHandle {
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

/// How long the multiplexer waits for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchMuxConfig {
    pub(super) idle_timeout: Duration,
    pub(super) backoff_base: Duration,
    pub(super) backoff_cap: Duration,
    /// Whether etcd knows us by tokens, which end.
    pub(super) has_user: bool,
}

impl WatchMux {
    /// Starts the task.
    pub(super) fn spawn(etcd: Arc<dyn Etcd>, config: WatchMuxConfig, metrics: Metrics) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (reconnects_tx, reconnects) = watch::channel(0);
        let (down_tx, down) = watch::channel(false);
        let task = Task {
            etcd,
            inbox,
            watchers: Watchers::new(metrics),
            state: State::Idle,
            backoff: Backoff::equal_jitter(config.backoff_base, config.backoff_cap),
            idle_timeout: config.idle_timeout,
            has_user: config.has_user,
            renewal: TokenRenewal::default(),
            down: None,
            reconnects: reconnects_tx,
            is_down: down_tx,
        };
        tokio::spawn(task.run());
        Self { commands, reconnects, down }
    }

    /// Watches all these ranges from this revision (inclusive) of this cluster on.
    pub(super) fn watch(&self, ranges: Vec<Range>, from: Revision, cluster: u64) -> WatchHandle {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, notices) = mpsc::channel(QUEUE);
        // The task lives as long as this handle.
        let _ = self.commands.send(Command::Watch { ranges, from, cluster, reply, id });
        WatchHandle { id, notices, commands: self.commands.clone() }
    }

    /// Has the multiplexer look out for etcd while this is kept, even if nobody watches anything
    /// yet: [`Self::reconnects`] changes when it is back. It does that by watching this range,
    /// whose notices are of no interest.
    pub(super) fn keep_connecting(&self, range: Range) -> WatchHandle {
        self.watch(vec![range], Revision(0), ANY_CLUSTER)
    }

    /// Changes whenever a lost stream is back: for those who wait before they try again, a sign
    /// that it may work now.
    pub(super) fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.clone()
    }

    /// Waits until then; and, while the multiplexer looks out for etcd in vain, until it is back,
    /// for it is enough that one of us tries. In case that watches alone do not get through, it is
    /// over after [`UNWATCHED`] all the same.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn wait_to_retry(&self, from: Instant) {
        sleep_until(from).await;
        let mut down = self.down.clone();
        // Where the task has ended, it is tried as if there were none.
        let _ = timeout(UNWATCHED + jitter(UNWATCHED), down.wait_for(|down| !down)).await;
    }
}

enum State {
    /// Nobody watches, and there is no stream.
    Idle,
    /// A stream is to be opened.
    Opening,
    /// Watching.
    Open(Box<WatchStream>),
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
    renewal: TokenRenewal,
    /// Why there is no stream, while there should be one.
    down: Option<Arc<str>>,
    reconnects: watch::Sender<u64>,
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
                self.on_command(command);
                if !self.watchers.is_empty() {
                    self.state = State::Opening;
                }
            }
            State::Opening => self.open().await?,
            State::Open(stream) => {
                let outcome = tokio::select! {
                    command = self.inbox.recv() => {
                        self.on_command(command.ok_or(Unused)?);
                        if self.watchers.is_empty() {
                            self.state = State::Idle;
                            self.renewal = TokenRenewal::default();
                            self.watchers.metrics.connected(false);
                        }
                        return Ok(());
                    }
                    event = self.renewal.next_event(self.idle_timeout) => {
                        self.on_renewal(event);
                        return Ok(());
                    }
                    outcome = stream.drive() => outcome,
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
                        self.on_command(command.ok_or(Unused)?);
                    }
                    () = sleep_until(until) => self.state = State::Opening,
                }
            }
        }
        Ok(())
    }

    /// Opens a stream with the first watch; the others follow on it.
    async fn open(&mut self) -> Result<(), Unused> {
        let Some(first) = self.watchers.all_wanted().next() else {
            self.state = State::Idle;
            self.set_down(None);
            return Ok(());
        };
        let etcd = Arc::clone(&self.etcd);
        let mut opening = pin!(etcd.watch(first.request(FIRST_ID), Token::AtHand));
        let opened = loop {
            tokio::select! {
                command = self.inbox.recv() => {
                    self.on_command(command.ok_or(Unused)?);
                }
                opened = &mut opening => break opened,
            }
        };
        match opened {
            Ok(halves) => {
                let token = if self.has_user { TokenAge::Unknown } else { TokenAge::NoToken };
                let mut stream = WatchStream::new(halves, first, token, self.idle_timeout);
                watch_all(&self.watchers, &mut stream);
                self.state = State::Open(Box::new(stream));
                self.watchers.metrics.connected(true);
                if let Some(reason) = self.set_down(None) {
                    tracing::info!(reason = &*reason, "the watch stream is back");
                    self.reconnects.send_modify(|reconnects| *reconnects += 1);
                }
            }
            Err(error) => self.on_loss(&error),
        }
        Ok(())
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
        self.renewal = TokenRenewal::default();
        self.state = State::Waiting(Instant::now() + self.backoff.next(fastrand::f64()));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Watch { ranges, from, cluster, reply, id } => {
                let wanted = self.watchers.insert(id, ranges, from, cluster, reply);
                if let Some(reason) = &self.down {
                    // Without a stream there is nothing to cancel.
                    let _ = self.watchers.tell(id, Notice::Down(Arc::clone(reason)));
                }
                if let State::Open(stream) = &mut self.state {
                    for wanted in &wanted {
                        stream.create(wanted);
                    }
                }
            }
            Command::Cancel(id) => {
                let gone = self.watchers.remove(id);
                self.cancel(gone);
            }
        }
    }

    fn on_answer(&mut self, answer: WatchAnswer) {
        let State::Open(stream) = &mut self.state else { return };
        self.backoff.reset();
        for effect in stream.on_answer(answer) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let gone = match effect {
            Effect::Tell { id, events, next } => {
                self.watchers.metrics.events(events.len());
                self.watchers.resume(id, next);
                self.watchers.tell(id.watcher, Notice::Events(events))
            }
            Effect::Resume { id, next } => return self.watchers.resume(id, next),
            Effect::InStep { id, goal } => self.watchers.in_step(id, goal),
            Effect::Restart { watcher, reason, detail } => self.watchers.restart(watcher, reason, &detail),
            Effect::Renew { id, words } => return self.renew(id, words),
        };
        self.cancel(gone);
    }

    /// Ends the watches of a watcher that is gone.
    fn cancel(&mut self, RemovedRanges(ranges): RemovedRanges) {
        for id in ranges {
            if let State::Open(stream) = &mut self.state {
                stream.cancel(id);
            }
            if let Some(stream) = self.renewal.stream() {
                stream.cancel(id);
            }
        }
    }

    /// Tries a watch that was refused with a new token.
    fn renew(&mut self, id: RangeId, words: String) {
        let Some(wanted) = self.watchers.wanted(id) else { return };
        self.renewal.refused.push((id, words));
        if let Some(stream) = self.renewal.stream() {
            stream.create(&wanted);
        } else if self.renewal.is_idle() {
            let (etcd, request) = (Arc::clone(&self.etcd), wanted.request(FIRST_ID));
            self.renewal.open(wanted, async move { etcd.watch(request, Token::New).await }.boxed());
        }
    }

    fn on_renewal(&mut self, event: RenewalEvent) {
        match event {
            RenewalEvent::Opened => {
                let wanted: Vec<Wanted> =
                    self.renewal.refused.iter().filter_map(|(id, _)| self.watchers.wanted(*id)).collect();
                if let Some(stream) = self.renewal.stream() {
                    stream.watch_all(wanted.into_iter(), |id| self.watchers.has(id));
                }
            }
            RenewalEvent::Answer(answer) if answer.is_refusal() => {
                let Some(stream) = self.renewal.stream() else { return };
                let (id, over) = (stream.refuse(&answer), !stream.awaits_some());
                if let Some(id) = id {
                    self.renewal.settle(id);
                    self.refuse(vec![(id, answer.words())]);
                }
                if over {
                    self.renewal = TokenRenewal::default();
                }
            }
            RenewalEvent::Answer(answer) if answer.created => {
                let (Some(mut stream), _) = self.renewal.end() else { return };
                tracing::info!("the watch stream is opened anew, since its token had ended");
                self.watchers.forget_stream();
                watch_all(&self.watchers, &mut stream);
                self.state = State::Open(stream);
                self.on_answer(answer);
            }
            RenewalEvent::Answer(_) => {}
            RenewalEvent::Lost(error) => {
                let (_, refused) = self.renewal.end();
                tracing::debug!(error = chain(&error), "no watch stream can be opened with a new token");
                self.refuse(refused);
            }
        }
    }

    /// These are refused for good.
    fn refuse(&mut self, refused: Vec<(RangeId, String)>) {
        for (id, words) in refused {
            let gone = self.watchers.restart(id.watcher, RestartReason::Refused, &words);
            self.cancel(gone);
        }
    }
}

/// Has this stream watch what somebody wants, and nothing else.
fn watch_all(watchers: &Watchers, stream: &mut WatchStream) {
    stream.watch_all(watchers.all_wanted(), |id| watchers.has(id));
}
