//! What becomes of a service's updates before readers see them: some are held back, and what readers see is kept on disk.
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

use super::{
    comeback::Comeback,
    hold::Holding,
    kept::{Kept, StateDir, Subject},
    lane::Lane,
    metrics::Metrics,
};
use crate::{
    model::{ServiceName, Update},
    snapshot::{Snapshot, Writer},
};

/// How long the first list may take before the endpoints kept on disk are served in its place.
const RESTORE_AFTER: Duration = Duration::from_millis(250);

/// How long a change waits to be written to disk, and how often a service's file is written at most.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The file of one service.
pub(super) struct Keeping {
    dir: Arc<StateDir>,
    subject: Arc<Subject>,
    /// Where files are read and written: a line of its own, so that a slow disk holds up no key scheme.
    lane: Lane,
    /// When to serve what was kept; `None` once that was tried, or is not needed any more.
    restore_at: Option<Instant>,
    /// When to write what readers see now, if the file says something else.
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    /// What to add to the reason why readers see old endpoints, while they see those from the file.
    note: Option<String>,
}

impl Keeping {
    pub(super) fn new(dir: Arc<StateDir>, subject: Subject, lane: Lane) -> Self {
        let restore_at = Some(Instant::now() + RESTORE_AFTER);
        Self { dir, subject: subject.into(), lane, restore_at, save_at: None, saving: None, note: None }
    }
}

/// Publishes one service.
pub(super) struct Publisher {
    service: ServiceName,
    writer: Writer,
    comeback: Comeback,
    holding: Holding,
    keeping: Option<Keeping>,
    metrics: Metrics,
}

impl Publisher {
    pub(super) fn new(
        service: ServiceName,
        writer: Writer,
        holding: Holding,
        keeping: Option<Keeping>,
        metrics: Metrics,
    ) -> Self {
        Self { service, writer, comeback: Comeback::new(), holding, keeping, metrics }
    }

    /// Takes one update of the registry.
    pub(super) async fn publish(&mut self, mut update: Update) {
        match &mut update {
            // Before readers learn that there is nothing: there may be something from before.
            Update::Stale { .. } => self.restore().await,
            Update::Reset { .. } => {
                if let Some(keeping) = &mut self.keeping {
                    (keeping.restore_at, keeping.note) = (None, None);
                    keeping.save_at = Some(Instant::now() + SAVE_EVERY);
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
        tokio::select! {
            () = self.writer.closed() => return false,
            () = until(self.comeback.until()) => self.give_up(),
            () = until(self.holding.due()) => self.release(),
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
        let update = self.comeback.pass(update, &before);
        let update = self.holding.judge(update, &before.endpoints, Instant::now());
        self.write(update, &before, n_held);
    }

    fn n_held(&self) -> usize {
        self.comeback.len() + self.holding.len()
    }

    /// What did not come back after an outage is gone.
    fn give_up(&mut self) {
        let (before, n_held) = (self.writer.current(), self.n_held());
        if let Some(update) = self.comeback.end(&before) {
            tracing::warn!(service = %self.service, "most endpoints went away with the outage and did not come back");
            let update = self.holding.judge(update, &before.endpoints, Instant::now());
            self.write(update, &before, n_held);
        }
    }

    /// Lets those go that were held for long enough.
    fn release(&mut self) {
        let (before, n_held) = (self.writer.current(), self.n_held());
        let removed = self.holding.expired(Instant::now());
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
            keeping.save_at.get_or_insert_with(|| Instant::now() + SAVE_EVERY);
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
        let kept = keeping.lane.run(move || dir.load(&subject)).await;
        keeping.restore_at = None;
        let Ok(Some(Kept { revision, saved_at, endpoints })) = kept else { return };
        let age = SystemTime::now().duration_since(saved_at).unwrap_or_default();
        let age = format!("{:?}", Duration::from_secs(age.as_secs()));
        let note = format!("the endpoints are those kept on disk, last changed {age} ago");
        tracing::warn!(service = %self.service, known = endpoints.len(), last_changed = age, "etcd does not answer; serving the endpoints kept on disk");
        let reason = format!("the registry has not answered yet; {note}");
        keeping.note = Some(note);
        self.metrics.restored();
        self.apply(Update::Restored { revision, endpoints, reason });
    }

    fn save(&mut self) {
        let snapshot = self.writer.current();
        let Some(keeping) = &mut self.keeping else { return };
        if keeping.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            keeping.save_at = Some(Instant::now() + SAVE_EVERY);
            return;
        }
        keeping.save_at = None;
        let (dir, subject, lane) = (Arc::clone(&keeping.dir), Arc::clone(&keeping.subject), keeping.lane.clone());
        keeping.saving = Some(tokio::spawn(async move {
            let write = move || {
                let (revision, endpoints) = (snapshot.revision, snapshot.endpoints.to_vec());
                dir.save(&subject, &Kept { revision, saved_at: SystemTime::now(), endpoints });
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
