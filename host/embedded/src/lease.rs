//! Leases: a time to live, and the keys that go with it.
//!
//! Pure: the time passes in as the duration since the server's start. Deleting the keys of a lease
//! that ends is left to the caller, which owns the store.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;

use super::error::EtcdError;

/// The shortest TTL, in seconds. etcd derives it from its election timeout: 3/2 of 1,000 ms,
/// rounded up.
const MIN_TTL: i64 = 2;
/// The longest TTL, in seconds (`MaxLeaseTTL` in etcd's lessor).
const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug)]
struct Lease {
    ttl: i64,
    expires: Duration,
    keys: BTreeSet<Bytes>,
}

/// What a client may know of a lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeaseView {
    /// Whole seconds left, rounded down.
    pub(super) remaining: i64,
    pub(super) granted: i64,
    pub(super) keys: Vec<Bytes>,
}

/// All leases, by id and by the time they end.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<i64, Lease>,
    deadlines: BTreeSet<(Duration, i64)>,
}

impl Leases {
    /// Grants a lease and returns its TTL, which may be longer than what was asked for.
    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Duration) -> Result<i64, EtcdError> {
        if ttl > MAX_TTL {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(EtcdError::LeaseExists);
        }
        let ttl = ttl.max(MIN_TTL);
        let expires = now + seconds(ttl);
        self.leases.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
        self.deadlines.insert((expires, id));
        Ok(ttl)
    }

    /// Starts the TTL anew and returns it; none when there is no such lease.
    pub(super) fn renew(&mut self, id: i64, now: Duration) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        self.deadlines.remove(&(lease.expires, id));
        lease.expires = now + seconds(lease.ttl);
        self.deadlines.insert((lease.expires, id));
        Some(lease.ttl)
    }

    pub(super) fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    pub(super) fn view(&self, id: i64, now: Duration) -> Option<LeaseView> {
        let lease = self.leases.get(&id)?;
        let remaining = lease.expires.saturating_sub(now).as_secs();
        Some(LeaseView {
            remaining: i64::try_from(remaining).unwrap_or(i64::MAX),
            granted: lease.ttl,
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// All ids, the lease that ends first first.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.deadlines.iter().map(|(_, id)| *id).collect()
    }

    /// Binds a key to a lease that exists (0: to none).
    pub(super) fn attach(&mut self, id: i64, key: Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// Undoes [`Self::attach`]; unknown ids and keys are ignored.
    pub(super) fn detach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Ends a lease and returns its keys in order; none when there is no such lease.
    pub(super) fn remove(&mut self, id: i64) -> Option<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.expires, id));
        Some(lease.keys)
    }

    /// When the next lease ends.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A lease whose time is over, the one that ended first.
    pub(super) fn first_expired(&self, now: Duration) -> Option<i64> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const AT: Duration = Duration::from_secs(100);

    #[test]
    fn a_ttl_under_two_seconds_becomes_two_and_one_over_nine_thousand_million_is_refused() {
        let mut leases = Leases::default();
        for (id, asked) in [(1, 1), (2, 0), (3, -1)] {
            assert_eq!(leases.grant(id, asked, AT), Ok(2));
        }
        assert_eq!(leases.grant(4, MAX_TTL, AT), Ok(MAX_TTL));
        assert_eq!(leases.grant(5, MAX_TTL + 1, AT), Err(EtcdError::LeaseTtlTooLarge));
        assert_eq!(leases.grant(1, 10, AT), Err(EtcdError::LeaseExists));
    }

    #[test]
    fn a_renewed_lease_ends_a_full_ttl_later() {
        let mut leases = Leases::default();
        leases.grant(7, 10, AT).unwrap();
        let later = AT + Duration::from_secs(9);
        assert_eq!(leases.renew(7, later), Some(10));
        assert_eq!(leases.first_expired(AT + Duration::from_secs(10)), None);
        assert_eq!(leases.first_expired(later + Duration::from_secs(10)), Some(7));
        assert_eq!(leases.renew(8, later), None);
    }

    #[test]
    fn leases_are_listed_by_the_time_they_end() {
        let mut leases = Leases::default();
        for (id, ttl) in [(1, 30), (2, 10), (3, 20)] {
            leases.grant(id, ttl, AT).unwrap();
        }
        assert_eq!(leases.ids(), [2, 3, 1]);
        leases.renew(2, AT + Duration::from_secs(25)).unwrap();
        assert_eq!(leases.ids(), [3, 1, 2]);
        assert_eq!(leases.next_deadline(), Some(AT + Duration::from_secs(20)));
    }

    #[test]
    fn a_removed_lease_gives_its_keys_in_order() {
        let mut leases = Leases::default();
        leases.grant(1, 30, AT).unwrap();
        for key in ["b", "a", "c"] {
            leases.attach(1, Bytes::from(key));
        }
        leases.detach(1, &Bytes::from("c"));
        assert_eq!(leases.view(1, AT).unwrap().keys, ["a", "b"]);
        assert_eq!(leases.remove(1).unwrap().into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(leases.remove(1), None);
        assert_eq!(leases.next_deadline(), None);
    }
}
