//! How many calls of a service run and wait: one gate a service, kept over all its generations.
//!
//! ```text
//!   call ──▶ enter: a place in the service ──▶ pick ──▶ a place at the endpoint ──▶ attempts … end
//!              │ none free                      │ all full, or none usable
//!              └────────────▶ queue ◀───────────┘
//!                              │ `max_pending` wait already: refused at once
//! ```
//!
//! A service without limits pays for none of it: it has no places to count, and calls that need not wait never come to the queue.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified};

use crate::traffic::{Tokens, Traffic};

/// What lets calls in.
pub struct Gate {
    /// The places of the service, handed on in the order of waiting; none where their number is not limited.
    places: Option<Arc<Semaphore>>,
    per_endpoint: u32,
    max_pending: u32,
    pending: AtomicU32,
    refused: AtomicU64,
    /// A call has ended on an endpoint whose places are limited: one of those who wait may try.
    freed: Notify,
    /// An endpoint can be used again.
    readied: Notify,
    tokens: Arc<Tokens>,
}

/// A place in the service. Dropping it gives it to whoever waits longest.
pub struct Place(
    #[expect(dead_code, reason = "it is held, and given back by dropping it")] Option<OwnedSemaphorePermit>,
);

/// Too many calls wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded {
    /// How many may wait.
    pub max_pending: u32,
}

/// A call that waits. Dropping it ends the wait.
pub struct Pending<'a>(&'a Gate);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

impl Gate {
    /// A gate with this traffic's limits, and all of its retry budget.
    pub fn new(traffic: &Traffic) -> Self {
        let limits = &traffic.limits;
        let places = limits.max_in_flight.map(|places| (places as usize).min(Semaphore::MAX_PERMITS));
        Self {
            places: places.map(|places| Arc::new(Semaphore::new(places))),
            per_endpoint: limits.max_in_flight_per_endpoint.unwrap_or(u32::MAX),
            max_pending: limits.max_pending,
            pending: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            freed: Notify::new(),
            readied: Notify::new(),
            tokens: Arc::new(Tokens::new(traffic.retry_budget)),
        }
    }

    /// What is left of the service's retry budget.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// A place for a call, if one is free.
    pub fn try_enter(&self) -> Option<Place> {
        match &self.places {
            None => Some(Place(None)),
            // Places are handed to those who wait first, so that nobody gets in between.
            Some(places) => Arc::clone(places).try_acquire_owned().ok().map(|permit| Place(Some(permit))),
        }
    }

    /// Waits for a place. Enter the queue first: see [`Gate::queue`].
    ///
    /// # Cancel safety
    ///
    /// Safe; the place in the line is lost.
    pub async fn enter(&self) -> Place {
        match &self.places {
            None => Place(None),
            Some(places) => {
                Place(Some(Arc::clone(places).acquire_owned().await.expect("a gate's semaphore is never closed")))
            }
        }
    }

    /// Room to wait for something.
    ///
    /// # Errors
    ///
    /// As many calls as may wait do so already. Tell the caller at once.
    pub fn queue(&self) -> Result<Pending<'_>, Overloaded> {
        if self.pending.fetch_add(1, Relaxed) >= self.max_pending {
            self.pending.fetch_sub(1, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return Err(Overloaded { max_pending: self.max_pending });
        }
        Ok(Pending(self))
    }

    /// Calls that wait.
    pub fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
    }

    /// Calls refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How many calls may run at once on one endpoint; `u32::MAX` for no limit.
    pub(super) fn per_endpoint(&self) -> u32 {
        self.per_endpoint
    }

    /// Tells one of those who wait that a call has ended on an endpoint.
    pub(super) fn free(&self) {
        self.freed.notify_one();
    }

    /// Tells all who wait that an endpoint can be used again.
    pub(super) fn ready(&self) {
        self.readied.notify_waiters();
    }

    /// Ready when a place at an endpoint was given back. It may be gone again: pick once more. Only a call that has tried no endpoint
    /// yet may wait for it, because whoever is woken must be able to use any place.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Ready when an endpoint can be used again after this was called.
    pub fn readied(&self) -> Notified<'_> {
        // Counts from here on, whether it was polled or not: that is what tokio says of `notify_waiters`.
        self.readied.notified()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::FutureExt as _;

    use super::*;
    use crate::traffic::CallLimits;

    fn limited(limits: CallLimits) -> Gate {
        Gate::new(&Traffic { limits, ..Traffic::default() })
    }

    #[tokio::test]
    async fn places_are_handed_on_in_the_order_of_waiting() {
        let gate = limited(CallLimits { max_in_flight: Some(1), ..CallLimits::default() });
        let first = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        let (mut second, mut third) = (Box::pin(gate.enter()), Box::pin(gate.enter()));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(gate.try_enter().is_none(), "nobody gets in between");
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn only_so_many_wait() {
        let gate = limited(CallLimits { max_pending: 2, ..CallLimits::default() });
        let waiting = (gate.queue().unwrap(), gate.queue().unwrap());
        assert_eq!(gate.queue().err(), Some(Overloaded { max_pending: 2 }));
        assert_eq!((gate.pending(), gate.refused()), (2, 1));
        drop(waiting);
        assert!(gate.queue().is_ok());
        let none = limited(CallLimits { max_pending: 0, ..CallLimits::default() });
        assert!(none.queue().is_err());
    }
}
