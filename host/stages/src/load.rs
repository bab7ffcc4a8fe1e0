//! From a plugin's name, file or bytes to a loaded plugin. [`candidate`](crate::candidate) makes
//! policies of them.

use std::{fmt, path::PathBuf, sync::Arc};

use thiserror::Error;
use waymark_runtime::{Abandon, Engine, Grants, Kind, Limits, LoadError, Plugin, WasmKeyScheme};

use crate::config::{PluginChoice, PluginRef};

/// Why a plugin could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The file cannot be read.
    #[error("cannot read the plugin {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no plugin for this.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Loading it panicked, which is a fault of the host.
    #[error("loading {plugin} failed inside the host: {reason}")]
    Host {
        /// The plugin.
        plugin: String,
        /// What happened.
        reason: String,
    },
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is a bundled one, with this name.
    Bundled(String),
    /// It is a file, read when it is loaded.
    File(PathBuf),
    /// These are its bytes.
    Bytes {
        /// The component.
        bytes: Arc<Vec<u8>>,
        /// Where they come from, for messages and the history.
        origin: String,
    },
}

impl From<PluginRef> for Source {
    fn from(reference: PluginRef) -> Self {
        match reference {
            PluginRef::Bundled(name) => Self::Bundled(name),
            PluginRef::File(path) => Self::File(path),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundled(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
            Self::Bytes { origin, .. } => f.write_str(origin),
        }
    }
}

impl Source {
    /// Reads and compiles it on this thread. `kind` is wanted for bundled names; without it either
    /// kind is found.
    pub(crate) fn load(
        &self,
        engine: &Engine,
        kind: Option<Kind>,
        limits: Limits,
        grants: Grants,
        abandon: &Abandon,
    ) -> Result<Plugin, PluginError> {
        let read;
        let (bytes, origin) = match self {
            Self::Bundled(name) => {
                return match kind {
                    Some(kind) => Ok(engine.load_bundled_with(kind, name, limits)?),
                    None => engine
                        .load_bundled_with(Kind::KeyScheme, name, limits.clone())
                        .or_else(|_| engine.load_bundled_with(Kind::Policy, name, limits))
                        .map_err(Into::into),
                };
            }
            Self::File(path) => {
                read = std::fs::read(path).map_err(|source| PluginError::Read { path: path.clone(), source })?;
                (read.as_slice(), self.to_string())
            }
            Self::Bytes { bytes, origin } => (bytes.as_slice(), origin.clone()),
        };
        Ok(engine.load_unless(bytes, &origin, limits, grants, abandon)?)
    }
}

/// Loads a plugin under the engine's limits, off the async threads. `kind` is wanted for bundled
/// names; without it either kind is found. A bundled plugin needs no grant and gets none.
///
/// # Errors
///
/// It cannot be read, or is no such plugin.
pub async fn load_plugin(
    engine: &Engine,
    kind: Option<Kind>,
    reference: &PluginRef,
    allow: Grants,
) -> Result<Plugin, PluginError> {
    let (engine, source, plugin) = (engine.clone(), Source::from(reference.clone()), reference.to_string());
    let limits = engine.limits().clone();
    let load = move || source.load(&engine, kind, limits, allow, &Abandon::default());
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|panic| Err(PluginError::Host { plugin, reason: panic.to_string() }))
}

/// Loads a key scheme.
pub async fn load_key_scheme(engine: &Engine, choice: &PluginChoice) -> Result<WasmKeyScheme, PluginError> {
    let plugin = load_plugin(engine, Some(Kind::KeyScheme), &choice.plugin, choice.allow).await?;
    Ok(plugin.into_key_scheme(&choice.config)?)
}

/// Where compiled plugins are kept when nothing was said: the user's cache folder, if there is one.
pub fn default_plugin_cache() -> Option<PathBuf> {
    Some(user_folder("XDG_CACHE_HOME", ".cache")?.join("waymark").join("plugins"))
}

/// Where the last known endpoints are kept when nothing was said: the user's state folder, if there
/// is one.
pub fn default_state_dir() -> Option<PathBuf> {
    Some(user_folder("XDG_STATE_HOME", ".local/state")?.join("waymark"))
}

/// A base folder of the XDG specification: named by a variable, else under the user's home.
fn user_folder(variable: &str, under_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| Some(home()?.join(under_home)))
}
