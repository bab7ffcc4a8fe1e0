//! How many connections clients may have at once, all listeners of a process together.
//!
//! A client that is one too many is told so and closed. To leave such connections untaken instead
//! would look like a node that hangs: the kernel completes their handshakes, and no client has a
//! word for what comes then.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many that are too many may be told so at once. Each of them costs what a connection costs;
/// those over it are closed at once.
const MOST_REFUSED: usize = 128;

/// Counts the connections of clients, up to how many there may be.
pub(crate) struct ConnectionLimit {
    permits: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    most: usize,
}

/// Lets one connection exist. Dropping it lets another.
pub(crate) struct ConnectionPermit(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// What becomes of a new connection.
pub(crate) enum Admitted {
    /// It is served.
    Served(ConnectionPermit),
    /// It is told why it is not served, and closed.
    Refused(ConnectionPermit),
    /// Even those are too many.
    Closed,
}

impl ConnectionLimit {
    /// So many; without a number three quarters of what descriptors the process may have. The rest
    /// is for endpoints, the registry and files: out of descriptors, a node could not reach
    /// anybody.
    pub(crate) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or_else(by_descriptors).min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(most)), refused: Arc::new(Semaphore::new(MOST_REFUSED)), most }
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn admit(&self) -> Admitted {
        let permit = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok().map(ConnectionPermit);
        match permit(&self.permits) {
            Some(permit) => Admitted::Served(permit),
            None => permit(&self.refused).map_or(Admitted::Closed, Admitted::Refused),
        }
    }
}

fn by_descriptors() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    descriptors.map_or(usize::MAX, |most| (most - most / 4).max(1))
}
