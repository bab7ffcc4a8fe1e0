//! Picks by a component: instances behind padded locks, one at first, up to about one a thread
//! where picks wait for each other.
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
//! A pick takes the shard of its thread, or the next one that is free. Where all are busy for
//! longer than it waits, the caller's fallback answers. A shard that failed is empty until its
//! fresh instance is there; picks use the others meanwhile, and the caller's fallback when there is
//! none. A broken shard is a failure for each pick that meets it, so that a policy that cannot be
//! restarted is taken out of service like one that traps.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::{Duration, Instant},
};

use tracing::debug;
use waymark_core::{
    policy::{BuildError, Decision, PickContext, PickError, Picker, RequestFacts},
    text::{WORDS, printable},
};

use super::factory::{Factory, Input, Instance};
use crate::{
    call::{
        CallFailure,
        bindings::balancer::exports::waymark::plugin::balancer::{Context, Decision as WitDecision},
        with_facts,
    },
    deadline::{Deadline, Ticker, thread_number},
};

/// Asks a component for every request.
pub(super) struct WasmPicker {
    inner: Arc<Inner>,
    ticker: Arc<Ticker>,
    deadline: Deadline,
    /// How long a pick waits for an instance that is busy: a quarter of the deadline.
    patience: Duration,
    len: usize,
}

/// An instance for one pick, and its place.
type Taken<'a> = (usize, MutexGuard<'a, Option<Instance>>);

/// What a look at all instances finds.
enum Free<'a> {
    One(Taken<'a>),
    /// There is none, not even one at work.
    None,
    Busy,
}

/// How often it is looked for a free instance before the thread rests, and how long it does.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);

struct Inner {
    factory: Arc<Factory>,
    input: Input,
    /// Whose budget the instances come out of.
    owner: Arc<str>,
    /// As many as there may be.
    shards: Box<[Shard]>,
    /// How many of them have been filled: picks look at these.
    active: AtomicUsize,
    /// Whether another one is being made.
    growing: AtomicBool,
    /// None is made before that: in milliseconds since `began`.
    not_before: AtomicU64,
    began: Instant,
    /// Why the last restart failed. Taken by the pick that meets it, which asks for the next one.
    broken: Mutex<Option<(usize, String)>>,
}

/// Two cache lines, since processors fetch them in pairs: neighbours' locks must not slow each
/// other.
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

/// How long it takes until another instance is tried to be made where there was no room for it, or
/// it failed.
const PAUSE: Duration = Duration::from_secs(1);

impl WasmPicker {
    /// Takes the instance that was just built, and serves with it. Others are made when picks find
    /// it busy.
    pub(super) fn new(factory: Arc<Factory>, input: Input, mut first: Instance) -> Result<Self, BuildError> {
        let owner: Arc<str> = input.scope.service.as_str().into();
        factory.keep(&mut first, &owner)?;
        let most = factory.plugin.engine.instances();
        let mut first = Some(first);
        let shards = (0..most).map(|_| Shard { slot: Mutex::new(first.take()) }).collect();
        let (allowed, len) = (factory.plugin.limits.pick_deadline, input.endpoints.len());
        let (deadline, patience) = (Deadline::new(allowed), allowed / 4);
        let ticker = Arc::clone(factory.plugin.engine.ticker());
        let inner = Inner {
            factory,
            input,
            owner,
            shards,
            active: AtomicUsize::new(1),
            growing: AtomicBool::new(false),
            not_before: AtomicU64::new(0),
            began: Instant::now(),
            broken: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner), ticker, deadline, patience, len })
    }

    /// The instance of this thread, or another one that is free; waits a little where all are busy.
    fn take(&self) -> Result<Taken<'_>, PickError> {
        let mut until = None;
        for look in 1.. {
            match self.free() {
                Free::One(taken) => return Ok(taken),
                Free::None => return Err(self.no_instance()),
                Free::Busy => {}
            }
            // A pick takes microseconds, so one is free soon; one that takes its whole deadline
            // must not have the threads of other picks wait as long.
            let until = *until.get_or_insert_with(|| {
                Inner::grow(&self.inner);
                Instant::now() + self.patience
            });
            if look % LOOKS != 0 {
                thread::yield_now();
            } else if Instant::now() < until {
                thread::sleep(BETWEEN_LOOKS);
            } else {
                break;
            }
        }
        Err(PickError::Busy)
    }

    fn free(&self) -> Free<'_> {
        let shards = &self.inner.shards[..self.inner.active.load(Acquire)];
        let home = thread_number() % shards.len();
        let mut none = Free::None;
        for offset in 0..shards.len() {
            let index = (home + offset) % shards.len();
            match shards[index].try_lock() {
                Some(slot) if slot.is_some() => return Free::One((index, slot)),
                Some(_) => {}
                None => none = Free::Busy,
            }
        }
        none
    }

    /// Every shard is empty. If that is because one could not be filled again, it is tried once
    /// more, at the price of a failure.
    fn no_instance(&self) -> PickError {
        let broken = self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((index, reason)) = broken else { return PickError::Restarting };
        Inner::restart(&self.inner, index);
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
            WitDecision::Fail(message) => Decision::Fail(printable(&message, WORDS)),
            WitDecision::Drop(message) => Decision::Drop(printable(&message, WORDS)),
        })
    }
}

impl Picker for WasmPicker {
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError> {
        let (index, mut slot) = self.take()?;
        let instance = slot.as_mut().expect("`take` returns a shard that holds an instance");
        let context = Context {
            sequence: context.sequence,
            random: context.random,
            hash: context.hash,
            attempt: context.attempt,
        };
        let running = self.ticker.run();
        let began = self.ticker.ticks().begin();
        self.deadline.arm(&mut instance.store, &running);
        let Instance { store, guest } = instance;
        let answered = with_facts(facts, || guest.waymark_plugin_balancer().call_pick(&mut *store, context));
        let deadline = || self.inner.factory.plugin.limits.pick_deadline;
        let too_late = || PickError::DeadlineExceeded { deadline_ms: deadline().as_millis() as u64 };
        let is_late = self.ticker.ticks().end(began).is_some_and(|took| {
            facts.took(took);
            took.measured >= Some(deadline())
        });
        let failure = match answered {
            // An instruction that moves megabytes, and the host's own work for it, run to their end
            // whatever the deadline.
            Ok(_) if is_late => too_late(),
            Ok(decision) => match self.check(decision) {
                Ok(decision) => return Ok(decision),
                Err(out_of_range) => out_of_range,
            },
            Err(error) => match CallFailure::of(store, &error) {
                CallFailure::Deadline => too_late(),
                failure => PickError::Trapped(failure.describe(deadline())),
            },
        };
        // Whatever state it is in now, nobody asks it again.
        *slot = None;
        drop(slot);
        Inner::restart(&self.inner, index);
        Err(failure)
    }
}

impl Inner {
    /// Picks wait for each other: has another instance made, if there may be one more, off the hot
    /// path.
    fn grow(inner: &Arc<Self>) {
        let (engine, next) = (&inner.factory.plugin.engine, inner.active.load(Relaxed));
        if next >= inner.shards.len() || inner.now() < inner.not_before.load(Relaxed) {
            return;
        }
        if inner.growing.swap(true, Relaxed) {
            return;
        }
        let weak = Arc::downgrade(inner);
        engine.restart(inner.factory.is_slow(), move || {
            let Some(inner) = weak.upgrade() else { return };
            let engine = &inner.factory.plugin.engine;
            let made = if engine.budget().has_plenty() {
                inner.factory.start_and_keep(&inner.input, &inner.owner).inspect_err(|error| {
                    debug!(%error, "no further instance of a policy");
                })
            } else {
                Err(BuildError::NoRoom { policy: inner.factory.name(), reason: "half of the budget is held".into() })
            };
            // One shard is filled at a time: nobody else has come to `next` meanwhile.
            match made {
                Ok(instance) => {
                    *inner.shards[next].lock() = Some(instance);
                    inner.active.store(next + 1, Release);
                }
                Err(_) => inner.not_before.store(inner.now() + PAUSE.as_millis() as u64, Relaxed),
            }
            inner.growing.store(false, Relaxed);
        });
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Fills an empty shard again, off the hot path; not any more when the generation is gone.
    fn restart(inner: &Arc<Self>, index: usize) {
        let weak = Arc::downgrade(inner);
        inner.factory.plugin.engine.restart(inner.factory.is_slow(), move || {
            let Some(inner) = weak.upgrade() else { return };
            match inner.factory.start_and_keep(&inner.input, &inner.owner) {
                Ok(instance) => *inner.shards[index].lock() = Some(instance),
                Err(error) => {
                    debug!(%error, "a failed policy instance cannot be replaced; its picks are answered by a fallback");
                    // The sink of failures logs it once, when a pick meets it.
                    *inner.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, error.to_string()));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_core::policy::NoRequest;

    use super::*;
    use crate::{
        Engine, EngineConfig, Kind,
        call::bindings::balancer::exports::waymark::plugin::balancer::{Endpoint, Scope},
    };

    fn input(n: usize) -> Input {
        Input {
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
        }
    }

    #[test]
    fn a_pick_waits_for_a_busy_instance_for_less_than_that_may_take() {
        let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
        let policy = engine.load_bundled(Kind::Policy, "least_request").unwrap().into_policy("{}").unwrap();
        let (instance, _) = policy.factory.start(&input(2)).unwrap();
        let picker = WasmPicker::new(Arc::clone(&policy.factory), input(2), instance).unwrap();
        let context = PickContext { sequence: 0, random: (0, 0), hash: None, attempt: 0 };
        // As another pick would that does not come to its end.
        let held = picker.inner.shards[0].lock();
        let refused = picker.pick(context, &NoRequest("/a.B/C")).unwrap_err();
        assert!(matches!(refused, PickError::Busy), "{refused}");
        drop(held);
        picker.pick(context, &NoRequest("/a.B/C")).unwrap();
    }

    #[test]
    fn an_instance_that_cannot_be_made_again_is_a_failure_of_each_pick_that_meets_it() {
        let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
        let guest = include_bytes!("../../dist/test/fails_on_snapshot.wasm");
        let policy = engine.load(guest, "test").unwrap().into_policy(r#"{"endpoints": 2}"#).unwrap();
        let (instance, _) = policy.factory.start(&input(1)).unwrap();
        let picker = WasmPicker::new(Arc::clone(&policy.factory), input(2), instance).unwrap();
        let context = PickContext { sequence: 0, random: (0, 0), hash: None, attempt: 0 };
        assert!(picker.pick(context, &NoRequest("/a.B/C")).is_ok());
        let trapped = picker.pick(context, &NoRequest("/waymark.Test/Trap")).unwrap_err();
        assert!(matches!(trapped, PickError::Trapped(_)), "{trapped}");
        // Each of these asks for another restart, and the next one meets its failure.
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(60);
            let error = loop {
                match picker.pick(context, &NoRequest("/a.B/C")).unwrap_err() {
                    PickError::Restarting | PickError::Busy => assert!(Instant::now() < until, "no restart was tried"),
                    other => break other,
                }
                thread::yield_now();
            };
            assert!(matches!(&error, PickError::NotRestarted(reason) if reason.contains("refuses 2")), "{error}");
        }
    }
}
