//! A grace time after a reconnect: what an outage of etcd takes with it is given a moment to come
//! back.
//!
//! ```text
//!                  stale                     anything else
//!   Connected ──────────────▶ Disconnected ─────────────────▶ Reconnected ──┐ most would go: held
//!    ▲                         ▲                stale           │ ▲         │
//!    │                         └────────────────────────────────┤ └─────────┘
//!    └──────────────────────────────────────────────────────────┘ the time is over: what is missing goes
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
pub(super) const RECONNECT_GRACE: Duration = Duration::from_secs(2);

enum State {
    /// etcd answers: what comes is believed.
    Connected,
    /// etcd cannot be reached, since this moment.
    Disconnected(Instant),
    /// It can again; until this moment removals are held back.
    Reconnected(Instant),
}

/// Stands between what a follower learned and what readers see, for a moment after an outage;
/// `removal_damping` does so at any time, when asked to.
pub(super) struct ReconnectGrace {
    state: State,
    /// How many endpoints there were when etcd was lost.
    before: usize,
    /// Out of the registry, and still published.
    held: HashSet<InstanceId>,
    /// When those go. A short outage after the first one does not put it off: an etcd that answers
    /// and fails by turns (it refuses the watch, say) would keep them for ever.
    deadline: Option<Instant>,
}

impl ReconnectGrace {
    pub(super) fn new() -> Self {
        Self { state: State::Connected, before: 0, held: HashSet::new(), deadline: None }
    }

    /// How many endpoints are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// When [`Self::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Reconnected(until) => Some(until),
            State::Connected | State::Disconnected(_) => None,
        }
    }

    /// What becomes of this update, for a snapshot that is `now`.
    pub(super) fn filter(&mut self, update: Update, now: &Snapshot) -> Update {
        if let Update::Stale { .. } = update {
            if let State::Connected = self.state {
                self.before = now.endpoints.len();
            }
            if !matches!(self.state, State::Disconnected(_)) {
                self.state = State::Disconnected(Instant::now());
            }
            return update;
        }
        if let Update::Skipped(_) = update {
            return update;
        }
        if let Update::Restored { endpoints, .. } = &update {
            self.before = endpoints.len();
            self.state = State::Disconnected(Instant::now());
            return update;
        }
        match self.state {
            State::Connected => return update,
            State::Disconnected(since) => {
                // An outage long enough for leases to end begins anew.
                let goes_on = since.elapsed() < RECONNECT_GRACE * 2;
                let deadline = self
                    .deadline
                    .filter(|_| goes_on && !self.held.is_empty())
                    .unwrap_or_else(|| Instant::now() + RECONNECT_GRACE);
                self.deadline = Some(deadline);
                self.state = State::Reconnected(deadline);
            }
            State::Reconnected(_) => {}
        }
        match update {
            Update::Changed { revision, upserted, removed, skipped } => {
                for endpoint in &upserted {
                    self.held.remove(&endpoint.id);
                }
                let removed = self.hold_back(removed, now.endpoints.len());
                Update::Changed { revision, upserted, removed, skipped }
            }
            Update::Reset { revision, mut endpoints, skipped } => {
                self.held.clear();
                let listed: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
                let missing: Vec<&Endpoint> = now.endpoints.iter().filter(|it| !listed.contains(&it.id)).collect();
                let gone = self.hold_back(missing.iter().map(|it| it.id.clone()).collect(), now.endpoints.len());
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
    fn hold_back(&mut self, removed: Vec<InstanceId>, published: usize) -> Vec<InstanceId> {
        let left = published.saturating_sub(self.held.len() + removed.len());
        if removed.is_empty() || left * 2 >= self.before {
            return removed;
        }
        self.held.extend(removed);
        Vec::new()
    }

    /// The time is over: what is missing goes.
    pub(super) fn expire(&mut self, now: &Snapshot) -> Option<Update> {
        (self.state, self.deadline) = (State::Connected, None);
        let removed = self.held.drain().collect::<Vec<_>>();
        let (revision, skipped) = (now.revision, now.skipped);
        (!removed.is_empty()).then_some(Update::Changed { revision, upserted: Vec::new(), removed, skipped })
    }
}
