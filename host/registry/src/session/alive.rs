//! What stands in etcd for an instance, and what follows from its changes. No clock and no I/O but
//! the notices that come.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use waymark_core::model::{LeaseId, Revision, Ttl};

use crate::{
    etcd::{Event, Kv},
    metrics::PutBackReason,
    watch_mux::WatchHandle,
};

/// How often a lease is refreshed in its time to live, as every etcd client does.
const REFRESHES_PER_TTL: u32 = 3;

/// A lease we hold, as far as we know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) ttl: Ttl,
    /// When it ends if no refresh gets through. Counted from before the request was sent, so never
    /// too late.
    pub(super) deadline: Instant,
    /// Whether our entries were ever written under it.
    pub(super) written: bool,
}

impl Lease {
    /// When it is to be refreshed next, if that went well so far.
    pub(super) fn refresh_at(self) -> Instant {
        self.deadline - self.ttl.as_duration() + refresh_interval(self.ttl)
    }
}

/// What stands in etcd for us.
pub(super) struct Alive {
    pub(super) lease: Lease,
    pub(super) written: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) revision: Revision,
    pub(super) refresh_at: Instant,
    /// Our keys, unless that watch is over.
    pub(super) watching: Option<WatchHandle>,
    /// When to write the entries again, if they are not, or perhaps not, as they were written.
    pub(super) put_back_at: Option<Instant>,
    /// What somebody else has written in place of one of them, while it is not known yet whether it
    /// is of this instance.
    pub(super) foreign: Option<Kv>,
}

/// What follows from changes of our keys.
pub(super) enum Finding {
    /// They are as they should be.
    Fine,
    /// They are to be written again.
    PutBack(PutBackReason),
    /// Somebody else has written this: what it says decides.
    Foreign(Kv),
}

impl Alive {
    /// What is to be done after these changes of our keys.
    pub(super) fn judge(&self, events: Vec<Event>) -> Finding {
        let mut last: HashMap<Vec<u8>, Finding> = HashMap::new();
        for event in events.into_iter().filter(|event| event.mod_revision() > self.revision) {
            let (key, verdict) = match event {
                Event::Delete { key, .. } => (key, Finding::PutBack(PutBackReason::Deleted)),
                Event::Put(kv) if self.written.get(&kv.key) == Some(&kv.value) => match kv.lease {
                    // The same content under somebody's lease serves as well, and when that lease
                    // ends we see the deletion. Fighting over it would help nobody: it is the same
                    // instance, restarted, most often.
                    Some(_) => (kv.key, Finding::Fine),
                    None => (kv.key, Finding::PutBack(PutBackReason::Changed)),
                },
                Event::Put(kv) => (kv.key.clone(), Finding::Foreign(kv)),
            };
            last.insert(key, verdict);
        }
        let rank = |finding: &Finding| match finding {
            Finding::Fine => 0,
            Finding::PutBack(_) => 1,
            Finding::Foreign(_) => 2,
        };
        last.into_values().max_by_key(rank).unwrap_or(Finding::Fine)
    }
}

/// The time from one refresh of a lease to the next.
pub(super) fn refresh_interval(ttl: Ttl) -> Duration {
    ttl.as_duration() / REFRESHES_PER_TTL
}
