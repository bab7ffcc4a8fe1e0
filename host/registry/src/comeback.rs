//! What an outage of etcd takes with it is given a moment to come back.
//!
//! ```text
//!             stale                 anything else
//!   Calm ──────────────▶ Away ─────────────────────▶ Back ──┐ most would go: held
//!    ▲                    ▲             stale         │ ▲   │
//!    │                    └───────────────────────────┤ └───┘
//!    └────────────────────────────────────────────────┘ the time is over: what is still missing goes
//! ```
//!
//! Who was cut off from etcd for longer than the leases live learns, on its return, that everybody
//! has gone: everybody was cut off as well, and registers again within a second. The same after
//! etcd lost its data. Believing it for that second would fail every call, though all instances are
//! there.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use waymark_core::{
    model::{Endpoint, InstanceId, Update},
    snapshot::Snapshot,
};

/// How long. An instance needs up to half a second to see that etcd is back, a quarter not to come
/// with all others, another to ask for a new lease, and the calls; twice that, for busy machines.
pub(super) const COMEBACK: Duration = Duration::from_secs(2);

enum State {
    /// What comes is believed.
    Calm,
    /// etcd cannot be reached, since this moment.
    Away(Instant),
    /// It can again, until this moment only just.
    Back(Instant),
}

/// Stands between what a follower learned and what readers see, for a moment after an outage;
/// `hold` does so at any time, when asked to.
pub(super) struct Comeback {
    state: State,
    /// How many endpoints there were when etcd was lost.
    before: usize,
    /// Out of the registry, and still published.
    held: HashSet<InstanceId>,
    /// When those go. A short outage after the first one does not put it off: an etcd that answers
    /// and fails by turns (it refuses the watch, say) would keep them for ever.
    deadline: Option<Instant>,
}

impl Comeback {
    pub(super) fn new() -> Self {
        Self { state: State::Calm, before: 0, held: HashSet::new(), deadline: None }
    }

    /// How many endpoints are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// When [`Self::end`] is due.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.state {
            State::Back(until) => Some(until),
            State::Calm | State::Away(_) => None,
        }
    }

    /// What becomes of this update, for a snapshot that is `now`.
    pub(super) fn pass(&mut self, update: Update, now: &Snapshot) -> Update {
        if let Update::Stale { .. } = update {
            if let State::Calm = self.state {
                self.before = now.endpoints.len();
            }
            if !matches!(self.state, State::Away(_)) {
                self.state = State::Away(Instant::now());
            }
            return update;
        }
        if let Update::Skipped(_) = update {
            return update;
        }
        if let Update::Restored { endpoints, .. } = &update {
            self.before = endpoints.len();
            self.state = State::Away(Instant::now());
            return update;
        }
        match self.state {
            State::Calm => return update,
            State::Away(since) => {
                // An outage long enough for leases to end begins anew.
                let goes_on = since.elapsed() < COMEBACK * 2;
                let deadline = self
                    .deadline
                    .filter(|_| goes_on && !self.held.is_empty())
                    .unwrap_or_else(|| Instant::now() + COMEBACK);
                self.deadline = Some(deadline);
                self.state = State::Back(deadline);
            }
            State::Back(_) => {}
        }
        match update {
            Update::Changed { revision, upserted, removed, skipped } => {
                for endpoint in &upserted {
                    self.held.remove(&endpoint.id);
                }
                let removed = self.hold(removed, now.endpoints.len());
                Update::Changed { revision, upserted, removed, skipped }
            }
            Update::Reset { revision, mut endpoints, skipped } => {
                self.held.clear();
                let listed: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
                let missing: Vec<&Endpoint> = now.endpoints.iter().filter(|it| !listed.contains(&it.id)).collect();
                let gone = self.hold(missing.iter().map(|it| it.id.clone()).collect(), now.endpoints.len());
                if gone.is_empty() {
                    endpoints.extend(missing.into_iter().cloned());
                }
                Update::Reset { revision, endpoints, skipped }
            }
            update @ (Update::Stale { .. } | Update::Restored { .. } | Update::Skipped(_) | Update::Fresh { .. }) => {
                update
            }
        }
    }

    /// Returns those that go. All are held if fewer than half of what there was would be left.
    fn hold(&mut self, removed: Vec<InstanceId>, published: usize) -> Vec<InstanceId> {
        let left = published.saturating_sub(self.held.len() + removed.len());
        if removed.is_empty() || left * 2 >= self.before {
            return removed;
        }
        self.held.extend(removed);
        Vec::new()
    }

    /// The time is over: what is missing goes.
    pub(super) fn end(&mut self, now: &Snapshot) -> Option<Update> {
        (self.state, self.deadline) = (State::Calm, None);
        let removed = self.held.drain().collect::<Vec<_>>();
        let (revision, skipped) = (now.revision, now.skipped);
        (!removed.is_empty()).then_some(Update::Changed { revision, upserted: Vec::new(), removed, skipped })
    }
}
