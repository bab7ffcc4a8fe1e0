//! Carries out the slow start for one service: what part of its share an endpoint gets is told to
//! its cell from time to time, so that a pick knows neither its age nor a clock.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use waymark_core::traffic::SlowStart;

use crate::endpoint::EndpointCell;

/// The endpoints of a service that are in slow start: those that joined within its window.
pub(super) struct SlowStarts {
    config: SlowStart,
    endpoints: Vec<(Arc<EndpointCell>, Instant)>,
    due: Instant,
}

impl SlowStarts {
    /// No endpoint is in slow start yet.
    pub(super) fn new(config: SlowStart) -> Self {
        Self { config, endpoints: Vec::new(), due: Instant::now() }
    }

    /// This endpoint has joined the service: its slow start begins.
    pub(super) fn join(&mut self, cell: &Arc<EndpointCell>) {
        let now = Instant::now();
        if self.endpoints.is_empty() {
            self.due = now + self.pace();
        }
        cell.set_slow_start_share(self.config.part(Duration::ZERO));
        self.endpoints.push((Arc::clone(cell), now));
    }

    /// Tells each what part of its share it gets now. Those whose window is over, or that nobody
    /// else knows any more, are forgotten.
    pub(super) fn grow(&mut self) {
        let now = Instant::now();
        self.due = now + self.pace();
        let config = &self.config;
        self.endpoints.retain(|(cell, joined)| {
            let part = config.part(now - *joined);
            cell.set_slow_start_share(part);
            part < 1.0 && Arc::strong_count(cell) > 1
        });
    }

    /// Fifty steps, but no more than fifty a second.
    fn pace(&self) -> Duration {
        (self.config.window / 50).max(Duration::from_millis(20))
    }
}

/// Ready when it is time to grow; never while no endpoint is in slow start.
pub(super) async fn due(slow_starts: Option<&SlowStarts>) {
    match slow_starts.filter(|starts| !starts.endpoints.is_empty()) {
        Some(starts) => tokio::time::sleep_until(starts.due).await,
        None => std::future::pending().await,
    }
}
