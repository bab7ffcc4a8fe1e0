//! What an instance says of its own load, as it is kept for its endpoint.
//!
//! A busy instance says it with every call, so that writing neither allocates nor waits, and picks
//! read while it is written. The price is that two reports that come at once may be mixed: each
//! figure is of one of the last few reports, which is all that a moving figure is good for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use waymark_core::policy::LoadReport;

/// The last report of one instance. Made when the first one comes.
pub(super) struct Reported {
    origin: Instant,
    /// Milliseconds from `origin` to the last report.
    at: AtomicU64,
    /// Bits of doubles, in the order of [`LoadReport`].
    figures: [AtomicU64; 5],
    /// The metrics by name of an instance that has any.
    named: ArcSwapOption<BTreeMap<String, f64>>,
}

impl Reported {
    /// Nothing yet: for [`Reported::keep`] at once.
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            at: AtomicU64::new(0),
            figures: Default::default(),
            named: ArcSwapOption::empty(),
        }
    }

    /// Keeps a report that came just now.
    pub(super) fn keep(&self, report: &LoadReport, named: BTreeMap<String, f64>) {
        let LoadReport { cpu_utilization, memory_utilization, application_utilization, rps, eps, age: _ } = report;
        let figures = [cpu_utilization, memory_utilization, application_utilization, rps, eps];
        for (kept, figure) in self.figures.iter().zip(figures) {
            kept.store(figure.to_bits(), Relaxed);
        }
        if !named.is_empty() {
            self.named.store(Some(Arc::new(named)));
        } else if self.named.load().is_some() {
            self.named.store(None);
        }
        self.at.store(self.origin.elapsed().as_millis() as u64, Relaxed);
    }

    /// The last report.
    pub(super) fn report(&self) -> LoadReport {
        let [cpu_utilization, memory_utilization, application_utilization, rps, eps] =
            self.figures.each_ref().map(|figure| f64::from_bits(figure.load(Relaxed)));
        let age = self.origin.elapsed().saturating_sub(Duration::from_millis(self.at.load(Relaxed)));
        LoadReport { cpu_utilization, memory_utilization, application_utilization, rps, eps, age }
    }

    /// A metric that the last report named.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        self.named.load().as_ref()?.get(name).copied()
    }

    /// All metrics that the last report named.
    pub(super) fn named(&self) -> Option<Arc<BTreeMap<String, f64>>> {
        self.named.load_full()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn said(rps: f64) -> LoadReport {
        LoadReport { application_utilization: 0.5, rps, ..LoadReport::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_report_is_kept_whole_with_its_age() {
        let reported = Reported::new();
        reported.keep(&said(10.0), [("queue".to_owned(), 7.0)].into());
        assert_eq!(reported.report(), said(10.0));
        assert_eq!((reported.metric("queue"), reported.metric("other")), (Some(7.0), None));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(reported.report().age, Duration::from_secs(3));
        // What it does not name any more is not kept.
        reported.keep(&said(20.0), BTreeMap::new());
        assert_eq!(reported.report(), said(20.0));
        assert_eq!((reported.metric("queue"), reported.named()), (None, None));
    }
}
