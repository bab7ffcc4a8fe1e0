//! Counts the requests that the guard refused.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use waymark_core::exposition::Families;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Requests to the node's API that went no further than its guard.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Family<Reason, Counter>);

impl Refused {
    pub(super) fn register(families: &mut Families) -> Self {
        let refused = Self::default();
        let help = "Requests to the node's API that were refused before any of it saw them, by why";
        families.top().register("admin_requests_refused", help, refused.0.clone());
        refused
    }

    pub(super) fn count(&self, reason: &'static str) {
        self.0.get_or_create(&Reason { reason }).inc();
    }
}
