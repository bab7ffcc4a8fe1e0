//! Follows one service: keeps its snapshot equal to what etcd holds.
//!
//! ```text
//!            ok                  watch over (compacted, other cluster, went back, lagged)
//!   List ─────────▶ Watch ───────────────────────────────────────────────┐
//!    ▲ │ failed        ▲ │ stream lost: stale; back in step: fresh        │
//!    │ ▼               └─┘                                               │
//!   Backoff ◀────────────────────────────────────────────────────────────┘ (at once, unless it repeats)
//! ```
//!
//! # Recovery
//!
//! A lost stream resumes by itself (`watch_mux`) and the snapshot is marked stale meanwhile; its
//! endpoints stay. Where resuming is impossible the whole service is read again and swapped whole,
//! so that readers never see half a list. What an outage has taken with it is given a moment to
//! come back (`reconnect_grace`). Nothing ends the task but the last reader's going.

#[cfg(test)]
mod tests;

use std::{future::pending, pin::pin, sync::Arc};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use waymark_core::{
    backoff::Backoff,
    model::{Revision, ServiceName, Skipped, Skips, Update},
};

use super::{
    codec::Codec,
    decode::{self, Decoder},
    error::{CallError, chain},
    etcd::{Event, Range},
    identity::Identity,
    jitter::jitter,
    list::{FIRST_KEYS, Lister, Listing, SHRINK, may_be_size},
    metrics::{ListResult, Metrics, RestartReason},
    publish::Publisher,
    watch_mux::{Notice, RECONNECT_JITTER, WatchHandle, WatchMux},
};

enum State {
    /// Everything is to be read: there is nothing yet, or what there is cannot be brought up to
    /// date.
    List,
    /// Reading failed. Nothing is tried before this moment, nor while etcd is known to be away.
    Backoff(Instant),
    /// What was read is kept up to date.
    Watch(WatchHandle),
}

/// The task of one subscription.
pub(super) struct ServiceWatcher {
    pub(super) service: ServiceName,
    /// How its entries are read.
    pub(super) reader: decode::Reader,
    /// Where the service's keys are; none overlaps another.
    pub(super) ranges: Vec<Range>,
    pub(super) lister: Lister,
    pub(super) mux: WatchMux,
    pub(super) identity: Identity,
    pub(super) backoff: Backoff,
    pub(super) metrics: Metrics,
}

impl ServiceWatcher {
    /// Keeps the snapshot up to date until its last reader is gone.
    pub(super) async fn run(self, mut publisher: Publisher) {
        let mut task = Task {
            codec: Codec::new(self.service.clone(), self.reader.limits.endpoints),
            decoder: Decoder::new(self.service.clone(), self.reader.clone()),
            revision: Revision(0),
            cluster: None,
            first_keys: FIRST_KEYS,
            told: Skipped::default(),
            reconnects: self.mux.reconnects(),
            it: self,
            state: State::List,
            keep_connecting: None,
            stale: false,
            synced: false,
        };
        'follow: loop {
            let updates = {
                // One step to its end, whatever is to be done meanwhile: given up half-way it is
                // lost.
                let mut step = pin!(task.step());
                loop {
                    tokio::select! {
                        updates = &mut step => break updates,
                        read = publisher.run_due() => if !read {
                            break 'follow;
                        },
                    }
                }
            };
            for update in updates {
                publisher.publish(update, task.cluster).await;
            }
        }
        publisher.end().await;
        tracing::debug!(service = %task.it.service, "nobody reads any more");
        task.it.metrics.service_removed(task.it.service.as_str());
    }
}

struct Task {
    it: ServiceWatcher,
    decoder: Decoder,
    codec: Codec,
    /// What the codec knows the service at.
    revision: Revision,
    /// Of which cluster that is.
    cluster: Option<u64>,
    /// How many keys to ask for at first: fewer where they are large.
    first_keys: u32,
    /// What readers were told was left out.
    told: Skipped,
    state: State,
    /// Whether readers were told that the registry is away.
    stale: bool,
    /// Whether the watch has been in step since the last list. A watch that ends before that would
    /// do so again.
    synced: bool,
    reconnects: watch::Receiver<u64>,
    /// Has the multiplexer look out for etcd while nothing is watched.
    keep_connecting: Option<WatchHandle>,
}

impl Task {
    /// Goes from one state to the next, and says what that means to the snapshot.
    async fn step(&mut self) -> Vec<Update> {
        match &mut self.state {
            State::List => self.list().await,
            State::Backoff(until) => {
                tokio::select! {
                    biased;
                    Ok(()) = self.reconnects.changed() => sleep(jitter(RECONNECT_JITTER)).await,
                    () = self.it.mux.wait_to_retry(*until) => {}
                }
                self.state = State::List;
                Vec::new()
            }
            State::Watch(watching) => {
                // While the registry is away, readers are told nothing that sounds as if it were
                // there.
                let due = self.decoder.due().filter(|_| !self.stale);
                let notice = tokio::select! {
                    notice = watching.next() => notice,
                    () = until(due) => return self.read_deferred().await,
                };
                let Some(notice) = notice else {
                    // Too slow: the multiplexer has counted and logged it.
                    self.list_again();
                    return Vec::new();
                };
                self.on_notice(notice).await
            }
        }
    }

    async fn list(&mut self) -> Vec<Update> {
        // Whatever comes back from here on was known before the list began, and is no reason to
        // list again.
        self.reconnects.mark_unchanged();
        match self.it.lister.list(&self.it.ranges, self.first_keys).await {
            Ok(Listing { header, kvs, first_keys }) => {
                self.first_keys = first_keys;
                self.it.metrics.listed(ListResult::Ok);
                self.decoder.begin_list(&kvs);
                let readings = self.decoder.read(&kvs).await;
                let update = self.codec.reset(header.revision, kvs, readings);
                (self.revision, self.cluster) = (header.revision, Some(header.cluster));
                self.it.identity.answered(header.cluster);
                tracing::debug!(service = %self.it.service, revision = %header.revision, skipped = self.codec.skipped().total(), "listed");
                (self.stale, self.synced, self.keep_connecting) = (false, false, None);
                self.state =
                    State::Watch(self.it.mux.watch(self.it.ranges.clone(), header.revision.next(), header.cluster));
                self.with_skipped(update)
            }
            Err(error) => {
                self.it.metrics.listed(ListResult::Failed);
                if may_be_size(&error) {
                    self.first_keys = (self.first_keys / SHRINK).max(1);
                }
                let first = self.it.backoff.attempts() == 0;
                let reason = chain(&error);
                if first {
                    tracing::warn!(service = %self.it.service, reason, "cannot read the service; what is known stays in use");
                }
                if matches!(&error, CallError::Failed(error) if error.may_pass()) {
                    self.keep_connecting =
                        self.it.ranges.first().map(|range| self.it.mux.keep_connecting(range.clone()));
                }
                self.back_off();
                // A compaction amid the pages is no loss of etcd: the next list begins at a newer
                // revision.
                if matches!(error, CallError::Compacted) { Vec::new() } else { self.stale(reason) }
            }
        }
    }

    async fn on_notice(&mut self, notice: Notice) -> Vec<Update> {
        match notice {
            Notice::Events(events) => self.on_events(events).await,
            Notice::Down(reason) => self.stale(reason.to_string()),
            Notice::Synced(revision) => {
                self.it.backoff.reset();
                self.synced = true;
                if std::mem::take(&mut self.stale) { vec![Update::Fresh { revision }] } else { Vec::new() }
            }
            Notice::Restart(reason, detail) => {
                tracing::info!(service = %self.it.service, ?reason, detail = &*detail, "listing again");
                if reason == RestartReason::Refused {
                    // It would be refused again at once.
                    self.back_off();
                    return self.stale(format!("etcd refuses the watch: {detail}"));
                }
                self.list_again();
                Vec::new()
            }
        }
    }

    /// Takes these events and all that have come since, as one change: a burst costs its readers
    /// one look.
    async fn on_events(&mut self, mut events: Vec<Event>) -> Vec<Update> {
        let mut then = None;
        while let State::Watch(watching) = &mut self.state {
            match watching.try_next() {
                Some(Notice::Events(more)) => events.extend(more),
                other => {
                    then = other;
                    break;
                }
            }
        }
        let (revision, deleted, put) = Codec::latest(events);
        self.decoder.forget(&deleted);
        let readings = self.decoder.read(&put).await;
        let update = self.codec.apply(revision, deleted, put, readings);
        self.revision = revision;
        let mut updates = self.with_skipped(update);
        // `Changed` means that the registry is there. While resuming it is, but what is known has
        // yet to catch up.
        self.stale = false;
        if self.codec.has_room_again() {
            self.list_again();
        }
        if let Some(notice) = then {
            updates.extend(Box::pin(self.on_notice(notice)).await);
        }
        updates
    }

    /// Reads what was deferred and is due.
    async fn read_deferred(&mut self) -> Vec<Update> {
        let kvs = self.decoder.take_due();
        if kvs.is_empty() {
            // It was too much to keep.
            self.list_again();
            return Vec::new();
        }
        let readings = self.decoder.read(&kvs).await;
        let update = self.codec.apply(self.revision, Vec::new(), kvs, readings);
        self.with_skipped(update)
    }

    /// The update, and what was left out if that is news.
    fn with_skipped(&mut self, update: Update) -> Vec<Update> {
        let skipped = self.codec.skipped();
        self.it.metrics.skipped(self.it.service.as_str(), skipped);
        if std::mem::replace(&mut self.told, skipped) == skipped {
            return vec![update];
        }
        let scheme = Arc::from(self.it.reader.scheme.name());
        vec![update, Update::Skipped(Skips { counts: skipped, scheme })]
    }

    fn stale(&mut self, reason: String) -> Vec<Update> {
        self.stale = true;
        vec![Update::Stale { reason }]
    }

    fn list_again(&mut self) {
        if self.synced {
            self.state = State::List;
        } else {
            self.back_off();
        }
    }

    fn back_off(&mut self) {
        self.state = State::Backoff(Instant::now() + self.it.backoff.next(fastrand::f64()));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
