//! The flags that say where the registry is and how it is read: the same for every command.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;

use super::output::CommandError;
use crate::{
    address_filter::AddressFilter,
    config::{ClientConfig, FileConfig, PluginChoice, RegistryFile, RegistrySource, read_file},
    naming::KeyScheme,
    plugin::{Engine, EngineConfig},
    registry::{Registry, RegistryConfig},
    secret::Secret,
    stages::load,
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
    registry_password: Option<Secret>,
    /// The certificate authorities to trust for etcd, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// Our certificate for etcd, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_CERT", value_name = "FILE")]
    registry_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "WAYMARK_REGISTRY_KEY", value_name = "FILE")]
    registry_key: Option<PathBuf>,
    /// What keys and values look like: a bundled key scheme (`etcd_naming`, `bare_prefix`) or a
    /// .wasm file.
    #[arg(long, env = "WAYMARK_KEY_SCHEME", value_name = "NAME|FILE")]
    key_scheme: Option<String>,
    /// The key scheme's configuration, for example `{"nested_ids": false}`.
    #[arg(long, env = "WAYMARK_KEY_SCHEME_CONFIG", value_name = "JSON", value_parser = json_object)]
    key_scheme_config: Option<JsonObject>,
    /// What the key scheme is given beyond its world: wasi (with nothing behind it), clocks,
    /// random.
    #[arg(long, env = "WAYMARK_KEY_SCHEME_ALLOW", value_name = "WHAT,..", value_delimiter = ',')]
    key_scheme_allow: Option<Vec<String>>,
    /// The configuration file these flags take precedence over.
    #[arg(long, env = "WAYMARK_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub(super) config: Option<PathBuf>,
}

impl RegistryArgs {
    /// The configuration file, if there is one, with these flags put over it.
    pub(super) fn file(&self) -> Result<FileConfig, CommandError> {
        let mut file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let registry = &mut file.registry;
        let over = |from: &Option<String>, to: &mut Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        over(&self.namespace, &mut registry.namespace);
        over(&self.registry_user, &mut registry.user);
        if self.key_scheme.is_some() && self.key_scheme != registry.key_scheme {
            // What the file says is said to another one.
            (registry.key_scheme_config, registry.key_scheme_allow) = (None, None);
        }
        over(&self.key_scheme, &mut registry.key_scheme);
        if let Some(JsonObject(config)) = &self.key_scheme_config {
            registry.key_scheme_config = Some(config.clone());
        }
        if self.key_scheme_allow.is_some() {
            registry.key_scheme_allow.clone_from(&self.key_scheme_allow);
        }
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
    pub(super) async fn connect(&self) -> Result<(Registry, Arc<dyn KeyScheme>), CommandError> {
        let (registry, scheme) = self.open().await?;
        registry.check().await?;
        Ok((registry, scheme))
    }

    /// The same, of which nothing is asked yet.
    pub(super) async fn open(&self) -> Result<(Registry, Arc<dyn KeyScheme>), CommandError> {
        let file = self.file()?;
        let RegistrySource::Etcd(config) = file.registry.to_source()? else {
            return Err(CommandError::usage(no_registry(&file.registry)));
        };
        let ClientConfig { key_scheme, allow, .. } = file.into_node()?.client;
        // As a node would that reads the same file and takes calls from this machine.
        let address_filter = AddressFilter::new(allow.unwrap_or_default());
        config.endpoints.iter().for_each(|endpoint| address_filter.registry(endpoint));
        let registry = Registry::connect(RegistryConfig { address_filter, ..*config })?;
        let scheme = load_scheme(&key_scheme).await?;
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

/// A plugin's configuration, as the file would have it.
#[derive(Debug, Clone, PartialEq)]
struct JsonObject(toml::Table);

fn json_object(text: &str) -> Result<JsonObject, String> {
    serde_json::from_str(text)
        .map(JsonObject)
        .map_err(|error| format!("it has to be a JSON object without null: {error}"))
}

/// Loads a key scheme with an engine of its own.
pub(super) async fn load_scheme(choice: &PluginChoice) -> Result<Arc<dyn KeyScheme>, CommandError> {
    let (cache_dir, compile) = (load::default_plugin_cache(), super::compiling());
    let engine = Engine::new(EngineConfig { cache_dir, compile, ..EngineConfig::default() })
        .map_err(|error| CommandError::failed(format!("cannot start the plugin engine: {error:#}")))?;
    Ok(Arc::new(load::load_key_scheme(&engine, choice).await?))
}

/// An address to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not IP:port, for example 127.0.0.1:7000 or [::1]:7000"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        registry: RegistryArgs,
    }

    fn choice(file: &str, args: &[&str]) -> Result<PluginChoice, CommandError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waymark.toml");
        std::fs::write(&path, file).unwrap();
        let args = [&["waymark", "--config", path.to_str().unwrap()], args].concat();
        let program = Program::try_parse_from(args).map_err(|error| CommandError::usage(error.to_string()))?;
        Ok(program.registry.file()?.into_node()?.client.key_scheme)
    }

    #[test]
    fn a_key_scheme_is_configured_by_flag_or_file_also_the_one_that_nobody_named() {
        let flat = PluginChoice { config: r#"{"nested_ids":false}"#.into(), ..PluginChoice::bundled("etcd_naming") };
        let flag = ["--key-scheme-config", r#"{"nested_ids": false}"#];
        assert_eq!(choice("", &flag).unwrap(), flat);
        assert_eq!(choice("[registry]\nkey-scheme-config = { nested_ids = false }\n", &[]).unwrap(), flat);
        assert_eq!(choice("[registry]\nkey-scheme-config = { nested_ids = true }\n", &flag).unwrap(), flat);
        // What the file says is of the scheme that the file names.
        let file = "[registry]\nkey-scheme = \"/etc/mine.wasm\"\nkey-scheme-config = { x = 1 }\nkey-scheme-allow = [\"wasi\"]\n";
        assert_eq!(choice(file, &["--key-scheme", "bare_prefix"]).unwrap(), PluginChoice::bundled("bare_prefix"));
        assert_eq!(choice(file, &["--key-scheme", "/etc/mine.wasm"]).unwrap().config, r#"{"x":1}"#);
        let allowed = choice("", &["--key-scheme-allow", "wasi,random"]).unwrap().allow;
        assert_eq!(allowed, "wasi,random".parse().unwrap());
        for bad in ["[]", "nested_ids", r#"{"a":null}"#] {
            let refused = choice("", &["--key-scheme-config", bad]).unwrap_err().to_string();
            assert!(refused.contains("--key-scheme-config") && refused.contains("JSON object"), "{refused}");
        }
    }
}
