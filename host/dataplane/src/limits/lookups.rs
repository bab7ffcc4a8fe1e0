//! What it may cost to look for services that nobody has.
//!
//! A name that is balanced already costs a look; a new one costs a list and a watch of the
//! registry, and callers can make up as many as they like. So each client's connection may look for
//! a few at once, and spends a token for each name that the registry does not know; whoever has
//! none left gets no further one for a while. Names that are known cost nothing, however many come
//! at once.

use thiserror::Error;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::warn;

use super::{rate_limited_log::RateLimitedLog, token_bucket::TokenBucket};

/// How many new names a client's connection may have looked for at once. Its further calls wait for
/// a turn, so that a client that asks for a thousand leaves turns to others.
const AT_ONCE: usize = 8;

/// How many unknown names a client's connection may have asked for, and how many more a second.
const UNKNOWN: (u32, u32) = (50, 5);

/// The same over all clients. Beyond it those get no more who have asked for more than [`FEW`].
const UNKNOWN_IN_ALL: (u32, u32) = (500, 50);

const FEW: u32 = 10;

/// A client has asked for too many services that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this client asked for more than {} services that are not in the registry, and for now this node looks for no more of them", UNKNOWN.0)]
pub(crate) struct TooManyUnknown;

/// What the clients of a node have asked for in vain, together.
pub(crate) struct Lookups {
    tokens: TokenBucket,
    warned: RateLimitedLog,
}

/// What one client's connection has.
pub(crate) struct ClientLookups {
    turns: Semaphore,
    tokens: TokenBucket,
}

/// A new name that is being looked for. Its tokens are spent unless [`Self::refund`] is called.
pub(crate) struct Lookup<'a> {
    client: &'a ClientLookups,
    all: &'a Lookups,
    _turn: SemaphorePermit<'a>,
}

impl Lookups {
    pub(crate) fn new(now: Instant) -> Self {
        let (most, a_second) = UNKNOWN_IN_ALL;
        Self { tokens: TokenBucket::new(most, a_second, now), warned: RateLimitedLog::default() }
    }

    /// Waits for a turn to look for a new name.
    ///
    /// # Errors
    ///
    /// The client has asked for too many that nobody knows: it hears so at once, and nothing is
    /// begun.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn begin<'a>(&'a self, client: &'a ClientLookups) -> Result<Lookup<'a>, TooManyUnknown> {
        self.check(client)?;
        let turn = client.turns.acquire().await.expect("turns are never closed");
        // What was asked for meanwhile counts.
        self.check(client)?;
        let now = Instant::now();
        client.tokens.spend(now);
        self.tokens.spend(now);
        Ok(Lookup { client, all: self, _turn: turn })
    }

    fn check(&self, client: &ClientLookups) -> Result<(), TooManyUnknown> {
        let now = Instant::now();
        if client.tokens.is_empty(now) || (self.tokens.is_empty(now) && client.tokens.spent(now) >= FEW) {
            if let Some(untold) = self.warned.allow() {
                warn!(untold, "refused to look for a service: its client asked for too many that nobody has");
            }
            return Err(TooManyUnknown);
        }
        Ok(())
    }
}

impl ClientLookups {
    pub(crate) fn new(now: Instant) -> Self {
        let (most, a_second) = UNKNOWN;
        Self { turns: Semaphore::new(AT_ONCE), tokens: TokenBucket::new(most, a_second, now) }
    }
}

impl Lookup<'_> {
    /// The name was worth looking for, or the registry has not said that it was not.
    pub(crate) fn refund(&self) {
        self.client.tokens.refund();
        self.all.tokens.refund();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_too_many_unknown_names_waits_for_time_to_pass_and_known_ones_cost_nothing() {
        let now = Instant::now();
        let (all, client) = (Lookups::new(now), ClientLookups::new(now));
        for _ in 0..UNKNOWN.0 * 3 {
            all.begin(&client).await.unwrap().refund();
        }
        for _ in 0..UNKNOWN.0 {
            drop(all.begin(&client).await.unwrap());
        }
        assert!(all.begin(&client).await.is_err());
        tokio::time::advance(Duration::from_millis(200)).await;
        drop(all.begin(&client).await.unwrap());
        assert!(all.begin(&client).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_may_ask_for_so_many_and_who_asked_for_few_is_still_heard() {
        let now = Instant::now();
        let all = Lookups::new(now);
        let many: Vec<_> = (0..UNKNOWN_IN_ALL.0 / (UNKNOWN.0 / 2)).map(|_| ClientLookups::new(now)).collect();
        for client in &many {
            for _ in 0..UNKNOWN.0 / 2 {
                drop(all.begin(client).await.unwrap());
            }
        }
        assert!(many.iter().all(|client| all.begin(client).now_or_never().unwrap().is_err()));
        let other = ClientLookups::new(now);
        for _ in 0..FEW {
            drop(all.begin(&other).await.unwrap());
        }
        assert!(all.begin(&other).await.is_err());
    }

    #[tokio::test]
    async fn a_client_looks_for_few_at_once() {
        let now = Instant::now();
        let (all, client) = (Lookups::new(now), ClientLookups::new(now));
        let mut running = Vec::new();
        for _ in 0..AT_ONCE {
            running.push(all.begin(&client).await.unwrap());
        }
        let mut next = Box::pin(all.begin(&client));
        assert!(next.as_mut().now_or_never().is_none());
        running.pop().unwrap().refund();
        assert!(next.now_or_never().unwrap().is_ok());
    }
}
