//! Every policy a service was given, and what became of it.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};
use tracing::warn;
use waymark_core::policy::{PickError, PickTook, Policy};
use waymark_runtime::Grants;

use crate::{
    cpu_budget::{CpuBudget, CpuUse},
    state::FailureSink,
};

/// Which policy, with which configuration, from where and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyInfo {
    /// The name the plugin gives itself.
    pub name: Arc<str>,
    /// The version the plugin gives itself.
    pub plugin_version: String,
    /// SHA-256 of the component, hex.
    pub sha256: String,
    /// `bundled`, or where the bytes came from.
    pub origin: String,
    /// Its configuration, a JSON object.
    pub config: String,
    /// What it was given beyond its world, with commas between; empty when nothing.
    pub allow: String,
    /// Who chose it; free text.
    pub by: String,
}

impl PolicyInfo {
    /// Of a component that was not loaded, and so has not said what it is: it is called by its
    /// file.
    pub fn not_loaded(origin: String, sha256: String, config: String, allow: Grants, by: impl Into<String>) -> Self {
        let name =
            Path::new(&origin).file_stem().map_or_else(|| "?".into(), |stem| stem.to_string_lossy().as_ref().into());
        Self { name, plugin_version: String::new(), sha256, origin, config, allow: allow.to_string(), by: by.into() }
    }
}

/// What became of a policy version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyOutcome {
    /// It balances the service now.
    Running,
    /// It ran, and another one took its place.
    Superseded,
    /// It did not pass its checks and never ran.
    Refused,
    /// It failed too often and was taken out of service.
    Quarantined,
}

impl PolicyOutcome {
    /// The outcome in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Superseded => "superseded",
            Self::Refused => "refused",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One line of a service's policy history.
#[derive(Debug, Clone)]
pub struct PolicyVersion {
    /// Counts the policies the service was given on this node, from 1.
    pub version: u64,
    /// Which policy it was.
    pub info: PolicyInfo,
    /// When it was given.
    pub at: SystemTime,
    /// The kind of its latest plan; empty while it has none.
    pub plan: &'static str,
    /// What became of it.
    pub outcome: PolicyOutcome,
    /// Why it was refused or taken out, or what is wrong with it while it runs; empty otherwise.
    pub reason: String,
    /// Picks that failed while it ran, each answered by a fallback within the same call.
    pub pick_failures: u64,
    /// For a quarantined one: the time from the failure that was one too many to the publication of
    /// its successor.
    pub replaced_in: Option<Duration>,
}

/// One version with what is needed to run it again.
pub(super) struct HistoryEntry {
    pub(super) version: u64,
    pub(super) info: PolicyInfo,
    pub(super) at: SystemTime,
    pub(super) plan: &'static str,
    pub(super) outcome: PolicyOutcome,
    pub(super) reason: String,
    /// None when it could not even be loaded.
    pub(super) policy: Option<Arc<dyn Policy>>,
    pub(super) failures: Arc<PolicyFailures>,
    pub(super) replaced_in: Option<Duration>,
}

impl HistoryEntry {
    fn public(&self) -> PolicyVersion {
        PolicyVersion {
            version: self.version,
            info: self.info.clone(),
            at: self.at,
            plan: self.plan,
            outcome: self.outcome,
            reason: self.reason.clone(),
            pick_failures: self.failures.total(),
            replaced_in: self.replaced_in,
        }
    }
}

/// How many versions a service remembers, so that a rollback has somewhere to go and a loop of
/// swaps does not fill memory.
const REMEMBERED: usize = 32;

/// A service's policy versions, oldest first.
#[derive(Default)]
pub(super) struct History {
    entries: VecDeque<HistoryEntry>,
    last_version: u64,
}

impl History {
    pub(super) fn next_version(&mut self) -> u64 {
        self.last_version += 1;
        self.last_version
    }

    /// Adds a version. Past [`REMEMBERED`] one is forgotten: the oldest that was refused, since
    /// nobody can go back to it, else the oldest that does not run and is not `keep`. So a file
    /// that is broken again and again costs no way back.
    pub(super) fn push(&mut self, entry: HistoryEntry, keep: Option<u64>) {
        self.entries.push_back(entry);
        if self.entries.len() > REMEMBERED {
            let newest = self.last_version;
            let refused = self.entries.iter().position(|e| e.outcome == PolicyOutcome::Refused && e.version != newest);
            let oldest = refused.or_else(|| {
                self.entries.iter().position(|e| e.outcome != PolicyOutcome::Running && Some(e.version) != keep)
            });
            self.entries.remove(oldest.unwrap_or(0));
        }
    }

    pub(super) fn get_mut(&mut self, version: u64) -> Option<&mut HistoryEntry> {
        self.entries.iter_mut().find(|entry| entry.version == version)
    }

    pub(super) fn get(&self, version: u64) -> Option<&HistoryEntry> {
        self.entries.iter().find(|entry| entry.version == version)
    }

    /// The newest version before `version` that once ran.
    pub(super) fn before(&self, version: u64) -> Option<&HistoryEntry> {
        self.entries.iter().rev().find(|e| e.version < version && e.outcome == PolicyOutcome::Superseded)
    }

    /// All versions, newest first.
    pub(super) fn list(&self) -> Vec<PolicyVersion> {
        self.entries.iter().rev().map(HistoryEntry::public).collect()
    }
}

/// When a policy's picks take it out of service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarantine {
    /// This many failures …
    pub(super) failures: usize,
    /// … within this time.
    pub(super) window: Duration,
    /// The part of a thread's time that they may use for long, in percent.
    pub(super) cpu_percent: u32,
}

/// Counts the failing picks of one policy version, and what its picks take.
pub(super) struct PolicyFailures {
    service: String,
    policy: Arc<str>,
    quarantine: Quarantine,
    recent: Mutex<Recent>,
    /// Set with [`Recent::exceeded`], for picks.
    is_quarantined: AtomicBool,
    /// Wakes the service's task.
    notify: Arc<Notify>,
    /// Locked only where a pick was charged, which each thread is some hundred times a second at
    /// most.
    cpu_budget: Mutex<CpuBudget>,
    /// Whether its picks take too much, as the task was told.
    slow: AtomicBool,
}

#[derive(Default)]
struct Recent {
    total: u64,
    at: VecDeque<Instant>,
    /// Since when it is to be taken out, and why.
    exceeded: Option<(Instant, String)>,
}

impl PolicyFailures {
    pub(super) fn new(service: &str, policy: Arc<str>, quarantine: Quarantine, notify: Arc<Notify>) -> Self {
        Self {
            service: service.into(),
            policy,
            quarantine,
            recent: Mutex::default(),
            is_quarantined: AtomicBool::new(false),
            notify,
            cpu_budget: Mutex::new(CpuBudget::new(quarantine.cpu_percent)),
            slow: AtomicBool::new(false),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.lock().total
    }

    /// Why it has to be taken out of service and since when, if it has.
    pub(super) fn exceeded(&self) -> Option<(String, Instant)> {
        self.lock().exceeded.clone().map(|(since, reason)| (reason, since))
    }

    /// Says in a sentence that its picks take too much of the workers' time, while they do.
    pub(super) fn slow(&self) -> Option<String> {
        let cpu_use = self.slow.load(Relaxed).then(|| self.cpu_budget().use_at(Instant::now()));
        if let Some(CpuUse::Over(percent) | CpuUse::Exhausted(percent)) = cpu_use {
            return Some(self.too_much(percent));
        }
        self.slow.store(false, Relaxed);
        None
    }

    fn too_much(&self, percent: u32) -> String {
        let allowed = self.quarantine.cpu_percent;
        format!("its picks take {percent} % of a worker's processor time, more than {allowed} % (`pick-share-percent`)")
    }

    fn quarantine(&self, recent: &mut Recent, now: Instant, reason: String) {
        if recent.exceeded.is_none() {
            recent.exceeded = Some((now, reason));
            self.is_quarantined.store(true, Relaxed);
            self.notify.notify_one();
        }
    }

    /// Forgets what was counted towards quarantine: the version gets a new chance.
    pub(super) fn pardon(&self) {
        let mut recent = self.lock();
        recent.at.clear();
        recent.exceeded = None;
        self.cpu_budget().reset();
        self.slow.store(false, Relaxed);
        self.is_quarantined.store(false, Relaxed);
    }

    fn cpu_budget(&self) -> std::sync::MutexGuard<'_, CpuBudget> {
        // As below.
        self.cpu_budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recent> {
        // The lock is held for a few instructions that cannot panic half-way.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureSink for PolicyFailures {
    fn pick_failed(&self, error: &PickError) {
        // It was not asked: what kept it from being asked is counted itself, and the fallback's
        // picks are for themselves.
        if matches!(error, PickError::Restarting | PickError::Busy) {
            return;
        }
        let mut recent = self.lock();
        recent.total += 1;
        let now = Instant::now();
        while recent.at.front().is_some_and(|at| now - *at > self.quarantine.window) {
            recent.at.pop_front();
        }
        if recent.at.is_empty() {
            warn!(service = self.service, policy = &*self.policy, %error, "policy failed a pick; a fallback answered it");
        }
        recent.at.push_back(now);
        // More than that many are of no use, however many threads go on failing before the flag is
        // seen.
        recent.at.truncate(self.quarantine.failures);
        if recent.at.len() >= self.quarantine.failures {
            let Quarantine { failures, window, .. } = self.quarantine;
            let reason = format!("after {failures} failed picks within {window:?}: {error}");
            self.quarantine(&mut recent, now, reason);
        }
    }

    fn pick_took(&self, took: &PickTook) {
        if took.charged.is_zero() {
            return;
        }
        let now = Instant::now();
        let cpu_use = self.cpu_budget().add(took, now);
        match cpu_use {
            CpuUse::Within => {}
            CpuUse::Over(_) => {
                if !self.slow.swap(true, Relaxed) {
                    self.notify.notify_one();
                }
            }
            CpuUse::Exhausted(percent) => {
                let reason = format!("because {}", self.too_much(percent));
                self.quarantine(&mut self.lock(), now, reason);
            }
        }
    }

    fn is_quarantined(&self) -> bool {
        self.is_quarantined.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use waymark_testing::logged;

    use super::*;

    #[test]
    fn failures_are_counted_each_and_logged_once_with_their_reason_until_a_pardon() {
        let quarantine = Quarantine { failures: 3, window: Duration::from_secs(60), cpu_percent: 25 };
        let failures = PolicyFailures::new("svc", "mine".into(), quarantine, Arc::default());
        let fail = |n| (0..n).for_each(|_| failures.pick_failed(&PickError::Trapped("wasm unreachable".into())));
        let page = logged(|| fail(500));
        assert_eq!(page.lines().count(), 1, "{page}");
        assert!(page.contains("WARN") && page.contains("wasm unreachable") && page.contains("mine"), "{page}");
        assert_eq!(failures.total(), 500);
        assert!(failures.is_quarantined() && failures.exceeded().is_some());
        failures.pardon();
        assert!(!failures.is_quarantined() && failures.exceeded().is_none());
        assert_eq!(logged(|| fail(2)).lines().count(), 1);
        assert!(!failures.is_quarantined());
    }

    #[test]
    fn picks_that_take_too_much_are_told_of_once_and_then_take_it_out() {
        let quarantine = Quarantine { failures: 3, window: Duration::from_secs(60), cpu_percent: 25 };
        let failures = PolicyFailures::new("svc", "mine".into(), quarantine, Arc::default());
        let took = |charged| {
            failures.pick_took(&PickTook { measured: None, charged, thread: 0, kept_waiting: Duration::ZERO });
        };
        took(Duration::from_millis(200));
        assert_eq!(failures.slow(), None);
        took(Duration::from_millis(200));
        let slow = failures.slow().unwrap_or_default();
        assert!(slow.starts_with("its picks take 100 % of a worker's") && slow.contains("25 %"), "{slow}");
        assert!(!failures.is_quarantined());
        took(Duration::from_millis(700));
        assert!(failures.is_quarantined() && failures.total() == 0);
        let (reason, _) = failures.exceeded().unwrap_or_else(|| panic!("it is not taken out"));
        assert!(reason.starts_with("because its picks take"), "{reason}");
        failures.pardon();
        assert!(!failures.is_quarantined() && failures.slow().is_none());
    }
}
