//! Says of our own certificates that they are about to expire, or have.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tracing::{error, warn};
use waymark_dataplane::{Metrics, Validity, unix_now};

/// How often somebody looks.
const LOOK: Duration = Duration::from_secs(3600);

const DAY: i64 = 86_400;

/// How near the end is. Each is told once a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Far,
    Week,
    Day,
    Invalid,
}

impl Nearness {
    fn of(validity: Validity, now: i64) -> Self {
        match validity.not_after - now {
            _ if !validity.holds(now) => Self::Invalid,
            left if left <= DAY => Self::Day,
            left if left <= 7 * DAY => Self::Week,
            _ => Self::Far,
        }
    }
}

/// Watches the certificate in use, until nobody can replace it any more.
pub(super) async fn watch(setting: Arc<str>, mut in_use: watch::Receiver<Validity>, metrics: Metrics) {
    let mut told = Nearness::Far;
    loop {
        let (validity, now) = (*in_use.borrow_and_update(), unix_now());
        metrics.certificate(&setting, validity.not_after);
        let nearness = Nearness::of(validity, now);
        if nearness > told {
            say(&setting, validity, nearness, now);
        }
        told = nearness;
        // A time that passes is the usual end.
        if let Ok(Err(_)) = timeout(LOOK, in_use.changed()).await {
            return;
        }
    }
}

fn say(setting: &str, validity: Validity, nearness: Nearness, now: i64) {
    let stands = validity.at(now);
    match nearness {
        Nearness::Far => {}
        Nearness::Week | Nearness::Day => warn!(setting, "the certificate in use {stands}; renew it"),
        Nearness::Invalid => {
            error!(setting, "the certificate in use {stands}: peers that check it refuse new connections; renew it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_nearer() {
        let validity = Validity { not_before: 0, not_after: 100 * DAY };
        for (now, nearness) in [
            (-1, Nearness::Invalid),
            (0, Nearness::Far),
            (93 * DAY - 1, Nearness::Far),
            (93 * DAY, Nearness::Week),
            (99 * DAY, Nearness::Day),
            (100 * DAY + 1, Nearness::Invalid),
        ] {
            assert_eq!(Nearness::of(validity, now), nearness, "{now}");
        }
    }
}
