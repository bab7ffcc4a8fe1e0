//! Keeps one instance registered: a lease of its own, the key scheme's entries under it, and no
//! giving up.
//!
//! ```text
//!            granted          written
//!   Grant ───────────▶ Put ───────────▶ Alive ──┐ every TTL/3: keep alive
//!    ▲                 ▲ ▲ │             │ │ ▲  │ etcd back in step: keep alive at once
//!    │          lease  │ │ │ failed      │ │ └──┘
//!    │          lives  │ │ ▼             │ │ own key deleted or changed, or perhaps so
//!    │ no lease      Backoff ◀───────────┘ └──────────▶ (back to Put: at once, or later if it does not last)
//!    └────────────────┘     lease gone or expired
//!
//!   any ── etcd refuses, and waiting mends nothing ──▶ Refused ── a minute later, if that may change ──▶ Grant or Put
//!   any ── pause ──▶ Paused ── resume ──▶ Grant          any ── deregister, orphan, drop ──▶ (end)
//!   any but Paused ── check fails: taken out ──▶ Unfit ── check passes ──▶ Grant
//! ```
//!
//! Every registration has a lease of its own, so that none can take others with it. Losing etcd is
//! not losing the lease: refreshing goes on until the lease must have ended, and a lease that was
//! only thought to be lost is revoked once its successor stands. All pauses are random in part and
//! end at a cap, so that a fleet does not come back at one moment.

mod alive;
mod encoder;
#[cfg(test)]
mod tests;

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use waymark_core::{
    backoff::Backoff,
    model::{LeaseId, ServiceName},
    naming::Entry,
    text,
};
use waymark_net::health::{self, HealthStatus};

use self::alive::{Alive, Finding, Lease, refresh_interval};
pub(super) use self::encoder::Encoder;
use super::{
    error::{CallError, RegistryError, chain},
    etcd::{Etcd, Header, Kv, Range, Written},
    jitter::jitter,
    metrics::{LossReason, PutBackReason, RestartReason, SessionMetrics},
    registration::{Command, RegistrationState, bounded, revoke_bound},
    watch_mux::{Notice, RECONNECT_JITTER, WatchHandle, WatchMux},
};

/// How long to try to end a lease that has a successor.
const REVOKE_FORMER: Duration = Duration::from_secs(10);

/// How many leases are remembered that may still have to be ended.
const MOST_FORMER: usize = 8;

/// The longest pause between two times that somebody's change is undone. Two who claim one key for
/// different instances would otherwise write it for ever as fast as they can.
const CONFLICT_BACKOFF_CAP: Duration = Duration::from_secs(30);

/// What etcd refuses, and somebody else may allow, is tried again about so often. Trying sooner
/// only fills its log.
const REFUSED_AGAIN: Duration = Duration::from_mins(1);

/// After so long without a conflict, the next one is a first one again.
const CONFLICT_RESET: Duration = Duration::from_mins(1);

enum State {
    /// There is no lease: ask for one.
    Grant,
    /// There is a lease; what must stand under it does not, or perhaps does not.
    Put(Lease),
    /// All is well: refresh the lease, and look after our keys.
    Alive(Box<Alive>),
    /// Something failed. Nothing is tried before this moment, or before etcd is known to be back.
    /// The lease is used again if it still lives then.
    Backoff { until: Instant, lease: Option<Lease> },
    /// etcd does not take our entries, and waiting mends nothing. They are tried again at this
    /// moment, if somebody else may have changed that by then, or when etcd is back from an outage.
    /// What stands under the lease goes on standing.
    Refused { until: Option<Instant>, lease: Option<Lease>, refresh_at: Instant },
    /// Taken out on request.
    Paused,
    /// Not fit to serve, as its check says: nothing stands in etcd, and nothing is tried before
    /// that changes.
    Unfit,
}

impl State {
    fn lease(&self) -> Option<Lease> {
        match self {
            Self::Grant | Self::Paused | Self::Unfit => None,
            Self::Put(lease) => Some(*lease),
            Self::Alive(alive) => Some(alive.lease),
            Self::Backoff { lease, .. } | Self::Refused { lease, .. } => *lease,
        }
    }
}

/// The task of one registration.
pub(super) struct Session {
    encoder: Encoder,
    etcd: Arc<dyn Etcd>,
    mux: WatchMux,
    reconnects: watch::Receiver<u64>,
    backoff: Backoff,
    conflict_backoff: Backoff,
    last_conflict: Option<Instant>,
    state: State,
    /// Has the multiplexer look out for etcd while nothing of ours is watched.
    keep_connecting: Option<WatchHandle>,
    /// Given up as lost, and perhaps still there with entries of its own (key schemes may have the
    /// lease in the key).
    former: Vec<LeaseId>,
    /// What the instance's check says, if it is checked.
    fitness: Option<watch::Receiver<HealthStatus>>,
    told: watch::Sender<RegistrationState>,
    metrics: SessionMetrics,
}

/// How a session ends.
enum End {
    Revoke(Option<tokio::sync::oneshot::Sender<Result<(), RegistryError>>>),
    Orphan,
}

impl Session {
    pub(super) fn new(
        encoder: Encoder,
        etcd: Arc<dyn Etcd>,
        mux: WatchMux,
        backoff: Backoff,
        told: watch::Sender<RegistrationState>,
        metrics: SessionMetrics,
    ) -> Self {
        let reconnects = mux.reconnects();
        let config = &encoder.config;
        let fitness = config.check.clone().map(|check| health::watch(check, &config.endpoint.address, None));
        let state = if fitness.is_some() { State::Unfit } else { State::Grant };
        Self {
            encoder,
            etcd,
            mux,
            reconnects,
            conflict_backoff: Backoff::equal_jitter(Duration::from_millis(100), CONFLICT_BACKOFF_CAP),
            backoff,
            last_conflict: None,
            state,
            keep_connecting: None,
            former: Vec::new(),
            fitness,
            told,
            metrics,
        }
    }

    /// Runs until it is told to end, or its handle is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // A second receiver of the same verdicts: one says when to look, the other what there is to
        // see.
        let mut fitness = self.fitness.clone();
        let end = loop {
            // A step may be given up anywhere: the state changes only at its end, and what etcd did
            // meanwhile goes with the lease, or is an empty lease that expires.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Pause(reply)) => {
                        let result = self.take_out().await;
                        self.state = State::Paused;
                        self.tell(RegistrationState::Paused);
                        // Whoever asked may have gone.
                        let _ = reply.send(result);
                    }
                    Some(Command::Resume) => {
                        if matches!(self.state, State::Paused) {
                            self.begin();
                        }
                    }
                    Some(Command::SetWeight(weight)) => self.set_weight(weight),
                    Some(Command::Deregister(reply)) => break End::Revoke(Some(reply)),
                    Some(Command::Orphan) => break End::Orphan,
                    None => break End::Revoke(None),
                },
                () = checked(fitness.as_mut()) => self.heed_check().await,
                () = self.step() => {}
            }
        };
        let service = self.service().clone();
        match end {
            End::Orphan => tracing::info!(%service, "registration left to its lease"),
            End::Revoke(reply) => {
                let result = self.take_out().await;
                match &result {
                    Ok(()) => tracing::info!(%service, "deregistered"),
                    Err(error) => tracing::warn!(%service, error = chain(error), "not deregistered"),
                }
                if let Some(reply) = reply {
                    let _ = reply.send(result);
                }
            }
        }
        self.tell(RegistrationState::Ended);
    }

    fn service(&self) -> &ServiceName {
        &self.encoder.config.service
    }

    /// Has what stands in etcd written with another weight.
    fn set_weight(&mut self, weight: u32) {
        let endpoint = &mut self.encoder.config.endpoint;
        if std::mem::replace(&mut endpoint.weight, weight) == weight {
            return;
        }
        tracing::info!(service = %self.service(), weight, "registering with another weight");
        match &self.state {
            State::Alive(alive) => self.state = State::Put(alive.lease),
            // It may be taken now.
            State::Refused { lease, .. } => self.try_again(*lease),
            // It is written with what is written next.
            State::Grant | State::Put(_) | State::Backoff { .. } | State::Paused | State::Unfit => {}
        }
    }

    /// Begins anew, or waits until the instance is fit for that.
    fn begin(&mut self) {
        let (state, told) = match self.unfit() {
            None => (State::Grant, RegistrationState::Registering),
            Some(reason) => (State::Unfit, RegistrationState::Unfit { reason }),
        };
        self.state = state;
        self.tell(told);
    }

    /// Why the instance is not fit to serve, if it is checked and is not.
    fn unfit(&self) -> Option<Arc<str>> {
        match &*self.fitness.as_ref()?.borrow() {
            HealthStatus::Healthy => None,
            HealthStatus::Unhealthy(reason) => Some(Arc::clone(reason)),
        }
    }

    /// Takes the instance out, or begins to register it, as its check has it.
    async fn heed_check(&mut self) {
        let unfit = self.unfit();
        match (&self.state, unfit) {
            (State::Unfit, unfit) => {
                if unfit.is_none() {
                    tracing::info!(service = %self.service(), "the instance is fit to serve");
                }
                self.begin();
            }
            (State::Paused, _) | (_, None) => {}
            (_, Some(reason)) => {
                tracing::warn!(service = %self.service(), reason = &*reason, "the instance is not fit to serve; taking it out");
                // Where etcd is away too, the lease ends by itself: it is refreshed no longer.
                if let Err(error) = self.take_out().await {
                    tracing::warn!(service = %self.service(), error = chain(&error), "not taken out yet");
                }
                self.state = State::Unfit;
                self.tell(RegistrationState::Unfit { reason });
            }
        }
    }

    /// Goes from one state to the next.
    async fn step(&mut self) {
        match &mut self.state {
            State::Grant => self.grant().await,
            State::Put(lease) => {
                let lease = *lease;
                self.put(lease).await;
            }
            State::Alive(alive) if alive.foreign.is_some() => self.consider().await,
            State::Alive(alive) => {
                let (lease, refresh_at, put_back_at) = (alive.lease, alive.refresh_at, alive.put_back_at);
                let notice = async {
                    match &mut alive.watching {
                        Some(watching) => watching.next().await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = sleep_until(refresh_at) => self.refresh().await,
                    () = sleep_until(put_back_at.unwrap_or(refresh_at)), if put_back_at.is_some() => {
                        self.state = State::Put(lease);
                    }
                    notice = notice => self.on_notice(notice),
                }
            }
            State::Backoff { until, lease } => {
                let (until, lease) = (*until, *lease);
                tokio::select! {
                    () = sleep_until(until) => {}
                    Ok(()) = self.reconnects.changed() => sleep(jitter(RECONNECT_JITTER)).await,
                }
                self.try_again(lease);
            }
            State::Refused { until, lease, refresh_at } => {
                let (until, lease, refresh_at) = (*until, *lease, *refresh_at);
                let due = async {
                    match until {
                        Some(until) => sleep_until(until).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = due => self.try_again(lease),
                    Ok(()) = self.reconnects.changed() => {
                        sleep(jitter(RECONNECT_JITTER)).await;
                        self.try_again(lease);
                    }
                    () = sleep_until(refresh_at), if lease.is_some() => self.refresh_refused().await,
                }
            }
            State::Paused | State::Unfit => pending().await,
        }
    }

    /// With a lease that still lives only the writing is left to be done.
    fn try_again(&mut self, lease: Option<Lease>) {
        self.state = match lease {
            Some(lease) if lease.deadline > Instant::now() => State::Put(lease),
            Some(lease) => {
                // The oldest has ended by itself long since.
                if self.former.len() == MOST_FORMER {
                    self.former.remove(0);
                }
                self.former.push(lease.id);
                State::Grant
            }
            None => State::Grant,
        };
    }

    async fn grant(&mut self) {
        self.reconnects.mark_unchanged();
        let asked_at = Instant::now();
        match self.etcd.grant(self.encoder.config.ttl).await {
            Ok((id, ttl)) => {
                if ttl != self.encoder.config.ttl {
                    let (asked, granted) = (self.encoder.config.ttl.as_secs(), ttl.as_secs());
                    tracing::debug!(service = %self.service(), asked, granted, "etcd granted another TTL");
                }
                self.state = State::Put(Lease { id, ttl, deadline: asked_at + ttl.as_duration(), written: false });
            }
            Err(error) => self.fail(&error, None),
        }
    }

    async fn put(&mut self, lease: Lease) {
        self.reconnects.mark_unchanged();
        let entries = match self.encoder.encode(lease.id, lease.ttl).await {
            Ok(entries) => entries,
            Err(error) => return self.fail(&error.into(), Some(lease)),
        };
        match self.etcd.put(entries.clone(), lease.id).await {
            Ok(written) => self.registered(lease, entries, &written),
            Err(error) => self.fail(&error, Some(lease)),
        }
    }

    fn registered(&mut self, mut lease: Lease, entries: Vec<Entry>, written: &Written) {
        for (entry, previous) in entries.iter().zip(&written.previous) {
            self.log_overwritten(entry, previous.as_ref(), lease.id);
        }
        lease.written = true;
        let Header { cluster, revision } = written.header;
        let ranges = entries.iter().map(|entry| Range::key(entry.key.as_bytes())).collect();
        tracing::info!(service = %self.service(), instance = %self.encoder.config.endpoint.id, lease = %lease.id, %revision, "registered");
        self.state = State::Alive(Box::new(Alive {
            lease,
            written: entries.into_iter().map(|entry| (entry.key.into_bytes(), entry.value)).collect(),
            revision,
            refresh_at: lease.refresh_at(),
            watching: Some(self.mux.watch(ranges, revision.next(), cluster)),
            put_back_at: None,
            foreign: None,
        }));
        self.keep_connecting = None;
        self.backoff.reset();
        self.metrics.registered(true);
        self.metrics.refreshed();
        self.tell(RegistrationState::Registered { lease: lease.id, ttl: lease.ttl, revision });
        for former in std::mem::take(&mut self.former).into_iter().filter(|former| *former != lease.id) {
            // Its entries, if it has any left, name this instance a second time. It ends by itself
            // if this fails.
            let etcd = Arc::clone(&self.etcd);
            tokio::spawn(async move {
                if let Err(error) = etcd.revoke(former, REVOKE_FORMER).await {
                    tracing::debug!(lease = %former, error = chain(&error), "a former lease is left to expire");
                }
            });
        }
    }

    /// Like the Go client, we write whatever stands there; unlike it, we say so.
    fn log_overwritten(&self, entry: &Entry, previous: Option<&Kv>, lease: LeaseId) {
        let Some(previous) = previous else { return };
        let ours = previous.lease == Some(lease) || previous.lease.is_some_and(|lease| self.former.contains(&lease));
        let owner = previous.lease.map_or_else(|| "no lease".to_owned(), |lease| format!("lease {lease}"));
        let (service, key) = (self.service(), &entry.key);
        if !ours && previous.value != entry.value {
            tracing::warn!(%service, key, owner, "overwrote another owner's entry");
        } else if !ours {
            // An earlier run of the same instance, most often.
            tracing::info!(%service, key, owner, "took over an entry with the same content");
        }
    }

    async fn refresh(&mut self) {
        let State::Alive(alive) = &self.state else { return };
        let lease = alive.lease;
        let asked_at = Instant::now();
        let bound = refresh_interval(lease.ttl).max(Duration::from_millis(500));
        let answer = timeout(bound, self.etcd.keep_alive(lease.id, bound)).await;
        let State::Alive(alive) = &mut self.state else { return };
        let reason = match answer {
            Ok(Ok(())) => {
                alive.lease.deadline = asked_at + lease.ttl.as_duration();
                alive.refresh_at = asked_at + refresh_interval(lease.ttl);
                self.backoff.reset();
                self.metrics.refreshed();
                return;
            }
            Ok(Err(error @ CallError::LeaseGone)) => {
                // etcd answers: what failed while it was away is over.
                self.backoff.reset();
                return self.fail(&error, Some(lease));
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {bound:?}"),
        };
        if Instant::now() < lease.deadline {
            tracing::debug!(service = %self.encoder.config.service, reason, "the lease could not be refreshed; trying again");
            alive.refresh_at = (Instant::now() + self.backoff.next(fastrand::f64())).min(lease.deadline);
        } else {
            self.lose(LossReason::LeaseExpired, &reason, Some(lease));
        }
    }

    /// Keeps alive what stands although nothing more can be written.
    async fn refresh_refused(&mut self) {
        let State::Refused { lease: Some(lease), .. } = &self.state else { return };
        let lease = *lease;
        let asked_at = Instant::now();
        let bound = refresh_interval(lease.ttl).max(Duration::from_millis(500));
        let answer = timeout(bound, self.etcd.keep_alive(lease.id, bound)).await;
        let pause = self.backoff.next(fastrand::f64());
        let State::Refused { lease: kept, refresh_at, .. } = &mut self.state else { return };
        match answer {
            Ok(Ok(())) => {
                self.backoff.reset();
                let lease = Lease { deadline: asked_at + lease.ttl.as_duration(), ..lease };
                (*kept, *refresh_at) = (Some(lease), lease.refresh_at());
            }
            Ok(Err(CallError::LeaseGone)) => *kept = None,
            Ok(Err(_)) | Err(_) if Instant::now() >= lease.deadline => *kept = None,
            Ok(Err(_)) | Err(_) => *refresh_at = Instant::now() + pause,
        }
    }

    fn on_notice(&mut self, notice: Option<Notice>) {
        let State::Alive(alive) = &mut self.state else { return };
        match notice {
            Some(Notice::Events(events)) => {
                // etcd answers: refreshes that failed while it was away are no reason to be slow
                // now.
                self.backoff.reset();
                match alive.judge(events) {
                    Finding::Fine => {}
                    Finding::PutBack(reason) => self.put_back(reason, Duration::ZERO),
                    Finding::Foreign(kv) => alive.foreign = Some(kv),
                }
            }
            // Whether the lease outlived whatever happened is known by asking.
            Some(Notice::Synced(_)) => {
                let soonest = Instant::now() + jitter(RECONNECT_JITTER);
                alive.refresh_at = alive.refresh_at.min(soonest);
            }
            Some(Notice::Down(_)) => {}
            // What happens to our keys is not known from here on; writing them again makes it
            // right, and watches them again.
            Some(Notice::Restart(RestartReason::Refused, detail)) => {
                alive.watching = None;
                tracing::warn!(service = %self.service(), detail = &*detail, "etcd does not let us watch our own entries");
                self.put_back(PutBackReason::Unsure, CONFLICT_BACKOFF_CAP);
            }
            Some(Notice::Restart(..)) | None => {
                alive.watching = None;
                self.put_back(PutBackReason::Unsure, Duration::ZERO);
            }
        }
    }

    /// Somebody else has written one of our keys. What says this instance, otherwise, is an
    /// operator's word and heeded: it is taken over, and written under our lease, so that it goes
    /// with the instance. Under a lease of its own it is another process's registration of the same
    /// instance, and stands as long as that. Anything else is put back.
    async fn consider(&mut self) {
        let State::Alive(alive) = &self.state else { return };
        let Some(kv) = alive.foreign.clone() else { return };
        let said = self.encoder.decode(&kv).await;
        let State::Alive(alive) = &mut self.state else { return };
        alive.foreign = None;
        let (lease, key) = (alive.lease, text::printable_bytes(&kv.key, text::NAME));
        let Some(said) = said else { return self.put_back(PutBackReason::Changed, Duration::ZERO) };
        if let Some(theirs) = kv.lease.filter(|theirs| *theirs != lease.id) {
            tracing::warn!(service = %self.service(), key, lease = %theirs, "another process has registered this instance otherwise; its word counts while it is there");
            return;
        }
        let former = std::mem::replace(&mut self.encoder.config.endpoint, said);
        let now = &self.encoder.config.endpoint;
        let (from, to, zone) = (former.weight, now.weight, &*now.locality.zone);
        tracing::warn!(service = %self.service(), key, from_weight = from, weight = to, zone, "somebody has changed the registered entry; that counts from now on");
        self.state = State::Put(lease);
    }

    /// Has the entries written again under the same lease: at once the first time, and ever later
    /// if it does not last. Meanwhile the lease is refreshed as always.
    fn put_back(&mut self, reason: PutBackReason, at_least: Duration) {
        let State::Alive(alive) = &mut self.state else { return };
        let now = Instant::now();
        if self.last_conflict.is_none_or(|last| now - last > CONFLICT_RESET) {
            self.conflict_backoff.reset();
        }
        self.last_conflict = Some(now);
        let first = self.conflict_backoff.attempts() == 0;
        let pause = self.conflict_backoff.next(fastrand::f64());
        let pause = if first { at_least } else { pause.max(at_least) };
        let at = now + pause;
        alive.put_back_at = Some(alive.put_back_at.map_or(at, |sooner| sooner.min(at)));
        self.metrics.put_back(reason);
        let seconds = pause.as_secs_f64();
        if reason == PutBackReason::Unsure {
            tracing::info!(service = %self.encoder.config.service, pause_seconds = seconds, "own entry may not be as it was written; writing it again");
        } else {
            tracing::warn!(service = %self.encoder.config.service, ?reason, pause_seconds = seconds, "own entry is not as it was written; putting it back");
            self.metrics.registered(false);
            self.tell(RegistrationState::Registering);
        }
    }

    /// Something did not work. With a lease that may still live, only the writing is tried again.
    fn fail(&mut self, error: &CallError, lease: Option<Lease>) {
        let reason = chain(error);
        match error {
            CallError::LeaseGone => self.lose(LossReason::LeaseGone, &reason, None),
            CallError::Failed(error) if error.may_pass() => self.lose(LossReason::Unreachable, &reason, lease),
            CallError::Failed(error) => self.refused(!error.is_for_good(), &reason, lease),
            CallError::Compacted => self.lose(LossReason::Refused, &reason, lease),
        }
    }

    /// etcd answers, and does not take what is to be written. `again`: whether that may change
    /// without a change here.
    fn refused(&mut self, again: bool, reason: &str, lease: Option<Lease>) {
        let service = self.service();
        let news =
            !matches!(&*self.told.borrow(), RegistrationState::Refused { reason: told, .. } if **told == *reason);
        if news {
            self.metrics.lost(LossReason::Refused);
            tracing::warn!(%service, reason, again, "the registration is refused");
        }
        let now = Instant::now();
        let lease = lease.filter(|lease| lease.written && lease.deadline > now);
        let until = again.then(|| now + REFUSED_AGAIN / 2 + jitter(REFUSED_AGAIN / 2));
        self.state =
            State::Refused { until, lease, refresh_at: lease.map_or(now, |lease| lease.refresh_at().max(now)) };
        self.backoff.reset();
        self.metrics.registered(false);
        if news {
            self.tell(RegistrationState::Refused { reason: reason.into(), again });
        }
    }

    fn lose(&mut self, why: LossReason, reason: &str, lease: Option<Lease>) {
        let service = self.service();
        let since = match &*self.told.borrow() {
            RegistrationState::Lost { since, .. } => Some(*since),
            _ => None,
        };
        if since.is_none() {
            self.metrics.lost(why);
            let stood = matches!(&*self.told.borrow(), RegistrationState::Registered { .. });
            let what = if stood { "registration lost; registering again" } else { "not registered yet; trying again" };
            tracing::warn!(%service, reason, "{what}");
        } else {
            tracing::debug!(%service, reason, attempts = self.backoff.attempts(), "still not registered");
        }
        let pause = match why {
            // etcd answers, so there is no need to wait, only to not all come at once.
            LossReason::LeaseGone if self.backoff.attempts() == 0 => {
                jitter(RECONNECT_JITTER.min(self.backoff.next(fastrand::f64())))
            }
            _ => self.backoff.next(fastrand::f64()),
        };
        if why == LossReason::Unreachable
            && let Some(prefix) = self.encoder.prefixes.first()
        {
            self.keep_connecting = Some(self.mux.keep_connecting(Range::key(prefix.as_bytes())));
        }
        self.state = State::Backoff { until: Instant::now() + pause, lease };
        self.metrics.registered(false);
        self.tell(RegistrationState::Lost { reason: reason.into(), since: since.unwrap_or_else(Instant::now) });
    }

    /// Revokes what there is, in bounded time.
    async fn take_out(&mut self) -> Result<(), RegistryError> {
        self.metrics.registered(false);
        let former = std::mem::take(&mut self.former);
        let lease = self.state.lease().map(|lease| lease.id);
        let etcd = Arc::clone(&self.etcd);
        let ttl = self.state.lease().map_or(self.encoder.config.ttl, |lease| lease.ttl);
        let bound = revoke_bound(ttl);
        // From the end: the lease at hand, which has the instance's entries, goes first.
        let mut left: Vec<_> = former.into_iter().chain(lease).collect();
        let revoking = async {
            while let Some(lease) = left.last() {
                etcd.revoke(*lease, bound).await?;
                left.pop();
            }
            Ok::<_, CallError>(())
        };
        let result = bounded(self.service(), ttl, revoking).await;
        // What could not be revoked now is, once there is a successor.
        self.former = left;
        result
    }

    fn tell(&self, state: RegistrationState) {
        self.told.send_replace(state);
    }
}

/// Waits for the next verdict, for ever where there is none to come.
async fn checked(fitness: Option<&mut watch::Receiver<HealthStatus>>) {
    if let Some(fitness) = fitness
        && fitness.changed().await.is_ok()
    {
        return;
    }
    pending::<()>().await;
}
