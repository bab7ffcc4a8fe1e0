//! Which registry this is: its cluster once it has answered, and until then what it is reached by.

use std::sync::Arc;

use tokio::sync::watch;

use super::endpoint_probe;

/// Shared by all that belongs to one registry handle. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    addresses: Arc<[String]>,
    cluster: Arc<watch::Sender<Option<u64>>>,
}

impl Identity {
    /// One that has not answered yet. `endpoints`: as they are configured; those that are written
    /// differently and mean the same are one.
    pub(super) fn new(endpoints: &[String], tls: bool) -> Self {
        let plain = |endpoint: &String| {
            let endpoint = endpoint.to_ascii_lowercase();
            endpoint_probe::normalize(&endpoint, tls).unwrap_or(endpoint)
        };
        let (cluster, _) = watch::channel(None);
        Self { addresses: endpoints.iter().map(plain).collect(), cluster: Arc::new(cluster) }
    }

    /// What it is reached by.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The cluster that answered last, if one has.
    pub(super) fn cluster(&self) -> Option<u64> {
        *self.cluster.borrow()
    }

    /// A cluster has answered. 0 stands for an answer that does not say which.
    pub(super) fn answered(&self, cluster: u64) {
        if cluster != 0 {
            self.cluster.send_if_modified(|known| known.replace(cluster) != Some(cluster));
        }
    }

    /// Waits until another cluster than this one has answered.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn other_than(&self, cluster: u64) {
        let mut answers = self.cluster.subscribe();
        // It cannot fail: the sender is here.
        let _ = answers.wait_for(|known| known.is_some_and(|known| known != cluster)).await;
    }
}
