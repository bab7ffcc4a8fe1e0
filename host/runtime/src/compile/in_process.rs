//! Compiling in this process: on threads of low priority, which nobody can stop.

use std::{
    sync::{LazyLock, mpsc},
    thread,
    time::Instant,
};

use wasmtime::component::Component;

use super::{Abandon, CompileError, Event, await_end, queue::Permit};
use crate::deadline::lower_priority;

/// How many threads compile, of all components together.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// The threads that compile. wasmtime would use those of the whole process, and with the priority
/// of those that serve calls.
pub(super) struct InProcess {
    pool: LazyLock<Option<rayon::ThreadPool>>,
}

impl Default for InProcess {
    fn default() -> Self {
        let build = || {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads())
                .thread_name(|n| format!("plugin-compile-{n}"))
                .start_handler(|_| lower_priority());
            pool.build().ok()
        };
        Self { pool: LazyLock::new(build) }
    }
}

impl InProcess {
    /// `permit` is given back when the compiler is done, be that long after the caller was
    /// answered.
    pub(super) fn compile(
        &self,
        wasmtime: &wasmtime::Engine,
        bytes: &[u8],
        until: Instant,
        abandon: &Abandon,
        permit: Permit,
    ) -> Result<Component, CompileError> {
        let Some(pool) = &*self.pool else {
            return Err(CompileError::Host("the threads that compile cannot be started".into()));
        };
        let began = Instant::now();
        let (sender, events) = mpsc::channel();
        abandon.tell(&sender);
        let (wasmtime, bytes) = (wasmtime.clone(), bytes.to_vec());
        let permit = std::sync::Arc::new(permit);
        let held = std::sync::Arc::clone(&permit);
        pool.spawn(move || {
            let compiled = Component::from_binary(&wasmtime, &bytes);
            drop(held);
            let compiled = compiled.map(Some).map_err(|error| CompileError::Invalid(format!("{error:#}")));
            let _ = sender.send(Event::Done(compiled)); // Its caller may have been answered.
        });
        if let Some(done) = await_end(&events, until, || permit.step_aside()) {
            return done?.ok_or_else(|| CompileError::Host("nothing was compiled".into()));
        }
        permit.step_aside();
        Err(CompileError::Costly(format!("was not compiled after {} s", began.elapsed().as_secs())))
    }
}
