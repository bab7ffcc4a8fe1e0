//! A component that was loaded: what it is, and stores for its instances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use wasmtime::{
    Store,
    component::{Component, HasSelf, Linker},
};
use waymark_core::text;

use crate::{
    call::{
        CallFailure, HostState, PluginLog,
        bindings::{balancer, key_scheme},
        wasi,
    },
    deadline::{Deadline, Running},
    description::{ConfigField, Description, Grants, Kind, Limits, LoadError},
    engine::Engine,
    memory::{HANDLES, MemoryLimiter},
};

/// A component that passed the door: it is what it says, and asks for nothing that it does not get.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) engine: Engine,
    pub(super) component: Component,
    pub(crate) log: Arc<PluginLog>,
    pub(crate) limits: Limits,
    pub(super) fixed: usize,
    pub(super) memory_peak: Arc<AtomicUsize>,
    /// What it was given beyond its world.
    pub grants: Grants,
    /// What it decides.
    pub kind: Kind,
    /// The version of `waymark:plugin` that it was built for.
    pub interface: &'static str,
    /// What it says of itself.
    pub description: Description,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: usize,
    /// Where the bytes came from: `bundled`, or a file's name.
    pub origin: String,
    /// What it imports, by full name.
    pub imports: Vec<String>,
    /// What it exports, by full name.
    pub exports: Vec<String>,
    /// How long loading took, compilation included.
    pub load_time: Duration,
}

impl Plugin {
    /// The world that it targets.
    pub fn world(&self) -> String {
        self.kind.world(self.interface)
    }

    /// The most linear memory that an instance of this plugin has taken since this was last asked,
    /// in bytes; 0 when none took more.
    pub fn take_memory_peak(&self) -> usize {
        self.memory_peak.swap(0, Relaxed)
    }

    /// Refuses it where the other kind is wanted.
    pub(crate) fn want(&self, wanted: Kind) -> Result<(), LoadError> {
        if self.kind == wanted {
            return Ok(());
        }
        Err(LoadError::WrongKind { origin: self.origin.clone(), found: self.kind.as_str(), wanted: wanted.as_str() })
    }

    /// The configuration, if it is a JSON object. An empty text means `{}`.
    pub(crate) fn check_config(&self, config: &str) -> Result<String, LoadError> {
        let config = if config.trim().is_empty() { "{}" } else { config };
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config) {
            Ok(_) => Ok(config.to_owned()),
            Err(error) => {
                Err(LoadError::BadConfig { plugin: self.description.name.clone(), reason: error.to_string() })
            }
        }
    }

    /// A store for an instance that is being built, with its limits armed. What it grows to may
    /// wait for other builds to be done: not on an async thread, nor in a pick.
    pub(crate) fn store(&self, running: &Running<'_>) -> Store<HostState> {
        let charge = self.engine.budget().begin(self.limits.memory.saturating_add(self.fixed));
        let memory = MemoryLimiter::new(&self.limits, self.fixed, charge, Arc::clone(&self.memory_peak));
        let state = HostState::new(&self.limits, Arc::clone(&self.log), memory);
        let mut store = Store::new(self.engine.wasmtime(), state);
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(HANDLES);
        store.epoch_deadline_callback(|mut store| store.data_mut().deadline.passed());
        Deadline::new(self.limits.build_deadline).arm(&mut store, running);
        store.set_hostcall_fuel(self.limits.transfer);
        store
    }

    fn mismatch(&self, error: &wasmtime::Error) -> LoadError {
        LoadError::Mismatch { origin: self.origin.clone(), reason: text::printable(&format!("{error:#}"), text::WORDS) }
    }

    /// Asks it what it is.
    pub(super) fn describe(&self) -> Result<Description, LoadError> {
        let running = self.engine.ticker().run();
        let mut store = self.store(&running);
        let failed = |call, store: &mut Store<HostState>, error: wasmtime::Error| LoadError::Failed {
            origin: self.origin.clone(),
            call,
            reason: CallFailure::of(store, &error).describe(self.limits.build_deadline),
        };
        let description = match self.kind {
            Kind::Policy => {
                let pre = self.policy_pre()?;
                let guest = pre.instantiate(&mut store).map_err(|error| failed("its start", &mut store, error))?;
                let said = guest.waymark_plugin_balancer().call_describe(&mut store);
                said.map(Description::from)
            }
            Kind::KeyScheme => {
                let pre = self.key_scheme_pre()?;
                let guest = pre.instantiate(&mut store).map_err(|error| failed("its start", &mut store, error))?;
                let said = guest.waymark_plugin_key_scheme().call_describe(&mut store);
                said.map(Description::from)
            }
        };
        let description = description.map_err(|error| failed("describe", &mut store, error))?;
        description.check().map_err(|reason| LoadError::BadDescription { origin: self.origin.clone(), reason })?;
        Ok(description)
    }

    pub(crate) fn policy_pre(&self) -> Result<balancer::BalancerPluginPre<HostState>, LoadError> {
        let mut linker = Linker::new(self.engine.wasmtime());
        balancer::BalancerPlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .and_then(|()| wasi::link(&mut linker, &self.component, self.grants))
            .and_then(|()| linker.instantiate_pre(&self.component))
            .and_then(balancer::BalancerPluginPre::new)
            .map_err(|error| self.mismatch(&error))
    }

    pub(crate) fn key_scheme_pre(&self) -> Result<key_scheme::KeySchemePluginPre<HostState>, LoadError> {
        let mut linker = Linker::new(self.engine.wasmtime());
        key_scheme::KeySchemePlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .and_then(|()| wasi::link(&mut linker, &self.component, self.grants))
            .and_then(|()| linker.instantiate_pre(&self.component))
            .and_then(key_scheme::KeySchemePluginPre::new)
            .map_err(|error| self.mismatch(&error))
    }
}

/// The two worlds have the same record, as two types.
macro_rules! description_from {
    ($($types:path),*) => {$(const _: () = {
        use $types as wit;
        impl From<wit::Description> for Description {
            fn from(said: wit::Description) -> Self {
                let field = |f: wit::ConfigField| ConfigField { name: f.name, default: f.default, doc: f.doc };
                Self {
                    name: said.name,
                    version: said.version,
                    summary: said.summary,
                    fields: said.fields.into_iter().map(field).collect(),
                    warning: said.warning,
                }
            }
        }
    };)*};
}
description_from!(balancer::waymark::plugin::types, key_scheme::waymark::plugin::types);
