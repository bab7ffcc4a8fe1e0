//! What becomes of a service's updates before readers see them: some are held back, and what
//! readers see is kept on disk.
//!
//! ```text
//!   follow ──Update──▶ comeback ──▶ holding ──▶ snapshot::Writer ──▶ readers
//!                                                    │      ▲
//!                                     a second later ▼      │ etcd does not answer at the start
//!                                                   kept on disk
//! ```

#[cfg(test)]
mod tests;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use waymark_core::{
    model::{Revision, ServiceName, Update},
    snapshot::{Snapshot, Writer},
};
use waymark_net::reach::Reach;

use super::{
    backoff::spread,
    identity::Identity,
    kept::{Kept, Subject},
    lane::Lane,
    metrics::Metrics,
    reconnect_grace::ReconnectGrace,
    removal_damping::RemovalDamper,
    state_dir::{CONFIRM_EVERY, StateDir},
};

/// How long the first list may take before the endpoints kept on disk are served in its place.
const RESTORE_AFTER: Duration = Duration::from_millis(250);

/// How long a change waits to be written to disk, and how often a service's file is written at
/// most.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The file of one service.
pub(super) struct Keeping {
    dir: Arc<StateDir>,
    subject: Arc<Subject>,
    identity: Identity,
    /// The cluster that said what readers see; `None` while none has.
    cluster: Option<u64>,
    /// Where files are read and written: a line of its own, so that a slow disk holds up no key
    /// scheme.
    lane: Lane,
    /// Where endpoints may be, by now.
    reach: Reach,
    /// When to serve what was kept; `None` once that was tried, or is not needed any more.
    restore_at: Option<Instant>,
    /// When to write what readers see now: because the file says something else, or so that it
    /// counts as right at that time.
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    /// Of which cluster the endpoints from the file are, while readers see those.
    restored: Option<u64>,
    /// What to add to the reason why readers see old endpoints, while they see those from the file.
    note: Option<String>,
}

impl Keeping {
    pub(super) fn new(dir: Arc<StateDir>, subject: Subject, identity: Identity, lane: Lane, reach: Reach) -> Self {
        Self {
            dir,
            subject: subject.into(),
            identity,
            cluster: None,
            lane,
            reach,
            restore_at: Some(Instant::now() + RESTORE_AFTER),
            save_at: None,
            saving: None,
            restored: None,
            note: None,
        }
    }

    /// What readers see is right: it is written down some time.
    fn confirm(&mut self) {
        // Not all services of a node at once.
        self.save_at.get_or_insert_with(|| Instant::now() + CONFIRM_EVERY / 2 + spread(CONFIRM_EVERY / 2));
    }
}

/// Publishes one service.
pub(super) struct Publisher {
    service: ServiceName,
    writer: Writer,
    grace: ReconnectGrace,
    damper: RemovalDamper,
    keeping: Option<Keeping>,
    metrics: Metrics,
}

impl Publisher {
    pub(super) fn new(
        service: ServiceName,
        writer: Writer,
        damper: RemovalDamper,
        keeping: Option<Keeping>,
        metrics: Metrics,
    ) -> Self {
        Self { service, writer, grace: ReconnectGrace::new(), damper, keeping, metrics }
    }

    /// Takes one update of the registry. `cluster`: who said so, if somebody did.
    pub(super) async fn publish(&mut self, mut update: Update, cluster: Option<u64>) {
        match &mut update {
            // Before readers learn that there is nothing: there may be something from before.
            Update::Stale { .. } => self.restore().await,
            Update::Reset { .. } => {
                if self
                    .keeping
                    .as_ref()
                    .is_some_and(|keeping| keeping.restored.is_some() && keeping.restored != cluster)
                {
                    // Nobody of theirs can be about to come back.
                    self.disown();
                }
                if let Some(keeping) = &mut self.keeping {
                    (keeping.restore_at, keeping.restored, keeping.note) = (None, None, None);
                    keeping.cluster = cluster;
                    keeping.save_at = Some(Instant::now() + SAVE_EVERY);
                }
            }
            Update::Fresh { .. } => {
                if let Some(keeping) = &mut self.keeping {
                    keeping.confirm();
                }
            }
            _ => {}
        }
        let note = self.keeping.as_ref().and_then(|keeping| keeping.note.as_deref());
        if let (Update::Stale { reason }, Some(note)) = (&mut update, note) {
            *reason = format!("{reason}; {note}");
        }
        self.apply(update);
    }

    /// Does what is due by itself. Returns false once the last reader is gone.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was not done is done by the next call.
    pub(super) async fn tend(&mut self) -> bool {
        let (restore_at, save_at) =
            self.keeping.as_ref().map_or((None, None), |keeping| (keeping.restore_at, keeping.save_at));
        let restored = self.keeping.as_ref().and_then(|keeping| Some((keeping.restored?, keeping.identity.clone())));
        let foreign = async {
            match &restored {
                Some((cluster, identity)) => identity.other_than(*cluster).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.writer.closed() => return false,
            () = foreign => self.disown(),
            () = until(self.grace.deadline()) => self.end_grace(),
            () = until(self.damper.due()) => self.release_damped(),
            () = until(restore_at) => self.restore().await,
            () = until(save_at) => self.save(),
        }
        true
    }

    /// Writes what is unwritten.
    pub(super) async fn end(mut self) {
        self.metrics.held(self.service.as_str(), 0);
        if self.keeping.as_ref().is_some_and(|keeping| keeping.save_at.is_some()) {
            self.join_saving().await;
            self.save();
        }
        self.join_saving().await;
    }

    async fn join_saving(&mut self) {
        if let Some(saving) = self.keeping.as_mut().and_then(|keeping| keeping.saving.take()) {
            // It cannot be given up, and does not panic: the lane catches that.
            let _ = saving.await;
        }
    }

    fn apply(&mut self, update: Update) {
        let (before, n_held) = (self.writer.current(), self.n_held());
        let update = self.grace.filter(update, &before);
        let update = self.damper.filter(update, &before.endpoints, Instant::now());
        self.write(update, &before, n_held);
    }

    fn n_held(&self) -> usize {
        self.grace.len() + self.damper.len()
    }

    /// What did not come back after an outage is gone.
    fn end_grace(&mut self) {
        let (before, n_held) = (self.writer.current(), self.n_held());
        if let Some(update) = self.grace.expire(&before) {
            tracing::warn!(service = %self.service, "most endpoints went away with the outage and did not come back");
            let update = self.damper.filter(update, &before.endpoints, Instant::now());
            self.write(update, &before, n_held);
        }
    }

    /// Lets those go that were held for long enough.
    fn release_damped(&mut self) {
        let (before, n_held) = (self.writer.current(), self.n_held());
        let removed = self.damper.expired(Instant::now());
        let (revision, skipped) = (before.revision, before.skipped);
        self.write(Update::Changed { revision, upserted: Vec::new(), removed, skipped }, &before, n_held);
    }

    fn write(&mut self, update: Update, before: &Snapshot, n_held: usize) {
        let held = self.n_held();
        self.writer.apply_holding(update, held as u64);
        let after = self.writer.current();
        if let Some(keeping) = &mut self.keeping
            && after.listed
            && !Arc::ptr_eq(&before.endpoints, &after.endpoints)
        {
            let soon = Instant::now() + SAVE_EVERY;
            keeping.save_at = Some(keeping.save_at.map_or(soon, |at| at.min(soon)));
        }
        if held == n_held {
            return;
        }
        let service = &self.service;
        self.metrics.held(service.as_str(), held as u64);
        if n_held == 0 {
            tracing::warn!(%service, held, known = after.endpoints.len(), "many endpoints disappeared at once; held back");
        } else if held == 0 {
            tracing::info!(%service, known = after.endpoints.len(), "no endpoint is held back any more");
        }
    }

    /// Serves what was kept on disk, unless that was tried before or something was listed.
    async fn restore(&mut self) {
        let Some(keeping) = self.keeping.as_mut().filter(|keeping| keeping.restore_at.is_some()) else { return };
        let (dir, subject) = (Arc::clone(&keeping.dir), Arc::clone(&keeping.subject));
        let reach = keeping.reach.clone();
        let load = move || {
            let mut kept = dir.load(&subject)?;
            kept.endpoints.retain(|endpoint| reach.check(&endpoint.address).is_ok());
            Some(kept)
        };
        let kept = keeping.lane.run(load).await;
        keeping.restore_at = None;
        let Ok(Some(Kept { cluster, revision, right_at, endpoints })) = kept else { return };
        let age = SystemTime::now().duration_since(right_at).unwrap_or_default();
        let note = format!("the endpoints are those kept on disk, known to be right {} s ago", age.as_secs());
        tracing::warn!(service = %self.service, known = endpoints.len(), age_seconds = age.as_secs(), "etcd does not answer; serving the endpoints kept on disk");
        let reason = format!("the registry has not answered yet; {note}");
        (keeping.restored, keeping.note) = (Some(cluster), Some(note));
        self.metrics.restored();
        self.apply(Update::Restored { revision, endpoints, age, reason });
    }

    /// What was kept turns out to be of another registry: another one answers, though it did not
    /// tell this service yet.
    fn disown(&mut self) {
        let Some(keeping) = &mut self.keeping else { return };
        (keeping.restored, keeping.note) = (None, None);
        tracing::warn!(service = %self.service, "another registry answers than the one that the kept endpoints are of; they are served no longer");
        let reason = "the registry did not tell this service yet; what was kept is of another one".to_owned();
        self.apply(Update::Restored { revision: Revision(0), endpoints: Vec::new(), age: Duration::ZERO, reason });
    }

    fn save(&mut self) {
        let snapshot = self.writer.current();
        let Some(keeping) = &mut self.keeping else { return };
        if keeping.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            keeping.save_at = Some(Instant::now() + SAVE_EVERY);
            return;
        }
        keeping.save_at = None;
        let Some(cluster) = keeping.cluster else { return };
        // While the registry is away, nothing of it is known to be right.
        let right_at = if let Some(stale) = &snapshot.stale {
            SystemTime::now().checked_sub(stale.since.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
        } else {
            keeping.confirm();
            SystemTime::now()
        };
        let (dir, subject, lane) = (Arc::clone(&keeping.dir), Arc::clone(&keeping.subject), keeping.lane.clone());
        keeping.saving = Some(tokio::spawn(async move {
            let write = move || {
                let (revision, endpoints) = (snapshot.revision, snapshot.endpoints.to_vec());
                dir.save(&subject, &Kept { cluster, revision, right_at, endpoints });
            };
            // Without an answer the old file stands, and the next change writes a new one.
            let _ = lane.run(write).await;
        }));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
