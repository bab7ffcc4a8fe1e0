//! The one wasmtime engine of a process: its settings, the ticker that deadlines are counted in, and compiled components.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tracing::warn;
use wasmtime::{Cache, CacheConfig, Config, Store, Trap, UpdateDeadline, component::Component};

use super::{host::HostState, limits::Limits};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where compiled components are kept from one start to the next, by the SHA-256 of their bytes and the compiler's settings. Unset: they
    /// are kept in memory only. The folder must belong to whoever runs the node: what is in it is run.
    pub cache_dir: Option<PathBuf>,
    /// How many instances a per-request policy gets: about one a thread that picks. Default: the number of cores.
    pub instances: usize,
    /// What plugins may take, unless a service says otherwise.
    pub limits: Limits,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            instances: thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
        }
    }
}

/// How long a tick of the deadlines' clock is. A deadline is armed by adding ticks to a counter, so that no call reads a clock.
const TICK: Duration = Duration::from_millis(2);

/// How long a call may run.
///
/// A thread may be kept from running for longer than a pick's whole deadline when the machine is busy, and a healthy pick must not
/// pay for that. So the first half of a deadline is counted in ticks; when it has passed, the thread's own processor time is noted, and from
/// then on the call ends as soon as it has *used* a quarter of the deadline. A loop ends after about its deadline, a call that was
/// merely kept waiting goes on.
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

    /// Begins a call on a store.
    pub(super) fn arm(self, store: &mut Store<HostState>) {
        store.data_mut().deadline = self;
        store.set_epoch_deadline(self.half);
    }

    fn passed(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let used = Duration::try_from(used).unwrap_or_default();
        match self.noted {
            None => self.noted = Some(used),
            Some(noted) if used.saturating_sub(noted) >= self.quarter => return Err(Trap::Interrupt.into()),
            Some(_) => {}
        }
        Ok(UpdateDeadline::Continue(self.half.div_ceil(2)))
    }
}

/// A job for the thread that makes fresh instances after a failure.
pub(super) type Restart = Box<dyn FnOnce() + Send>;

/// Loads and runs plugins. Cheap to clone; there is one a process.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    wasmtime: wasmtime::Engine,
    config: EngineConfig,
    compiled: Mutex<HashMap<[u8; 32], Component>>,
    restarts: mpsc::Sender<Restart>,
}

/// How many compiled components are kept in memory for the next use.
const KEPT_COMPILED: usize = 64;

impl Engine {
    /// Sets up the engine and starts its two threads: one ticks, one makes fresh instances after failures. Both end with
    /// the engine.
    ///
    /// # Errors
    ///
    /// The machine cannot run compiled WebAssembly, or a thread could not be started.
    pub fn new(config: EngineConfig) -> anyhow::Result<Self> {
        let mut settings = Config::new();
        settings
            .wasm_component_model(true)
            // Left on, component-model concurrency makes every call more than three times as dear.
            .concurrency_support(false)
            .epoch_interruption(true)
            .max_wasm_stack(512 << 10);
        if let Some(folder) = &config.cache_dir {
            let mut cache = CacheConfig::new();
            cache.with_directory(folder);
            match Cache::new(cache) {
                Ok(cache) => {
                    settings.cache(Some(cache));
                }
                // A node must not fail to start over a speed-up.
                Err(error) => {
                    warn!(folder = %folder.display(), %error, "compiled plugins are not kept: no cache there");
                }
            }
        }
        let wasmtime = wasmtime::Engine::new(&settings).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let engine = wasmtime.weak();
        thread::Builder::new().name("plugin-ticker".into()).spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })?;
        let (restarts, jobs) = mpsc::channel::<Restart>();
        thread::Builder::new().name("plugin-restarts".into()).spawn(move || {
            for job in jobs {
                job();
            }
        })?;
        Ok(Self { inner: Arc::new(Inner { wasmtime, config, compiled: Mutex::default(), restarts }) })
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

    /// Has a fresh instance made, off the caller's thread.
    pub(super) fn restart(&self, job: Restart) {
        // The thread ends only with the engine.
        let _ = self.inner.restarts.send(job);
    }

    /// Compiles a component, or finds it compiled.
    pub(super) fn compile(&self, sha256: [u8; 32], bytes: &[u8]) -> wasmtime::Result<Component> {
        let kept = || self.inner.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = kept().get(&sha256) {
            return Ok(component.clone());
        }
        let component = Component::from_binary(self.wasmtime(), bytes)?;
        let mut kept = kept();
        if kept.len() >= KEPT_COMPILED {
            kept.clear();
        }
        kept.insert(sha256, component.clone());
        Ok(component)
    }

    /// A store for one instance, with its limits armed.
    pub(super) fn store(&self, state: HostState, limits: &Limits) -> Store<HostState> {
        let mut store = Store::new(self.wasmtime(), state);
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| store.data_mut().deadline.passed());
        Deadline::new(limits.build_deadline).arm(&mut store);
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

/// To be run when a thread that picks starts: otherwise its first pick pays some microseconds for setting the thread up.
pub fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}
