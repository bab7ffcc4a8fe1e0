//! A policy that is a component: builds plans on fresh instances and checks what they answer.

use std::sync::Arc;

use waymark_core::{
    model::Endpoint,
    policy::{BuildError, Decision, PickContext, PickError, Picker, Plan, Policy, RequestFacts, Scope},
};

use super::{
    factory::{Factory, Input},
    picker::WasmPicker,
};
use crate::{
    call::bindings::balancer::exports::waymark::plugin::balancer::{
        Endpoint as WitEndpoint, Plan as WitPlan, Scope as WitScope,
    },
    description::{Kind, LoadError},
    load::Plugin,
};

impl Plugin {
    /// Makes a policy of it. The configuration is a JSON object; what is in it is checked by the
    /// policy, at its first build.
    ///
    /// # Errors
    ///
    /// It is a key scheme, or the configuration is no JSON object.
    pub fn into_policy(self, config: &str) -> Result<WasmPolicy, LoadError> {
        self.want(Kind::Policy)?;
        let config = self.check_config(config)?;
        Ok(WasmPolicy { factory: Arc::new(Factory::new(self, config)?) })
    }
}

/// A balancing policy in WebAssembly, with its configuration. Cheap to clone.
#[derive(Clone)]
pub struct WasmPolicy {
    pub(super) factory: Arc<Factory>,
}

impl WasmPolicy {
    /// The plugin it was made of.
    pub fn plugin(&self) -> &Plugin {
        &self.factory.plugin
    }

    /// Its configuration.
    pub fn config(&self) -> &str {
        &self.factory.config
    }

    /// Every index in range, not too long, and not empty where there are endpoints with a weight.
    fn check(&self, list: Vec<u32>, endpoints: &[Endpoint]) -> Result<Box<[u32]>, BuildError> {
        let (limit, len) = (self.factory.plugin.limits.plan_len, endpoints.len());
        if list.len() > limit {
            return Err(BuildError::TooLong { policy: self.factory.name(), len: list.len(), limit });
        }
        if let Some(index) = list.iter().copied().find(|index| *index as usize >= len) {
            return Err(BuildError::OutOfRange { policy: self.factory.name(), index, len });
        }
        if list.is_empty() && endpoints.iter().any(|endpoint| endpoint.weight > 0) {
            return Err(BuildError::Empty { policy: self.factory.name(), len });
        }
        Ok(list.into())
    }
}

impl Policy for WasmPolicy {
    fn name(&self) -> &str {
        &self.factory.plugin.description.name
    }

    fn build(&self, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        let input = Input {
            scope: WitScope { service: scope.service.to_string(), zone: scope.zone.to_string() },
            endpoints: endpoints.iter().map(to_wit).collect(),
        };
        let (instance, plan) = self.factory.start(&input)?;
        let checked = |list: Vec<u32>| self.check(list, endpoints);
        match plan {
            WitPlan::Rotation(list) => checked(list).map(Plan::Rotation),
            WitPlan::HashTable(list) => checked(list).map(Plan::HashTable),
            // Nobody asks where there is nobody to name, and an instance that is never asked is
            // memory for nothing.
            WitPlan::EachRequest if endpoints.is_empty() => Ok(Plan::EachRequest(Box::new(ForNobody))),
            WitPlan::EachRequest => {
                let picker = WasmPicker::new(Arc::clone(&self.factory), input, instance)?;
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

fn to_wit(endpoint: &Endpoint) -> WitEndpoint {
    WitEndpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        zone: endpoint.locality.zone.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.to_vec(),
    }
}
