//! The one wasmtime engine of a process: its settings, the ticker that deadlines are counted in,
//! and compiled components.

mod worker_pool;

use std::{path::PathBuf, sync::Arc, thread};

use tracing::warn;
use wasmtime::component::Component;

use self::worker_pool::WorkerPool;
use crate::{
    compile::{Abandon, CompileError, CompileLimits, Compiler, Compiles, cache, settings},
    deadline::Ticker,
    description::{EngineError, Limits},
    memory::{self, Budget, Usage},
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
            total_memory: memory::default_memory(),
            total_mappings: memory::default_mappings(),
            compile: CompileLimits::default(),
        }
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
    workers: WorkerPool,
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
        let workers = WorkerPool::start()?;
        let budget = Budget::new(config.total_memory, config.total_mappings);
        Ok(Self { inner: Arc::new(Inner { wasmtime, config, budget, compiler, workers, ticker }) })
    }

    /// The limits of plugins for which nothing else was said.
    pub fn limits(&self) -> &Limits {
        &self.inner.config.limits
    }

    pub(crate) fn instances(&self) -> usize {
        self.inner.config.instances.max(1)
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.wasmtime
    }

    /// The clock of deadlines.
    pub(crate) fn ticker(&self) -> &Arc<Ticker> {
        &self.inner.ticker
    }

    /// Has a fresh instance made, off the caller's thread. `is_slow`: it took long the last time.
    pub(crate) fn restart(&self, is_slow: bool, job: impl FnOnce() + Send + 'static) {
        self.inner.workers.push(is_slow, Box::new(job));
    }

    /// Returns when all instances are made that were asked for, but slow ones.
    #[cfg(test)]
    pub(crate) fn finish_restarts(&self) {
        self.inner.workers.finish();
    }

    /// Compiles a component, or finds it compiled.
    pub(crate) fn compile(&self, sha256: [u8; 32], bytes: &[u8], abandon: &Abandon) -> Result<Component, CompileError> {
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

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.inner.budget
    }
}

/// To be run when a thread that picks starts: otherwise its first pick pays some microseconds for
/// setting the thread up.
pub fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}
