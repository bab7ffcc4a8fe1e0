//! What a plugin can reach: facts of the request in hand, load figures, and the log. Nothing else
//! is linked, but for WASI where it is granted.

use std::sync::Arc;

use scoped_tls_hkt::scoped_thread_local;
use waymark_core::{policy::RequestFacts, text};

use super::{
    bindings::balancer::waymark::plugin::{load, log, request},
    log::PluginLog,
    stdio::Wasi,
};
use crate::{
    deadline::{Deadline, Timed},
    description::Limits,
    memory::MemoryLimiter,
};

scoped_thread_local! {
    // The request that a pick on this thread is for. A store holds only what lives for ever, and a
    // request does not.
    static FACTS: for<'a> &'a (dyn RequestFacts + 'a)
}

/// Runs `pick` with the facts of one request in reach of the plugin.
pub(crate) fn with_facts<R>(facts: &dyn RequestFacts, pick: impl FnOnce() -> R) -> R {
    FACTS.set(facts, pick)
}

fn facts<R>(default: R, read: impl FnOnce(&dyn RequestFacts) -> R) -> R {
    if FACTS.is_set() { FACTS.with(read) } else { default }
}

/// What the host keeps for one instance.
pub(crate) struct HostState {
    pub(crate) memory: MemoryLimiter,
    pub(crate) deadline: Deadline,
    pub(crate) log: Arc<PluginLog>,
    pub(crate) wasi: Wasi,
    /// What it warned of in the call that it is in, where that is the answer's business and not the
    /// log's.
    warnings: Option<Vec<String>>,
}

impl HostState {
    pub(crate) fn new(limits: &Limits, log: Arc<PluginLog>, memory: MemoryLimiter) -> Self {
        let wasi = Wasi::new(Arc::clone(&log));
        Self { memory, deadline: Deadline::new(limits.build_deadline), log, wasi, warnings: None }
    }

    /// From now on what it warns of is kept: a few messages, each once.
    pub(crate) fn keep_warnings(&mut self) {
        self.warnings = Some(Vec::new());
    }

    /// What was kept since, no more from now on.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        self.warnings.take().unwrap_or_default()
    }

    fn warn(&mut self, message: &str) {
        const MOST: usize = 8;
        let Some(kept) = &mut self.warnings else { return self.log.write(log::Level::Warn, message) };
        let message = text::printable(message, self.log.max_len());
        if kept.len() < MOST && !kept.contains(&message) {
            kept.push(message);
        }
    }
}

impl Timed for HostState {
    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }
}

impl request::Host for HostState {
    fn path(&mut self) -> String {
        facts(String::new(), |facts| facts.path().to_owned())
    }

    fn header(&mut self, name: String) -> Option<String> {
        facts(None, |facts| facts.header(&name).map(ToOwned::to_owned))
    }

    fn tried(&mut self, endpoint: u32) -> bool {
        facts(false, |facts| facts.tried(endpoint))
    }
}

impl load::Host for HostState {
    fn in_flight(&mut self, endpoint: u32) -> u32 {
        facts(0, |facts| facts.in_flight(endpoint))
    }

    fn latency_us(&mut self, endpoint: u32) -> u32 {
        facts(0, |facts| facts.latency_us(endpoint))
    }

    fn failure_rate(&mut self, endpoint: u32) -> f64 {
        facts(0.0, |facts| facts.failure_rate(endpoint))
    }

    fn report(&mut self, endpoint: u32) -> Option<load::LoadReport> {
        let said = facts(None, |facts| facts.report(endpoint))?;
        Some(load::LoadReport {
            cpu_utilization: said.cpu_utilization,
            memory_utilization: said.memory_utilization,
            application_utilization: said.application_utilization,
            rps: said.rps,
            eps: said.eps,
            age_ms: said.age.as_millis().try_into().unwrap_or(u32::MAX),
        })
    }

    fn metric(&mut self, endpoint: u32, name: String) -> Option<f64> {
        facts(None, |facts| facts.metric(endpoint, &name))
    }
}

impl log::Host for HostState {
    fn log(&mut self, level: log::Level, message: String) {
        match level {
            log::Level::Warn => self.warn(&message),
            level => self.log.write(level, &message),
        }
    }
}

impl super::bindings::balancer::waymark::plugin::types::Host for HostState {}
impl super::bindings::key_scheme::waymark::plugin::types::Host for HostState {}
