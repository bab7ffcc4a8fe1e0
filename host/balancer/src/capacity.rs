//! How many services a node balances at once, and which of those without endpoints is displaced
//! when another comes.
//!
//! ```text
//!              named by a caller                 endpoints came
//!   New ──────────────────────────▶ NeverHad ───────────────────▶ HasEndpoints ◀──┐
//!    │                                │                            │              │ endpoints came back
//!    │ configured                     │ room is needed:            │ the last     │
//!    ▼                                ▼ the oldest first           ▼ one went     │
//!   Pinned: stays                    Gone ◀─────(if need be)───── Lost ───────────┘
//! ```
//!
//! Names come from callers, who can make up any number of them. What a made-up name costs so is
//! bounded by [`Capacity::reserve`] before anything is begun for it, and room for another is found
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

/// What is left of the services that a node may balance, and who has the rest.
pub(super) struct Capacity {
    most: usize,
    most_empty: usize,
    reservations: Mutex<Reservations>,
}

#[derive(Default)]
struct Reservations {
    taken: usize,
    next: u64,
    /// Those that callers named and that never had endpoints, the oldest first.
    never_had: BTreeMap<u64, Weak<Reservation>>,
    /// Those that have none any more, the one that lost them first at the beginning.
    lost: BTreeMap<u64, Weak<Reservation>>,
    displaced: u64,
}

/// As many services as may are balanced, and each of them has endpoints or is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtCapacity {
    pub(super) limit: usize,
}

/// One service's part of the capacity, until it is released or dropped.
pub(super) struct Reservation {
    capacity: Arc<Capacity>,
    name: ServiceName,
    /// What was last said of its endpoints, to be told apart without the lock.
    has_endpoints: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is being begun, and cannot be displaced yet.
    New,
    /// A caller named it, and it never had endpoints; with its number in that queue.
    NeverHad(u64),
    /// It had endpoints and has none now; with its number in that queue.
    Lost(u64),
    /// It has endpoints: it stays.
    HasEndpoints,
    /// It is configured: it stays.
    Pinned,
    /// It was displaced or released.
    Gone,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Services that are balanced.
    pub services: usize,
    /// Those of them that nobody configured and that have no endpoints.
    pub empty: usize,
    /// Those that were displaced by another so far.
    pub displaced: u64,
}

impl Capacity {
    /// For so many services, of which so many may be ones that callers named and that never had
    /// endpoints.
    pub(super) fn new(most: usize, most_empty: usize) -> Arc<Self> {
        Arc::new(Self { most, most_empty: most_empty.max(1), reservations: Mutex::default() })
    }

    /// Reserves one for this service. Answers beside it those that were displaced for it, which are
    /// to be forgotten.
    pub(super) fn reserve(
        self: &Arc<Self>,
        name: &ServiceName,
        pinned: bool,
    ) -> Result<(Arc<Reservation>, Vec<Arc<Reservation>>), AtCapacity> {
        let mut reservations = self.reservations();
        let mut displaced = Vec::new();
        if !pinned && reservations.never_had.len() >= self.most_empty {
            displaced.extend(reservations.displace(false));
        }
        while reservations.taken >= self.most {
            match reservations.displace(true) {
                Some(reservation) => displaced.push(reservation),
                None => return Err(AtCapacity { limit: self.most }),
            }
        }
        reservations.taken += 1;
        let state = if pinned { State::Pinned } else { State::New };
        let reservation = Reservation {
            capacity: Arc::clone(self),
            name: name.clone(),
            has_endpoints: AtomicBool::new(false),
            state: Mutex::new(state),
        };
        Ok((Arc::new(reservation), displaced))
    }

    /// How many there are.
    pub(super) fn census(&self) -> Census {
        let reservations = self.reservations();
        Census {
            services: reservations.taken,
            empty: reservations.never_had.len() + reservations.lost.len(),
            displaced: reservations.displaced,
        }
    }

    fn reservations(&self) -> MutexGuard<'_, Reservations> {
        // Nothing that runs under it can panic half-way.
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservations {
    /// Displaces the oldest one without endpoints; one that had some before only if there is no
    /// other and `lost_too` allows it.
    fn displace(&mut self, lost_too: bool) -> Option<Arc<Reservation>> {
        loop {
            let (_, oldest) =
                self.never_had.pop_first().or_else(|| lost_too.then(|| self.lost.pop_first()).flatten())?;
            // One that is being dropped releases itself.
            let Some(reservation) = oldest.upgrade() else { continue };
            *reservation.state() = State::Gone;
            self.taken -= 1;
            self.displaced += 1;
            return Some(reservation);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn leave_queue(&mut self, state: State) {
        match state {
            State::NeverHad(number) => drop(self.never_had.remove(&number)),
            State::Lost(number) => drop(self.lost.remove(&number)),
            State::New | State::HasEndpoints | State::Pinned | State::Gone => {}
        }
    }
}

impl Reservation {
    /// The service.
    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The service is balanced from now on: it may be displaced unless it has endpoints.
    pub(super) fn allow_displacing(self: &Arc<Self>) {
        let mut reservations = self.capacity.reservations();
        let mut state = self.state();
        if *state == State::New {
            let number = reservations.number();
            reservations.never_had.insert(number, Arc::downgrade(self));
            *state = State::NeverHad(number);
        }
    }

    /// Says whether the service has endpoints. Costs a look where nothing changes.
    pub(super) fn set_has_endpoints(self: &Arc<Self>, has_endpoints: bool) {
        if self.has_endpoints.swap(has_endpoints, Relaxed) == has_endpoints {
            return;
        }
        let mut reservations = self.capacity.reservations();
        let mut state = self.state();
        *state = match (*state, has_endpoints) {
            (State::New | State::NeverHad(_) | State::Lost(_), true) => {
                reservations.leave_queue(*state);
                State::HasEndpoints
            }
            (State::HasEndpoints, false) => {
                let number = reservations.number();
                reservations.lost.insert(number, Arc::downgrade(self));
                State::Lost(number)
            }
            (state, _) => state,
        };
    }

    /// Whoever runs the node asked for the service: it is never displaced.
    pub(super) fn pin(&self) {
        let mut reservations = self.capacity.reservations();
        let mut state = self.state();
        if *state != State::Gone {
            reservations.leave_queue(*state);
            *state = State::Pinned;
        }
    }

    /// Gives it back, for another service. A second time changes nothing.
    pub(super) fn release(&self) {
        let mut reservations = self.capacity.reservations();
        let mut state = self.state();
        if *state != State::Gone {
            reservations.leave_queue(*state);
            reservations.taken -= 1;
            *state = State::Gone;
        }
    }

    /// Always taken after the reservations are.
    fn state(&self) -> MutexGuard<'_, State> {
        // As for the reservations.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn name(n: usize) -> ServiceName {
        ServiceName::new(format!("svc-{n}")).unwrap()
    }

    /// One that a caller named, with those that it displaced.
    fn brought(capacity: &Arc<Capacity>, n: usize) -> (Arc<Reservation>, Vec<ServiceName>) {
        let (reservation, displaced) = capacity.reserve(&name(n), false).unwrap();
        reservation.allow_displacing();
        (reservation, displaced.iter().map(|reservation| reservation.name().clone()).collect())
    }

    #[test]
    fn the_oldest_without_endpoints_goes_and_what_has_or_is_configured_stays() {
        let capacity = Capacity::new(4, 10);
        let (configured, _) = capacity.reserve(&name(0), true).unwrap();
        let kept: Vec<_> = (1..4).map(|n| brought(&capacity, n).0).collect();
        kept[0].set_has_endpoints(true);
        let (fourth, displaced) = brought(&capacity, 4);
        assert_eq!(displaced, [name(2)], "1 has endpoints, 0 is configured, 3 is younger");
        assert_eq!(brought(&capacity, 5).1, [name(3)], "the sixth is dropped at once, and released with it");
        fourth.set_has_endpoints(true);
        kept[0].set_has_endpoints(false);
        let (sixth, displaced) = brought(&capacity, 6);
        assert!(displaced.is_empty(), "there was room");
        assert_eq!(brought(&capacity, 7).1, [name(6)], "what once had endpoints outlives what never had");
        sixth.release();
        let (seventh, displaced) = brought(&capacity, 7);
        assert!(displaced.is_empty());
        seventh.set_has_endpoints(true);
        let (eighth, displaced) = brought(&capacity, 8);
        assert_eq!(displaced, [name(1)], "but goes when there is no other");
        eighth.set_has_endpoints(true);
        assert_eq!(capacity.reserve(&name(9), false).err(), Some(AtCapacity { limit: 4 }));
        assert_eq!(capacity.census(), Census { services: 4, empty: 0, displaced: 4 });
        drop((configured, kept));
        assert_eq!(capacity.census().services, 3, "the first displaced was released long ago");
    }

    #[test]
    fn callers_name_only_so_many_without_endpoints() {
        let capacity = Capacity::new(100, 3);
        let mut kept: Vec<_> = (0..3).map(|n| brought(&capacity, n).0).collect();
        let (more, displaced) = brought(&capacity, 3);
        assert_eq!(displaced, [name(0)]);
        more.set_has_endpoints(true);
        assert!(brought(&capacity, 4).1.is_empty(), "one of the three has endpoints now");
        kept[1].pin();
        kept.push(brought(&capacity, 5).0);
        kept.push(brought(&capacity, 6).0);
        assert_eq!(brought(&capacity, 7).1, [name(2)], "a pinned one counts no more");
    }

    #[test]
    fn what_is_being_begun_cannot_be_displaced_and_is_released_once() {
        let capacity = Capacity::new(1, 1);
        let (first, _) = capacity.reserve(&name(0), false).unwrap();
        assert!(capacity.reserve(&name(1), false).is_err());
        first.release();
        first.allow_displacing();
        first.pin();
        first.set_has_endpoints(true);
        drop(first);
        assert_eq!(capacity.census(), Census::default());
        assert!(capacity.reserve(&name(1), false).is_ok());
    }
}
