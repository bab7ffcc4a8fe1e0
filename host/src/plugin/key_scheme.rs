//! A key scheme that is a component: pure functions, called off the hot path, their answers checked.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    bindings::key_scheme::{
        KeySchemePlugin, KeySchemePluginPre,
        exports::waymark::plugin::key_scheme::{Entry as WitEntry, Instance as WitInstance},
    },
    engine::Deadline,
    error::LoadError,
    host::HostState,
    loader::{Failure, Plugin},
    policy::printable,
};
use crate::{
    model::{Address, Endpoint, InstanceId, LeaseId, Locality, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
};

/// A key scheme in WebAssembly, with its configuration. Cheap to clone.
#[derive(Clone)]
pub struct WasmKeyScheme {
    core: Arc<Core>,
}

struct Core {
    plugin: Plugin,
    config: String,
    pre: KeySchemePluginPre<HostState>,
    /// Instances that are not in use: as many as were ever needed at once. Its functions are pure, so any of them serves anybody.
    idle: Mutex<Vec<Guest>>,
}

struct Guest {
    store: wasmtime::Store<HostState>,
    guest: KeySchemePlugin,
}

impl WasmKeyScheme {
    pub(super) fn new(plugin: Plugin, config: String) -> Result<Self, LoadError> {
        let pre = plugin.key_scheme_pre()?;
        Ok(Self { core: Arc::new(Core { plugin, config, pre, idle: Mutex::default() }) })
    }

    /// The plugin it was made of.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// Calls one function on an idle instance, or on a fresh one. One that failed is not used again.
    fn call<R>(
        &self,
        name: &'static str,
        function: impl FnOnce(&mut Guest, &str) -> wasmtime::Result<R>,
    ) -> Result<R, NamingError> {
        let core = &*self.core;
        let deadline = core.plugin.limits.build_deadline;
        let failed = |store: &mut wasmtime::Store<HostState>, error: &wasmtime::Error| NamingError::Failed {
            scheme: self.name().into(),
            call: name,
            reason: Failure::of(store, error).describe(deadline),
        };
        let idle = core.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut guest = if let Some(guest) = idle {
            guest
        } else {
            let mut store = core.plugin.store();
            let guest = core.pre.instantiate(&mut store).map_err(|error| failed(&mut store, &error))?;
            Guest { store, guest }
        };
        Deadline::new(deadline).arm(&mut guest.store);
        let answer = function(&mut guest, &core.config).map_err(|error| failed(&mut guest.store, &error))?;
        core.idle.lock().unwrap_or_else(PoisonError::into_inner).push(guest);
        Ok(answer)
    }

    fn failed(&self, call: &'static str, reason: String) -> NamingError {
        NamingError::Failed { scheme: self.name().into(), call, reason }
    }

    fn unreadable(&self, key: &str, reason: &str) -> NamingError {
        NamingError::Unreadable { scheme: self.name().into(), key: key.into(), reason: printable(reason) }
    }

    fn to_endpoint(&self, key: &str, instance: WitInstance) -> Result<Endpoint, NamingError> {
        let address: Address = instance.address.parse().map_err(|error| {
            let error: crate::model::ModelError = error;
            self.unreadable(key, &error.to_string())
        })?;
        let mut metadata = instance.metadata;
        metadata.sort();
        metadata.dedup_by(|later, earlier| later.0 == earlier.0);
        Ok(Endpoint {
            id: if instance.id == address.as_str() { InstanceId::of(&address) } else { InstanceId::new(instance.id) },
            address,
            locality: Locality::zone(instance.zone),
            weight: instance.weight,
            metadata: metadata.into(),
        })
    }
}

impl KeyScheme for WasmKeyScheme {
    fn name(&self) -> &str {
        &self.core.plugin.description.name
    }

    fn warning(&self) -> Option<&str> {
        Some(self.core.plugin.description.warning.as_str()).filter(|warning| !warning.is_empty())
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        let answer = self.call("prefixes", |guest, config| {
            guest.guest.waymark_plugin_key_scheme().call_prefixes(&mut guest.store, config, service.as_str())
        })?;
        let prefixes = answer.map_err(|reason| NamingError::Refused {
            scheme: self.name().into(),
            subject: format!("service {service:?}"),
            reason: printable(&reason),
        })?;
        if prefixes.is_empty() || prefixes.len() > 16 || prefixes.iter().any(String::is_empty) {
            return Err(self.failed("prefixes", "it answered no prefix, an empty one, or more than 16".into()));
        }
        Ok(prefixes)
    }

    fn encode(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
        lease: LeaseId,
        ttl: Ttl,
    ) -> Result<Vec<Entry>, NamingError> {
        let prefixes = self.prefixes(service)?;
        let instance = WitInstance {
            id: endpoint.id.to_string(),
            address: endpoint.address.to_string(),
            zone: endpoint.locality.zone.to_string(),
            weight: endpoint.weight,
            metadata: endpoint.metadata.to_vec(),
        };
        let lease = lease.0.to_string();
        let answer = self.call("encode", |guest, config| {
            let scheme = guest.guest.waymark_plugin_key_scheme();
            scheme.call_encode(&mut guest.store, config, service.as_str(), &instance, &lease, ttl.as_secs())
        })?;
        let entries = answer.map_err(|reason| NamingError::Refused {
            scheme: self.name().into(),
            subject: format!("instance {} of service {service:?}", endpoint.id),
            reason: printable(&reason),
        })?;
        if entries.is_empty() {
            return Err(self.failed("encode", "it answered no entry to write".into()));
        }
        if let Some(stray) = entries.iter().find(|entry| !prefixes.iter().any(|prefix| entry.key.starts_with(prefix))) {
            let reason = format!("it answered the key {:?}, which lies under none of {prefixes:?}", stray.key);
            return Err(self.failed("encode", reason));
        }
        Ok(entries.into_iter().map(|entry| Entry { key: entry.key, value: entry.value }).collect())
    }

    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        let wit = WitEntry { key: entry.key.clone(), value: entry.value.clone() };
        let answer = self.call("decode", |guest, config| {
            guest.guest.waymark_plugin_key_scheme().call_decode(&mut guest.store, config, service.as_str(), &wit)
        })?;
        let instances = answer.map_err(|reason| self.unreadable(&entry.key, &reason))?;
        let endpoints = instances.into_iter().map(|instance| self.to_endpoint(&entry.key, instance));
        Ok(Decoded { endpoints: endpoints.collect::<Result<_, _>>()? })
    }
}
