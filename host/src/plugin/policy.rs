//! A policy that is a component: builds plans on fresh instances and checks what they answer.

use std::sync::Arc;

use super::{
    bindings::balancer::{
        BalancerPlugin, BalancerPluginPre,
        exports::waymark::plugin::balancer::{Endpoint as WitEndpoint, Plan as WitPlan, Scope as WitScope},
    },
    engine::Deadline,
    error::LoadError,
    host::HostState,
    loader::{Failure, Plugin},
    picker::WasmPicker,
};
use crate::{
    model::Endpoint,
    policy::{BuildError, Plan, Policy, Scope},
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
}

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
        Ok(Self { core: Arc::new(Core { plugin, config, pre }) })
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
            WitPlan::EachRequest => {
                let picker = WasmPicker::new(Arc::clone(&self.core), input, instance)?;
                Ok(Plan::EachRequest(Box::new(picker)))
            }
        }
    }
}

impl Core {
    pub(super) fn name(&self) -> String {
        self.plugin.description.name.clone()
    }

    /// A fresh instance, built for this input.
    pub(super) fn start(&self, input: &Input) -> Result<(Instance, WitPlan), BuildError> {
        let mut store = self.plugin.store();
        let deadline = self.plugin.limits.build_deadline;
        let failed = |store: &mut wasmtime::Store<HostState>, error: &wasmtime::Error| match Failure::of(store, error) {
            Failure::Deadline => {
                BuildError::DeadlineExceeded { policy: self.name(), deadline_ms: deadline.as_millis() as u64 }
            }
            Failure::Trap(reason) => BuildError::Trapped { policy: self.name(), reason },
        };
        let guest = self.pre.instantiate(&mut store).map_err(|error| failed(&mut store, &error))?;
        Deadline::new(deadline).arm(&mut store);
        let built = guest
            .waymark_plugin_balancer()
            .call_build(&mut store, &self.config, &input.scope, &input.endpoints)
            .map_err(|error| failed(&mut store, &error))?;
        match built {
            Ok(plan) => Ok((Instance { store, guest }, plan)),
            Err(reason) => Err(BuildError::Refused { policy: self.name(), reason: printable(&reason) }),
        }
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

/// A plugin's words for people: bounded, and without control characters that could rewrite a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
