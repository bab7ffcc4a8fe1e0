//! A call that runs on an endpoint: the data plane tells its guard how it goes, and the guard tells
//! the [`EndpointCell`].

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use waymark_core::policy::LoadReport;

use crate::{
    endpoint::{EndpointCell, Outcome},
    unresponsive,
};

/// A call that runs on an endpoint. Dropping it ends the call.
pub struct CallGuard {
    cell: Arc<EndpointCell>,
    began: Instant,
    /// When its time is over, if that is said.
    due: Option<Instant>,
    answered: bool,
    outcome: Outcome,
}

impl EndpointCell {
    /// Begins a call. The returned guard ends it, as cancelled if nothing else is said. None where
    /// as many run as may.
    pub fn begin(self: &Arc<Self>) -> Option<CallGuard> {
        self.enter().then(|| CallGuard {
            cell: Arc::clone(self),
            began: Instant::now(),
            due: None,
            answered: false,
            outcome: Outcome::Cancelled,
        })
    }
}

impl CallGuard {
    /// When the call's time is over: one that is not answered by then counts against the endpoint.
    pub fn set_due(&mut self, at: Option<Instant>) {
        self.due = at;
    }

    /// The head of the answer has come: its time counts as the endpoint's latency.
    pub fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.cell.record_latency(self.began);
        }
    }

    /// The instance spoke of its load, with these metrics of its own by name.
    pub fn reported(&self, report: &LoadReport, named: BTreeMap<String, f64>) {
        self.cell.keep_report(report, named);
    }

    /// How the call ended; the last word counts.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        // First that it ended, then that it runs no more: who adds both up may count it twice for a
        // moment, and never misses it.
        self.cell.count_ended(self.outcome);
        if !self.answered && self.due.is_some_and(|due| due <= Instant::now() + unresponsive::NEARLY) {
            unresponsive::note(&self.cell, self.began);
        }
        self.cell.leave();
    }
}
