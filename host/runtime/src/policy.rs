//! A policy that is a component: builds plans on fresh instances and checks what they answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use waymark_core::{
    model::Endpoint,
    policy::{BuildError, Decision, PickContext, PickError, Picker, Plan, Policy, RequestFacts, Scope},
    text::{WORDS, printable},
};

use super::{
    bindings::balancer::{
        BalancerPlugin, BalancerPluginPre,
        exports::waymark::plugin::balancer::{Endpoint as WitEndpoint, Plan as WitPlan, Scope as WitScope},
    },
    engine::Deadline,
    error::LoadError,
    host::HostState,
    loader::{Failure, Plugin},
    meter::processor_time,
    picker::WasmPicker,
};

/// A balancing policy in WebAssembly, with its configuration. Cheap to clone.
#[derive(Clone)]
pub struct WasmPolicy {
    pub(super) core: Arc<Core>,
}

pub(super) struct Core {
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

impl WasmPolicy {
    pub(super) fn new(plugin: Plugin, config: String) -> Result<Self, LoadError> {
        let pre = plugin.policy_pre()?;
        Ok(Self { core: Arc::new(Core { plugin, config, pre, slow: AtomicBool::new(false) }) })
    }

    /// The plugin it was made of.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// Its configuration.
    pub fn config(&self) -> &str {
        &self.core.config
    }
}

impl Policy for WasmPolicy {
    fn name(&self) -> &str {
        &self.core.plugin.description.name
    }

    fn build(&self, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        let input = Input {
            scope: WitScope { service: scope.service.to_string(), zone: scope.zone.to_string() },
            endpoints: endpoints.iter().map(to_wit).collect(),
        };
        let (instance, plan) = self.core.start(&input)?;
        let checked = |list: Vec<u32>| self.core.check(list, endpoints);
        match plan {
            WitPlan::Rotation(list) => checked(list).map(Plan::Rotation),
            WitPlan::HashTable(list) => checked(list).map(Plan::HashTable),
            // Nobody asks where there is nobody to name, and an instance that is never asked is
            // memory for nothing.
            WitPlan::EachRequest if endpoints.is_empty() => Ok(Plan::EachRequest(Box::new(ForNobody))),
            WitPlan::EachRequest => {
                let picker = WasmPicker::new(Arc::clone(&self.core), input, instance)?;
                Ok(Plan::EachRequest(Box::new(picker)))
            }
        }
    }
}

/// The picker of a service without endpoints.
struct ForNobody;

impl Picker for ForNobody {
    fn pick(&self, _: PickContext, _: &dyn RequestFacts) -> Result<Decision, PickError> {
        Ok(Decision::Queue)
    }
}

impl Core {
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
        let failed = |store: &mut wasmtime::Store<HostState>, error: &wasmtime::Error| match Failure::of(store, error) {
            Failure::Deadline => {
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

    /// Every index in range, not too long, and not empty where there are endpoints with a weight.
    fn check(&self, list: Vec<u32>, endpoints: &[Endpoint]) -> Result<Box<[u32]>, BuildError> {
        let (limit, len) = (self.plugin.limits.plan_len, endpoints.len());
        if list.len() > limit {
            return Err(BuildError::TooLong { policy: self.name(), len: list.len(), limit });
        }
        if let Some(index) = list.iter().copied().find(|index| *index as usize >= len) {
            return Err(BuildError::OutOfRange { policy: self.name(), index, len });
        }
        if list.is_empty() && endpoints.iter().any(|endpoint| endpoint.weight > 0) {
            return Err(BuildError::Empty { policy: self.name(), len });
        }
        Ok(list.into())
    }
}

fn to_wit(endpoint: &Endpoint) -> WitEndpoint {
    WitEndpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        zone: endpoint.locality.zone.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.to_vec(),
    }
}
