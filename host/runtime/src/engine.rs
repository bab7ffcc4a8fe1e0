//! The one wasmtime engine of a process: its settings, the ticker that deadlines are counted in,
//! and compiled components.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tracing::warn;
use wasmtime::{Cache, CacheConfig, Config, Store, Trap, UpdateDeadline, component::Component};

use super::{
    budget::{self, Budget, Usage},
    compile::{Abandon, CompileError, CompileLimits, Compiler, Compiles},
    error::EngineError,
    host::HostState,
    limits::Limits,
    memory::HANDLES,
    meter::processor_time,
    restarts::Restarts,
    ticker::{Running, TICK, Ticker},
};

/// How the engine is set up. More may be added: build it with `..EngineConfig::default()`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where compiled components are kept from one start to the next, by the SHA-256 of their bytes
    /// and the compiler's settings. Unset: they are kept in memory only. What is in the folder is
    /// run: it is made for its owner alone, one that others may write to is not used, and what has
    /// no checksum by the folder's key is deleted.
    pub cache_dir: Option<PathBuf>,
    /// The most instances of a per-request policy for one service. It begins with one, and gets
    /// another when its picks wait for each other, while plugins hold less than half of what they
    /// may. Default: the number of cores.
    pub instances: usize,
    /// What plugins may take, unless a service says otherwise.
    pub limits: Limits,
    /// What the instances of all plugins may hold together, in bytes: see [`Usage`]. Builds in
    /// progress may take a quarter of it beside. Default: a quarter of the memory of the machine or
    /// container, at least 256 MiB and at most 2 GiB.
    pub total_memory: usize,
    /// How many mappings of the process they may take together; an instance with one memory takes
    /// two. Default: three quarters of `vm.max_map_count`, past which the kernel gives a process no
    /// memory any more.
    pub total_mappings: usize,
    /// What compiling may take.
    pub compile: CompileLimits,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            instances: thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
            total_memory: budget::default_memory(),
            total_mappings: budget::default_mappings(),
            compile: CompileLimits::default(),
        }
    }
}

/// How much address space a linear memory has when it begins, and when it outgrows that, in bytes:
/// growth within it moves nothing. The usual 4 GiB with guards before and behind save a bounds
/// check an access, and take four mappings an instance; ten thousand services could not have one
/// each.
const RESERVED: u64 = 1 << 20;
const RESERVED_FOR_GROWTH: u64 = 4 << 20;

/// The settings of the compiler and of what it compiled: the process that compiles has the same.
pub(super) fn settings(cache: Option<Cache>) -> Config {
    let mut settings = Config::new();
    settings
        .wasm_component_model(true)
        // Left on, component-model concurrency makes every call more than three times as dear.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .memory_reservation(RESERVED)
        .memory_reservation_for_growth(RESERVED_FOR_GROWTH)
        .memory_guard_size(0)
        .guard_before_linear_memory(false)
        // A mapping of the image would split the memory into a third one; what is copied instead is
        // some KB.
        .memory_init_cow(false)
        .cache(cache);
    settings
}

/// wasmtime's cache in this folder.
pub(super) fn cache(folder: &Path) -> Result<Cache, String> {
    let mut config = CacheConfig::new();
    // What is packed anew would have to be signed anew.
    config.with_directory(folder).with_optimized_compression_usage_counter_threshold(u64::MAX);
    Cache::new(config).map_err(|error| format!("no cache of compiled plugins in {}: {error:#}", folder.display()))
}

/// How long a call may run.
///
/// A thread may be kept from running for longer than a pick's whole deadline when the machine is
/// busy, and a healthy pick must not pay for that. So the first half of a deadline is counted in
/// ticks; when it has passed, the thread's own processor time is noted, and from then on the call
/// ends as soon as it has *used* a quarter of the deadline. A loop ends after about its deadline, a
/// call that was merely kept waiting goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    half: u64,
    quarter: Duration,
    noted: Option<Duration>,
}

impl Deadline {
    pub(super) fn new(deadline: Duration) -> Self {
        // One tick more than it takes, since the first may come at once.
        let half = (deadline / 2).as_nanos().div_ceil(TICK.as_nanos()) as u64 + 1;
        Self { half, quarter: deadline / 4, noted: None }
    }

    /// Begins a call on a store, for which the clock runs.
    pub(super) fn arm(self, store: &mut Store<HostState>, _: &Running<'_>) {
        store.data_mut().deadline = self;
        store.set_epoch_deadline(self.half);
    }

    fn passed(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let used = processor_time();
        match self.noted {
            None => self.noted = Some(used),
            Some(noted) if used.saturating_sub(noted) >= self.quarter => return Err(Trap::Interrupt.into()),
            Some(_) => {}
        }
        Ok(UpdateDeadline::Continue(self.half.div_ceil(2)))
    }
}

/// Loads and runs plugins. Cheap to clone; there is one a process.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    wasmtime: wasmtime::Engine,
    config: EngineConfig,
    budget: Arc<Budget>,
    compiler: Compiler,
    restarts: Restarts,
    ticker: Arc<Ticker>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticker.close();
    }
}

impl Engine {
    /// Sets up the engine and starts its threads: one ticks, a few make instances off the path of
    /// picks. They end with the engine.
    ///
    /// # Errors
    ///
    /// The machine cannot run compiled WebAssembly, or a thread could not be started.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let compiler = Compiler::new(config.compile.clone(), config.cache_dir.as_deref());
        // A node must not fail to start over a speed-up.
        let cache = compiler.code_folder().and_then(|folder| cache(&folder).inspect_err(|error| warn!("{error}")).ok());
        let wasmtime = wasmtime::Engine::new(&settings(cache))
            .map_err(|error| EngineError::Unsupported { reason: format!("{error:#}"), source: error.into() })?;
        let engine = wasmtime.weak();
        let ticker = Ticker::start(move || engine.upgrade().inspect(wasmtime::Engine::increment_epoch).is_some())?;
        let restarts = Restarts::start()?;
        let budget = Budget::new(config.total_memory, config.total_mappings);
        Ok(Self { inner: Arc::new(Inner { wasmtime, config, budget, compiler, restarts, ticker }) })
    }

    /// The limits of plugins for which nothing else was said.
    pub fn limits(&self) -> &Limits {
        &self.inner.config.limits
    }

    pub(super) fn instances(&self) -> usize {
        self.inner.config.instances.max(1)
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.wasmtime
    }

    /// The clock of deadlines.
    pub(super) fn ticker(&self) -> &Arc<Ticker> {
        &self.inner.ticker
    }

    /// Has a fresh instance made, off the caller's thread. `is_slow`: it took long the last time.
    pub(super) fn restart(&self, is_slow: bool, job: impl FnOnce() + Send + 'static) {
        self.inner.restarts.push(is_slow, Box::new(job));
    }

    /// Returns when all instances are made that were asked for, but slow ones.
    #[cfg(test)]
    pub(super) fn finish_restarts(&self) {
        self.inner.restarts.finish();
    }

    /// Compiles a component, or finds it compiled.
    pub(super) fn compile(&self, sha256: [u8; 32], bytes: &[u8], abandon: &Abandon) -> Result<Component, CompileError> {
        self.inner.compiler.compile(self.wasmtime(), sha256, bytes, abandon)
    }

    /// What instances hold of what they may.
    pub fn usage(&self) -> Usage {
        self.inner.budget.usage()
    }

    /// What was compiled so far.
    pub fn compiles(&self) -> Compiles {
        self.inner.compiler.compiles()
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.inner.budget
    }

    /// A store for one instance, with its limits armed.
    pub(super) fn store(&self, state: HostState, limits: &Limits, running: &Running<'_>) -> Store<HostState> {
        let mut store = Store::new(self.wasmtime(), state);
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(HANDLES);
        store.epoch_deadline_callback(|mut store| store.data_mut().deadline.passed());
        Deadline::new(limits.build_deadline).arm(&mut store, running);
        store.set_hostcall_fuel(limits.transfer);
        store
    }
}

/// The SHA-256 of a component's bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The SHA-256 of a component's bytes as the history and `plugin inspect` show it, in hex.
pub fn digest(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// A digest as people compare it.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing into a String does not fail.
        text
    })
}

/// Puts the calling thread behind those that serve requests: of a processor that one of them fills
/// it gets a quarter. No less, because other processes of a busy machine count as well, and what it
/// does is waited for by somebody. Only where priorities are a thread's own, which is Linux;
/// elsewhere nothing changes.
pub fn yield_to_others() {
    #[cfg(target_os = "linux")]
    {
        // Where it is refused the thread goes on as it is.
        let _ = rustix::process::nice(5);
    }
}

/// To be run when a thread that picks starts: otherwise its first pick pays some microseconds for
/// setting the thread up.
pub fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}
