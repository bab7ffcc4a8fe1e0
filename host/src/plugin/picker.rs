//! Picks by a component: instances behind padded locks, about one a thread.
//!
//! ```text
//!   ready ──pick──▶ ready
//!     │ trap, deadline, out of range
//!     ▼
//!   empty ──(restart thread: fresh store, build)──▶ ready
//!                │ build failed
//!                ▼
//!              broken: each pick that finds no other shard asks for one more restart
//! ```
//!
//! A pick takes the shard of its thread, or the next one that is free. A shard that failed is empty until its fresh instance is
//! there; picks use the others meanwhile, and the caller's fallback when there is none. A broken shard is a failure for each pick that
//! meets it, so that a policy that cannot be restarted is taken out of service like one that traps.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tracing::debug;

use super::{
    bindings::balancer::exports::waymark::plugin::balancer::{Context, Decision as WitDecision},
    engine::{Deadline, Engine},
    host::with_facts,
    loader::Failure,
    policy::{Core, Input, Instance, printable},
};
use crate::policy::{BuildError, Decision, PickContext, PickError, Picker, RequestFacts};

/// Asks a component for every request.
pub(super) struct WasmPicker {
    inner: Arc<Inner>,
    deadline: Deadline,
    len: usize,
}

struct Inner {
    core: Arc<Core>,
    input: Input,
    shards: Box<[Shard]>,
    /// Why the last restart failed. Taken by the pick that meets it, which asks for the next one.
    broken: Mutex<Option<(usize, String)>>,
}

/// Two cache lines, since processors fetch them in pairs: neighbours' locks must not slow each other.
#[repr(align(128))]
struct Shard {
    slot: Mutex<Option<Instance>>,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Option<Instance>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Instance>>> {
        match self.slot.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl WasmPicker {
    /// Takes the instance that was just built, and builds the others.
    pub(super) fn new(core: Arc<Core>, input: Input, first: Instance) -> Result<Self, BuildError> {
        let mut instances = vec![first];
        while instances.len() < core.plugin.engine.instances() {
            instances.push(core.start(&input)?.0);
        }
        let shards = instances.into_iter().map(|instance| Shard { slot: Mutex::new(Some(instance)) }).collect();
        let (deadline, len) = (Deadline::new(core.plugin.limits.pick_deadline), input.endpoints.len());
        Ok(Self { inner: Arc::new(Inner { core, input, shards, broken: Mutex::default() }), deadline, len })
    }

    /// The instance of this thread, or another one that is free; waits for its own when all are busy.
    fn take(&self) -> Option<(usize, MutexGuard<'_, Option<Instance>>)> {
        let shards = &self.inner.shards;
        let home = thread_number() % shards.len();
        let mut busy = false;
        for offset in 0..shards.len() {
            let index = (home + offset) % shards.len();
            match shards[index].try_lock() {
                Some(slot) if slot.is_some() => return Some((index, slot)),
                Some(_) => {}
                None => busy = true,
            }
        }
        // The others run at most for their deadline.
        let slot = busy.then(|| shards[home].lock())?;
        slot.is_some().then_some((home, slot))
    }

    /// Every shard is empty. If that is because one could not be filled again, it is tried once more, at the price of a failure.
    fn no_instance(&self) -> PickError {
        let broken = self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((index, reason)) = broken else { return PickError::Restarting };
        Inner::restart(Arc::downgrade(&self.inner), index, &self.inner.core.plugin.engine);
        PickError::NotRestarted(reason)
    }

    fn check(&self, decision: WitDecision) -> Result<Decision, PickError> {
        let in_range = |index: u32| {
            if (index as usize) < self.len { Ok(index) } else { Err(PickError::OutOfRange { index, len: self.len }) }
        };
        Ok(match decision {
            WitDecision::Endpoint(index) => Decision::Endpoint(in_range(index)?),
            WitDecision::Either((a, b)) => Decision::Either(in_range(a)?, in_range(b)?),
            WitDecision::Queue => Decision::Queue,
            WitDecision::Fail(message) => Decision::Fail(printable(&message)),
            WitDecision::Drop(message) => Decision::Drop(printable(&message)),
        })
    }
}

impl Picker for WasmPicker {
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError> {
        let Some((index, mut slot)) = self.take() else { return Err(self.no_instance()) };
        let instance = slot.as_mut().expect("`take` returns a shard that holds an instance");
        let context = Context {
            sequence: context.sequence,
            random: context.random,
            hash: context.hash,
            attempt: context.attempt,
        };
        self.deadline.arm(&mut instance.store);
        let Instance { store, guest } = instance;
        let answered = with_facts(facts, || guest.waymark_plugin_balancer().call_pick(&mut *store, context));
        let failure = match answered {
            Ok(decision) => match self.check(decision) {
                Ok(decision) => return Ok(decision),
                Err(out_of_range) => out_of_range,
            },
            Err(error) => match Failure::of(store, &error) {
                Failure::Deadline => {
                    let deadline = self.inner.core.plugin.limits.pick_deadline;
                    PickError::DeadlineExceeded { deadline_ms: deadline.as_millis() as u64 }
                }
                Failure::Trap(reason) => PickError::Trapped(reason),
            },
        };
        // Whatever state it is in now, nobody asks it again.
        *slot = None;
        drop(slot);
        Inner::restart(Arc::downgrade(&self.inner), index, &self.inner.core.plugin.engine);
        Err(failure)
    }
}

impl Inner {
    /// Fills an empty shard again, off the hot path; not any more when the generation is gone.
    fn restart(inner: Weak<Self>, index: usize, engine: &Engine) {
        engine.restart(Box::new(move || {
            let Some(inner) = inner.upgrade() else { return };
            match inner.core.start(&inner.input) {
                Ok((instance, _)) => *inner.shards[index].lock() = Some(instance),
                Err(error) => {
                    debug!(%error, "a failed policy instance cannot be replaced; its picks are answered by a fallback");
                    // The sink of failures logs it once, when a pick meets it.
                    *inner.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, error.to_string()));
                }
            }
        }));
    }
}

/// A small number for each thread, so that threads spread over the shards.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        plugin::{
            EngineConfig,
            bindings::balancer::exports::waymark::plugin::balancer::{Endpoint, Scope},
        },
        policy::NoRequest,
    };

    #[test]
    fn an_instance_that_cannot_be_made_again_is_a_failure_of_each_pick_that_meets_it() {
        let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
        let guest = include_bytes!("../../../plugins/dist/test/fails_on_snapshot.wasm");
        let policy = engine.load(guest, "test").unwrap().into_policy(r#"{"endpoints": 2}"#).unwrap();
        let input = |n: usize| Input {
            scope: Scope { service: "svc".into(), zone: String::new() },
            endpoints: (0..n)
                .map(|n| Endpoint {
                    id: n.to_string(),
                    address: format!("192.0.2.{n}:80"),
                    zone: String::new(),
                    weight: 1,
                    metadata: Vec::new(),
                })
                .collect(),
        };
        let (instance, _) = policy.core.start(&input(1)).unwrap();
        let picker = WasmPicker::new(Arc::clone(&policy.core), input(2), instance).unwrap();
        let context = PickContext { sequence: 0, random: (0, 0), hash: None, attempt: 0 };
        assert!(picker.pick(context, &NoRequest("/a.B/C")).is_ok());
        let trapped = picker.pick(context, &NoRequest("/waymark.Test/Trap")).unwrap_err();
        assert!(matches!(trapped, PickError::Trapped(_)), "{trapped}");
        // Each of these asks for another restart, and the next one meets its failure.
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(60);
            let error = loop {
                match picker.pick(context, &NoRequest("/a.B/C")).unwrap_err() {
                    PickError::Restarting => assert!(Instant::now() < until, "no restart was tried"),
                    other => break other,
                }
                std::thread::yield_now();
            };
            assert!(matches!(&error, PickError::NotRestarted(reason) if reason.contains("refuses 2")), "{error}");
        }
    }
}
