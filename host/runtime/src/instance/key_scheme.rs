//! A key scheme that is a component: pure functions, called off the hot path, their answers
//! checked.

use std::sync::{Arc, Mutex, PoisonError};

use waymark_core::{
    model::{Address, Endpoint, InstanceId, LeaseId, Locality, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    text::{NAME, WORDS, printable},
};

use crate::{
    call::{
        CallFailure, HostState,
        bindings::{
            balancer::waymark::plugin::log::Level,
            key_scheme::{
                KeySchemePlugin, KeySchemePluginPre,
                exports::waymark::plugin::key_scheme::{Entry as WitEntry, Instance as WitInstance},
            },
        },
    },
    deadline::Deadline,
    description::{Kind, LoadError},
    load::Plugin,
};

/// What one entry may decode to, in bytes as the host keeps it, whatever its own size; and how many
/// times its size beyond that. It bounds what is taken over before anybody can count instances: an
/// entry that decodes to 100,000 is refused unread.
const DECODED: usize = 256 << 10;
const DECODED_TO_ENTRY: usize = 16;

/// What the answer to `prefixes` may come to.
const PREFIXES: usize = 64 << 10;

/// A key scheme in WebAssembly, with its configuration. Cheap to clone.
#[derive(Clone)]
pub struct WasmKeyScheme {
    core: Arc<Core>,
}

struct Core {
    plugin: Plugin,
    config: String,
    pre: KeySchemePluginPre<HostState>,
    owner: Arc<str>,
    /// Instances that are not in use: as many as were ever needed at once, but not more than there
    /// are cores. Its functions are pure, so any of them serves anybody.
    idle: Mutex<Vec<Guest>>,
}

struct Guest {
    store: wasmtime::Store<HostState>,
    guest: KeySchemePlugin,
}

impl Plugin {
    /// Makes a key scheme of it, with a JSON object as its configuration.
    ///
    /// # Errors
    ///
    /// It is a policy, or the configuration is no JSON object.
    pub fn into_key_scheme(self, config: &str) -> Result<WasmKeyScheme, LoadError> {
        self.want(Kind::KeyScheme)?;
        let config = self.check_config(config)?;
        let pre = self.key_scheme_pre()?;
        let owner = format!("key scheme {}", self.description.name).into();
        Ok(WasmKeyScheme { core: Arc::new(Core { plugin: self, config, pre, owner, idle: Mutex::default() }) })
    }
}

impl WasmKeyScheme {
    /// The plugin it was made of.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// Calls one function on an idle instance, or on a fresh one. One that failed is not used
    /// again.
    fn call<R>(
        &self,
        transfer: usize,
        function: impl FnOnce(&mut Guest, &str) -> wasmtime::Result<R>,
    ) -> Result<R, CallFailure> {
        let core = &*self.core;
        let running = core.plugin.engine.ticker().run();
        let idle = core.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut guest = if let Some(guest) = idle {
            guest
        } else {
            let mut store = core.plugin.store(&running);
            let guest = core.pre.instantiate(&mut store).map_err(|error| CallFailure::of(&mut store, &error))?;
            Guest { store, guest }
        };
        Deadline::new(core.plugin.limits.key_scheme_deadline).arm(&mut guest.store, &running);
        guest.store.set_hostcall_fuel(transfer);
        let answer = function(&mut guest, &core.config).map_err(|error| CallFailure::of(&mut guest.store, &error))?;
        let mut idle = core.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One that there is no room for has done its work.
        if idle.len() < core.plugin.engine.instances() && guest.store.data_mut().memory.keep(&core.owner).is_ok() {
            idle.push(guest);
        }
        Ok(answer)
    }

    /// A call that did not come to its end.
    fn failure(&self, call: &'static str, failure: &CallFailure) -> NamingError {
        let (reason, overran) =
            (failure.describe(self.core.plugin.limits.key_scheme_deadline), matches!(failure, CallFailure::Deadline));
        NamingError::Failed { scheme: self.name().into(), call, reason, overran }
    }

    fn failed(&self, call: &'static str, reason: String) -> NamingError {
        NamingError::Failed { scheme: self.name().into(), call, reason, overran: false }
    }

    fn unreadable(&self, key: &str, reason: &str) -> NamingError {
        NamingError::Unreadable {
            scheme: self.name().into(),
            key: printable(key, NAME),
            reason: printable(reason, WORDS),
        }
    }

    fn to_endpoint(&self, key: &str, instance: WitInstance) -> Result<Endpoint, NamingError> {
        let address: Address = instance.address.parse().map_err(|error| {
            let error: waymark_core::model::ModelError = error;
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
        let answer = self.call(PREFIXES, |guest, config| {
            guest.guest.waymark_plugin_key_scheme().call_prefixes(&mut guest.store, config, service.as_str())
        });
        let answer = answer.map_err(|failure| self.failure("prefixes", &failure))?;
        let prefixes = answer.map_err(|reason| NamingError::Refused {
            scheme: self.name().into(),
            subject: format!("service {service:?}"),
            reason: printable(&reason, WORDS),
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
        let answer = self.call(self.core.plugin.limits.transfer, |guest, config| {
            let scheme = guest.guest.waymark_plugin_key_scheme();
            scheme.call_encode(&mut guest.store, config, service.as_str(), &instance, &lease, ttl.as_secs())
        });
        let answer = answer.map_err(|failure| self.failure("encode", &failure))?;
        let entries = answer.map_err(|reason| NamingError::Refused {
            scheme: self.name().into(),
            subject: format!("instance {} of service {service:?}", endpoint.id),
            reason: printable(&reason, WORDS),
        })?;
        if entries.is_empty() {
            return Err(self.failed("encode", "it answered no entry to write".into()));
        }
        if let Some(stray) = entries.iter().find(|entry| !prefixes.iter().any(|prefix| entry.key.starts_with(prefix))) {
            let key = printable(&stray.key, NAME);
            let reason =
                printable(&format!("it answered the key \"{key}\", which lies under none of {prefixes:?}"), WORDS);
            return Err(self.failed("encode", reason));
        }
        Ok(entries.into_iter().map(|entry| Entry { key: entry.key, value: entry.value }).collect())
    }

    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        let wit = WitEntry { key: entry.key.clone(), value: entry.value.clone() };
        let transfer = (entry.value.len() * DECODED_TO_ENTRY).max(DECODED).min(self.core.plugin.limits.transfer);
        let answer = self.call(transfer, |guest, config| {
            guest.store.data_mut().keep_warnings();
            let scheme = guest.guest.waymark_plugin_key_scheme();
            let answer = scheme.call_decode(&mut guest.store, config, service.as_str(), &wit);
            let warnings = guest.store.data_mut().take_warnings();
            if !matches!(answer, Ok(Ok(_))) {
                // There is no entry that they would be said of.
                for warning in &warnings {
                    guest.store.data().log.write(Level::Warn, warning);
                }
            }
            Ok((answer?, warnings))
        });
        let (answer, warnings) = answer.map_err(|failure| match failure {
            // The next try would hand over as much: it is the entry's fault.
            CallFailure::HandedOver(most) => {
                self.unreadable(&entry.key, &format!("what it decodes to is over the limit of {} KiB", most >> 10))
            }
            failure => self.failure("decode", &failure),
        })?;
        let instances = answer.map_err(|reason| self.unreadable(&entry.key, &reason))?;
        let endpoints = instances.into_iter().map(|instance| self.to_endpoint(&entry.key, instance));
        Ok(Decoded { endpoints: endpoints.collect::<Result<_, _>>()?, warnings })
    }
}
