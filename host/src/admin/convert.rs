//! From the balancer's types to the API's messages.

use std::time::UNIX_EPOCH;

use super::proto;
use crate::{
    balancer::{
        EndpointCell, EndpointState, EndpointStatus, PolicyOutcome, PolicyVersion, Published, ServiceHandle,
        ServiceState, SwapTimes,
    },
    conformance::slow_picks,
};

/// One service as it is now.
pub(super) fn service(handle: &ServiceHandle, with_endpoints: bool) -> proto::Service {
    let state = handle.state();
    let counters = state.counters();
    let endpoints = if with_endpoints { state.endpoints.iter().map(endpoint).collect() } else { Vec::new() };
    proto::Service {
        name: state.service.to_string(),
        revision: state.revision.0,
        generation: state.generation,
        endpoints,
        policy: Some(running(&state, &handle.history())),
        stale_seconds: state.stale.as_ref().map(|stale| stale.since.elapsed().as_secs_f64()),
        skipped_entries: state.skipped,
        picks: counters.picks(),
        fallback_picks: counters.fallback_picks(),
        listed: state.listed,
        stale_reason: state.stale.as_ref().map(|stale| stale.reason.to_string()).unwrap_or_default(),
        plan: state.plan_kind().into(),
        endpoint_count: u32::try_from(state.endpoints.len()).unwrap_or(u32::MAX),
        degraded: degraded(&state),
        skipped_reasons: state.skips.to_string(),
    }
}

/// A service's policies as they are now.
pub(super) fn policy_status(handle: &ServiceHandle) -> proto::PolicyStatus {
    let (state, history) = (handle.state(), handle.history());
    proto::PolicyStatus {
        service: handle.name().to_string(),
        running: Some(running(&state, &history)),
        degraded: degraded(&state),
        history: history.iter().map(policy_version).collect(),
        swap: None,
        generation: 0,
        warning: String::new(),
    }
}

fn degraded(state: &ServiceState) -> String {
    state.degraded.as_deref().unwrap_or_default().to_owned()
}

/// The same, after a swap.
pub(super) fn swapped(handle: &ServiceHandle, published: &Published) -> proto::PolicyStatus {
    proto::PolicyStatus {
        swap: Some(swap_times(&published.times)),
        generation: published.generation,
        warning: published.times.pick.and_then(slow_picks).unwrap_or_default(),
        ..policy_status(handle)
    }
}

/// The version that the published generation runs. Before the first generation it is the one that
/// will run; when every policy was taken out of service, the native rotation stands in its place.
fn running(state: &ServiceState, history: &[PolicyVersion]) -> proto::PolicyVersion {
    let found = history.iter().find(|version| {
        version.version == state.policy_version || (state.generation == 0 && version.outcome == PolicyOutcome::Running)
    });
    found.map_or_else(
        || proto::PolicyVersion {
            name: state.policy_name.to_string(),
            plan: state.plan_kind().into(),
            outcome: proto::policy_version::Outcome::Running.into(),
            ..proto::PolicyVersion::default()
        },
        policy_version,
    )
}

fn policy_version(version: &PolicyVersion) -> proto::PolicyVersion {
    use proto::policy_version::Outcome;
    let outcome = match version.outcome {
        PolicyOutcome::Running => Outcome::Running,
        PolicyOutcome::Superseded => Outcome::Superseded,
        PolicyOutcome::Refused => Outcome::Refused,
        PolicyOutcome::Quarantined => Outcome::Quarantined,
    };
    let at = version.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    proto::PolicyVersion {
        version: version.version,
        name: version.info.name.to_string(),
        plugin_version: version.info.plugin_version.clone(),
        sha256: version.info.sha256.clone(),
        origin: version.info.origin.clone(),
        config: version.info.config.clone(),
        by: version.info.by.clone(),
        at_unix_ms: i64::try_from(at.as_millis()).unwrap_or(i64::MAX),
        plan: version.plan.into(),
        outcome: outcome.into(),
        reason: version.reason.clone(),
        pick_failures: version.pick_failures,
        allow: version.info.allow.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect(),
    }
}

fn endpoint(state: &EndpointState) -> proto::Endpoint {
    use proto::endpoint::State;
    let EndpointState { endpoint, cell } = state;
    proto::Endpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        zone: endpoint.locality.zone.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.iter().cloned().collect(),
        state: match cell.status() {
            EndpointStatus::BackingOff => State::BackingOff,
            EndpointStatus::Unhealthy => State::Unhealthy,
            EndpointStatus::Checking => State::Checking,
            EndpointStatus::Silent => State::Silent,
            EndpointStatus::Ejected => State::Ejected,
            EndpointStatus::Connecting => State::Connecting,
            EndpointStatus::Ready => State::Ready,
            EndpointStatus::Idle => State::Idle,
        }
        .into(),
        in_flight: cell.in_flight(),
        latency_us: cell.latency_us(),
        calls: cell.calls(),
        failures: cell.failures(),
        failure_rate: cell.failure_rate(),
        young: cell.is_in_slow_start(),
        load: load(cell),
    }
}

fn load(cell: &EndpointCell) -> Option<proto::LoadReport> {
    let report = cell.report()?;
    let named = cell.metrics().map(|named| named.iter().map(|(name, value)| (name.clone(), *value)).collect());
    Some(proto::LoadReport {
        cpu_utilization: report.cpu_utilization,
        memory_utilization: report.memory_utilization,
        application_utilization: report.application_utilization,
        rps: report.rps,
        eps: report.eps,
        named: named.unwrap_or_default(),
        age_seconds: report.age.as_secs_f64(),
    })
}

fn swap_times(times: &SwapTimes) -> proto::SwapTimes {
    proto::SwapTimes {
        load_seconds: times.load.as_secs_f64(),
        build_seconds: times.build.as_secs_f64(),
        publish_seconds: times.publish.as_secs_f64(),
        pick_seconds: times.pick.map(|pick| pick.as_secs_f64()),
    }
}
