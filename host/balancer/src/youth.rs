//! Carries out the slow start for one service: what part of its share an endpoint gets is told to
//! its cell from time to time, so that a pick knows neither its age nor a clock.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use waymark_core::traffic::SlowStart;

use super::endpoint::EndpointCell;

/// The endpoints of a service that joined lately.
pub(super) struct Youth {
    config: SlowStart,
    young: Vec<(Arc<EndpointCell>, Instant)>,
    due: Instant,
}

impl Youth {
    /// Nobody is young.
    pub(super) fn new(config: SlowStart) -> Self {
        Self { config, young: Vec::new(), due: Instant::now() }
    }

    /// This endpoint joins.
    pub(super) fn join(&mut self, cell: &Arc<EndpointCell>) {
        let now = Instant::now();
        if self.young.is_empty() {
            self.due = now + self.pace();
        }
        cell.set_part(self.config.part(Duration::ZERO));
        self.young.push((Arc::clone(cell), now));
    }

    /// Tells each what part it gets now. Those that are grown up, or that nobody else knows any
    /// more, are forgotten.
    pub(super) fn grow(&mut self) {
        let now = Instant::now();
        self.due = now + self.pace();
        let config = &self.config;
        self.young.retain(|(cell, joined)| {
            let part = config.part(now - *joined);
            cell.set_part(part);
            part < 1.0 && Arc::strong_count(cell) > 1
        });
    }

    /// Fifty steps, but no more than fifty a second.
    fn pace(&self) -> Duration {
        (self.config.window / 50).max(Duration::from_millis(20))
    }
}

/// Ready when it is time to grow; never while nobody is young.
pub(super) async fn due(youth: Option<&Youth>) {
    match youth.filter(|youth| !youth.young.is_empty()) {
        Some(youth) => tokio::time::sleep_until(youth.due).await,
        None => std::future::pending().await,
    }
}
