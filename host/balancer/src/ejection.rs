//! Carries out for one service what the outlier detection says: the state machine is [`Detector`],
//! here are its clock and its hands.

use tokio::time::Instant;
use tracing::{info, warn};
use waymark_core::{
    model::{Address, InstanceId},
    traffic::{Detector, OutlierDetection},
};

use crate::endpoint::EndpointState;

/// The ejections of one service.
pub(super) struct Ejections {
    detector: Detector<(InstanceId, Address)>,
    began: Instant,
    due: Instant,
    panics: bool,
}

impl Ejections {
    /// Nobody is ejected, and the first interval begins. None without an algorithm to look by.
    pub(super) fn new(config: Option<OutlierDetection>) -> Option<Self> {
        let config = config.filter(|config| config.success_rate.is_some() || config.failure_percentage.is_some())?;
        let began = Instant::now();
        Some(Self { due: began + config.interval, detector: Detector::new(config), began, panics: false })
    }

    /// Ends the interval: looks at these endpoints, all that the service has, and tells each what
    /// follows for it. Answers how many were ejected that were not before.
    pub(super) fn sweep(&mut self, endpoints: &[EndpointState]) -> u64 {
        let now = Instant::now();
        self.due = now + self.detector.config().interval;
        let key = |state: &EndpointState| (state.endpoint.id.clone(), state.endpoint.address.clone());
        let observed: Vec<_> = endpoints.iter().map(|state| (key(state), state.cell.call_counts())).collect();
        self.detector.sweep(now.saturating_duration_since(self.began), &observed, || fastrand::u32(0..100));
        let ejected: Vec<_> = observed.iter().map(|(key, _)| self.detector.is_ejected(key)).collect();
        let mut newly = 0;
        for (state, now) in endpoints.iter().zip(&ejected) {
            match (state.cell.is_ejected(), now) {
                (false, true) => {
                    newly += 1;
                    info!(address = %state.endpoint.address, "endpoint ejected: it fails more than the others");
                }
                (true, false) => info!(address = %state.endpoint.address, "endpoint is back from its ejection"),
                _ => {}
            }
        }
        self.tell(endpoints, &ejected);
        newly
    }

    /// Says to each endpoint whether its ejection is heeded, after the endpoints changed.
    pub(super) fn heed(&mut self, endpoints: &[EndpointState]) {
        let ejected: Vec<_> = endpoints.iter().map(|state| state.cell.is_ejected()).collect();
        self.tell(endpoints, &ejected);
    }

    /// Tells each endpoint in one step whether it is ejected and whether that is heeded: an ejected
    /// one takes no call in between.
    fn tell(&mut self, endpoints: &[EndpointState], ejected: &[bool]) {
        let all = endpoints.iter().filter(|state| state.endpoint.weight > 0).count();
        let usable = endpoints
            .iter()
            .zip(ejected)
            .filter(|(state, ejected)| state.endpoint.weight > 0 && !**ejected && state.cell.is_reachable());
        let usable = usable.count();
        let panics = ejected.contains(&true) && self.detector.config().panics(usable, all);
        if panics && !self.panics {
            warn!(usable, all, "too few endpoints are left: ejections are not heeded");
        }
        self.panics = panics;
        for (state, ejected) in endpoints.iter().zip(ejected) {
            state.cell.set_ejected(*ejected, *ejected && !panics);
        }
    }
}

/// Ready when an interval has ended; never without ejections.
pub(super) async fn due(ejections: Option<&Ejections>) {
    match ejections {
        Some(ejections) => tokio::time::sleep_until(ejections.due).await,
        None => std::future::pending().await,
    }
}
