//! Which services come and go, told to those who follow them.
//!
//! A follower is told what there is and how that changes, not all that ever happened: what came and
//! went before it looked is not told, and a service that went and came again is told as both. So
//! nothing is ever lost, however slowly a follower reads, and what waits for it is bounded by the
//! services that it knows and those that there are. A queue of all events would be bounded by
//! nothing, since callers can make services come and go, or would have to drop some and have the
//! follower list again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;
use waymark_core::model::ServiceName;

use crate::service::ServiceHandle;

/// One service more or less.
#[derive(Clone)]
pub enum ServiceChange {
    /// This service is balanced. [`ServiceHandle::subscribe`] follows its states; a handle that is
    /// kept keeps the service's task running after the service was removed.
    Added(ServiceHandle),
    /// This service, which was told of as added, is balanced no more. The same name may be added
    /// again, as another service with a handle of its own.
    Removed(ServiceName),
}

/// Follows which services there are: see [`Services::changes`](super::Services::changes).
pub struct ServiceChanges {
    feed: Arc<Feed>,
}

impl ServiceChanges {
    /// Waits for the next change that was not told yet. None once the services themselves are gone:
    /// their last clone was dropped.
    ///
    /// For each service, added and removed take turns, and added comes first. Changes of different
    /// services come in the order in which they became due.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was not answered is told by the next call.
    pub async fn next(&mut self) -> Option<ServiceChange> {
        loop {
            {
                let mut pending = self.feed.pending();
                if let Some(change) = pending.pop() {
                    return Some(change);
                }
                if pending.closed {
                    return None;
                }
            }
            // Whoever told of something since the look has left word of it.
            self.feed.told.notified().await;
        }
    }
}

/// All who follow the services. Services are added and removed under its lock, so that each
/// follower is told of them in the order in which it happened.
#[derive(Default)]
pub(super) struct Followers {
    feeds: Vec<Weak<Feed>>,
}

impl Followers {
    /// One more, which begins with these services: all that there are.
    pub(super) fn follow(&mut self, all: &[ServiceHandle]) -> ServiceChanges {
        let feed = Arc::<Feed>::default();
        for handle in all {
            feed.pending().added(handle);
        }
        self.feeds.retain(|feed| feed.strong_count() > 0);
        self.feeds.push(Arc::downgrade(&feed));
        ServiceChanges { feed }
    }

    /// This service is there from now on.
    pub(super) fn added(&mut self, handle: &ServiceHandle) {
        self.tell(|pending| pending.added(handle));
    }

    /// This service is there no more.
    pub(super) fn removed(&mut self, service: &ServiceName) {
        self.tell(|pending| pending.removed(service));
    }

    fn tell(&mut self, change: impl Fn(&mut Pending)) {
        self.feeds.retain(|feed| {
            let Some(feed) = feed.upgrade() else { return false };
            change(&mut feed.pending());
            feed.told.notify_one();
            true
        });
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.tell(|pending| *pending = Pending { closed: true, ..Pending::default() });
    }
}

/// What one follower is to be told.
#[derive(Default)]
struct Feed {
    pending: Mutex<Pending>,
    told: Notify,
}

impl Feed {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing that runs under it can panic half-way.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Pending {
    /// By the order in which they became due.
    due: BTreeMap<u64, Due>,
    /// Where each of these services is in it.
    order: HashMap<ServiceName, u64>,
    next: u64,
    closed: bool,
}

/// What is to be told of one service: that the one which the follower knows is gone, that there is
/// one, or the first and then the second.
struct Due {
    service: ServiceName,
    removed: bool,
    added: Option<ServiceHandle>,
}

impl Pending {
    fn added(&mut self, handle: &ServiceHandle) {
        self.due(handle.name()).added = Some(handle.clone());
    }

    fn removed(&mut self, service: &ServiceName) {
        let due = self.due(service);
        if due.added.take().is_none() {
            due.removed = true;
        } else if !due.removed {
            // It came and went before it was told of.
            self.forget(service);
        }
    }

    fn due(&mut self, service: &ServiceName) -> &mut Due {
        let next = &mut self.next;
        let at = *self.order.entry(service.clone()).or_insert_with(|| {
            *next += 1;
            *next
        });
        let nothing = || Due { service: service.clone(), removed: false, added: None };
        self.due.entry(at).or_insert_with(nothing)
    }

    fn forget(&mut self, service: &ServiceName) {
        if let Some(at) = self.order.remove(service) {
            self.due.remove(&at);
        }
    }

    fn pop(&mut self) -> Option<ServiceChange> {
        let mut first = self.due.first_entry()?;
        let due = first.get_mut();
        let service = due.service.clone();
        if std::mem::take(&mut due.removed) {
            if due.added.is_none() {
                self.forget(&service);
            }
            return Some(ServiceChange::Removed(service));
        }
        let added = due.added.take();
        self.forget(&service);
        added.map(ServiceChange::Added)
    }
}
