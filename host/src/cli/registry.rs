//! The flags that say where the registry is and how it is read: the same for every command.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;

use super::output::Failure;
use crate::{
    app,
    config::{FileConfig, PluginChoice, RegistryFile, RegistrySource, read_file},
    naming::KeyScheme,
    plugin::{Engine, EngineConfig},
    registry::Registry,
};

/// Where the registry is.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArgs {
    /// etcd's endpoints, separated by commas; `embedded` for a registry inside the node.
    #[arg(long = "registry", env = "WAYMARK_REGISTRY", value_name = "URL,..", value_delimiter = ',')]
    endpoints: Option<Vec<String>>,
    /// Put before every key, like etcd's namespaces.
    #[arg(long, env = "WAYMARK_NAMESPACE", value_name = "PREFIX")]
    namespace: Option<String>,
    /// etcd's user.
    #[arg(long, env = "WAYMARK_REGISTRY_USER", value_name = "NAME")]
    registry_user: Option<String>,
    /// A file with its password.
    #[arg(long, env = "WAYMARK_REGISTRY_PASSWORD_FILE", value_name = "FILE")]
    registry_password_file: Option<PathBuf>,
    /// Its password; a file is safer.
    #[arg(long, env = "WAYMARK_REGISTRY_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    registry_password: Option<String>,
    /// The certificate authorities to trust for etcd, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// Our certificate for etcd, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_CERT", value_name = "FILE")]
    registry_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_KEY", value_name = "FILE")]
    registry_key: Option<PathBuf>,
    /// What keys and values look like: a bundled key scheme (`etcd_naming`, `bare_prefix`) or a .wasm file.
    #[arg(long, env = "WAYMARK_KEY_SCHEME", value_name = "NAME|FILE")]
    key_scheme: Option<String>,
    /// The configuration file these flags take precedence over.
    #[arg(long, env = "WAYMARK_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub(super) config: Option<PathBuf>,
}

impl RegistryArgs {
    /// The configuration file, if there is one, with these flags put over it.
    pub(super) fn file(&self) -> Result<FileConfig, Failure> {
        let mut file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let registry = &mut file.registry;
        let over = |from: &Option<String>, to: &mut Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        over(&self.namespace, &mut registry.namespace);
        over(&self.registry_user, &mut registry.user);
        over(&self.key_scheme, &mut registry.key_scheme);
        if self.endpoints.is_some() {
            registry.endpoints.clone_from(&self.endpoints);
        }
        if self.registry_password.is_some() || self.registry_password_file.is_some() {
            registry.password.clone_from(&self.registry_password);
            registry.password_file.clone_from(&self.registry_password_file);
        }
        let over = |from: &Option<PathBuf>, to: &mut Option<PathBuf>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        over(&self.registry_ca, &mut registry.ca_file);
        over(&self.registry_cert, &mut registry.cert_file);
        over(&self.registry_key, &mut registry.key_file);
        Ok(file)
    }

    /// A connection to an etcd that runs already, for commands that have none inside, checked once.
    pub(super) async fn connect(&self) -> Result<(Registry, Arc<dyn KeyScheme>), Failure> {
        let file = self.file()?;
        let registry = match file.registry.to_source()? {
            RegistrySource::Etcd(config) => Registry::connect(*config)?,
            RegistrySource::Embedded(_) => return Err(Failure::usage(no_registry(&file.registry))),
        };
        let scheme = file.into_node()?.key_scheme;
        let scheme = load_scheme(&scheme).await?;
        registry.check().await?;
        Ok((registry, scheme))
    }
}

fn no_registry(file: &RegistryFile) -> String {
    let asked =
        if file.endpoints.is_some() { "an embedded registry lives inside a node" } else { "no registry is named" };
    format!(
        "{asked}; say which one: --registry http://127.0.0.1:2379, or WAYMARK_REGISTRY. \
         `waymark etcd` starts one, `waymark node` prints the address of the one inside it"
    )
}

/// Loads a key scheme with an engine of its own.
pub(super) async fn load_scheme(choice: &PluginChoice) -> Result<Arc<dyn KeyScheme>, Failure> {
    let engine = Engine::new(EngineConfig { cache_dir: app::default_plugin_cache(), ..EngineConfig::default() })
        .map_err(|error| Failure::failed(format!("cannot start the plugin engine: {error:#}")))?;
    Ok(Arc::new(app::load_key_scheme(&engine, choice).await?))
}

/// An address to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not IP:port, for example 127.0.0.1:7000 or [::1]:7000"))
}
