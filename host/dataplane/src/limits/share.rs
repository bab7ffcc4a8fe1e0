//! How many places at endpoints one client has, for the moment when there are too few.
//!
//! A server takes so many calls at once, over all connections that a node makes to it. A client
//! that holds calls and lets none end could have all of these places, and nobody takes them back
//! from a call that runs. So the last of an endpoint's connections is in reserve (`connection`),
//! for clients that have few places: each may have an eighth of it.
//!
//! A call pays a handle to its client and a count, four atomic operations on what nobody else
//! touches; nothing is looked at until places are short. Connections from one address count
//! together, or a client would open further ones; those from this machine (loopback, a Unix socket)
//! are clients of their own, because behind that there may be a proxy.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use tokio::sync::{Notify, futures::Notified};

/// One client may have one of so many parts of a connection that is in reserve, and one place at
/// least.
const PARTS: u32 = 8;

/// The clients that are connected, by address.
#[derive(Default)]
pub(crate) struct Shares {
    by_address: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    groups: HashMap<IpAddr, Weak<Group>>,
    /// With so many, those that are gone are looked for.
    prune_at: usize,
}

/// Connections that count together.
#[derive(Default)]
struct Group {
    members: Mutex<Vec<Weak<Share>>>,
    /// Calls that wait until another of them has ended.
    waiting: AtomicU32,
    freed: Notify,
}

/// What one client's connection has.
pub(crate) struct Share {
    held: AtomicU32,
    group: Arc<Group>,
}

/// A place that a client has. Dropping it gives it back.
pub(crate) struct HeldPlace(Arc<Share>);

impl Shares {
    /// The share of a new connection.
    pub(crate) fn of(&self, peer: Option<IpAddr>) -> Arc<Share> {
        let group = match peer.filter(|ip| !ip.is_loopback()) {
            None => Arc::default(),
            Some(ip) => self.group(ip),
        };
        let share = Arc::new(Share { held: AtomicU32::new(0), group });
        let mut members = share.group.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&share));
        drop(members);
        share
    }

    fn group(&self, ip: IpAddr) -> Arc<Group> {
        // Nothing that runs under it can panic half-way.
        let mut known = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = known.groups.get(&ip).and_then(Weak::upgrade) {
            return group;
        }
        if known.groups.len() >= known.prune_at {
            known.groups.retain(|_, group| group.strong_count() > 0);
            known.prune_at = 64 + 2 * known.groups.len();
        }
        let group = Arc::default();
        known.groups.insert(ip, Arc::downgrade(&group));
        group
    }
}

impl Group {
    fn members(&self) -> MutexGuard<'_, Vec<Weak<Share>>> {
        // As above.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether they have fewer places than this.
    fn has_under(&self, most: u32) -> bool {
        let mut held = 0;
        self.members().iter().all(|member| {
            held += member.upgrade().map_or(0, |share| share.held.load(SeqCst));
            held < most
        })
    }
}

impl Share {
    /// Takes a place.
    pub(crate) fn hold(self: &Arc<Self>) -> HeldPlace {
        self.held.fetch_add(1, SeqCst);
        HeldPlace(Arc::clone(self))
    }

    /// Whether its client has so few places that it may have one of those in reserve, of which
    /// there are `limit`.
    pub(crate) fn is_modest(&self, limit: u32) -> bool {
        self.group.has_under((limit / PARTS).max(1))
    }

    /// Ready when one of the client's calls has ended after this was called.
    pub(crate) fn freed(&self) -> Freed<'_> {
        self.group.waiting.fetch_add(1, SeqCst);
        Freed { waiting: &self.group.waiting, notified: self.group.freed.notified() }
    }
}

pin_project_lite::pin_project! {
    /// See [`Share::freed`].
    pub(crate) struct Freed<'a> {
        waiting: &'a AtomicU32,
        #[pin]
        notified: Notified<'a>,
    }

    impl PinnedDrop for Freed<'_> {
        fn drop(this: Pin<&mut Self>) {
            this.waiting.fetch_sub(1, SeqCst);
        }
    }
}

impl Future for Freed<'_> {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.project().notified.poll(cx)
    }
}

impl Freed<'_> {
    /// Counts from here on what has ended.
    pub(crate) fn enable(self: std::pin::Pin<&mut Self>) {
        self.project().notified.enable();
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
        // Either this sees who waits, or who waits sees that the place is given back.
        if self.0.group.waiting.load(SeqCst) > 0 {
            self.0.group.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_client_is_modest_while_it_has_less_than_its_part_and_one_place_is_everybody_s() {
        let shares = Shares::default();
        let share = shares.of(None);
        assert!(share.is_modest(1) && share.is_modest(100));
        let held: Vec<_> = (0..12).map(|_| share.hold()).collect();
        assert!(!share.is_modest(100) && share.is_modest(104), "twelve of a hundred are an eighth");
        drop(held);
        let _one = share.hold();
        assert!(!share.is_modest(1) && !share.is_modest(15) && share.is_modest(16));
    }

    #[test]
    fn connections_from_one_address_count_together_but_not_those_from_this_machine() {
        let shares = Shares::default();
        let cases = [(Some("192.0.2.1"), true), (Some("127.0.0.1"), false), (Some("::1"), false), (None, false)];
        for (peer, together) in cases {
            let peer: Option<IpAddr> = peer.map(|text| text.parse().unwrap());
            let (a, b) = (shares.of(peer), shares.of(peer));
            let held = (a.hold(), a.hold());
            assert_eq!(b.is_modest(16), !together, "{peer:?}");
            drop(a);
            assert_eq!(b.is_modest(8), !together, "{peer:?}: what a connection that is gone still has counts");
            drop(held);
            assert!(b.is_modest(8));
        }
        for n in 0..1000_u32 {
            drop(shares.of(Some(IpAddr::from((0xc000_0200 + n).to_be_bytes()))));
        }
        assert!(shares.by_address.lock().unwrap().groups.len() <= 65, "addresses that are gone are forgotten");
    }

    #[test]
    fn whoever_waits_hears_of_an_end() {
        let share = Shares::default().of(None);
        let held = share.hold();
        {
            let mut freed = pin!(share.freed());
            freed.as_mut().enable();
            assert!(freed.as_mut().now_or_never().is_none());
            drop(held);
            assert!(freed.now_or_never().is_some());
        }
        assert_eq!(share.group.waiting.load(SeqCst), 0);
    }
}
