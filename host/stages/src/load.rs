//! From a plugin's name or file to what runs.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;
use waymark_balancer::Candidate;
use waymark_core::{
    model::ServiceName,
    policy::{BuildError, Scope},
};
use waymark_runtime::{Engine, Grants, Kind, Limits, LoadError, Plugin, WasmKeyScheme};

use crate::config::{PluginChoice, PluginRef};

/// Why a plugin could not be had.
#[derive(Debug, Error)]
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

/// Loads a plugin, off the async threads. `kind` is wanted for bundled names; without it either
/// kind is found. A bundled plugin needs no grant and gets none.
pub async fn load_plugin(
    engine: &Engine,
    kind: Option<Kind>,
    reference: &PluginRef,
    allow: Grants,
) -> Result<Plugin, PluginError> {
    load_plugin_with(engine, kind, reference, engine.limits().clone(), allow).await
}

/// Loads a plugin under limits of its own. See [`load_plugin`].
async fn load_plugin_with(
    engine: &Engine,
    kind: Option<Kind>,
    reference: &PluginRef,
    limits: Limits,
    allow: Grants,
) -> Result<Plugin, PluginError> {
    let (engine, reference) = (engine.clone(), reference.clone());
    let name = reference.to_string();
    let load = move || match &reference {
        PluginRef::Bundled(name) => match kind {
            Some(kind) => Ok(engine.load_bundled_with(kind, name, limits)?),
            None => engine
                .load_bundled_with(Kind::KeyScheme, name, limits.clone())
                .or_else(|_| engine.load_bundled_with(Kind::Policy, name, limits))
                .map_err(Into::into),
        },
        PluginRef::File(path) => {
            let bytes = std::fs::read(path).map_err(|source| PluginError::Read { path: path.clone(), source })?;
            Ok(engine.load_with(&bytes, &path.display().to_string(), limits, allow)?)
        }
    };
    let joined = tokio::task::spawn_blocking(load).await;
    joined.unwrap_or_else(|panic| Err(PluginError::Host { plugin: name, reason: panic.to_string() }))
}

/// Loads a policy under these limits, ready to be given to a service.
pub async fn load_policy(
    engine: &Engine,
    choice: &PluginChoice,
    limits: Limits,
    by: &str,
) -> Result<Candidate, PluginError> {
    let plugin = load_plugin_with(engine, Some(Kind::Policy), &choice.plugin, limits, choice.allow).await?;
    Ok(Candidate::new(plugin.into_policy(&choice.config)?, by))
}

/// Why a policy does not even plan for a service without endpoints.
#[derive(Debug, Error)]
pub(super) enum TrialError {
    /// It refuses its configuration, or fails.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A fault of the host.
    #[error("building it failed inside the host: {0}")]
    Host(String),
}

/// Builds it for nobody: that is when a policy refuses its configuration.
pub(super) async fn try_for_nobody(candidate: &Candidate, zone: &Arc<str>) -> Result<(), TrialError> {
    let service = ServiceName::new("configuration").expect("a plain name");
    let (policy, scope) = (Arc::clone(&candidate.policy), Scope { service, zone: Arc::clone(zone) });
    let tried = tokio::task::spawn_blocking(move || policy.build(&scope, &[]).map(drop)).await;
    Ok(tried.map_err(|panic| TrialError::Host(panic.to_string()))??)
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
