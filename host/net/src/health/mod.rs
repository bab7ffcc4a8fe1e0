//! Whether an instance is fit to serve: checks that are repeated, and what follows from their
//! results.
//!
//! ```text
//!              `rise` successes in a row
//!   Unfit ─────────────────────────────────▶ Fit
//!     ▲ (begins here)                         │
//!     └───────────────────────────────────────┘
//!               `fall` failures in a row
//! ```
//!
//! Until it is fit for the first time it is checked often, so that whoever starts is found at once;
//! afterwards at the interval. What follows from a verdict is left to others: `registry` registers
//! instances while they are fit, `dataplane` sends calls to endpoints that are.

mod probe;
mod service;
mod watch_stream;

pub use service::HealthService;
pub use watch_stream::{Ended, HealthWatch};

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
pub use waymark_core::check::{Check, CheckConfig, NoSuchCheck};
use waymark_core::model::Address;

use crate::address_filter::AddressFilter;

/// How often an instance is checked that was never fit yet.
const EAGER_INTERVAL: Duration = Duration::from_millis(100);

/// Whether an instance is fit to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Fit,
    /// It is not, and why.
    Unfit(Arc<str>),
}

impl Verdict {
    /// Whether it is fit.
    pub fn is_fit(&self) -> bool {
        *self == Self::Fit
    }
}

/// Where an instance stands between two checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not fit, after so many successes in a row.
    Unfit { successes: u32 },
    /// Fit, after so many failures in a row.
    Fit { failures: u32 },
}

impl State {
    const BEGIN: Self = Self::Unfit { successes: 0 };

    fn step(self, success: bool, rise: u32, fall: u32) -> Self {
        match self {
            Self::Unfit { successes } if success && successes + 1 >= rise => Self::Fit { failures: 0 },
            Self::Unfit { successes } if success => Self::Unfit { successes: successes + 1 },
            Self::Unfit { .. } => Self::BEGIN,
            Self::Fit { .. } if success => Self::Fit { failures: 0 },
            Self::Fit { failures } if failures + 1 >= fall => Self::BEGIN,
            Self::Fit { failures } => Self::Fit { failures: failures + 1 },
        }
    }
}

/// Checks the instance at `address` until the receiver is dropped. The first verdict is "not
/// checked yet". An instance that `address_filter` keeps from being called is not checked either,
/// and is unfit; without it, all are checked: for an instance of one's own. Must be called within a
/// tokio runtime.
pub fn watch(
    config: CheckConfig,
    address: &Address,
    address_filter: Option<AddressFilter>,
) -> watch::Receiver<Verdict> {
    let address = config.address.clone().unwrap_or_else(|| address.clone());
    let (verdict, told) = watch::channel(Verdict::Unfit("not checked yet".into()));
    tokio::spawn(async move {
        tokio::select! {
            () = verdict.closed() => {}
            () = check_for_ever(&config, &address, address_filter.as_ref(), &verdict) => {}
        }
    });
    told
}

async fn check_for_ever(
    config: &CheckConfig,
    address: &Address,
    address_filter: Option<&AddressFilter>,
    verdict: &watch::Sender<Verdict>,
) {
    let mut state = State::BEGIN;
    let mut was_fit = false;
    loop {
        let outcome = match timeout(config.timeout, probe::probe(&config.check, address, address_filter)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", config.timeout)),
        };
        state = state.step(outcome.is_ok(), config.rise, config.fall);
        let now = match (state, outcome) {
            (State::Fit { .. }, _) => Verdict::Fit,
            (State::Unfit { .. }, Err(reason)) => {
                Verdict::Unfit(format!("check {} of {address}: {reason}", config.check).into())
            }
            (State::Unfit { successes }, Ok(())) => Verdict::Unfit(
                format!("check {}: {successes} of {} successes in a row", config.check, config.rise).into(),
            ),
        };
        was_fit |= now.is_fit();
        verdict.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
        sleep(if was_fit { config.interval } else { EAGER_INTERVAL.min(config.interval) }).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_takes_as_many_in_a_row_as_were_asked_for() {
        let verdicts = |rise, fall, outcomes: &str| {
            let mut state = State::BEGIN;
            let mut step = |c| {
                state = state.step(c == '+', rise, fall);
                if matches!(state, State::Fit { .. }) { 'F' } else { 'u' }
            };
            outcomes.chars().map(&mut step).collect::<String>()
        };
        assert_eq!(verdicts(1, 3, "-+--+---+"), "uFFFFFFuF");
        assert_eq!(verdicts(2, 1, "+-++-++"), "uuuFuuF");
        // Never less than one.
        assert_eq!(verdicts(0, 0, "+-"), "Fu");
    }

    proptest! {
        #[test]
        fn a_verdict_changes_only_after_a_run_of_the_other_outcome(
            outcomes in proptest::collection::vec(any::<bool>(), 0..60), rise in 1u32..5, fall in 1u32..5,
        ) {
            let (mut state, mut run) = (State::BEGIN, 0);
            let mut last = None;
            for outcome in outcomes {
                run = if last == Some(outcome) { run + 1 } else { 1 };
                last = Some(outcome);
                let next = state.step(outcome, rise, fall);
                match (state, next) {
                    (State::Unfit { .. }, State::Fit { .. }) => prop_assert!(outcome && run >= rise),
                    (State::Fit { .. }, State::Unfit { .. }) => prop_assert!(!outcome && run >= fall),
                    _ => {}
                }
                state = next;
            }
        }
    }
}
