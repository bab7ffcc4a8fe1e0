//! Whether this node should be sent calls, and if not, why.
//!
//! A policy that was taken out of service, or that cannot serve the present endpoints, makes no
//! node unready: every call is served, by another policy, and taking the node out of rotation would
//! turn a policy's fault into lost capacity. The report says "degraded" with the reason instead,
//! for whoever looks and for alerts.

use serde::Serialize;

use crate::{
    balancer::Services,
    model::ServiceName,
    text::{WORDS, printable},
};

/// Something else the node needs, asked at every request for `/readyz`: it must answer at once.
/// `Ok` and `Err` both carry a text for people.
pub type Check = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What has to be there before the node counts as ready.
///
/// A configured service is there when the registry has listed it once; from then on the last known
/// set is served, so that an etcd that goes away makes no node unready.
#[derive(Default)]
pub struct Readiness {
    expected: Vec<ServiceName>,
    checks: Vec<(String, Check)>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all checks passed.
    pub ready: bool,
    /// Whether a service is not balanced by the policy that was chosen for it. Its calls are
    /// served.
    pub degraded: bool,
    /// Each check.
    pub checks: Vec<CheckReport>,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Readiness {
    /// Waits for the first list of these services too.
    #[must_use]
    pub fn with_services(mut self, services: impl IntoIterator<Item = ServiceName>) -> Self {
        self.expected.extend(services);
        self
    }

    /// Asks this too.
    #[must_use]
    pub fn with_check(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name.into(), Box::new(check)));
        self
    }

    /// Looks at everything, now.
    pub fn report(&self, services: &Services, closing: bool) -> Report {
        let mut checks = Vec::with_capacity(self.expected.len() + self.checks.len() + 1);
        let mut add = |name: String, outcome: Result<String, String>| {
            let ok = outcome.is_ok();
            let (Ok(detail) | Err(detail)) = outcome;
            // It holds words of policies and of the registry.
            checks.push(CheckReport { name, ok, detail: printable(&detail, WORDS) });
        };
        add("node".into(), if closing { Err("is shutting down".into()) } else { Ok("is running".into()) });
        for (name, check) in &self.checks {
            add(name.clone(), check());
        }
        for name in &self.expected {
            add(format!("service {name}"), listed(services, name));
        }
        let mut degraded = false;
        for handle in services.list() {
            let state = handle.state();
            let Some(reason) = &state.degraded else { continue };
            degraded = true;
            add(format!("policy of {}", handle.name()), Ok(format!("degraded: {reason}")));
        }
        Report { ready: checks.iter().all(|check| check.ok), degraded, checks }
    }
}

fn listed(services: &Services, name: &ServiceName) -> Result<String, String> {
    let Some(handle) = services.get(name.as_str()) else {
        return Err("is not watched".into());
    };
    let state = handle.state();
    let known = match state.endpoints.len() {
        1 => "1 endpoint".into(),
        n => format!("{n} endpoints"),
    };
    match (&state.stale, state.listed || !state.endpoints.is_empty()) {
        (None, true) => Ok(format!("{known} at revision {}", state.revision)),
        (Some(lost), true) => Ok(format!(
            "{known}, last known {:.0} s ago at revision {}: {}",
            lost.since.elapsed().as_secs_f64(),
            state.revision,
            lost.reason
        )),
        (Some(lost), false) => Err(format!("was never listed: {}", lost.reason)),
        (None, false) => Err("waits for its first list".into()),
    }
}
