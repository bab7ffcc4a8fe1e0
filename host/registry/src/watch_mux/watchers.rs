//! Who watches what, whether or not there is a stream, and what each is told.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::mpsc;
use waymark_core::model::Revision;

use super::watches::{RangeId, Wanted};
use crate::{
    etcd::{Event, Range},
    metrics::{Metrics, RestartReason},
};

/// How many notices may wait for one watcher. One that does not take them in time lists again
/// instead of filling the memory, and never holds up the others.
pub(super) const QUEUE: usize = 1024;

/// What a watcher is told, in order.
#[derive(Debug)]
pub(crate) enum Notice {
    /// What one or more revisions changed in one of the ranges.
    Events(Vec<Event>),
    /// The stream was lost. The watch resumes by itself.
    Down(Arc<str>),
    /// Everything up to this revision has been told, in all ranges.
    Synced(Revision),
    /// The watch is over: list again. There is no further notice.
    Restart(RestartReason, Arc<str>),
}

/// One watched range.
struct WatchedRange {
    range: Range,
    /// The revision that has not been told yet.
    next: Revision,
    /// Where the store was when the watch was created on this stream, once everything up to there
    /// was told.
    in_step: Option<Revision>,
}

struct Watcher {
    cluster: u64,
    ranges: Vec<WatchedRange>,
    notices: mpsc::Sender<Box<Notice>>,
}

/// The ranges of a watcher that is no more.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct RemovedRanges(pub(super) Vec<RangeId>);

/// All watchers.
pub(super) struct Watchers {
    pub(super) metrics: Metrics,
    by_id: HashMap<u64, Watcher>,
    /// How many ranges they have together.
    n_ranges: usize,
}

impl Watchers {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, by_id: HashMap::new(), n_ranges: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether somebody watches this range.
    pub(super) fn has(&self, id: RangeId) -> bool {
        self.by_id.contains_key(&id.watcher)
    }

    /// What to watch for this range, if somebody does.
    pub(super) fn wanted(&self, id: RangeId) -> Option<Wanted> {
        let watcher = self.by_id.get(&id.watcher)?;
        watcher.wanted(id)
    }

    /// What to watch for everybody.
    pub(super) fn all_wanted(&self) -> impl Iterator<Item = Wanted> {
        self.by_id.iter().flat_map(|(id, watcher)| watcher.all_wanted(*id))
    }

    /// Adds a watcher of these ranges, all from this revision of this cluster on. Returns what to
    /// watch for it.
    pub(super) fn insert(
        &mut self,
        id: u64,
        ranges: Vec<Range>,
        from: Revision,
        cluster: u64,
        notices: mpsc::Sender<Box<Notice>>,
    ) -> Vec<Wanted> {
        self.n_ranges += ranges.len();
        self.metrics.watches(self.n_ranges);
        let ranges = ranges.into_iter().map(|range| WatchedRange { range, next: from, in_step: None }).collect();
        let watcher = Watcher { cluster, ranges, notices };
        let wanted = watcher.all_wanted(id).collect();
        self.by_id.insert(id, watcher);
        wanted
    }

    /// Tells one watcher. One that does not take its notices is dropped, and learns of it by the
    /// end of its channel.
    pub(super) fn tell(&mut self, id: u64, notice: Notice) -> RemovedRanges {
        let Some(watcher) = self.by_id.get(&id) else { return RemovedRanges::default() };
        match watcher.notices.try_send(Box::new(notice)) {
            Ok(()) => RemovedRanges::default(),
            // It dropped its end, and its command to cancel is on its way.
            Err(mpsc::error::TrySendError::Closed(_)) => self.remove(id),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(queue = QUEUE, "a watcher does not keep up; it lists again");
                self.metrics.restarted(RestartReason::Lagged);
                self.remove(id)
            }
        }
    }

    /// Everything before `next` was told in this range, or is about to be.
    pub(super) fn resume(&mut self, id: RangeId, next: Revision) {
        if let Some(tracked) = self.tracked(id) {
            tracked.next = next;
        }
    }

    /// This range is in step. Tells the watcher when that puts all its ranges in step.
    pub(super) fn in_step(&mut self, id: RangeId, goal: Revision) -> RemovedRanges {
        let Some(tracked) = self.tracked(id) else { return RemovedRanges::default() };
        tracked.in_step = Some(goal);
        let Some(watcher) = self.by_id.get(&id.watcher) else { return RemovedRanges::default() };
        let synced = watcher.ranges.iter().map(|tracked| tracked.in_step).min().flatten();
        match synced {
            Some(synced) => self.tell(id.watcher, Notice::Synced(synced)),
            None => RemovedRanges::default(),
        }
    }

    /// Ends one watcher for good.
    pub(super) fn restart(&mut self, id: u64, reason: RestartReason, detail: &str) -> RemovedRanges {
        self.metrics.restarted(reason);
        let RemovedRanges(mut gone) = self.tell(id, Notice::Restart(reason, detail.into()));
        gone.extend(self.remove(id).0);
        RemovedRanges(gone)
    }

    pub(super) fn remove(&mut self, id: u64) -> RemovedRanges {
        let Some(removed) = self.by_id.remove(&id) else { return RemovedRanges::default() };
        self.n_ranges -= removed.ranges.len();
        self.metrics.watches(self.n_ranges);
        RemovedRanges((0..removed.ranges.len()).map(|range| RangeId { watcher: id, range }).collect())
    }

    /// Forgets what belonged to a stream that is gone.
    pub(super) fn forget_stream(&mut self) {
        for tracked in self.by_id.values_mut().flat_map(|watcher| &mut watcher.ranges) {
            tracked.in_step = None;
        }
    }

    /// Forgets what belonged to a stream that is gone, and tells everybody.
    pub(super) fn disconnected(&mut self, reason: &Arc<str>) {
        self.forget_stream();
        for id in self.by_id.keys().copied().collect::<Vec<_>>() {
            // Without a stream there is nothing to cancel.
            let _ = self.tell(id, Notice::Down(Arc::clone(reason)));
        }
    }

    fn tracked(&mut self, id: RangeId) -> Option<&mut WatchedRange> {
        self.by_id.get_mut(&id.watcher)?.ranges.get_mut(id.range)
    }
}

impl Watcher {
    fn wanted(&self, id: RangeId) -> Option<Wanted> {
        let tracked = self.ranges.get(id.range)?;
        Some(Wanted { id, range: tracked.range.clone(), from: tracked.next, cluster: self.cluster })
    }

    fn all_wanted(&self, id: u64) -> impl Iterator<Item = Wanted> {
        (0..self.ranges.len()).filter_map(move |range| self.wanted(RangeId { watcher: id, range }))
    }
}
