//! The connections of one way into the node's API: how many there may be, which of them goes when
//! there is one more, and when one that is not used ends.
//!
//! Descriptors are set aside for them: what is connected here takes none from callers of services,
//! who may have three quarters of all. And nobody shuts others out by connecting and staying: who
//! comes last is let in, and the one goes that was of no use for longest.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The most connections of one way in, unless the process has few descriptors.
const MOST: usize = 64;

/// One in so many descriptors is for one way in.
const SHARE: u64 = 32;

/// How many requests of one connection may be refused. Who goes on after that has to connect anew.
const REFUSED: u32 = 100;

/// The places of one way in.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    most: usize,
    began: Instant,
    taken: Mutex<Vec<Arc<ConnectionSlot>>>,
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    /// Cancelled when another needs the place, or the connection has had its share.
    pub(super) leave: CancellationToken,
    began: Instant,
    /// Requests that run: those whose answer was not read to its end.
    running: AtomicU32,
    /// When one ended last, or the connection was made; milliseconds since `began`.
    used: AtomicU64,
    refused: AtomicU32,
}

impl ConnectionLimit {
    /// As many as may be: 64, or what the process's descriptors are good for.
    pub(super) fn new() -> Self {
        let by_descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most / SHARE).ok());
        Self::of(by_descriptors.map_or(MOST, |most| most.clamp(8, MOST)))
    }

    fn of(most: usize) -> Self {
        Self { most, began: Instant::now(), taken: Mutex::default() }
    }

    /// A place, somebody else's if need be: whose connection has nothing running for longest; if
    /// all have, who came first.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        let slot = Arc::new(ConnectionSlot {
            leave: CancellationToken::new(),
            began: self.began,
            running: AtomicU32::new(0),
            used: AtomicU64::new(since(self.began)),
            refused: AtomicU32::new(0),
        });
        // A panic while it is held leaves the list as it was.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = (taken.len() >= self.most).then(|| {
            let idle = taken.iter().enumerate().filter(|(_, slot)| slot.running.load(Relaxed) == 0);
            let longest = idle.min_by_key(|(_, slot)| slot.used.load(Relaxed)).map_or(0, |(nth, _)| nth);
            taken.remove(longest).leave.cancel();
        });
        taken.push(Arc::clone(&slot));
        Taken { connections: Arc::clone(self), slot, evicted: evicted.is_some() }
    }
}

/// A place that is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    connections: Arc<ConnectionLimit>,
    pub(super) slot: Arc<ConnectionSlot>,
    /// Whether another had to go.
    pub(super) evicted: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.connections.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

fn since(began: Instant) -> u64 {
    began.elapsed().as_millis() as u64
}

/// A request that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Running(Arc<ConnectionSlot>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.used.store(since(self.0.began), Relaxed);
        self.0.running.fetch_sub(1, Relaxed);
    }
}

impl ConnectionSlot {
    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Relaxed);
        Running(Arc::clone(self))
    }

    /// A request was refused. After too many the connection ends.
    pub(super) fn refused(&self) {
        if self.refused.fetch_add(1, Relaxed) + 1 >= REFUSED {
            self.leave.cancel();
        }
    }

    /// Completes when nothing ran for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        let limit = limit.as_millis() as u64;
        loop {
            let unused = since(self.began).saturating_sub(self.used.load(Relaxed));
            let busy = self.running.load(Relaxed) > 0;
            if !busy && unused >= limit {
                return;
            }
            sleep(Duration::from_millis(if busy { limit } else { (limit - unused).max(1) })).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_last_gets_the_place_of_who_was_of_no_use_for_longest() {
        let connections = Arc::new(ConnectionLimit::of(3));
        let (first, second, third) = (connections.take(), connections.take(), connections.take());
        assert!(![&first, &second, &third].iter().any(|taken| taken.evicted));
        let running = first.slot.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(second.slot.begin());
        let fourth = connections.take();
        assert!(fourth.evicted && third.slot.leave.is_cancelled(), "the first is busy and the second was used");
        assert!(!first.slot.leave.is_cancelled() && !second.slot.leave.is_cancelled());
        drop(third);
        let (_busy_too, _and_too) = (second.slot.begin(), fourth.slot.begin());
        let fifth = connections.take();
        assert!(fifth.evicted && first.slot.leave.is_cancelled(), "all are busy: who came first");
        drop((running, first, fifth));
        assert!(!connections.take().evicted, "places are given back");
        assert_eq!(connections.taken.lock().unwrap_or_else(PoisonError::into_inner).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_ran_for_a_while() {
        let connections = Arc::new(ConnectionLimit::of(1));
        let taken = connections.take();
        let limit = Duration::from_secs(60);
        let running = taken.slot.begin();
        let idle = tokio::spawn({
            let slot = Arc::clone(&taken.slot);
            async move { slot.idle(limit).await }
        });
        sleep(limit * 3).await;
        assert!(!idle.is_finished(), "a stream runs");
        drop(running);
        let ended = Instant::now();
        idle.await.unwrap_or_default();
        assert!((limit..limit * 2).contains(&ended.elapsed()));
    }

    #[tokio::test]
    async fn who_is_refused_again_and_again_has_to_connect_anew() {
        let taken = Arc::new(ConnectionLimit::of(1)).take();
        for _ in 1..REFUSED {
            taken.slot.refused();
        }
        assert!(!taken.slot.leave.is_cancelled());
        taken.slot.refused();
        assert!(taken.slot.leave.is_cancelled());
    }
}
