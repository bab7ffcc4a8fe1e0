//! `/metrics`: what the balancer knows, read at every scrape; what other modules registered; and
//! the process.
//!
//! Names begin with `waymark_`, but for `process_*`, which Prometheus names. Labels are service and
//! policy names, never addresses or request data. Picks are counted by service, over all its
//! policies: a pick that counted by policy would be a counter more on the hot path.
//! `waymark_policy_info` joins them with the policy that runs:
//!
//! ```text
//! rate(waymark_picks_total[1m]) * on(service) group_left(policy) waymark_policy_info
//! ```

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use waymark_balancer::{Health, PolicyVersion, ServiceHandle, ServiceState, Services};
use waymark_core::{
    exposition::{Families, Histogram, Labels, Writer, write_end},
    model::ServiceName,
};

/// OpenMetrics, which Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// None yet, for modules to register theirs; `waymark_` is put before their names.
pub fn families() -> Families {
    Families::with_prefix("waymark")
}

/// Everything that is scraped.
pub struct Metrics {
    /// What other modules registered.
    shared: Families,
    /// What is read off the balancer and the process.
    own: Families,
}

impl Metrics {
    /// What is read off these services and the process, beside what other modules registered in
    /// `shared`: see [`families`].
    pub fn new(shared: Families, services: Services) -> Self {
        let mut own = Families::default();
        own.section("waymark").register_collector(Balancer { services, timed: Mutex::default() });
        own.top().register_collector(Process { started: SystemTime::now() });
        Self { shared, own }
    }

    /// The whole page, in the OpenMetrics format. With ten thousand services it has megabytes.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        self.write(&mut page)?;
        Ok(page)
    }

    /// Writes the page. What `out` does with a piece may take its time: nobody waits for it
    /// meanwhile.
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        // It holds no lock while it is written. The other one may, in its few small families.
        self.own.write(out)?;
        let mut shared = String::new();
        self.shared.write(&mut shared)?;
        out.write_str(&shared)?;
        write_end(out)
    }
}

struct Balancer {
    services: Services,
    /// Those whose times are shown, so that they stay the same from one scrape to the next.
    timed: Mutex<BTreeSet<ServiceName>>,
}

/// How many services' times of picks are shown, as histograms of a dozen series each: those whose
/// policy was asked first.
const TIMED: usize = 1_000;

impl Balancer {
    fn timed<'a>(&self, services: &'a [One]) -> impl Iterator<Item = (Labels, Histogram)> + use<'a> {
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = |one: &One| one.state.counters().pick_times().read();
        let rows: Vec<_> = services.iter().filter_map(|one| Some((one, times(one)?))).collect();
        // By name, as the rows are.
        timed.retain(|name| rows.binary_search_by(|(one, _)| one.state.service.cmp(name)).is_ok());
        for (one, _) in &rows {
            if timed.len() < TIMED {
                timed.insert(one.state.service.clone());
            }
        }
        let shown = rows.into_iter().filter(|(one, _)| timed.contains(&one.state.service));
        shown.map(|(one, times)| (one.labels(), times)).collect::<Vec<_>>().into_iter()
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").finish_non_exhaustive()
    }
}

impl Collector for Balancer {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let services: Vec<One> = self.services.list().iter().map(One::new).collect();
        let each = |value: fn(&ServiceState) -> u64| services.iter().map(move |one| (one.labels(), value(&one.state)));
        let mut out = Writer { encoder };

        out.infos("build", "The release of this node", [vec![("version", env!("CARGO_PKG_VERSION").to_owned())]])?;
        out.gauge("services", "Services that this node watches", &(services.len() as u64))?;
        let census = self.services.census();
        let help = "Services that callers named and that have no endpoints";
        out.gauge("services_empty", help, &(census.empty as u64))?;
        let help = "Services without endpoints that gave their place to another";
        out.counter("services_displaced", help, census.displaced)?;
        out.gauges(
            "snapshot_revision",
            "The revision of etcd that the endpoints are from, 0 before the first list",
            services.iter().map(|one| (one.labels(), one.state.revision.0)),
        )?;
        out.gauges("snapshot_endpoints", "Endpoints known", each(|state| state.endpoints.len() as u64))?;
        out.gauges(
            "snapshot_endpoints_backing_off",
            "Endpoints that are skipped because the last attempt to connect failed",
            each(|state| state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).count() as u64),
        )?;
        out.gauges(
            "snapshot_endpoints_ejected",
            "Endpoints that are ejected because they fail more than the others",
            each(|state| state.endpoints.iter().filter(|endpoint| endpoint.cell.is_ejected()).count() as u64),
        )?;
        out.gauges(
            "snapshot_endpoints_silent",
            "Endpoints that are passed over because they do not answer",
            each(|state| state.endpoints.iter().filter(|endpoint| endpoint.cell.is_silent()).count() as u64),
        )?;
        out.gauges(
            "snapshot_endpoints_unhealthy",
            "Endpoints that get no calls because their health check fails",
            each(|state| {
                state.endpoints.iter().filter(|endpoint| endpoint.cell.health() == Health::Unhealthy).count() as u64
            }),
        )?;
        out.counters("ejections", "Endpoints ejected so far", each(|state| state.counters().ejections()))?;
        out.gauges(
            "snapshot_listed",
            "1 once the registry has answered for the service",
            each(|state| u64::from(state.listed)),
        )?;
        let stale =
            |state: &ServiceState| state.stale.as_ref().map_or(0.0, |stale| stale.since.elapsed().as_secs_f64());
        out.gauges(
            "snapshot_stale_seconds",
            "How long the registry has been out of reach, 0 while it answers",
            services.iter().map(|one| (one.labels(), stale(&one.state))),
        )?;
        out.gauges(
            "snapshot_skipped_entries",
            "Entries in etcd, and instances of them, that were left out",
            each(|state| state.skipped),
        )?;
        // By its reasons, and only what there is: a line for each of thousands of services and all
        // reasons, most of them 0, would hide the one that counts.
        out.gauges(
            "registry_skips",
            "Entries and instances that were left out, by the reason",
            services.iter().flat_map(One::skips),
        )?;
        out.gauges(
            "service_generation",
            "Counts what was published for the service, endpoints or policy",
            each(|state| state.generation),
        )?;
        out.gauges(
            "endpoints_in_flight",
            "Calls that run on the endpoints of the service",
            each(|state| state.endpoints.iter().map(|endpoint| u64::from(endpoint.cell.in_flight())).sum()),
        )?;
        out.gauges(
            "calls_pending",
            "Calls that wait for a place, an endpoint or the policy",
            each(|state| u64::from(state.limiter.pending())),
        )?;
        out.counters(
            "calls_refused",
            "Calls refused because as many waited as may",
            each(|state| state.limiter.refused()),
        )?;
        out.counters(
            "picks",
            "Picks made, further attempts of a request included",
            each(|state| state.counters().picks()),
        )?;
        out.counters(
            "fallback_picks",
            "Picks that a fallback answered because the policy failed",
            each(|state| state.counters().fallback_picks()),
        )?;
        out.counters(
            "fallback_failures",
            "Picks that the fallback failed too, so that the native rotation answered them",
            each(|state| state.counters().fallback_failures()),
        )?;
        out.histograms(
            "pick",
            "Processor time of a pick by a policy that is asked each time, of the first one of each thread within two milliseconds",
            self.timed(&services),
        )?;
        out.gauge(
            "policy_builds_waiting",
            "Builds of policies that wait for one of the threads that build",
            &self.services.builds_waiting(),
        )?;
        out.counters(
            "policy_quarantines",
            "Policies taken out of service because they failed too often, or took too much time",
            each(|state| state.counters().quarantines()),
        )?;
        out.gauges(
            "policy_degraded",
            "1 while another policy than the chosen one serves, because that one failed, or it takes too much time",
            each(|state| u64::from(state.degraded.is_some())),
        )?;
        out.counters(
            "policies_refused",
            "Policies that were to take over, by a command or a changed file, and were refused",
            each(|state| state.counters().refused()),
        )?;
        out.gauges(
            "policy_version",
            "Which of the policies that the service was given runs, 0 for the native rotation",
            each(|state| state.policy_version),
        )?;
        out.infos("policy", "The policy that runs", services.iter().map(One::policy_labels))?;
        out.counters(
            "plugin_failures",
            "Picks that a version of the policy failed, of the running version and of those that ever failed",
            services.iter().flat_map(One::failures),
        )
    }
}

/// One service at one moment.
struct One {
    state: Arc<ServiceState>,
    history: Vec<PolicyVersion>,
}

impl One {
    fn new(handle: &ServiceHandle) -> Self {
        Self { state: Arc::clone(&handle.state()), history: handle.history() }
    }

    fn labels(&self) -> Labels {
        vec![("service", self.state.service.to_string())]
    }

    fn skips(&self) -> impl Iterator<Item = (Labels, u64)> {
        self.state.skips.parts().into_iter().filter(|(n, _)| *n > 0).map(|(n, reason)| {
            let mut labels = self.labels();
            labels.push(("reason", reason.to_owned()));
            (labels, n)
        })
    }

    fn policy_labels(&self) -> Labels {
        let running = self.history.iter().find(|version| version.version == self.state.policy_version);
        let of = |field: fn(&PolicyVersion) -> &str| running.map(field).unwrap_or_default().to_owned();
        let mut labels = self.labels();
        labels.extend([
            ("policy", self.state.policy_name.to_string()),
            ("plugin_version", of(|version| &version.info.plugin_version)),
            ("sha256", of(|version| &version.info.sha256)),
            ("plan", self.state.plan_kind().to_owned()),
        ]);
        labels
    }

    fn failures(&self) -> impl Iterator<Item = (Labels, u64)> {
        let told = |version: &&PolicyVersion| version.version == self.state.policy_version || version.pick_failures > 0;
        self.history.iter().filter(told).map(|version| {
            let mut labels = self.labels();
            labels.extend([("policy", version.info.name.to_string()), ("version", version.version.to_string())]);
            (labels, version.pick_failures)
        })
    }
}

/// The process, under the names that Prometheus gives them. What the system does not tell is left
/// out.
#[derive(Debug)]
struct Process {
    /// When the front door was set up: the process's start, to within its set-up.
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Writer { encoder };
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        out.gauge("process_start_time_seconds", "Start time of the process since the Unix epoch, seconds", &started)?;
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // The one that this list is read through is not counted.
            let open = (open.count() as u64).saturating_sub(1);
            out.gauge("process_open_fds", "Number of open file descriptors", &open)?;
        }
        if let Some(resident) = resident_memory() {
            out.gauge("process_resident_memory_bytes", "Resident memory size, bytes", &resident)?;
        }
        Ok(())
    }
}

/// Bytes, where Linux tells them (proc(5), `VmRSS` in kibibytes).
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{future::ready, time::Duration};

    use tokio::time::timeout;
    use waymark_balancer::{Candidate, PolicyInfo, ServiceDefaults, ServicesConfig};
    use waymark_core::{
        model::{Endpoint, InstanceId, Revision, Skipped, Skips, Update},
        policy::{BuildError, Plan, Policy, Scope},
        snapshot::{self, Writer as Snapshots},
    };

    use super::*;

    struct Everyone;

    impl Policy for Everyone {
        fn name(&self) -> &'static str {
            "everyone"
        }

        fn build(&self, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
            Ok(Plan::Rotation((0..endpoints.len() as u32).collect()))
        }
    }

    /// One service, that the test feeds.
    async fn service() -> (Services, Snapshots) {
        let info = PolicyInfo {
            name: "everyone".into(),
            plugin_version: "1".into(),
            sha256: String::new(),
            origin: "test".into(),
            config: "{}".into(),
            allow: String::new(),
            by: "test".into(),
        };
        let policy = Candidate { policy: Arc::new(Everyone), info, load_time: Duration::ZERO };
        let name = ServiceName::new("svc").unwrap();
        let (writer, reader) = snapshot::channel(name.clone());
        let follow = move |_| ready(Ok(reader.clone()));
        let services = Services::new(ServicesConfig::new(follow, move |_| ServiceDefaults::new(policy.clone())));
        services.add(&name).await.unwrap();
        (services, writer)
    }

    #[tokio::test]
    async fn what_is_left_out_is_counted_by_its_reason_two_instances_at_one_address_too() {
        let (services, mut writer) = service().await;
        let metrics = Metrics::new(families(), services.clone());
        assert!(!metrics.encode().unwrap().contains("registry_skips{"));
        let at = |id: &str| Endpoint { id: InstanceId::new(id), ..Endpoint::at("192.0.2.1:80".parse().unwrap()) };
        let counts = Skipped { unreadable: 2, ..Skipped::default() };
        writer.apply(Update::Reset { revision: Revision(1), endpoints: vec![at("a"), at("b")], skipped: 2 });
        writer.apply(Update::Skipped(Skips { counts, scheme: "test".into() }));
        let mut states = services.get("svc").unwrap().subscribe();
        let counted = async {
            while states.current().skips.total() != 3 {
                states.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(10), counted).await.unwrap();
        let page = metrics.encode().unwrap();
        for line in [
            "waymark_snapshot_skipped_entries{service=\"svc\"} 3",
            "waymark_registry_skips{service=\"svc\",reason=\"unreadable\"} 2",
            "waymark_registry_skips{service=\"svc\",reason=\"duplicate\"} 1",
        ] {
            assert!(page.lines().any(|other| other == line), "{line} is missing in:\n{page}");
        }
        assert_eq!(page.lines().filter(|line| line.starts_with("waymark_registry_skips{")).count(), 2);
    }
}
