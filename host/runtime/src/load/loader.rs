//! The one door: bytes in, a [`Plugin`] out, or the reason why not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::component::{Component, types::ComponentItem};
use waymark_core::text;

use super::{
    examine::{Refusal, examine},
    plugin::Plugin,
};
use crate::{
    call::PluginLog,
    compile::{Abandon, CompileError},
    description::{
        Access, Description, Grants, Kind, Limits, LoadError, NEWEST, PACKAGE, SUPPORTED_INTERFACES, hex, sha256,
        supported,
    },
    engine::Engine,
};

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
            sha256: hex(&digest),
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
        let digest = sha256(bytes);
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
