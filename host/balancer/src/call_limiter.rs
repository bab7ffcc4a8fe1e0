//! Limits how many calls of a service run and wait, as Envoy's circuit breakers do: one limiter a
//! service, kept over all its generations.
//!
//! ```text
//!   call ──▶ acquire: a permit of the service ─▶ pick ──▶ room on the endpoint ──▶ attempts … end
//!              │ none free                      │ all full, or none usable
//!              └────────────▶ queue ◀───────────┘
//!                              │ `max_pending` wait already: refused at once
//! ```
//!
//! An eighth of a service's permits is for callers who have few, so that those who hold all their
//! calls leave some to others. Who has few is the data plane's to say: it knows the callers.
//!
//! A service without limits pays for none of it: it has no permits to count, and calls that need
//! not wait never come to the queue.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified};
use waymark_core::traffic::{Tokens, Traffic};

/// Counts the calls of one service, lets in no more than may run, and wakes those who wait.
pub struct CallLimiter {
    /// The permits of the service; none where their number is not limited.
    permits: Option<Permits>,
    per_endpoint: u32,
    unanswered: u32,
    max_pending: u32,
    pending: AtomicU32,
    refused: AtomicU64,
    /// A call has ended on an endpoint that takes only so many: one of those who wait may try.
    freed: Notify,
    /// An endpoint can be used again.
    readied: Notify,
    /// Endpoints that are connected to.
    connected: AtomicU32,
    /// Endpoints to which the first attempt runs.
    connecting: AtomicU32,
    tokens: Arc<Tokens>,
}

/// Permits, handed on in the order of waiting.
struct Permits {
    for_all: Arc<Semaphore>,
    /// For callers who have few; it may have none.
    for_few: Arc<Semaphore>,
    limit: u32,
}

/// One of so many permits is for callers who have few.
const PARTS: usize = 8;

/// A permit for one call of the service. Dropping it gives it to whoever waits longest.
pub struct CallPermit(
    #[expect(dead_code, reason = "it is held, and given back by dropping it")] Option<OwnedSemaphorePermit>,
);

/// Too many calls wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded {
    /// How many may wait.
    pub max_pending: u32,
}

/// A call that waits. Dropping it ends the wait.
pub struct PendingCall<'a>(&'a CallLimiter);

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

impl CallLimiter {
    /// A limiter with this traffic's limits, and all of its retry budget.
    pub fn new(traffic: &Traffic) -> Self {
        let limits = &traffic.limits;
        let permits = limits.max_in_flight.map(|limit| {
            let all = (limit as usize).min(Semaphore::MAX_PERMITS);
            let few = all / PARTS;
            Permits { for_all: Arc::new(Semaphore::new(all - few)), for_few: Arc::new(Semaphore::new(few)), limit }
        });
        Self {
            permits,
            per_endpoint: limits.max_in_flight_per_endpoint.unwrap_or(u32::MAX),
            unanswered: traffic.unanswered,
            max_pending: limits.max_pending,
            pending: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            freed: Notify::new(),
            readied: Notify::new(),
            connected: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            tokens: Arc::new(Tokens::new(traffic.retry_budget)),
        }
    }

    /// After how many calls in a row that an endpoint did not answer it is passed over; 0 for
    /// never.
    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// What is left of the service's retry budget.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// A permit for a call, if one is free. `has_few`: whether its caller has few of so many
    /// permits; asked only where they are short.
    pub fn try_acquire(&self, has_few: impl FnOnce(u32) -> bool) -> Option<CallPermit> {
        let Some(permits) = &self.permits else { return Some(CallPermit(None)) };
        // Permits are handed to those who wait first, so that nobody gets in between.
        let free = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let permit =
            free(&permits.for_all).or_else(|| has_few(permits.limit).then(|| free(&permits.for_few)).flatten())?;
        Some(CallPermit(Some(permit)))
    }

    /// Waits for a permit. Enter the queue first: see [`CallLimiter::queue`]. `has_few` is as for
    /// [`CallLimiter::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// Safe; the place in the line is lost.
    pub async fn acquire(&self, has_few: impl FnOnce(u32) -> bool) -> CallPermit {
        let Some(permits) = &self.permits else { return CallPermit(None) };
        let permit = if has_few(permits.limit) {
            tokio::select! {
                permit = Arc::clone(&permits.for_all).acquire_owned() => permit,
                permit = Arc::clone(&permits.for_few).acquire_owned() => permit,
            }
        } else {
            Arc::clone(&permits.for_all).acquire_owned().await
        };
        CallPermit(Some(permit.expect("a limiter's semaphores are never closed")))
    }

    /// Room to wait for something.
    ///
    /// # Errors
    ///
    /// As many calls as may wait do so already. Tell the caller at once.
    pub fn queue(&self) -> Result<PendingCall<'_>, Overloaded> {
        if self.pending.fetch_add(1, Relaxed) >= self.max_pending {
            self.pending.fetch_sub(1, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return Err(Overloaded { max_pending: self.max_pending });
        }
        Ok(PendingCall(self))
    }

    /// Calls that wait.
    pub fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
    }

    /// Calls refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How many endpoints are connected to, those included that are gone from the registry while
    /// calls run on them.
    pub fn connected(&self) -> u32 {
        self.connected.load(Relaxed)
    }

    /// To how many endpoints the first attempt runs, or the first after a loss.
    pub fn connecting(&self) -> u32 {
        self.connecting.load(Relaxed)
    }

    /// An endpoint is connected to, or no more.
    pub(super) fn count_connected(&self, is: bool) {
        count(&self.connected, is);
    }

    /// The first attempt to connect to an endpoint runs, or no more.
    pub(super) fn count_connecting(&self, is: bool) {
        count(&self.connecting, is);
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

    /// Ready when a call has ended on an endpoint. Its room may be taken again: pick once more.
    /// Only a call that has tried no endpoint yet may wait for it, because whoever is woken must be
    /// able to use any endpoint.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Ready when, after this was called, an endpoint can be used again, or one that can be used
    /// was connected to.
    pub fn readied(&self) -> Notified<'_> {
        // Counts from here on, whether it was polled or not: that is what tokio says of
        // `notify_waiters`.
        self.readied.notified()
    }
}

fn count(of: &AtomicU32, more: bool) {
    if more {
        of.fetch_add(1, Relaxed);
    } else {
        of.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::FutureExt as _;
    use waymark_core::traffic::CallLimits;

    use super::*;

    fn limited(limits: CallLimits) -> CallLimiter {
        CallLimiter::new(&Traffic { limits, ..Traffic::default() })
    }

    #[tokio::test]
    async fn permits_are_handed_on_in_the_order_of_waiting() {
        let limiter = limited(CallLimits { max_in_flight: Some(1), ..CallLimits::default() });
        let many = |_| false;
        let first = limiter.try_acquire(many).unwrap();
        assert!(limiter.try_acquire(|_| true).is_none(), "the only permit is nobody's in particular");
        let (mut second, mut third) = (Box::pin(limiter.acquire(many)), Box::pin(limiter.acquire(many)));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(limiter.try_acquire(many).is_none(), "nobody gets in between");
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
        assert!(limiter.try_acquire(many).is_some());
    }

    #[tokio::test]
    async fn the_last_eighth_is_for_callers_who_have_few() {
        let limiter = limited(CallLimits { max_in_flight: Some(16), ..CallLimits::default() });
        let held: Vec<_> = std::iter::from_fn(|| limiter.try_acquire(|_| false)).collect();
        assert_eq!(held.len(), 14);
        let mut many = Box::pin(limiter.acquire(|_| false));
        assert!(many.as_mut().now_or_never().is_none());
        let few = |limit| {
            assert_eq!(limit, 16);
            true
        };
        let (first, _second) = (limiter.try_acquire(few).unwrap(), limiter.try_acquire(few).unwrap());
        let mut third = Box::pin(limiter.acquire(few));
        assert!(limiter.try_acquire(few).is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(many.as_mut().now_or_never().is_none() && third.now_or_never().is_some());
        drop(held);
        assert!(many.now_or_never().is_some());
    }

    #[test]
    fn only_so_many_wait() {
        let limiter = limited(CallLimits { max_pending: 2, ..CallLimits::default() });
        let waiting = (limiter.queue().unwrap(), limiter.queue().unwrap());
        assert_eq!(limiter.queue().err(), Some(Overloaded { max_pending: 2 }));
        assert_eq!((limiter.pending(), limiter.refused()), (2, 1));
        drop(waiting);
        assert!(limiter.queue().is_ok());
        let none = limited(CallLimits { max_pending: 0, ..CallLimits::default() });
        assert!(none.queue().is_err());
    }
}
