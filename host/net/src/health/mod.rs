//! Whether an instance is healthy: checks that are repeated, and what follows from their
//! results.
//!
//! ```text
//!              `rise` successes in a row
//!   Unhealthy ─────────────────────────────▶ Healthy
//!     ▲ (begins here)                         │
//!     └───────────────────────────────────────┘
//!               `fall` failures in a row
//! ```
//!
//! Until it is healthy for the first time it is checked often, so that whoever starts is found at
//! once; afterwards at the interval. What follows from a status is left to others: `registry`
//! registers instances while they are healthy, `dataplane` sends calls to endpoints that are.

mod probe;
mod service;
mod watch_stream;

pub use service::HealthService;
pub use watch_stream::{HealthWatch, WatchEnded};

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
pub use waymark_core::check::{Check, CheckConfig, NoSuchCheck};
use waymark_core::model::Address;

use crate::address_filter::AddressFilter;

/// How often an instance is checked that was never healthy yet.
const EAGER_INTERVAL: Duration = Duration::from_millis(100);

/// Whether an instance is healthy: fit to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthStatus {
    /// It is.
    Healthy,
    /// It is not, and why.
    Unhealthy(Arc<str>),
}

impl HealthStatus {
    /// Whether it is healthy.
    pub fn is_healthy(&self) -> bool {
        *self == Self::Healthy
    }
}

/// Where an instance stands between two checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not healthy, after so many successes in a row.
    Unhealthy { successes: u32 },
    /// Healthy, after so many failures in a row.
    Healthy { failures: u32 },
}

impl State {
    const BEGIN: Self = Self::Unhealthy { successes: 0 };

    fn step(self, success: bool, rise: u32, fall: u32) -> Self {
        match self {
            Self::Unhealthy { successes } if success && successes + 1 >= rise => Self::Healthy { failures: 0 },
            Self::Unhealthy { successes } if success => Self::Unhealthy { successes: successes + 1 },
            Self::Unhealthy { .. } => Self::BEGIN,
            Self::Healthy { .. } if success => Self::Healthy { failures: 0 },
            Self::Healthy { failures } if failures + 1 >= fall => Self::BEGIN,
            Self::Healthy { failures } => Self::Healthy { failures: failures + 1 },
        }
    }
}

/// Checks the instance at `address` until the receiver is dropped. The first status is "not checked
/// yet". An instance that `address_filter` keeps from being called is not checked either, and is
/// unhealthy; without it, all are checked: for an instance of one's own. Must be called within a
/// tokio runtime.
pub fn watch(
    config: CheckConfig,
    address: &Address,
    address_filter: Option<AddressFilter>,
) -> watch::Receiver<HealthStatus> {
    let address = config.address.clone().unwrap_or_else(|| address.clone());
    let (status, told) = watch::channel(HealthStatus::Unhealthy("not checked yet".into()));
    tokio::spawn(async move {
        tokio::select! {
            () = status.closed() => {}
            () = check_for_ever(&config, &address, address_filter.as_ref(), &status) => {}
        }
    });
    told
}

async fn check_for_ever(
    config: &CheckConfig,
    address: &Address,
    address_filter: Option<&AddressFilter>,
    status: &watch::Sender<HealthStatus>,
) {
    let mut state = State::BEGIN;
    let mut was_healthy = false;
    loop {
        let outcome = match timeout(config.timeout, probe::probe(&config.check, address, address_filter)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", config.timeout)),
        };
        state = state.step(outcome.is_ok(), config.rise, config.fall);
        let now = match (state, outcome) {
            (State::Healthy { .. }, _) => HealthStatus::Healthy,
            (State::Unhealthy { .. }, Err(reason)) => {
                HealthStatus::Unhealthy(format!("check {} of {address}: {reason}", config.check).into())
            }
            (State::Unhealthy { successes }, Ok(())) => HealthStatus::Unhealthy(
                format!("check {}: {successes} of {} successes in a row", config.check, config.rise).into(),
            ),
        };
        was_healthy |= now.is_healthy();
        status.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
        sleep(if was_healthy { config.interval } else { EAGER_INTERVAL.min(config.interval) }).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_takes_as_many_in_a_row_as_were_asked_for() {
        let states = |rise, fall, outcomes: &str| {
            let mut state = State::BEGIN;
            let mut step = |c| {
                state = state.step(c == '+', rise, fall);
                if matches!(state, State::Healthy { .. }) { 'H' } else { 'u' }
            };
            outcomes.chars().map(&mut step).collect::<String>()
        };
        assert_eq!(states(1, 3, "-+--+---+"), "uHHHHHHuH");
        assert_eq!(states(2, 1, "+-++-++"), "uuuHuuH");
        // Never less than one.
        assert_eq!(states(0, 0, "+-"), "Hu");
    }

    proptest! {
        #[test]
        fn a_status_changes_only_after_a_run_of_the_other_outcome(
            outcomes in proptest::collection::vec(any::<bool>(), 0..60), rise in 1u32..5, fall in 1u32..5,
        ) {
            let (mut state, mut run) = (State::BEGIN, 0);
            let mut last = None;
            for outcome in outcomes {
                run = if last == Some(outcome) { run + 1 } else { 1 };
                last = Some(outcome);
                let next = state.step(outcome, rise, fall);
                match (state, next) {
                    (State::Unhealthy { .. }, State::Healthy { .. }) => prop_assert!(outcome && run >= rise),
                    (State::Healthy { .. }, State::Unhealthy { .. }) => prop_assert!(!outcome && run >= fall),
                    _ => {}
                }
                state = next;
            }
        }
    }
}
