//! What a plugin can reach: facts of the request in hand, load figures, and the log. Nothing else is linked.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use scoped_tls_hkt::scoped_thread_local;
use tracing::{debug, error, info, warn};
use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use super::{
    bindings::balancer::waymark::plugin::{load, log, request},
    engine::Deadline,
    limits::Limits,
    wasi::Wasi,
};
use crate::policy::RequestFacts;

scoped_thread_local! {
    // The request that a pick on this thread is for. A store holds only what lives for ever, and a request does not.
    static FACTS: for<'a> &'a (dyn RequestFacts + 'a)
}

/// Runs `pick` with the facts of one request in reach of the plugin.
pub(super) fn with_facts<R>(facts: &dyn RequestFacts, pick: impl FnOnce() -> R) -> R {
    FACTS.set(facts, pick)
}

fn facts<R>(default: R, read: impl FnOnce(&dyn RequestFacts) -> R) -> R {
    if FACTS.is_set() { FACTS.with(read) } else { default }
}

/// What the host keeps for one instance.
pub(super) struct HostState {
    pub(super) memory: MemoryLimit,
    pub(super) deadline: Deadline,
    pub(super) log: Arc<PluginLog>,
    pub(super) wasi: Wasi,
}

impl HostState {
    /// `peak` is raised to whatever linear memory this instance comes to have.
    pub(super) fn new(limits: &Limits, log: Arc<PluginLog>, peak: Arc<AtomicUsize>) -> Self {
        let inner = StoreLimitsBuilder::new()
            .memory_size(limits.memory)
            .table_elements(limits.table_elements)
            .instances(64)
            .memories(8)
            .tables(64)
            .build();
        let memory = MemoryLimit { inner, peak, refused: None };
        let wasi = Wasi::new(Arc::clone(&log));
        Self { memory, deadline: Deadline::new(limits.build_deadline), log, wasi }
    }
}

/// Refuses memory over the limit, and remembers that it did: a guest then usually traps, and the reason should say why.
pub(super) struct MemoryLimit {
    inner: StoreLimits,
    peak: Arc<AtomicUsize>,
    pub(super) refused: Option<String>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.inner.memory_growing(current, desired, maximum)?;
        if granted {
            self.peak.fetch_max(desired, Relaxed);
        } else {
            self.refused = Some(format!("it was refused more memory than {} KiB", current >> 10));
        }
        Ok(granted)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.inner.table_growing(current, desired, maximum)?;
        if !granted {
            self.refused = Some(format!("it was refused a table larger than {current} elements"));
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.inner.instances()
    }

    fn tables(&self) -> usize {
        self.inner.tables()
    }

    fn memories(&self) -> usize {
        self.inner.memories()
    }
}

/// One plugin's way to the node's log, shared by all its instances: bounded in length and in number.
pub(super) struct PluginLog {
    plugin: Mutex<String>,
    limit: u32,
    max_len: usize,
    window: Mutex<Window>,
    dropped: AtomicU64,
}

struct Window {
    began: Instant,
    count: u32,
}

impl PluginLog {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(super) fn new(plugin: &str, limits: &Limits) -> Self {
        Self {
            plugin: Mutex::new(plugin.into()),
            limit: limits.log_messages,
            max_len: limits.log_message_len,
            window: Mutex::new(Window { began: Instant::now(), count: 0 }),
            dropped: AtomicU64::new(0),
        }
    }

    /// Once the plugin has told its name, its messages carry it.
    pub(super) fn rename(&self, name: &str) {
        name.clone_into(&mut self.plugin.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn admit(&self) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= Self::WINDOW {
            *window = Window { began: Instant::now(), count: 0 };
            let dropped = self.dropped.swap(0, Relaxed);
            if dropped > 0 {
                let plugin = self.name();
                warn!(plugin, dropped, "plugin logged too much; messages were dropped");
            }
        }
        window.count += 1;
        window.count <= self.limit
    }

    fn name(&self) -> String {
        self.plugin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest message, in bytes.
    pub(super) fn max_len(&self) -> usize {
        self.max_len
    }

    pub(super) fn write(&self, level: log::Level, message: &str) {
        if !self.admit() {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let mut end = message.len().min(self.max_len);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        // Control characters could rewrite a terminal that shows the log.
        let message: String =
            message[..end].chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        let plugin = self.name();
        match level {
            log::Level::Debug => debug!(target: "waymark::plugin", plugin, "{message}"),
            log::Level::Info => info!(target: "waymark::plugin", plugin, "{message}"),
            log::Level::Warn => warn!(target: "waymark::plugin", plugin, "{message}"),
            log::Level::Error => error!(target: "waymark::plugin", plugin, "{message}"),
        }
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
        self.log.write(level, &message);
    }
}

impl super::bindings::balancer::waymark::plugin::types::Host for HostState {}
impl super::bindings::key_scheme::waymark::plugin::types::Host for HostState {}
