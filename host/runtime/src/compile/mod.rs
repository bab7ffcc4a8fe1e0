//! From a component's bytes to its machine code, without others waiting for it.
//!
//! ```text
//!   in the memory cache? ──▶ known to fail? ──▶ a permit of the queue ──▶ compiled ──▶ cached
//!                             refused at once    (two at once;             in a process of its own, if the program was named,
//!                                                 slow ones step aside)    else on threads of low priority
//! ```
//!
//! A compile cannot be interrupted from within. In a process of its own it can be killed: when its
//! time is up, when it takes too much memory, or when whoever asked has gone. What it made comes
//! back through the cache folder, which wasmtime reads by itself. Where this is a library in
//! somebody else's program there is no such process: there the caller is answered in time, and the
//! threads that still compile have a low priority.

mod child_process;
mod disk_cache;
mod in_process;
mod memory_cache;
mod queue;
mod settings;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use tracing::warn;
use wasmtime::component::Component;

pub use self::child_process::{COMMAND as COMPILE_COMMAND, compile_for_parent};
pub(crate) use self::settings::{cache, settings};
use self::{disk_cache::DiskCache, in_process::InProcess, memory_cache::MemoryCache, queue::Queue};
use crate::{
    description::{bundled, sha256},
    memory,
};

pub(super) type Digest = [u8; 32];

/// What compiling may take. More may be added: build it with `..CompileLimits::default()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileLimits {
    /// The most processor time that compiling a component may take; on the clock it is five times
    /// as much. Default 180 s: an interpreter with its standard library takes 25 in a release build
    /// and twice that in a debug one, and a slow machine is to compile it, too.
    pub deadline: Duration,
    /// The most memory that compiling one component may take, in bytes; only where
    /// [`Self::program`] is set. Default 2 GiB, or half of the machine's memory if that is less.
    pub memory: usize,
    /// How much compiled code is kept in memory for its next use, in bytes. Default 256 MiB.
    pub cached: usize,
    /// The program that compiles in a process of its own: it has to call
    /// [`compile_for_parent`](crate::compile_for_parent) when its first argument is
    /// [`COMPILE_COMMAND`](crate::COMPILE_COMMAND), as `waymark` does. Default none: then
    /// components are compiled in this process, and what takes too long cannot be stopped.
    pub program: Option<PathBuf>,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(180),
            memory: memory::available_memory().map_or(2 << 30, |all| (all / 2).min(2 << 30)),
            cached: 256 << 20,
            program: None,
        }
    }
}

/// Why a component was not compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CompileError {
    /// It is damaged, or uses what this host does not have.
    Invalid(String),
    /// It would cost, or did cost, more than it may: in words that follow "it".
    Costly(String),
    /// The host's fault, or everything is busy: in words of their own.
    Host(String),
    /// Whoever asked has gone.
    Abandoned,
}

/// Says that nobody waits any more for what is being loaded. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Abandon {
    inner: Arc<AbandonInner>,
}

#[derive(Default)]
struct AbandonInner {
    abandoned: AtomicBool,
    told: Mutex<Vec<mpsc::Sender<Event>>>,
}

/// Abandons when it is dropped: for a future that may be dropped while it waits.
pub struct AbandonOnDrop(Abandon);

impl Abandon {
    /// Abandons when what is returned is dropped. After the work is done that is of no consequence.
    pub fn on_drop(&self) -> AbandonOnDrop {
        AbandonOnDrop(self.clone())
    }

    fn abandon(&self) {
        self.inner.abandoned.store(true, Relaxed);
        for told in self.told().drain(..) {
            let _ = told.send(Event::Abandoned); // It may be done meanwhile.
        }
    }

    fn is_abandoned(&self) -> bool {
        self.inner.abandoned.load(Relaxed)
    }

    /// Has it told there, at once if it already is.
    fn tell(&self, to: &mpsc::Sender<Event>) {
        self.told().push(to.clone());
        if self.is_abandoned() {
            self.abandon();
        }
    }

    fn told(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Event>>> {
        self.inner.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// What whoever waits for a compile hears.
enum Event {
    Done(Result<Option<Component>, CompileError>),
    Abandoned,
}

/// What was compiled so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compiles {
    /// Components that were compiled, those found in the folder included.
    pub done: u64,
    /// Those that were refused because they would cost too much, or did.
    pub refused: u64,
    /// Those that nobody waited for any more.
    pub abandoned: u64,
    /// How much compiled code is kept in memory, in bytes.
    pub cached_bytes: u64,
}

pub(crate) struct Compiler {
    limits: CompileLimits,
    /// Where a process of its own leaves what it made. The folder that lives as long as this is one
    /// that nobody named.
    folder: Option<(DiskCache, Option<tempfile::TempDir>)>,
    cached: Mutex<MemoryCache>,
    /// Components that are being compiled: who wants the same waits for it.
    in_hand: Mutex<HashSet<Digest>>,
    in_hand_changed: Condvar,
    /// What took too much, until when it is refused at once, and why.
    costly: Mutex<HashMap<Digest, (Instant, String)>>,
    queue: Arc<Queue>,
    in_process: InProcess,
    done: AtomicU64,
    refused: AtomicU64,
    abandoned: AtomicU64,
}

/// How many times its processor time a compile may take on the clock: it runs when no other wants
/// to.
const ON_THE_CLOCK: u32 = 5;

/// How long a component that took too much is refused without another try: the machine may have
/// been busy.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many of them are remembered.
const REMEMBERED_AT_MOST: usize = 256;

/// How often whoever waits for others looks whether it is still waited for.
const LOOK: Duration = Duration::from_millis(100);

impl Compiler {
    /// `named` is the folder that was asked for. What is wrong with it is said in the log: a node
    /// must not fail to start over a speed-up.
    pub(crate) fn new(limits: CompileLimits, named: Option<&std::path::Path>) -> Self {
        let open = |path: &std::path::Path| {
            DiskCache::open(path)
                .inspect_err(|error| warn!(%error, "compiled plugins are not kept from one start to the next"))
                .ok()
        };
        let mut folder = named.and_then(open).map(|folder| (folder, None));
        if folder.is_none() && limits.program.is_some() {
            let made = tempfile::Builder::new().prefix("waymark-compiled-").tempdir();
            folder = made
                .inspect_err(
                    |error| warn!(%error, "plugins are compiled in this process: there is no folder to hand them over"),
                )
                .ok()
                .and_then(|made| Some((open(made.path())?, Some(made))));
        }
        Self {
            cached: Mutex::new(MemoryCache::new(limits.cached)),
            limits,
            folder,
            in_hand: Mutex::default(),
            in_hand_changed: Condvar::new(),
            costly: Mutex::default(),
            queue: Arc::default(),
            in_process: InProcess::default(),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
        }
    }

    /// The folder of wasmtime's cache, if there is one.
    pub(crate) fn code_folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|(folder, _)| folder.code())
    }

    pub(crate) fn compiles(&self) -> Compiles {
        Compiles {
            done: self.done.load(Relaxed),
            refused: self.refused.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            cached_bytes: lock(&self.cached).bytes() as u64,
        }
    }

    /// Compiles a component, or finds it compiled.
    pub(crate) fn compile(
        &self,
        wasmtime: &wasmtime::Engine,
        digest: Digest,
        bytes: &[u8],
        abandon: &Abandon,
    ) -> Result<Component, CompileError> {
        let _turn = self.turn(digest, abandon)?;
        if let Some(component) = lock(&self.cached).get(&digest) {
            return Ok(component);
        }
        let compiled = self.costly_before(&digest).and_then(|()| self.compile_anew(wasmtime, digest, bytes, abandon));
        match &compiled {
            Ok(component) => {
                self.done.fetch_add(1, Relaxed);
                lock(&self.cached).insert(digest, component.clone());
            }
            Err(CompileError::Costly(_)) => _ = self.refused.fetch_add(1, Relaxed),
            Err(CompileError::Abandoned) => _ = self.abandoned.fetch_add(1, Relaxed),
            Err(CompileError::Invalid(_) | CompileError::Host(_)) => {}
        }
        compiled
    }

    fn compile_anew(
        &self,
        wasmtime: &wasmtime::Engine,
        digest: Digest,
        bytes: &[u8],
        abandon: &Abandon,
    ) -> Result<Component, CompileError> {
        let here = |bytes: &[u8]| {
            Component::from_binary(wasmtime, bytes).map_err(|error| CompileError::Invalid(format!("{error:#}")))
        };
        let component = if BUNDLED.contains(&digest) {
            // What comes with the host is no stranger's, small, and must not wait for one.
            here(bytes)?
        } else {
            let permit = self.queue.enter(Instant::now() + self.limits.deadline, abandon)?;
            let until = Instant::now() + self.limits.deadline * ON_THE_CLOCK;
            let compiled = match (&self.limits.program, &self.folder) {
                (Some(program), Some((folder, _))) => {
                    child_process::compile(program, folder, bytes, &self.limits, until, abandon, &permit).map(|()| None)
                }
                _ => self.in_process.compile(wasmtime, bytes, until, abandon, permit).map(Some),
            };
            if let Err(CompileError::Costly(reason)) = &compiled {
                self.remember(digest, reason);
            }
            match compiled? {
                Some(component) => component,
                // wasmtime finds what the other process made.
                None => here(bytes)?,
            }
        };
        if let Some((folder, _)) = &self.folder {
            folder.sign();
        }
        Ok(component)
    }

    /// Waits until nobody else compiles the same.
    fn turn(&self, digest: Digest, abandon: &Abandon) -> Result<Turn<'_>, CompileError> {
        let mut in_hand = lock(&self.in_hand);
        while !in_hand.insert(digest) {
            if abandon.is_abandoned() {
                return Err(CompileError::Abandoned);
            }
            in_hand = self.in_hand_changed.wait_timeout(in_hand, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(Turn { compiler: self, digest })
    }

    fn costly_before(&self, digest: &Digest) -> Result<(), CompileError> {
        let mut costly = lock(&self.costly);
        let now = Instant::now();
        costly.retain(|_, (until, _)| *until > now);
        match costly.get(digest) {
            Some((until, reason)) => Err(CompileError::Costly(format!(
                "{reason}; it is tried again in {} s at the earliest",
                until.saturating_duration_since(now).as_secs()
            ))),
            None => Ok(()),
        }
    }

    fn remember(&self, digest: Digest, reason: &str) {
        let mut costly = lock(&self.costly);
        if costly.len() < REMEMBERED_AT_MOST {
            costly.insert(digest, (Instant::now() + REMEMBERED, reason.to_owned()));
        }
    }
}

/// The right to compile one component.
struct Turn<'a> {
    compiler: &'a Compiler,
    digest: Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.compiler.in_hand).remove(&self.digest);
        self.compiler.in_hand_changed.notify_all();
    }
}

static BUNDLED: LazyLock<HashSet<Digest>> =
    LazyLock::new(|| bundled::ALL.iter().map(|bundled| sha256(bundled.bytes)).collect());

/// The locks here are held for a few instructions that cannot panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of what runs elsewhere, until its time is up or nobody waits any more.
fn await_end(
    events: &mpsc::Receiver<Event>,
    until: Instant,
    step_aside: impl FnOnce(),
) -> Option<Result<Option<Component>, CompileError>> {
    let mut step_aside = Some(step_aside);
    let slow = Instant::now() + queue::SLOW;
    loop {
        let now = Instant::now();
        let next = if step_aside.is_some() { slow.min(until) } else { until };
        match events.recv_timeout(next.saturating_duration_since(now)) {
            Ok(Event::Done(done)) => return Some(done),
            Ok(Event::Abandoned) => return Some(Err(CompileError::Abandoned)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Some(Err(CompileError::Host("the thread that compiled it ended without an answer".into())));
            }
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() >= until => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(step_aside) = step_aside.take() {
                    step_aside();
                }
            }
        }
    }
}
