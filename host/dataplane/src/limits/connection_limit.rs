//! How many connections clients may have at once, all listeners of a process together.
//!
//! Who is one too many is told so and closed. To leave such connections untaken instead would look
//! like a node that hangs: the kernel completes their handshakes, and no client has a word for what
//! comes then.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many may be told at once. Each of them costs what a connection costs; those over it are
/// closed at once.
const TOLD: usize = 128;

/// The connections there may be.
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
    most: usize,
}

/// A connection's place. Dropping it gives the place to another.
pub(crate) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// What becomes of a new connection.
pub(crate) enum Admitted {
    /// It is served.
    Served(Place),
    /// It is told why it is not.
    Told(Place),
    /// Even those are too many.
    Closed,
}

impl Admission {
    /// So many; without a number three quarters of what descriptors the process may have. The rest
    /// is for endpoints, the registry and files: out of descriptors, a node could not reach
    /// anybody.
    pub(crate) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or_else(by_descriptors).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(most)), told: Arc::new(Semaphore::new(TOLD)), most }
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn admit(&self) -> Admitted {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok().map(Place);
        match place(&self.places) {
            Some(place) => Admitted::Served(place),
            None => place(&self.told).map_or(Admitted::Closed, Admitted::Told),
        }
    }
}

fn by_descriptors() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    descriptors.map_or(usize::MAX, |most| (most - most / 4).max(1))
}
