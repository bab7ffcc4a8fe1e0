//! What becomes of a service's updates before readers see them: some are held back, and what
//! readers see is kept on disk.
//!
//! ```text
//!   service_watch ──Update──▶ reconnect_grace ──▶ removal_damping ──▶ snapshot::Writer ──▶ readers
//!                                                                        │      ▲
//!                                                         a second later ▼      │ etcd does not answer at the start
//!                                                                       disk_cache
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
use waymark_net::address_filter::AddressFilter;

use super::{
    disk_cache::{CONFIRM_EVERY, CacheKey, CachedEndpoints, DiskCache},
    identity::Identity,
    jitter::jitter,
    metrics::Metrics,
    reconnect_grace::ReconnectGrace,
    removal_damping::RemovalDamper,
    work_queue::WorkQueue,
};

/// How long the first list may take before the endpoints kept on disk are served in its place.
const RESTORE_AFTER: Duration = Duration::from_millis(250);

/// How long a change waits to be written to disk, and how often a service's file is written at
/// most.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The file of one service.
pub(super) struct ServiceCache {
    dir: Arc<DiskCache>,
    key: Arc<CacheKey>,
    identity: Identity,
    /// The cluster that said what readers see; `None` while none has.
    cluster: Option<u64>,
    /// Where files are read and written: a line of its own, so that a slow disk holds up no key
    /// scheme.
    queue: WorkQueue,
    /// Where endpoints may be, by now.
    address_filter: AddressFilter,
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

impl ServiceCache {
    pub(super) fn new(
        dir: Arc<DiskCache>,
        key: CacheKey,
        identity: Identity,
        queue: WorkQueue,
        address_filter: AddressFilter,
    ) -> Self {
        Self {
            dir,
            key: key.into(),
            identity,
            cluster: None,
            queue,
            address_filter,
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
        self.save_at.get_or_insert_with(|| Instant::now() + CONFIRM_EVERY / 2 + jitter(CONFIRM_EVERY / 2));
    }
}

/// Publishes one service.
pub(super) struct Publisher {
    service: ServiceName,
    writer: Writer,
    grace: ReconnectGrace,
    damper: RemovalDamper,
    cache: Option<ServiceCache>,
    metrics: Metrics,
}

impl Publisher {
    pub(super) fn new(
        service: ServiceName,
        writer: Writer,
        damper: RemovalDamper,
        cache: Option<ServiceCache>,
        metrics: Metrics,
    ) -> Self {
        Self { service, writer, grace: ReconnectGrace::new(), damper, cache, metrics }
    }

    /// Takes one update of the registry. `cluster`: who said so, if somebody did.
    pub(super) async fn publish(&mut self, mut update: Update, cluster: Option<u64>) {
        match &mut update {
            // Before readers learn that there is nothing: there may be something from before.
            Update::Stale { .. } => self.restore().await,
            Update::Reset { .. } => {
                if self.cache.as_ref().is_some_and(|cache| cache.restored.is_some() && cache.restored != cluster) {
                    // Nobody of theirs can be about to come back.
                    self.discard_restored();
                }
                if let Some(cache) = &mut self.cache {
                    (cache.restore_at, cache.restored, cache.note) = (None, None, None);
                    cache.cluster = cluster;
                    cache.save_at = Some(Instant::now() + SAVE_EVERY);
                }
            }
            Update::Fresh { .. } => {
                if let Some(cache) = &mut self.cache {
                    cache.confirm();
                }
            }
            _ => {}
        }
        let note = self.cache.as_ref().and_then(|cache| cache.note.as_deref());
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
    pub(super) async fn run_due(&mut self) -> bool {
        let (restore_at, save_at) = self.cache.as_ref().map_or((None, None), |cache| (cache.restore_at, cache.save_at));
        let restored = self.cache.as_ref().and_then(|cache| Some((cache.restored?, cache.identity.clone())));
        let foreign = async {
            match &restored {
                Some((cluster, identity)) => identity.other_than(*cluster).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.writer.closed() => return false,
            () = foreign => self.discard_restored(),
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
        if self.cache.as_ref().is_some_and(|cache| cache.save_at.is_some()) {
            self.join_saving().await;
            self.save();
        }
        self.join_saving().await;
    }

    async fn join_saving(&mut self) {
        if let Some(saving) = self.cache.as_mut().and_then(|cache| cache.saving.take()) {
            // It cannot be given up, and does not panic: the queue catches that.
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
        if let Some(cache) = &mut self.cache
            && after.listed
            && !Arc::ptr_eq(&before.endpoints, &after.endpoints)
        {
            let soon = Instant::now() + SAVE_EVERY;
            cache.save_at = Some(cache.save_at.map_or(soon, |at| at.min(soon)));
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
        let Some(cache) = self.cache.as_mut().filter(|cache| cache.restore_at.is_some()) else { return };
        let (dir, key) = (Arc::clone(&cache.dir), Arc::clone(&cache.key));
        let address_filter = cache.address_filter.clone();
        let load = move || {
            let mut kept = dir.load(&key)?;
            kept.endpoints.retain(|endpoint| address_filter.check(&endpoint.address).is_ok());
            Some(kept)
        };
        let kept = cache.queue.run(load).await;
        cache.restore_at = None;
        let Ok(Some(CachedEndpoints { cluster, revision, right_at, endpoints })) = kept else { return };
        let age = SystemTime::now().duration_since(right_at).unwrap_or_default();
        let note = format!("the endpoints are those kept on disk, known to be right {} s ago", age.as_secs());
        tracing::warn!(service = %self.service, known = endpoints.len(), age_seconds = age.as_secs(), "etcd does not answer; serving the endpoints kept on disk");
        let reason = format!("the registry has not answered yet; {note}");
        (cache.restored, cache.note) = (Some(cluster), Some(note));
        self.metrics.restored();
        self.apply(Update::Restored { revision, endpoints, age, reason });
    }

    /// What was kept turns out to be of another registry: another one answers, though it did not
    /// tell this service yet.
    fn discard_restored(&mut self) {
        let Some(cache) = &mut self.cache else { return };
        (cache.restored, cache.note) = (None, None);
        tracing::warn!(service = %self.service, "another registry answers than the one that the kept endpoints are of; they are served no longer");
        let reason = "the registry did not tell this service yet; what was kept is of another one".to_owned();
        self.apply(Update::Restored { revision: Revision(0), endpoints: Vec::new(), age: Duration::ZERO, reason });
    }

    fn save(&mut self) {
        let snapshot = self.writer.current();
        let Some(cache) = &mut self.cache else { return };
        if cache.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            cache.save_at = Some(Instant::now() + SAVE_EVERY);
            return;
        }
        cache.save_at = None;
        let Some(cluster) = cache.cluster else { return };
        // While the registry is away, nothing of it is known to be right.
        let right_at = if let Some(stale) = &snapshot.stale {
            SystemTime::now().checked_sub(stale.since.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
        } else {
            cache.confirm();
            SystemTime::now()
        };
        let (dir, key, queue) = (Arc::clone(&cache.dir), Arc::clone(&cache.key), cache.queue.clone());
        cache.saving = Some(tokio::spawn(async move {
            let write = move || {
                let (revision, endpoints) = (snapshot.revision, snapshot.endpoints.to_vec());
                dir.save(&key, &CachedEndpoints { cluster, revision, right_at, endpoints });
            };
            // Without an answer the old file stands, and the next change writes a new one.
            let _ = queue.run(write).await;
        }));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
