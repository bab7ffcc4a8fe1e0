//! What a service's task does: everything that changes a generation is one operation,
//! `Task::build`.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, RwLock, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tracing::{Instrument as _, error, info, info_span, warn};
use waymark_core::{
    model::Endpoint,
    policy::{BuildError, Decision, NoRequest, PickContext, PickError, Picker, Plan, Policy, Scope},
    snapshot::{self, Snapshot},
};
use waymark_runtime::processor_time;

use super::{Candidate, Command, Published, ServiceSetup, Shared, SwapError, SwapTimes};
use crate::{
    builders::Pace,
    call_limiter::CallLimiter,
    duplicates::{self, Duplicates, Key},
    ejection::{self, Ejections},
    endpoint::{EndpointCell, EndpointState},
    history::{HistoryEntry, PolicyFailures, PolicyInfo, PolicyOutcome},
    slow_start::{self, SlowStarts},
    state::{Common, FailureSink, Fallback, Generation, NoFailures, ServiceState},
    status::Health,
};

/// Starts the task of one service. It ends with the last handle.
pub(super) fn spawn(setup: ServiceSetup, reader: snapshot::Reader, inbox: mpsc::Receiver<Box<Command>>) -> Arc<Shared> {
    let common = Common {
        service: setup.service.clone(),
        idempotent: setup.idempotent,
        traffic: Arc::clone(&setup.traffic),
        limiter: Arc::new(CallLimiter::new(&setup.traffic)),
        hash_key: setup.hash_key.clone(),
        counters: Arc::default(),
        upstream: Arc::clone(&setup.upstream),
    };
    let empty = Snapshot::empty(setup.service.clone());
    let empty = ServiceState::new(&common, Generation::zero(&empty, Arc::clone(&setup.initial.info.name)));
    let (published, generation) = watch::channel(0);
    let shared = Arc::new(Shared {
        service: setup.service.clone(),
        state: ArcSwap::from_pointee(empty),
        generation,
        history: RwLock::default(),
    });
    let span = info_span!("balancer", service = %setup.service);
    let mut duplicates = Duplicates::default();
    let task = Task {
        scope: Scope { service: setup.service.clone(), zone: Arc::clone(&setup.zone) },
        shared: Arc::clone(&shared),
        published,
        snapshot: duplicates.take_out(reader.current()),
        duplicates,
        cells: HashMap::new(),
        made_for: Arc::default(),
        running: None,
        serving: None,
        last_good: None,
        quarantined: None,
        unbuilt: None,
        build_again: false,
        slow: None,
        ejections: Ejections::new(setup.traffic.outlier.clone()),
        slow_starts: setup.traffic.slow_start.clone().map(SlowStarts::new),
        common,
        notify: Arc::default(),
        setup,
    };
    tokio::spawn(task.run(reader, inbox).instrument(span));
    shared
}

/// A policy that once served without trouble.
#[derive(Clone)]
struct Runnable {
    version: u64,
    policy: Arc<dyn Policy>,
    failures: Arc<PolicyFailures>,
    pace: Arc<Pace>,
}

struct Task {
    setup: ServiceSetup,
    scope: Scope,
    shared: Arc<Shared>,
    published: watch::Sender<u64>,
    /// The snapshot that the published generation is made of.
    snapshot: Arc<Snapshot>,
    /// Who is registered at the address of another.
    duplicates: Duplicates,
    /// What is kept for each endpoint, by all instances that it stands for.
    cells: HashMap<Key, Arc<EndpointCell>>,
    /// The endpoints that `cells` and the published list were made for.
    made_for: Arc<[Endpoint]>,
    /// The policy that shall serve. None once every policy was taken out of service: the native
    /// rotation serves.
    running: Option<Runnable>,
    /// The policy that does serve: the last good one while the running one cannot be built, none
    /// for the native rotation.
    serving: Option<Runnable>,
    /// What ran before the running one, without being taken out.
    last_good: Option<Runnable>,
    /// Why the chosen policy was taken out; until somebody chooses again.
    quarantined: Option<Arc<str>>,
    /// Why the running one does not serve the present endpoints.
    unbuilt: Option<Arc<str>>,
    /// The running policy has to be built although the endpoints are the same.
    build_again: bool,
    /// Since the picks of what serves take too much time, and that was published: when to look
    /// whether they still do.
    slow: Option<Instant>,
    /// Who is ejected, if the service's traffic asks for it.
    ejections: Option<Ejections>,
    /// The endpoints in slow start, if the service's traffic asks for one.
    slow_starts: Option<SlowStarts>,
    /// What each generation shares with those before it.
    common: Common,
    /// Wakes the task when picks fail too often or take too much.
    notify: Arc<Notify>,
}

/// A plan that passed its checks.
struct Built {
    plan: Arc<Plan>,
    pick: Option<Duration>,
}

/// The plans of one generation.
struct Plans {
    plan: Arc<Plan>,
    fallback: Option<Fallback>,
    /// Whose plan it is; none for the native rotation.
    by: Option<Runnable>,
    /// What a pick took when the plan was tried.
    pick: Option<Duration>,
}

impl Plans {
    /// The one native way to serve, over all endpoints that have a weight.
    fn native(snapshot: &Snapshot) -> Self {
        let weighty = |(index, endpoint): (usize, &Endpoint)| (endpoint.weight > 0).then_some(index as u32);
        let list = snapshot.endpoints.iter().enumerate().filter_map(weighty).collect();
        Self { plan: Arc::new(Plan::Rotation(list)), fallback: None, by: None, pick: None }
    }
}

fn same(a: Option<&Runnable>, b: Option<&Runnable>) -> bool {
    a.map(|a| a.version) == b.map(|b| b.version)
}

impl Task {
    async fn run(mut self, mut reader: snapshot::Reader, mut inbox: mpsc::Receiver<Box<Command>>) {
        let initial = self.setup.initial.clone();
        let version = self.record(&initial.policy, initial.info, PolicyOutcome::Running, String::new());
        self.running = Some(version);
        let mut last_build: Option<Instant> = None;
        let mut pending: Option<Arc<Snapshot>> = None;
        let mut followed = true;
        if self.snapshot.listed || self.snapshot.stale.is_some() {
            pending = Some(Arc::clone(&self.snapshot));
        }
        loop {
            // A first change is built at once, those that follow wait for the end of the pause, all
            // together.
            let due = last_build.map_or_else(Instant::now, |at| at + self.setup.coalesce);
            let notify = Arc::clone(&self.notify);
            tokio::select! {
                snapshot = reader.changed(), if followed => match snapshot {
                    Ok(snapshot) => pending = Some(self.duplicates.take_out(snapshot)),
                    // The last snapshot stays what is served.
                    Err(snapshot::Closed) => followed = false,
                },
                () = tokio::time::sleep_until(due), if pending.is_some() => {
                    if let Some(snapshot) = pending.take() {
                        self.follow(snapshot).await;
                        last_build = Some(Instant::now());
                    }
                }
                command = inbox.recv() => match command.map(|command| *command) {
                    Some(Command::Set { candidate, reply }) => {
                        let done = self.set(candidate).await;
                        let _ = reply.send(done); // The caller may have gone; the swap stands.
                    }
                    Some(Command::Refuse { info, reason, reply }) => {
                        self.refuse(info, reason);
                        let _ = reply.send(()); // As above.
                    }
                    Some(Command::RollBack { version, by, reply }) => {
                        let done = self.roll_back(version, by).await;
                        let _ = reply.send(done); // As above.
                    }
                    Some(Command::Close) | None => return,
                },
                () = notify.notified() => self.heed(),
                () = at(self.slow) => self.tell_slow(),
                () = slow_start::due(self.slow_starts.as_ref()) => self.slow_starts.iter_mut().for_each(SlowStarts::grow),
                () = ejection::due(self.ejections.as_ref()) => {
                    let endpoints = Arc::clone(&self.shared.state.load().endpoints);
                    let ejected = self.ejections.as_mut().map_or(0, |ejections| ejections.sweep(&endpoints));
                    self.common.counters.ejections.fetch_add(ejected, Relaxed);
                }
            }
            if self.build_again && pending.is_none() {
                pending = Some(Arc::clone(&self.snapshot));
            }
        }
    }

    /// Takes over a new snapshot.
    async fn follow(&mut self, snapshot: Arc<Snapshot>) {
        let state = self.shared.state.load_full();
        let same_endpoints = Arc::ptr_eq(&snapshot.endpoints, &self.snapshot.endpoints) && state.generation > 0;
        if same_endpoints && !std::mem::take(&mut self.build_again) {
            self.snapshot = snapshot;
            self.publish_again();
            return;
        }
        let plans = loop {
            let Some(running) = self.running.clone() else { break self.stand_in(&snapshot).await };
            let good = self.last_good.clone();
            let built = self.build(&snapshot, &running, good.as_ref()).await;
            if !same(self.running.as_ref(), Some(&running)) {
                // It was taken out of service while it was built.
                continue;
            }
            match built {
                Ok(plans) => {
                    self.unbuilt = None;
                    self.remark(running.version, plans.plan.kind(), String::new());
                    break plans;
                }
                Err(error) => {
                    error!(%error, "policy cannot serve the new endpoints; a fallback serves them");
                    self.unbuilt = Some(error.to_string().into());
                    self.remark(running.version, "", error.to_string());
                    break self.stand_in(&snapshot).await;
                }
            }
        };
        self.snapshot = snapshot;
        self.publish(plans);
    }

    /// Builds and checks a policy against these endpoints.
    async fn build(
        &mut self,
        snapshot: &Snapshot,
        version: &Runnable,
        good: Option<&Runnable>,
    ) -> Result<Plans, BuildError> {
        let Built { plan, pick } = self.build_one(snapshot, version).await?;
        let fallback = match (&*plan, good) {
            (Plan::EachRequest(_), Some(good)) if good.version != version.version => {
                let built = self.build_one(snapshot, good).await;
                let built = built.inspect_err(|error| warn!(%error, "no fallback plan")).ok();
                built.map(|Built { plan, .. }| Fallback { plan, failures: Arc::clone(&good.failures) as _ })
            }
            _ => None,
        };
        Ok(Plans { plan, fallback, by: Some(version.clone()), pick })
    }

    /// Builds off the threads that serve requests, when it is this service's turn. Whatever is
    /// served may be taken out of service meanwhile: a build may take long, and what fails must not
    /// be served for as long.
    async fn build_one(&mut self, snapshot: &Snapshot, version: &Runnable) -> Result<Built, BuildError> {
        let (policy, scope, endpoints) =
            (Arc::clone(&version.policy), self.scope.clone(), Arc::clone(&snapshot.endpoints));
        let work = move || {
            let plan = policy.build(&scope, &endpoints)?;
            let pick = match &plan {
                Plan::EachRequest(picker) if !endpoints.is_empty() => Some(try_out(policy.name(), &**picker)?),
                _ => None,
            };
            Ok(Built { plan: Arc::new(plan), pick })
        };
        let builders = Arc::clone(&self.setup.builders);
        let mut build = pin!(builders.run(&version.pace, work));
        let notify = Arc::clone(&self.notify);
        let built = loop {
            tokio::select! {
                built = &mut build => break built,
                () = notify.notified() => self.heed(),
            }
        };
        let name = || version.policy.name().to_owned();
        built.unwrap_or_else(|panic| Err(BuildError::Trapped { policy: name(), reason: panic.to_string() }))
    }

    /// What serves when the running policy cannot: the last good one, else the native rotation.
    async fn stand_in(&mut self, snapshot: &Snapshot) -> Plans {
        if let Some(good) = self.last_good.clone()
            && let Ok(Built { plan, pick }) = self.build_one(snapshot, &good).await
            && same(self.last_good.as_ref(), Some(&good))
        {
            return Plans { plan, fallback: None, by: Some(good), pick };
        }
        Plans::native(snapshot)
    }

    /// The snapshot's endpoints with what is kept for each. A new list is made only where they
    /// changed: a swap, or a sign of life from the registry, costs a service of thousands of
    /// endpoints nothing here, nor whoever drops the last use of the former list.
    fn endpoints(&mut self) -> Arc<[EndpointState]> {
        let endpoints = &self.snapshot.endpoints;
        if Arc::ptr_eq(endpoints, &self.made_for) {
            return Arc::clone(&self.shared.state.load().endpoints);
        }
        let mut cells = HashMap::with_capacity(endpoints.len());
        // Those of the first list are as old as the others.
        let mut slow_starts = self.slow_starts.as_mut().filter(|_| !self.made_for.is_empty());
        let list = endpoints.iter().map(|endpoint| {
            let key = duplicates::key(endpoint);
            let others = self.duplicates.others(&key);
            let known = [&key].into_iter().chain(others).find_map(|key| self.cells.remove(key));
            let cell = known.unwrap_or_else(|| {
                let cell = Arc::new(EndpointCell::new(Arc::clone(&self.common.limiter)));
                if self.setup.traffic.health.is_some() {
                    cell.set_health(Health::Unknown);
                }
                if let Some(slow_starts) = slow_starts.as_mut() {
                    slow_starts.join(&cell);
                }
                cell
            });
            cells.extend(others.iter().map(|key| (key.clone(), Arc::clone(&cell))));
            cells.insert(key, Arc::clone(&cell));
            EndpointState { endpoint: endpoint.clone(), cell }
        });
        let list: Arc<[EndpointState]> = list.collect();
        self.made_for = Arc::clone(endpoints);
        // What is left in the old map has gone from the service: its connection closes when its
        // last call ends.
        self.cells = cells;
        if let Some(ejections) = &mut self.ejections {
            ejections.heed(&list);
        }
        list
    }

    fn publish(&mut self, plans: Plans) -> u64 {
        let endpoints = self.endpoints();
        self.setup.reservation.set_has_endpoints(!endpoints.is_empty());
        let generation = self.shared.state.load().generation + 1;
        let failures: Arc<dyn FailureSink> = match &plans.by {
            Some(by) => Arc::clone(&by.failures) as _,
            None => Arc::new(NoFailures),
        };
        let name = plans.by.as_ref().map_or("native rotation", |by| by.policy.name());
        let slow: Option<Arc<str>> = plans.by.as_ref().and_then(|by| by.failures.slow()).map(Into::into);
        self.slow = slow.as_ref().map(|_| Instant::now() + LOOK_AGAIN);
        let degraded = self.unbuilt.as_ref().or(self.quarantined.as_ref()).or(slow.as_ref());
        let degraded = degraded.map(|reason| Arc::from(format!("{reason}; {name} serves")));
        let published = ServiceState::new(
            &self.common,
            Generation {
                number: generation,
                snapshot: &self.snapshot,
                endpoints,
                policy_version: plans.by.as_ref().map_or(0, |by| by.version),
                policy_name: name.into(),
                degraded,
                plan: plans.plan,
                fallback: plans.fallback,
                failures,
            },
        );
        self.shared.state.store(Arc::new(published));
        if let Some(config) = &self.setup.traffic.health {
            self.setup.upstream.check(&self.scope.service, &self.shared.state.load().endpoints, config);
        }
        self.serving = plans.by;
        self.published.send_replace(generation);
        generation
    }

    /// The same plans, with what has changed beside them.
    fn publish_again(&mut self) {
        let state = self.shared.state.load_full();
        let (plan, fallback) = (Arc::clone(&state.plan), state.fallback.clone());
        self.publish(Plans { plan, fallback, by: self.serving.clone(), pick: None });
    }

    async fn set(&mut self, candidate: Candidate) -> Result<Published, SwapError> {
        let began = Instant::now();
        let name = Arc::clone(&candidate.info.name);
        let (failures, number) = self.number(&name);
        let version =
            Runnable { version: number, policy: Arc::clone(&candidate.policy), failures, pace: Arc::default() };
        let snapshot = Arc::clone(&self.snapshot);
        let (good, built) = loop {
            // What serves now is what it would fall back to.
            let serves = |task: &Self| task.serving.clone().or_else(|| task.running.clone()).or(task.last_good.clone());
            let good = serves(self);
            let built = self.build(&snapshot, &version, good.as_ref()).await;
            let now = serves(self);
            if same(good.as_ref(), now.as_ref()) || !matches!(&built, Ok(plans) if plans.fallback.is_some()) {
                break (now, built);
            }
            // The one that it would fall back to was taken out of service meanwhile.
        };
        let plans = match built {
            Ok(plans) => plans,
            Err(error) => {
                warn!(policy = &*name, %error, "candidate policy refused");
                self.common.counters.add_refused();
                self.push(&version, candidate.info, "", PolicyOutcome::Refused, error.to_string());
                return Err(SwapError::Refused { service: self.scope.service.clone(), reason: error.to_string() });
            }
        };
        let built = Instant::now();
        if let Some(running) = self.running.take() {
            self.close(running.version, PolicyOutcome::Superseded, String::new());
        }
        self.last_good = good;
        (self.quarantined, self.unbuilt, self.build_again) = (None, None, false);
        let (plan, pick) = (plans.plan.kind(), plans.pick);
        self.push(&version, candidate.info, plan, PolicyOutcome::Running, String::new());
        self.running = Some(version);
        let generation = self.publish(plans);
        let times = SwapTimes { load: candidate.load_time, build: built - began, publish: built.elapsed(), pick };
        info!(policy = &*name, version = number, generation, plan, ?times, "policy is live");
        Ok(Published { version: number, generation, times })
    }

    fn refuse(&self, info: PolicyInfo, reason: String) {
        let (failures, version) = self.number(&info.name);
        self.common.counters.add_refused();
        let entry = HistoryEntry {
            version,
            info,
            at: SystemTime::now(),
            plan: "",
            outcome: PolicyOutcome::Refused,
            reason,
            policy: None,
            failures,
            replaced_in: None,
        };
        self.shared.history().push(entry, self.last_good.as_ref().map(|good| good.version));
    }

    async fn roll_back(&mut self, version: u64, by: String) -> Result<Published, SwapError> {
        let running = self.running.as_ref().map_or(u64::MAX, |running| running.version);
        let found = {
            let history = self.shared.history();
            let entry = match version {
                // Back from a policy that was taken out already: what serves in its place is what
                // is wanted.
                0 if self.quarantined.is_some() && self.running.is_some() => history.get(running),
                0 => history.before(running),
                version => history.get(version),
            };
            let entry = entry.filter(|entry| entry.outcome != PolicyOutcome::Refused);
            match entry.and_then(|entry| Some((entry, entry.policy.clone()?))) {
                Some((entry, policy)) => {
                    let origin = format!("version {}", entry.version);
                    let origin = match entry.info.origin.split_once(" (rollback to ") {
                        Some((first, _)) => format!("{first} (rollback to {origin})"),
                        None => format!("{} (rollback to {origin})", entry.info.origin),
                    };
                    let info = PolicyInfo { origin, by, ..entry.info.clone() };
                    Ok(Candidate { policy, info, load_time: Duration::ZERO })
                }
                None => Err(history
                    .list()
                    .iter()
                    .filter(|entry| entry.outcome != PolicyOutcome::Refused && entry.version != running)
                    .map(|entry| entry.version.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")),
            }
        };
        match found {
            Ok(candidate) => self.set(candidate).await,
            Err(available) => {
                let available = if available.is_empty() { "none".into() } else { available };
                Err(SwapError::NoSuchVersion { service: self.scope.service.clone(), version, available })
            }
        }
    }

    /// Does what the picks' failures and times ask for.
    fn heed(&mut self) {
        self.drop_fallback();
        self.quarantine();
        self.tell_slow();
    }

    /// Takes the policy that stands by out of service, when picks that it was to answer failed too
    /// often as well.
    fn drop_fallback(&mut self) {
        let stands_by = |good: &&Runnable| !same(self.serving.as_ref(), Some(good));
        let Some(good) = self.last_good.as_ref().filter(stands_by).cloned() else { return };
        let Some((reason, _)) = good.failures.exceeded() else { return };
        let reason = format!("taken out of service as a fallback {reason}");
        self.common.counters.quarantines.fetch_add(1, Relaxed);
        self.close(good.version, PolicyOutcome::Quarantined, reason.clone());
        self.last_good = None;
        let state = self.shared.state.load_full();
        self.publish(Plans { plan: Arc::clone(&state.plan), fallback: None, by: self.serving.clone(), pick: None });
        error!(policy = good.policy.name(), version = good.version, reason, "fallback policy quarantined");
    }

    /// Publishes that the picks of what serves take too much of the workers' time, or no more.
    fn tell_slow(&mut self) {
        let slow = self.serving.as_ref().and_then(|by| by.failures.slow());
        match (slow, &mut self.slow) {
            (Some(_), Some(look)) => *look = Instant::now() + LOOK_AGAIN,
            (None, None) => {}
            (slow, _) => {
                if let Some(reason) = slow {
                    let policy = self.serving.as_ref().map_or("", |by| by.policy.name());
                    warn!(policy, reason, "policy is slow");
                }
                self.publish_again();
            }
        }
    }

    /// Takes the policy that serves out of service when its picks failed too often or took too
    /// much. What takes its place was built beside it, so that nothing is waited for here.
    fn quarantine(&mut self) {
        let Some(bad) = self.serving.clone() else { return };
        let Some((reason, since)) = bad.failures.exceeded() else { return };
        let reason = format!("taken out of service {reason}");
        self.quarantined = Some(format!("{} version {} was {reason}", bad.policy.name(), bad.version).into());
        let fallback = self.shared.state.load().fallback.clone();
        let good = self.last_good.take().filter(|good| good.version != bad.version);
        if same(self.running.as_ref(), Some(&bad)) {
            self.running = good;
            self.unbuilt = None;
        }
        // Else it was the stand-in of a running policy that could not be built. That one is tried
        // again.
        let plans = match (self.running.clone(), fallback) {
            (Some(running), Some(Fallback { plan, .. })) if self.unbuilt.is_none() => {
                running.failures.pardon();
                self.remark(running.version, plan.kind(), String::new());
                Plans { plan, fallback: None, by: Some(running), pick: None }
            }
            (running, _) => {
                self.build_again = running.is_some();
                Plans::native(&self.snapshot)
            }
        };
        if let Some(running) = &self.running {
            self.close(running.version, PolicyOutcome::Running, String::new());
        }
        let now = plans.by.as_ref().map_or("native rotation", |by| by.policy.name()).to_owned();
        // First what is said of it, then what is published: whoever sees the new generation finds
        // its reason.
        let replaced_in = since.elapsed();
        self.common.counters.quarantines.fetch_add(1, Relaxed);
        if let Some(entry) = self.shared.history().get_mut(bad.version) {
            entry.outcome = PolicyOutcome::Quarantined;
            entry.reason.clone_from(&reason);
            entry.replaced_in = Some(replaced_in);
        }
        self.publish(plans);
        error!(policy = bad.policy.name(), version = bad.version, reason, now, ?replaced_in, "policy quarantined");
    }

    fn number(&self, policy: &Arc<str>) -> (Arc<PolicyFailures>, u64) {
        let number = self.shared.history().next_version();
        let service = self.scope.service.as_str();
        let failures =
            PolicyFailures::new(service, Arc::clone(policy), self.setup.quarantine, Arc::clone(&self.notify));
        (Arc::new(failures), number)
    }

    fn record(&self, policy: &Arc<dyn Policy>, info: PolicyInfo, outcome: PolicyOutcome, reason: String) -> Runnable {
        let (failures, number) = self.number(&info.name);
        let version = Runnable { version: number, policy: Arc::clone(policy), failures, pace: Arc::default() };
        self.push(&version, info, "", outcome, reason);
        version
    }

    fn push(&self, version: &Runnable, info: PolicyInfo, plan: &'static str, outcome: PolicyOutcome, reason: String) {
        let entry = HistoryEntry {
            version: version.version,
            info,
            at: SystemTime::now(),
            plan,
            outcome,
            reason,
            policy: Some(Arc::clone(&version.policy)),
            failures: Arc::clone(&version.failures),
            replaced_in: None,
        };
        self.shared.history().push(entry, self.last_good.as_ref().map(|good| good.version));
    }

    fn close(&self, version: u64, outcome: PolicyOutcome, reason: String) {
        if let Some(entry) = self.shared.history().get_mut(version) {
            entry.outcome = outcome;
            entry.reason = reason;
        }
    }

    fn remark(&self, version: u64, plan: &'static str, reason: String) {
        if let Some(entry) = self.shared.history().get_mut(version) {
            entry.plan = plan;
            entry.reason = reason;
        }
    }
}

/// How many picks a candidate answers before it is let near a request.
const TRIAL_PICKS: u32 = 4;

/// Lets a per-request policy answer a few picks of a request that nobody sent. Tells what the
/// quickest of them took: the first ones also pay for what is not in the processor's caches yet.
fn try_out(policy: &str, picker: &dyn Picker) -> Result<Duration, BuildError> {
    let mut quickest = Duration::MAX;
    for sequence in 0..TRIAL_PICKS {
        let context = PickContext { sequence, random: (sequence << 30, !sequence), hash: None, attempt: 0 };
        let failed = |error: PickError| BuildError::FailedTrial { policy: policy.into(), reason: error.to_string() };
        let began = processor_time();
        let _: Decision = picker.pick(context, &NoRequest("/waymark.Trial/Pick")).map_err(failed)?;
        quickest = quickest.min(processor_time().saturating_sub(began));
    }
    Ok(quickest)
}

/// Waits until that time; for ever without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How soon it is looked again whether picks that took too much still do.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
