//! Makes instances of a policy, each in a store of its own, built for its endpoints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use waymark_core::{
    policy::BuildError,
    text::{WORDS, printable},
};

use crate::{
    call::{
        CallFailure, HostState,
        bindings::balancer::{
            BalancerPlugin, BalancerPluginPre,
            exports::waymark::plugin::balancer::{Endpoint as WitEndpoint, Plan as WitPlan, Scope as WitScope},
        },
    },
    deadline::{Deadline, processor_time},
    description::LoadError,
    load::Plugin,
};

/// Makes instances of one policy with one configuration.
pub(super) struct Factory {
    pub(super) plugin: Plugin,
    pub(super) config: String,
    pre: BalancerPluginPre<HostState>,
    /// Whether it took long to make the last instance.
    slow: AtomicBool,
}

/// How much processor time making an instance takes that is not slow.
const SLOW: Duration = Duration::from_millis(20);

/// One running instance.
pub(super) struct Instance {
    pub(super) store: wasmtime::Store<HostState>,
    pub(super) guest: BalancerPlugin,
}

/// What an instance is built for, kept to build it again.
pub(super) struct Input {
    pub(super) scope: WitScope,
    pub(super) endpoints: Vec<WitEndpoint>,
}

impl Factory {
    pub(super) fn new(plugin: Plugin, config: String) -> Result<Self, LoadError> {
        let pre = plugin.policy_pre()?;
        Ok(Self { plugin, config, pre, slow: AtomicBool::new(false) })
    }

    pub(super) fn name(&self) -> String {
        self.plugin.description.name.clone()
    }

    /// A fresh instance, built for this input.
    pub(super) fn start(&self, input: &Input) -> Result<(Instance, WitPlan), BuildError> {
        let began = processor_time();
        let started = self.start_at_once(input);
        self.slow.store(processor_time().saturating_sub(began) >= SLOW, Relaxed);
        started
    }

    /// Whether it took long to make the last instance.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Relaxed)
    }

    fn start_at_once(&self, input: &Input) -> Result<(Instance, WitPlan), BuildError> {
        let running = self.plugin.engine.ticker().run();
        let mut store = self.plugin.store(&running);
        let deadline = self.plugin.limits.build_deadline;
        let failed =
            |store: &mut wasmtime::Store<HostState>, error: &wasmtime::Error| match CallFailure::of(store, error) {
                CallFailure::Deadline => {
                    BuildError::DeadlineExceeded { policy: self.name(), deadline_ms: deadline.as_millis() as u64 }
                }
                failure => BuildError::Trapped { policy: self.name(), reason: failure.describe(deadline) },
            };
        let guest = self.pre.instantiate(&mut store).map_err(|error| failed(&mut store, &error))?;
        Deadline::new(deadline).arm(&mut store, &running);
        let built = guest
            .waymark_plugin_balancer()
            .call_build(&mut store, &self.config, &input.scope, &input.endpoints)
            .map_err(|error| failed(&mut store, &error))?;
        // What follows, if anything does, are picks.
        store.set_hostcall_fuel(self.plugin.limits.pick_transfer);
        match built {
            Ok(plan) => Ok((Instance { store, guest }, plan)),
            Err(reason) => Err(BuildError::Refused { policy: self.name(), reason: printable(&reason, WORDS) }),
        }
    }

    /// A fresh instance, built for this input, that this owner keeps.
    pub(super) fn start_and_keep(&self, input: &Input, owner: &Arc<str>) -> Result<Instance, BuildError> {
        let (mut instance, _) = self.start(input)?;
        self.keep(&mut instance, owner)?;
        Ok(instance)
    }

    /// The instance is no more one that is being built.
    pub(super) fn keep(&self, instance: &mut Instance, owner: &Arc<str>) -> Result<(), BuildError> {
        let kept = instance.store.data_mut().memory.keep(owner);
        kept.map_err(|full| BuildError::NoRoom { policy: self.name(), reason: full.to_string() })
    }
}
