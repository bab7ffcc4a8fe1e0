//! The one door: bytes in, a [`Plugin`] out, or the reason why not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use wasmtime::{
    Store, Trap,
    component::{Component, HasSelf, Linker, types::ComponentItem},
};
use waymark_core::text;

use super::{
    bindings::{balancer, key_scheme},
    compile::{Abandon, CompileError, Refusal, examine},
    engine::{self, Engine},
    error::LoadError,
    grants::{Access, Grants},
    host::{HostState, PluginLog},
    key_scheme::WasmKeyScheme,
    limits::Limits,
    memory::{HANDLES, MemoryLimit},
    policy::WasmPolicy,
    ticker::Running,
    wasi,
};

/// The versions of `waymark:plugin` that this host runs, the newest last.
pub const SUPPORTED_INTERFACES: &[&str] = &["0.1.0", "0.1.1"];

const NEWEST: &str = SUPPORTED_INTERFACES[SUPPORTED_INTERFACES.len() - 1];

pub(super) const PACKAGE: &str = "waymark:plugin/";

/// What a plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Which endpoint gets a request.
    Policy,
    /// What keys and values look like.
    KeyScheme,
}

impl Kind {
    /// The kind in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::KeyScheme => "key scheme",
        }
    }

    /// The world that a component of this kind targets in this version of the interface.
    pub fn world(self, interface: &str) -> String {
        format!("{PACKAGE}{}-plugin@{interface}", self.export())
    }

    pub(super) fn export(self) -> &'static str {
        match self {
            Self::Policy => "balancer",
            Self::KeyScheme => "key-scheme",
        }
    }

    /// The interfaces that a component of this kind may import.
    pub(super) fn granted(self) -> &'static [&'static str] {
        match self {
            Self::Policy => &["types", "request", "load", "log"],
            Self::KeyScheme => &["types", "log"],
        }
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line for people.
    pub summary: String,
    /// The fields of its configuration.
    pub fields: Vec<ConfigField>,
    /// What whoever chooses it ought to know first; empty when there is nothing.
    pub warning: String,
}

/// One field of a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigField {
    /// Its name.
    pub name: String,
    /// What it means when left out, as JSON; empty when it must be given.
    pub default: String,
    /// One line for people.
    pub doc: String,
}

/// A component that passed the door: it is what it says, and asks for nothing that it does not get.
#[derive(Clone)]
pub struct Plugin {
    pub(super) engine: Engine,
    pub(super) component: Component,
    pub(super) log: Arc<PluginLog>,
    pub(super) limits: Limits,
    fixed: usize,
    memory_peak: Arc<AtomicUsize>,
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

impl Engine {
    /// Loads a plugin under the engine's limits. It may compile for some seconds: call it on a
    /// blocking thread.
    ///
    /// # Errors
    ///
    /// The bytes are no plugin of this host; the error says what they are instead.
    pub fn load(&self, bytes: &[u8], origin: &str) -> Result<Plugin, LoadError> {
        self.load_with(bytes, origin, self.limits().clone(), Grants::NONE)
    }

    /// Loads a plugin that is given more than its world. See [`Engine::load`].
    pub fn load_allowing(&self, bytes: &[u8], origin: &str, grants: Grants) -> Result<Plugin, LoadError> {
        self.load_with(bytes, origin, self.limits().clone(), grants)
    }

    /// Loads a plugin under limits and with grants of its own. See [`Engine::load`].
    pub fn load_with(&self, bytes: &[u8], origin: &str, limits: Limits, grants: Grants) -> Result<Plugin, LoadError> {
        self.load_unless(bytes, origin, limits, grants, &Abandon::default())
    }

    /// Loads a plugin, unless whoever asked for it has gone meanwhile. See [`Engine::load_with`].
    pub fn load_unless(
        &self,
        bytes: &[u8],
        origin: &str,
        limits: Limits,
        grants: Grants,
        abandon: &Abandon,
    ) -> Result<Plugin, LoadError> {
        let began = Instant::now();
        check_header(bytes, origin, &limits)?;
        let (digest, component, fixed) = self.examine_and_compile(bytes, origin, abandon)?;
        let (imports, exports) = names(self, &component);
        let (kind, interface) = classify(&exports, origin)?;
        check_imports(kind, &imports, grants, origin)?;
        let log = Arc::new(PluginLog::new(origin, &limits));
        let mut plugin = Plugin {
            engine: self.clone(),
            component,
            log,
            limits,
            fixed,
            memory_peak: Arc::default(),
            grants,
            kind,
            interface,
            description: Description {
                name: String::new(),
                version: String::new(),
                summary: String::new(),
                fields: Vec::new(),
                warning: String::new(),
            },
            sha256: engine::hex(&digest),
            size: bytes.len(),
            origin: origin.into(),
            imports,
            exports,
            load_time: Duration::ZERO,
        };
        plugin.description = plugin.describe()?;
        plugin.log.rename(&plugin.description.name);
        plugin.load_time = began.elapsed();
        Ok(plugin)
    }

    /// Its SHA-256, what it was compiled to, and what an instance takes beside its memories and
    /// tables, in bytes.
    pub(super) fn examine_and_compile(
        &self,
        bytes: &[u8],
        origin: &str,
        abandon: &Abandon,
    ) -> Result<([u8; 32], Component, usize), LoadError> {
        let invalid =
            |reason: &str| LoadError::Invalid { origin: origin.into(), reason: text::printable(reason, text::WORDS) };
        let examined = examine(bytes).map_err(|refusal| match refusal {
            Refusal::Damaged(reason) => invalid(&reason),
            Refusal::Costly(reason) => LoadError::TooCostly { origin: origin.into(), reason },
        })?;
        let digest = engine::sha256(bytes);
        let component = self.compile(digest, bytes, abandon).map_err(|error| match error {
            CompileError::Invalid(reason) => invalid(&reason),
            CompileError::Costly(reason) => LoadError::TooCostly { origin: origin.into(), reason },
            CompileError::Host(reason) => LoadError::NotCompiled { origin: origin.into(), reason },
            CompileError::Abandoned => {
                LoadError::NotCompiled { origin: origin.into(), reason: "whoever asked for it has gone".into() }
            }
        })?;
        Ok((digest, component, examined.fixed))
    }
}

impl Plugin {
    /// The world that it targets.
    pub fn world(&self) -> String {
        self.kind.world(self.interface)
    }

    /// Makes a policy of it. The configuration is a JSON object; what is in it is checked by the
    /// policy, at its first build.
    pub fn into_policy(self, config: &str) -> Result<WasmPolicy, LoadError> {
        self.want(Kind::Policy)?;
        let config = self.check_config(config)?;
        WasmPolicy::new(self, config)
    }

    /// Makes a key scheme of it, with a JSON object as its configuration.
    pub fn into_key_scheme(self, config: &str) -> Result<WasmKeyScheme, LoadError> {
        self.want(Kind::KeyScheme)?;
        let config = self.check_config(config)?;
        WasmKeyScheme::new(self, config)
    }

    /// The most linear memory that an instance of this plugin has taken since this was last asked,
    /// in bytes; 0 when none took more.
    pub fn take_memory_peak(&self) -> usize {
        self.memory_peak.swap(0, Relaxed)
    }

    fn want(&self, wanted: Kind) -> Result<(), LoadError> {
        if self.kind == wanted {
            return Ok(());
        }
        Err(LoadError::WrongKind { origin: self.origin.clone(), found: self.kind.as_str(), wanted: wanted.as_str() })
    }

    /// An empty text means `{}`.
    fn check_config(&self, config: &str) -> Result<String, LoadError> {
        let config = if config.trim().is_empty() { "{}" } else { config };
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config) {
            Ok(_) => Ok(config.to_owned()),
            Err(error) => {
                Err(LoadError::BadConfig { plugin: self.description.name.clone(), reason: error.to_string() })
            }
        }
    }

    /// A store for an instance that is being built. What it grows to may wait for other builds to
    /// be done: not on an async thread, nor in a pick.
    pub(super) fn store(&self, running: &Running<'_>) -> Store<HostState> {
        let charge = self.engine.budget().begin(self.limits.memory.saturating_add(self.fixed));
        let memory = MemoryLimit::new(&self.limits, self.fixed, charge, Arc::clone(&self.memory_peak));
        self.engine.store(HostState::new(&self.limits, Arc::clone(&self.log), memory), &self.limits, running)
    }

    pub(super) fn mismatch(&self, error: &wasmtime::Error) -> LoadError {
        LoadError::Mismatch { origin: self.origin.clone(), reason: text::printable(&format!("{error:#}"), text::WORDS) }
    }

    fn describe(&self) -> Result<Description, LoadError> {
        let running = self.engine.ticker().run();
        let mut store = self.store(&running);
        let failed = |call, store: &mut Store<HostState>, error: wasmtime::Error| LoadError::Failed {
            origin: self.origin.clone(),
            call,
            reason: Failure::of(store, &error).describe(self.limits.build_deadline),
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

    pub(super) fn policy_pre(&self) -> Result<balancer::BalancerPluginPre<HostState>, LoadError> {
        let mut linker = Linker::new(self.engine.wasmtime());
        balancer::BalancerPlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .and_then(|()| wasi::link(&mut linker, &self.component, self.grants))
            .and_then(|()| linker.instantiate_pre(&self.component))
            .and_then(balancer::BalancerPluginPre::new)
            .map_err(|error| self.mismatch(&error))
    }

    pub(super) fn key_scheme_pre(&self) -> Result<key_scheme::KeySchemePluginPre<HostState>, LoadError> {
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

impl Description {
    /// Names end up in metrics, tables and logs: they are short and plain.
    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(format!(
                "its name \"{}\" is not 1 to 64 characters of a-z, 0-9, _ and -",
                text::shown(&self.name, 80)
            ));
        }
        if self.fields.len() > 100 {
            return Err(format!("it has {} configuration fields, more than 100", self.fields.len()));
        }
        let unfit = |text: &str, limit| text.len() > limit || !text.chars().all(text::prints);
        if let Some(field) =
            self.fields.iter().find(|f| unfit(&f.name, 64) || unfit(&f.default, 1000) || unfit(&f.doc, 1000))
        {
            let name = text::shown(&field.name, 80);
            return Err(format!(
                "its field \"{name}\" has a name longer than 64 bytes, a default or text longer than 1,000, or characters that do not print"
            ));
        }
        for (what, text, limit) in
            [("version", &self.version, 64), ("summary", &self.summary, 400), ("warning", &self.warning, 2000)]
        {
            if unfit(text, limit) {
                return Err(format!("its {what} is longer than {limit} bytes or has characters that do not print"));
            }
        }
        Ok(())
    }
}

/// Why a call into a plugin failed.
pub(super) enum Failure {
    Deadline,
    /// It handed over more than so many bytes at once.
    HandedOver(usize),
    Trap(String),
}

impl Failure {
    pub(super) fn of(store: &mut Store<HostState>, error: &wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline,
            Some(trap) => match store.data_mut().memory.refused.take() {
                Some(refused) => Self::Trap(format!("{trap}, after {refused}")),
                None => Self::Trap(trap.to_string()),
            },
            None => match error.root_cause().to_string() {
                // These have no types with names for others.
                cause if cause.contains("fuel allocated for hostcalls") => Self::HandedOver(store.hostcall_fuel()),
                cause if cause.contains("store handle limit exceeded") => {
                    Self::Trap(format!("it holds {HANDLES} handles, the most that it may"))
                }
                cause => Self::Trap(text::printable(&cause, text::WORDS)),
            },
        }
    }

    pub(super) fn describe(&self, deadline: Duration) -> String {
        match self {
            Self::Deadline => format!("it was not done after {} ms", deadline.as_millis()),
            Self::HandedOver(most) => format!("it handed over more than {} KiB at once", most >> 10),
            Self::Trap(reason) => reason.clone(),
        }
    }
}

/// Tells what the bytes are before a compiler sees them.
pub(super) fn check_header(bytes: &[u8], origin: &str, limits: &Limits) -> Result<(), LoadError> {
    let origin = || origin.to_owned();
    if bytes.len() > limits.component_size {
        return Err(LoadError::TooLarge { origin: origin(), size: bytes.len(), limit: limits.component_size });
    }
    let not_wasm = |found: &str| Err(LoadError::NotWasm { origin: origin(), found: found.into() });
    match bytes {
        [] => not_wasm("is empty"),
        [0x00, b'a', b's', b'm', 0x01, 0x00, 0x00, 0x00, ..] => Err(LoadError::CoreModule { origin: origin() }),
        [0x00, b'a', b's', b'm', _, _, 0x01, 0x00, ..] => Ok(()),
        [0x00, b'a', b's', b'm', ..] => not_wasm("begins like WebAssembly and has an unknown binary version"),
        [0x7f, b'E', b'L', b'F', ..] => not_wasm("is an ELF binary"),
        [0x1f, 0x8b, ..] => not_wasm("is gzip-compressed; unpack it first"),
        [b'(', ..] => not_wasm("looks like WebAssembly text; turn it into binary first"),
        _ => match std::str::from_utf8(&bytes[..bytes.len().min(64)]) {
            Ok(text) => not_wasm(&format!("is text that begins with {:?}", text.chars().take(24).collect::<String>())),
            Err(_) => not_wasm("does not begin with the bytes \\0asm"),
        },
    }
}

/// Which kind of plugin exports this, and for which version of those that we run.
pub(super) fn classify(exports: &[String], origin: &str) -> Result<(Kind, &'static str), LoadError> {
    let mut targets = Vec::new();
    for kind in [Kind::Policy, Kind::KeyScheme] {
        for export in exports {
            let Some(versioned) = export.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix(kind.export())) else {
                continue;
            };
            match versioned.strip_prefix('@').and_then(supported) {
                Some(version) => return Ok((kind, version)),
                None => targets.push(export.clone()),
            }
        }
    }
    if !targets.is_empty() {
        return Err(unsupported(origin, &targets));
    }
    let exports = if exports.is_empty() { "nothing".into() } else { text::printable(&exports.join(", "), text::WORDS) };
    let expected =
        [Kind::Policy, Kind::KeyScheme].map(|kind| format!("{PACKAGE}{}@{NEWEST}", kind.export())).join(" or ");
    Err(LoadError::OtherWorld { origin: origin.into(), exports, expected })
}

/// This version as it stands among those that we run.
fn supported(version: &str) -> Option<&'static str> {
    SUPPORTED_INTERFACES.iter().find(|supported| **supported == version).copied()
}

fn unsupported(origin: &str, targets: &[String]) -> LoadError {
    LoadError::UnsupportedVersion {
        origin: origin.into(),
        targets: text::printable(&targets.join(", "), text::WORDS),
        supports: format!("waymark:plugin@{}", SUPPORTED_INTERFACES.join(", ")),
    }
}

/// What a component imports and exports, by full name; types aside.
pub(super) fn names(engine: &Engine, component: &Component) -> (Vec<String>, Vec<String>) {
    let named = |name: &str, item: &ComponentItem| match item {
        ComponentItem::Type(_) => None,
        _ => Some(name.to_owned()),
    };
    let (ty, engine) = (component.component_type(), engine.wasmtime());
    let imports = ty.imports(engine).filter_map(|(name, item)| named(name, &item.ty)).collect();
    let exports = ty.exports(engine).filter_map(|(name, item)| named(name, &item.ty)).collect();
    (imports, exports)
}

/// Whether everything imported is given to this kind.
fn check_imports(kind: Kind, imports: &[String], grants: Grants, origin: &str) -> Result<(), LoadError> {
    let (mut refused, mut needs_only) = (Vec::new(), true);
    for import in imports {
        let access = Access::of(import, kind, grants);
        if !access.links(grants) {
            refused.push(import.as_str());
            needs_only &= matches!(access, Access::Needs(_));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    // An interface of ours that its kind gets, in another version.
    let is_ours = |import: &&&str| {
        let name = import.strip_prefix(PACKAGE).and_then(|rest| rest.split('@').next());
        name.is_some_and(|name| kind.granted().contains(&name))
    };
    let ours: Vec<String> = refused.iter().filter(is_ours).map(ToString::to_string).collect();
    if !ours.is_empty() {
        return Err(unsupported(origin, &ours));
    }
    let granted = kind.granted().iter().map(|name| format!("{PACKAGE}{name}")).collect::<Vec<_>>().join(", ");
    let hint = if needs_only {
        "; to give it a WASI with nothing behind it, allow it: `--allow wasi`, or `allow = [\"wasi\"]` in waymark.toml"
    } else {
        ""
    };
    let import = text::printable(&refused.join(", "), text::WORDS);
    Err(LoadError::NotGranted { origin: origin.into(), import, kind: kind.as_str(), granted, hint })
}
