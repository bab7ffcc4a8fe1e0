//! A request that runs, for the metrics and the access log: both are told here how it goes.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::time::Instant;
use waymark_core::{model::Address, traffic::Code};

use super::{access::AccessEntry, metrics::ServiceMetrics};
use crate::errors::failure::Failure;

impl ServiceMetrics {
    /// Begins to count a request that arrived at `began`, and to log it if there is an access log.
    pub(crate) fn begin(self: Arc<Self>, began: Instant, entry: Option<Box<AccessEntry>>) -> RequestRecord {
        self.began();
        RequestRecord { metrics: self, began, code: Code::Cancelled, entry }
    }
}

/// A request that runs. Dropping it counts and logs the request, as cancelled if no code was set.
pub(crate) struct RequestRecord {
    metrics: Arc<ServiceMetrics>,
    began: Instant,
    code: Code,
    /// None where calls are not logged.
    entry: Option<Box<AccessEntry>>,
}

impl RequestRecord {
    /// Another endpoint is asked, after so many.
    pub(crate) fn attempt(&mut self, before: usize, endpoint: &Address) {
        if before > 0 {
            self.metrics.retried();
        }
        if let Some(entry) = &mut self.entry {
            entry.attempt(endpoint);
        }
    }

    /// Of several endpoints that were asked at once, this one's answer is the call's.
    pub(crate) fn answered_by(&mut self, endpoint: &Address) {
        if let Some(entry) = &mut self.entry {
            entry.answered_by(endpoint);
        }
    }

    /// Where bytes of its body are counted, if they are.
    pub(crate) fn received(&self) -> Option<Arc<AtomicU64>> {
        self.entry.as_ref().map(|entry| entry.received())
    }

    /// Bytes of the answer's body went to the caller.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.entry {
            entry.sent(bytes);
        }
    }

    pub(crate) fn withheld(&self) {
        self.metrics.withheld();
    }

    pub(crate) fn set_code(&mut self, code: Code) {
        self.code = code;
    }

    /// No instance answered it, or not to its end.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.code = failure.code();
        self.metrics.failed(failure.kind());
        if let Failure::TooLarge(large) = failure {
            large.tell(self.metrics.name());
        }
        if let Some(entry) = &mut self.entry {
            entry.reason(failure.kind());
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        self.metrics.ended(self.code, duration);
        if let Some(entry) = self.entry.take() {
            entry.ended(self.code, duration);
        }
    }
}
