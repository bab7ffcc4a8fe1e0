//! Whose turn it is: all the balancing that the proxies of this benchmark do.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Connections to the instances, one each. Clones take turns with each other.
#[derive(Clone)]
pub(crate) struct Turns<T>(Arc<(Vec<T>, AtomicUsize)>);

impl<T: Clone> Turns<T> {
    /// Of these, which are one at least.
    pub(crate) fn new(senders: Vec<T>) -> Self {
        Self(Arc::new((senders, AtomicUsize::new(0))))
    }

    pub(crate) fn next(&self) -> T {
        let (senders, next) = &*self.0;
        senders[next.fetch_add(1, Relaxed) % senders.len()].clone()
    }
}
