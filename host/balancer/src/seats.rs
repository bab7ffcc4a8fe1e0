//! Places for services: how many there may be, and which of those without endpoints gives its place
//! to another.
//!
//! ```text
//!            brought about by a caller        endpoints came
//!   taken ──────────────────────────▶ never ───────────────▶ full ◀──┐
//!     │                                 │                      │     │ endpoints came back
//!     │ configured                      │ room is needed:      │ the last one went
//!     ▼                                 ▼ the oldest first     ▼     │
//!   pinned: stays                     gone ◀───(if need be)─── once ─┘
//! ```
//!
//! Names come from callers, who can make up any number of them. What a made-up name costs so is
//! bounded by [`Seats::take`] before anything is begun for it, and room for another is found
//! without a look at the services there are: those without endpoints stand in two queues, by age. A
//! service that had endpoints once is nobody's invention, and goes only when there is no other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use waymark_core::model::ServiceName;

/// All places.
pub(super) struct Seats {
    most: usize,
    most_empty: usize,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    taken: usize,
    next: u64,
    /// Those that callers brought about and that never had endpoints, the oldest first.
    never: BTreeMap<u64, Weak<Seat>>,
    /// Those that have none any more, the one that lost them first at the beginning.
    once: BTreeMap<u64, Weak<Seat>>,
    displaced: u64,
}

/// As many services as may are balanced, and each of them has endpoints or is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) limit: usize,
}

/// A service's place, until it is given up or dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    name: ServiceName,
    /// What was last said of its endpoints, to be told apart without the lock.
    full: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not to be seen yet: nobody's to give away.
    New,
    Never(u64),
    Once(u64),
    Full,
    Pinned,
    Gone,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Services that are balanced.
    pub services: usize,
    /// Those of them that nobody configured and that have no endpoints.
    pub empty: usize,
    /// Those that gave their place to another so far.
    pub displaced: u64,
}

impl Seats {
    /// So many places, of which so many are for services that callers brought about and that never
    /// had endpoints.
    pub(super) fn new(most: usize, most_empty: usize) -> Arc<Self> {
        Arc::new(Self { most, most_empty: most_empty.max(1), rows: Mutex::default() })
    }

    /// A place for this service; beside it those that lost theirs to it, which are to be forgotten.
    pub(super) fn take(
        self: &Arc<Self>,
        name: &ServiceName,
        pinned: bool,
    ) -> Result<(Arc<Seat>, Vec<Arc<Seat>>), Full> {
        let mut rows = self.rows();
        let mut displaced = Vec::new();
        if !pinned && rows.never.len() >= self.most_empty {
            displaced.extend(rows.displace(false));
        }
        while rows.taken >= self.most {
            match rows.displace(true) {
                Some(seat) => displaced.push(seat),
                None => return Err(Full { limit: self.most }),
            }
        }
        rows.taken += 1;
        let state = if pinned { State::Pinned } else { State::New };
        let seat = Seat {
            seats: Arc::clone(self),
            name: name.clone(),
            full: AtomicBool::new(false),
            state: Mutex::new(state),
        };
        Ok((Arc::new(seat), displaced))
    }

    /// How many there are.
    pub(super) fn census(&self) -> Census {
        let rows = self.rows();
        Census { services: rows.taken, empty: rows.never.len() + rows.once.len(), displaced: rows.displaced }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Nothing that runs under it can panic half-way.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    /// Takes the place of the oldest one without endpoints, of those that once had some only if
    /// there is no other.
    fn displace(&mut self, once: bool) -> Option<Arc<Seat>> {
        loop {
            let (_, oldest) = self.never.pop_first().or_else(|| once.then(|| self.once.pop_first()).flatten())?;
            // One that is being dropped gives its place back itself.
            let Some(seat) = oldest.upgrade() else { continue };
            *seat.state() = State::Gone;
            self.taken -= 1;
            self.displaced += 1;
            return Some(seat);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn leave_queue(&mut self, state: State) {
        match state {
            State::Never(number) => drop(self.never.remove(&number)),
            State::Once(number) => drop(self.once.remove(&number)),
            State::New | State::Full | State::Pinned | State::Gone => {}
        }
    }
}

impl Seat {
    /// The service.
    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The service can be seen from now on: it may lose its place unless it has endpoints.
    pub(super) fn show(self: &Arc<Self>) {
        let mut rows = self.seats.rows();
        let mut state = self.state();
        if *state == State::New {
            let number = rows.number();
            rows.never.insert(number, Arc::downgrade(self));
            *state = State::Never(number);
        }
    }

    /// Says whether the service has endpoints. Costs a look where nothing changes.
    pub(super) fn set_full(self: &Arc<Self>, full: bool) {
        if self.full.swap(full, Relaxed) == full {
            return;
        }
        let mut rows = self.seats.rows();
        let mut state = self.state();
        *state = match (*state, full) {
            (State::New | State::Never(_) | State::Once(_), true) => {
                rows.leave_queue(*state);
                State::Full
            }
            (State::Full, false) => {
                let number = rows.number();
                rows.once.insert(number, Arc::downgrade(self));
                State::Once(number)
            }
            (state, _) => state,
        };
    }

    /// The service was asked for by whoever runs the node: it keeps its place.
    pub(super) fn pin(&self) {
        let mut rows = self.seats.rows();
        let mut state = self.state();
        if *state != State::Gone {
            rows.leave_queue(*state);
            *state = State::Pinned;
        }
    }

    /// Gives the place to another. Once is enough.
    pub(super) fn give_up(&self) {
        let mut rows = self.seats.rows();
        let mut state = self.state();
        if *state != State::Gone {
            rows.leave_queue(*state);
            rows.taken -= 1;
            *state = State::Gone;
        }
    }

    /// Always taken after the rows are.
    fn state(&self) -> MutexGuard<'_, State> {
        // As for the rows.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn name(n: usize) -> ServiceName {
        ServiceName::new(format!("svc-{n}")).unwrap()
    }

    /// One that callers brought about, with those that it displaced.
    fn brought(seats: &Arc<Seats>, n: usize) -> (Arc<Seat>, Vec<ServiceName>) {
        let (seat, displaced) = seats.take(&name(n), false).unwrap();
        seat.show();
        (seat, displaced.iter().map(|seat| seat.name().clone()).collect())
    }

    #[test]
    fn the_oldest_without_endpoints_goes_and_what_has_or_is_configured_stays() {
        let seats = Seats::new(4, 10);
        let (configured, _) = seats.take(&name(0), true).unwrap();
        let kept: Vec<_> = (1..4).map(|n| brought(&seats, n).0).collect();
        kept[0].set_full(true);
        let (fourth, displaced) = brought(&seats, 4);
        assert_eq!(displaced, [name(2)], "1 has endpoints, 0 is configured, 3 is younger");
        assert_eq!(brought(&seats, 5).1, [name(3)], "the sixth is dropped at once, and gives its place back");
        fourth.set_full(true);
        kept[0].set_full(false);
        let (sixth, displaced) = brought(&seats, 6);
        assert!(displaced.is_empty(), "there was room");
        assert_eq!(brought(&seats, 7).1, [name(6)], "what once had endpoints outlives what never had");
        sixth.give_up();
        let (seventh, displaced) = brought(&seats, 7);
        assert!(displaced.is_empty());
        seventh.set_full(true);
        let (eighth, displaced) = brought(&seats, 8);
        assert_eq!(displaced, [name(1)], "but goes when there is no other");
        eighth.set_full(true);
        assert_eq!(seats.take(&name(9), false).err(), Some(Full { limit: 4 }));
        assert_eq!(seats.census(), Census { services: 4, empty: 0, displaced: 4 });
        drop((configured, kept));
        assert_eq!(seats.census().services, 3, "the first displaced gave up long ago");
    }

    #[test]
    fn callers_bring_about_only_so_many_without_endpoints() {
        let seats = Seats::new(100, 3);
        let mut seated: Vec<_> = (0..3).map(|n| brought(&seats, n).0).collect();
        let (more, displaced) = brought(&seats, 3);
        assert_eq!(displaced, [name(0)]);
        more.set_full(true);
        assert!(brought(&seats, 4).1.is_empty(), "one of the three has endpoints now");
        seated[1].pin();
        seated.push(brought(&seats, 5).0);
        seated.push(brought(&seats, 6).0);
        assert_eq!(brought(&seats, 7).1, [name(2)], "a pinned one counts no more");
    }

    #[test]
    fn what_is_not_shown_yet_cannot_be_displaced_and_a_place_is_given_up_once() {
        let seats = Seats::new(1, 1);
        let (first, _) = seats.take(&name(0), false).unwrap();
        assert!(seats.take(&name(1), false).is_err());
        first.give_up();
        first.show();
        first.pin();
        first.set_full(true);
        drop(first);
        assert_eq!(seats.census(), Census::default());
        assert!(seats.take(&name(1), false).is_ok());
    }
}
