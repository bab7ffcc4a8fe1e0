//! The node's configuration: `waymark.toml`, `WAYMARK_*` and flags mean the same things, and become
//! one checked [`NodeConfig`].
//!
//! `file` is what may be written in the file, this module what the node works with. A flag wins
//! over the environment (clap sees to that), which wins over the file, which wins over the default.

mod clients;
mod connections;
mod control;
mod discovery;
mod file;
mod limits;
mod paths;
mod setting;
mod tls;
mod traffic;

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;
pub use waymark_stages::config::{
    ClientConfig, Discovery, Embedded, PluginChoice, PluginRef, Ports, RegistrySource, ServiceConfig, TlsFiles,
    Transport,
};

use self::setting::Value as _;
pub use self::{
    control::ControlConfig,
    file::{
        AdminFile, AdminSetting, FileConfig, LimitsFile, RegistryFile, TrafficFile, parse as parse_file,
        read as read_file,
    },
    setting::{Default as SettingDefault, Kind as SettingKind, Setting},
};
use crate::{
    dataplane::{Route, RouteError, Routes},
    model::{ModelError, ServiceName},
    plugin::Grants,
    registry::{Password, RegistryConfig, RemovalDamping, TlsConfig, User},
    text,
};

/// How long endpoints are held back when only the share is given: three TTLs of the default, by
/// when whoever lives has registered again.
const DEFAULT_HOLD_TIME_S: u64 = 30;

/// What is wrong with a configuration. Nothing was started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be: TOML, known keys, values of the right kind.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the place and the nearest known name.
        reason: String,
    },
    /// A value has no meaning.
    #[error("{setting}: {reason}")]
    Value {
        /// The setting, as it is written in the file.
        setting: String,
        /// What is wrong.
        reason: String,
    },
    /// The routes contradict each other.
    #[error(transparent)]
    Route(#[from] RouteError),
}

impl ConfigError {
    fn value(setting: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Value { setting: setting.into(), reason: reason.to_string() }
    }
}

impl From<ModelError> for ConfigError {
    fn from(error: ModelError) -> Self {
        Self::value("configuration", error)
    }
}

/// Everything a node needs to start.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The registry, plugins, services, and calls to their endpoints.
    pub client: ClientConfig,
    /// What comes in: TLS, routes, who may call. The certificates of the API are in
    /// [`Self::control`].
    pub ports: Ports,
    /// Where gRPC calls come in. Default 127.0.0.1:7000.
    pub listen: SocketAddr,
    /// The service of calls that come in there and name none. Default: none, they are refused.
    pub listen_service: Option<ServiceName>,
    /// A Unix socket where gRPC calls come in too. Default: none.
    pub listen_unix: Option<PathBuf>,
    /// The service of calls that come in there and name none. Default: none, they are refused.
    pub listen_unix_service: Option<ServiceName>,
    /// Its permission bits. Default: none, what the umask leaves.
    pub listen_unix_mode: Option<u32>,
    /// Where the node's API, health, metrics and dashboard are. Default 127.0.0.1:7001.
    pub admin: SocketAddr,
    /// Who may do what there, and which other ways there are to it. Default: no others, and whoever
    /// reaches it may do everything.
    pub control: ControlConfig,
    /// A Unix socket where a node that is started later with the same path takes this one's ports
    /// over; the first one finds nobody there. Default: none, no node takes over.
    pub take_over: Option<PathBuf>,
    /// How many threads the program serves calls on. [`Node::start`](crate::app::Node::start) runs
    /// on its caller's runtime, and does not heed it. Default: none, as many as there are
    /// processors.
    pub workers: Option<NonZeroUsize>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            client: ClientConfig::default(),
            ports: Ports::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            listen_service: None,
            listen_unix: None,
            listen_unix_service: None,
            listen_unix_mode: None,
            admin: SocketAddr::from(([127, 0, 0, 1], 7001)),
            control: ControlConfig::default(),
            take_over: None,
            workers: None,
        }
    }
}

impl FileConfig {
    /// Checks what was written and fills in the defaults.
    pub fn into_node(self) -> Result<NodeConfig, ConfigError> {
        // First of all, so that nothing below is made of a number that has no meaning.
        self.check("")?;
        let default = NodeConfig::default();
        let registry = self.registry.to_source()?;
        if self.take_over.is_some() && matches!(registry, RegistrySource::Embedded(_)) {
            let reason = "goes without an embedded registry, whose data is in this process alone; run etcd, or `waymark etcd`, and name it";
            return Err(ConfigError::value("take-over", reason));
        }
        let limits = self.plugins.limits().over(&default.client.limits);
        let traffic = self.traffic.over(&default.client.traffic, "traffic")?;
        let checks_clients = self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        let services = self.service.into_iter().map(|service| {
            let name = ServiceName::new(&service.name).map_err(|error| ConfigError::value("service.name", error))?;
            let setting = |field: &str| format!("service {name}: {field}");
            let policy = match (service.policy, service.config, service.allow) {
                (Some(policy), config, allow) => Some(choice(&policy, config, allow.as_deref(), setting("allow"))?),
                (None, Some(_), _) => return Err(ConfigError::value(setting("config"), "there is no policy for it")),
                (None, _, Some(_)) => return Err(ConfigError::value(setting("allow"), "there is no policy for it")),
                (None, None, None) => None,
            };
            let own = service.traffic != TrafficFile::default();
            let (policy, hash_key, traffic) = match &service.service_config {
                Some(path) => {
                    let setting = || setting("service-config");
                    let json = ServiceConfig::from_service_config(name.clone(), &read_text(path)?, &traffic)
                        .map_err(|error| ConfigError::value(setting(), format!("{}: {error}", path.display())))?;
                    (policy.or(json.policy), json.hash_key, json.traffic)
                }
                None => (policy, None, own.then(|| traffic.clone())),
            };
            let over = |base| service.traffic.over(&base, &setting("traffic"));
            let traffic = traffic.map(over).transpose()?;
            let own_key = service.hash_key.map(|key| parse(setting("hash-key"), &key)).transpose()?;
            let hash_key = own_key.or(hash_key);
            let own = service.limits != LimitsFile::default();
            let limits = own.then(|| service.limits.over(&limits));
            let transport = service.tls.map(|tls| tls.into_transport(&setting("tls"))).transpose()?;
            let allow = service.allow_clients;
            let allow_clients = allow
                .map(|names| {
                    clients::rules(&setting("allow-clients"), &names, checks_clients, clients::CLIENT_AUTHORITIES)
                })
                .transpose()?;
            Ok(ServiceConfig {
                name,
                policy,
                hash_key,
                idempotent: service.idempotent,
                transport,
                allow_clients,
                limits,
                traffic,
            })
        });
        let services = services.collect::<Result<Vec<_>, ConfigError>>()?;
        for (index, service) in services.iter().enumerate() {
            if services[..index].iter().any(|earlier| earlier.name == service.name) {
                return Err(ConfigError::value("service", format!("{} is configured twice", service.name)));
            }
        }
        let routes = self.route.into_iter().map(|route| {
            let service =
                ServiceName::new(&route.service).map_err(|error| ConfigError::value("route.service", error))?;
            Ok(Route {
                authority: route.authority,
                grpc_service: route.grpc_service,
                grpc_method: route.grpc_method,
                grpc_prefix: route.grpc_prefix,
                service,
            })
        });
        let routes = Routes::new(routes.collect::<Result<Vec<_>, ConfigError>>()?)?;
        let (admin, control) = match self.admin {
            Some(setting) => setting.into_config(default.admin)?,
            None => (default.admin, default.control),
        };
        let ports = Ports {
            inbound: self.clients.to_options()?,
            allow_clients: self.clients.rules(checks_clients)?,
            forwarding: self.endpoints.forwarding(&self.clients),
            tls: self.tls.map(|tls| tls.into_files("tls")).transpose()?,
            routes,
            drain_timeout: self.drain_timeout_s.map_or(default.ports.drain_timeout, Duration::from_secs),
        };
        let default_plugin = |choice: &PluginChoice| choice.plugin.to_string();
        let client = ClientConfig {
            entries: self.registry.to_entry_limits(),
            key_scheme: choice(
                &self.registry.key_scheme.unwrap_or_else(|| default_plugin(&default.client.key_scheme)),
                self.registry.key_scheme_config,
                self.registry.key_scheme_allow.as_deref(),
                "registry.key-scheme-allow",
            )?,
            registry,
            policy: choice(
                &self.policy.plugin.unwrap_or_else(|| default_plugin(&default.client.policy)),
                self.policy.config,
                self.policy.allow.as_deref(),
                "policy.allow",
            )?,
            hash_key: self.policy.hash_key.map(|key| parse("policy.hash-key", &key)).transpose()?,
            services,
            discovery: self.discovery.to_discovery()?,
            zone: self.zone.unwrap_or_default(),
            connect: self.endpoints.to_options(),
            allow: self.endpoints.to_allow()?,
            endpoints: match self.endpoints.tls {
                Some(tls) => tls.into_transport("endpoints.tls")?,
                None => default.client.endpoints,
            },
            traffic,
            limits,
            plugin_memory: self.plugins.total_memory(),
            compile: self.plugins.compile(),
            plugin_cache: self.plugins.cache_dir,
            follow_files: self.plugins.follow_files.unwrap_or(default.client.follow_files),
            access_log: self.access_log.map(|text| parse("access-log", &text)).transpose()?,
            access_log_format: match self.access_log_format {
                Some(text) => parse("access-log-format", &text)?,
                None => default.client.access_log_format,
            },
        };
        Ok(NodeConfig {
            client,
            ports,
            listen: self.listen.map_or(Ok(default.listen), |text| parse("listen", &text))?,
            listen_service: service("listen-service", self.listen_service)?,
            listen_unix: self.listen_unix,
            listen_unix_service: service("listen-unix-service", self.listen_unix_service)?,
            listen_unix_mode: self.listen_unix_mode.map(|text| mode("listen-unix-mode", &text)).transpose()?,
            admin,
            control,
            take_over: self.take_over,
            // The table of settings has refused 0.
            workers: self.workers.and_then(|workers| NonZeroUsize::new(workers.try_into().ok()?)),
        })
    }
}

/// The name of a service, where one was written.
fn service(setting: &str, name: Option<String>) -> Result<Option<ServiceName>, ConfigError> {
    name.map(|name| ServiceName::new(name).map_err(|error| ConfigError::value(setting, error))).transpose()
}

impl RegistryFile {
    /// Where the registry is, from the file or from the flags that stand for it.
    pub fn to_source(&self) -> Result<RegistrySource, ConfigError> {
        let default_embedded = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoints = self.endpoints.clone().unwrap_or_default();
        if endpoints.iter().any(|endpoint| endpoint == "embedded") || endpoints.is_empty() {
            if endpoints.len() > 1 {
                return Err(ConfigError::value("registry.endpoints", "\"embedded\" stands alone"));
            }
            self.check_embedded()?;
            let listen =
                self.embedded_listen.as_deref().map(|text| parse("registry.embedded-listen", text)).transpose()?;
            let listen = listen.unwrap_or(default_embedded);
            return Ok(RegistrySource::Embedded(Embedded {
                listen,
                namespace: self.namespace()?,
                removal_damping: self.removal_damping()?,
            }));
        }
        if self.embedded_listen.is_some() {
            let reason = "goes with an embedded registry alone, and registry.endpoints names another one";
            return Err(ConfigError::value("registry.embedded-listen", reason));
        }
        let mut config = RegistryConfig::new(endpoints);
        config.namespace = self.namespace()?;
        config.user = match (&self.user, &self.password, &self.password_file) {
            (None, None, None) => None,
            (Some(name), Some(password), None) => {
                Some(User { name: name.clone(), password: Password::Text(password.clone()) })
            }
            (Some(name), None, Some(path)) => {
                // It is read at each authentication; one that is missing at the start is a mistake.
                read_text(path)?;
                Some(User { name: name.clone(), password: Password::File(path.clone()) })
            }
            (Some(_), Some(_), Some(_)) => {
                return Err(ConfigError::value("registry.password", "give it or registry.password-file, not both"));
            }
            (Some(_), None, None) => {
                return Err(ConfigError::value("registry.user", "has no registry.password or registry.password-file"));
            }
            (None, ..) => return Err(ConfigError::value("registry.password", "there is no registry.user for it")),
        };
        if self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some() || self.server_name.is_some() {
            let read =
                |path: &Option<PathBuf>| path.as_ref().map(|path| read_text(path).map(String::into_bytes)).transpose();
            let identity = match (read(&self.cert_file)?, read(&self.key_file)?) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                _ => return Err(ConfigError::value("registry.cert-file", "goes with registry.key-file, give both")),
            };
            config.tls = Some(TlsConfig { ca: read(&self.ca_file)?, identity, server_name: self.server_name.clone() });
        }
        config.removal_damping = self.removal_damping()?;
        config.entries = self.to_entry_limits();
        // A path that is none is a word, as on the command line.
        config.state_dir = self.state_dir.clone().filter(|path| path.as_os_str() != "none");
        if let Some(seconds) = self.state_max_age_s {
            config.state_max_age = Duration::from_secs(seconds);
        }
        Ok(RegistrySource::Etcd(Box::new(config)))
    }

    /// An embedded registry has no users, and is reached without TLS.
    fn check_embedded(&self) -> Result<(), ConfigError> {
        let set = [
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("password-file", self.password_file.is_some()),
            ("ca-file", self.ca_file.is_some()),
            ("cert-file", self.cert_file.is_some()),
            ("key-file", self.key_file.is_some()),
            ("server-name", self.server_name.is_some()),
        ];
        match set.into_iter().find(|(_, set)| *set) {
            Some((setting, _)) => {
                let reason = "goes without an embedded registry, which knows neither users nor TLS; name an etcd in registry.endpoints";
                Err(ConfigError::value(format!("registry.{setting}"), reason))
            }
            None => Ok(()),
        }
    }

    /// What is put before every key; an empty one is none.
    fn namespace(&self) -> Result<Option<String>, ConfigError> {
        let Some(namespace) = self.namespace.as_deref().filter(|namespace| !namespace.is_empty()) else {
            return Ok(None);
        };
        if namespace.ends_with(char::is_alphanumeric) {
            let shown = text::printable(namespace, text::NAME);
            let reason = format!(
                "{shown:?} does not end with a separator, so that it would stand for \"{shown}x\" as well; write \"{shown}/\""
            );
            return Err(ConfigError::value("registry.namespace", reason));
        }
        Ok(Some(namespace.to_owned()))
    }

    fn removal_damping(&self) -> Result<Option<RemovalDamping>, ConfigError> {
        let Some(share) = self.hold_share else {
            return match self.hold_time_s {
                Some(_) => Err(ConfigError::value("registry.hold-time-s", "goes with registry.hold-share, give both")),
                None => Ok(None),
            };
        };
        if !(share > 0.0 && share < 1.0) {
            return Err(ConfigError::value("registry.hold-share", format!("{share} is not between 0 and 1")));
        }
        let seconds = self.hold_time_s.unwrap_or(DEFAULT_HOLD_TIME_S);
        Ok(Some(RemovalDamping { share, time: Duration::from_secs(seconds) }))
    }
}

fn choice(
    plugin: &str,
    config: Option<toml::Table>,
    allow: Option<&[String]>,
    setting: impl Into<String>,
) -> Result<PluginChoice, ConfigError> {
    let Ok(plugin) = plugin.parse();
    // TOML has dates, which JSON has not: they become texts.
    let config = config.map_or_else(|| "{}".into(), |table| serde_json::json!(table).to_string());
    let allow = Grants::parse(allow.unwrap_or_default().iter().map(String::as_str))
        .map_err(|error| ConfigError::value(setting, error))?;
    Ok(PluginChoice { plugin, config, allow })
}

fn parse<T: FromStr<Err: fmt::Display>>(setting: impl Into<String>, text: &str) -> Result<T, ConfigError> {
    text.parse().map_err(|error| ConfigError::value(setting, format!("{text:?}: {error}")))
}

fn mode(setting: &str, text: &str) -> Result<u32, ConfigError> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| ConfigError::value(setting, format!("{text:?} is not 000 to 777, octal, for example \"0660\"")))
}

fn read_text(path: &PathBuf) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        balancer::Discoverable,
        dataplane::{ClientRule, Forwarding},
        health::{Check, CheckConfig},
        plugin::Limits,
        traffic::{
            CallLimits, Code, CodeSet, FailurePercentage, HedgingPolicy, OutlierDetection, Repeat, RetryBudget,
            RetryPolicy, SuccessRate,
        },
    };

    fn node(text: &str) -> Result<NodeConfig, ConfigError> {
        parse_file("waymark.toml".as_ref(), text)?.into_node()
    }

    #[test]
    fn a_password_is_in_no_debug_output() {
        let file = parse_file(
            "waymark.toml".as_ref(),
            "[registry]\nendpoints = [\"http://a:1\"]\nuser = \"u\"\npassword = \"hunter2\"",
        );
        let file = file.unwrap();
        assert!(!format!("{file:?}").contains("hunter2"));
        assert!(!format!("{:?}", file.into_node().unwrap()).contains("hunter2"));
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let node = node("").unwrap();
        assert_eq!(node.listen.to_string(), "127.0.0.1:7000");
        assert_eq!(node.client.policy, PluginChoice::bundled("round_robin"));
        assert!(matches!(node.client.registry, RegistrySource::Embedded(_)));
    }

    #[test]
    fn a_whole_file_is_understood() {
        let node = node(
            r#"
            listen = "127.0.0.1:9000"
            zone = "a"
            [registry]
            endpoints = ["http://192.0.2.1:2379"]
            namespace = "prod/"
            user = "node"
            password = "secret"
            hold-share = 0.5
            state-dir = "/var/lib/waymark"
            state-max-age-s = 3600
            [policy]
            plugin = "zone_aware"
            config = { min_endpoints = 2 }
            hash-key = "header:x-user"
            [[service]]
            name = "ayang/server1"
            policy = "./mine.wasm"
            allow = ["clocks"]
            [[route]]
            grpc-service = "hello.Greeter1"
            service = "ayang/server1"
            [plugins]
            pick-deadline-ms = 20
            "#,
        )
        .unwrap();
        assert_eq!(node.client.policy.config, r#"{"min_endpoints":2}"#);
        assert_eq!(node.client.services[0].policy.as_ref().unwrap().plugin, PluginRef::File("./mine.wasm".into()));
        assert_eq!(node.client.services[0].policy.as_ref().unwrap().allow.to_string(), "wasi,clocks");
        assert_eq!(node.client.limits.pick_deadline, Duration::from_millis(20));
        let RegistrySource::Etcd(registry) = node.client.registry else { panic!("endpoints were given") };
        assert_eq!(registry.user, Some(User::new("node", "secret")));
        assert_eq!(registry.removal_damping, Some(RemovalDamping { share: 0.5, time: Duration::from_secs(30) }));
        assert_eq!(registry.state_dir, Some("/var/lib/waymark".into()));
        assert_eq!(registry.state_max_age, Duration::from_hours(1));
    }

    #[test]
    fn an_embedded_registry_heeds_what_it_can() {
        let config =
            node("[registry]\nnamespace = \"prod/\"\nhold-share = 0.5\nembedded-listen = \"127.0.0.1:9\"").unwrap();
        let RegistrySource::Embedded(embedded) = config.client.registry else { panic!("no endpoints were given") };
        let removal_damping = Some(RemovalDamping { share: 0.5, time: Duration::from_secs(30) });
        let listen = "127.0.0.1:9".parse().unwrap();
        assert_eq!(embedded, Embedded { listen, namespace: Some("prod/".into()), removal_damping });
        let plain = node("[registry]\nnamespace = \"\"").unwrap().client.registry;
        assert!(matches!(plain, RegistrySource::Embedded(Embedded { namespace: None, removal_damping: None, .. })));
    }

    #[test]
    fn a_service_has_the_limits_of_all_plugins_but_for_its_own() {
        let node = node(
            r#"
            [plugins]
            memory-mib = 8
            quarantine-window-s = 60
            [[service]]
            name = "plain"
            [[service]]
            name = "strict"
            limits = { pick-deadline-ms = 2, quarantine-failures = 1, component-mib = 40 }
            "#,
        )
        .unwrap();
        assert_eq!((node.client.limits.memory, node.client.limits.pick_deadline), (8 << 20, Duration::from_millis(10)));
        assert_eq!(node.client.services[0].limits, None);
        let strict = Limits {
            pick_deadline: Duration::from_millis(2),
            quarantine_failures: 1,
            component_size: 40 << 20,
            ..node.client.limits.clone()
        };
        assert_eq!(node.client.services[1].limits, Some(strict));
        assert_eq!(node.client.largest_component(), 40 << 20);
    }

    #[test]
    fn endpoints_speak_what_their_service_says_else_what_all_do() {
        let node = node(
            r#"
            [tls]
            cert-file = "node.pem"
            key-file = "node.key"
            client-ca-file = "clients.pem"
            [endpoints.tls]
            ca-file = "ca.pem"
            [[service]]
            name = "as-all"
            [[service]]
            name = "plain"
            tls = { enabled = false }
            [[service]]
            name = "own"
            tls = { server-name = "own.example", cert-file = "c", key-file = "k" }
            "#,
        )
        .unwrap();
        let identity = Some(("node.pem".into(), "node.key".into()));
        let tls = TlsFiles { identity, authorities: Some("clients.pem".into()), server_name: None };
        assert_eq!(node.ports.tls, Some(tls));
        let all = TlsFiles { authorities: Some("ca.pem".into()), ..TlsFiles::default() };
        assert_eq!(node.client.endpoints, Transport::Tls(all));
        let own = TlsFiles {
            identity: Some(("c".into(), "k".into())),
            authorities: None,
            server_name: Some("own.example".into()),
        };
        let services: Vec<_> = node.client.services.into_iter().map(|service| service.transport).collect();
        assert_eq!(services, [None, Some(Transport::Cleartext), Some(Transport::Tls(own))]);
    }

    #[test]
    fn a_service_names_its_clients_and_the_others_have_the_default() {
        let tls = "[tls]\ncert-file = \"c\"\nkey-file = \"k\"\nclient-ca-file = \"ca\"\n";
        let text = "[clients]\nallow = [\"*\"]\ntrust-forwarded = true\n[endpoints]\nforward-client-cert = true
            [[service]]\nname = \"a\"\nallow-clients = [\"spiffe://example.org/shop\", \"uid:7\"]\n[[service]]\nname = \"b\"";
        let node = node(&format!("{tls}{text}")).unwrap();
        let list = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect::<Vec<ClientRule>>());
        assert_eq!(node.ports.allow_clients, list(&["*"]));
        assert_eq!(node.client.services[0].allow_clients, list(&["spiffe://example.org/shop", "uid:7"]));
        assert_eq!(node.client.services[1].allow_clients, None);
        assert_eq!(node.ports.forwarding, Forwarding { certificate: true, address: false, trusted: true });
    }

    #[test]
    fn limits_of_connections_are_gone_unless_they_are_written_but_for_those_that_have_a_default() {
        let node_of = |text: &str| node(text).unwrap();
        let plain = node_of("");
        let inbound = &plain.ports.inbound;
        assert_eq!((inbound.max_header_bytes, plain.client.connect.max_header_bytes), (64 << 10, 64 << 10));
        assert_eq!((inbound.max_connections, inbound.max_age, inbound.idle_timeout), (None, None, None));
        assert_eq!(plain.client.connect.idle_timeout, Some(Duration::from_mins(30)));
        let written = node_of(
            "[clients]\nmax-connections = 7\nmax-age-s = 60\nmax-age-grace-s = 0\nmax-header-kib = 1\n[endpoints]\nidle-timeout-s = 0\nmax-header-kib = 4096",
        );
        assert_eq!(written.ports.inbound.max_connections, Some(7));
        assert_eq!(
            (written.ports.inbound.max_header_bytes, written.client.connect.max_header_bytes),
            (1 << 10, 4 << 20)
        );
        assert_eq!(written.ports.inbound.max_age, Some(Duration::from_mins(1)));
        assert_eq!(written.ports.inbound.max_age_grace, Some(Duration::ZERO));
        assert_eq!(written.client.connect.idle_timeout, None);
    }

    #[test]
    fn callers_bring_about_any_service_unless_it_is_said_which() {
        let discovery = |text: &str| node(text).unwrap().client.discovery;
        assert_eq!(discovery(""), Discovery::default());
        assert_eq!(discovery("[discovery]\ndiscover = false").discoverable, Discoverable::Nothing);
        let listed = discovery("[discovery]\nallow = [\"ayang/\", \"billing\"]\nmax-services = 7\nmax-empty = 3");
        assert!(listed.discoverable.covers("ayang/server1") && !listed.discoverable.covers("other"));
        assert_eq!((listed.max_services, listed.max_empty), (7, 3));
    }

    #[test]
    fn a_service_has_what_is_said_of_all_traffic_but_for_its_own() {
        let node = node(
            r#"
            [traffic]
            max-in-flight = 100
            max-pending = 5
            [[service]]
            name = "plain"
            [[service]]
            name = "own"
            traffic = { max-in-flight-per-endpoint = 3, max-pending = 0, timeout-ms = 1500, wait-for-ready = true }
            "#,
        )
        .unwrap();
        assert_eq!((node.client.traffic.limits.max_in_flight, node.client.traffic.limits.max_pending), (Some(100), 5));
        assert_eq!(node.client.services[0].traffic, None);
        let own = node.client.services[1].traffic.as_ref().unwrap();
        let limits = CallLimits { max_in_flight: Some(100), max_in_flight_per_endpoint: Some(3), max_pending: 0 };
        assert_eq!(own.limits, limits);
        let method = own.methods.of("/a.B/C");
        assert_eq!((method.timeout, method.wait_for_ready), (Some(Duration::from_millis(1500)), true));
    }

    #[test]
    fn a_service_config_is_read_and_what_stands_beside_it_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("greeter.json");
        let json = r#"{"loadBalancingConfig": [{"grpclb": {}}, {"least_request": {}}], "methodConfig": [{"name": [{}],
            "timeout": "2s", "waitForReady": true}], "healthCheckConfig": {"serviceName": "a.B"}}"#;
        std::fs::write(&path, json).unwrap();
        let text = |more: &str| {
            format!("[traffic]\nmax-pending = 3\n[[service]]\nname = \"a\"\nservice-config = {path:?}\n{more}")
        };
        let a = node(&text("traffic = { timeout-ms = 100 }")).unwrap().client.services.remove(0);
        assert_eq!(a.policy, Some(PluginChoice::bundled("least_request")));
        let traffic = a.traffic.unwrap();
        let method = traffic.methods.of("/a.B/C");
        assert_eq!((method.timeout, method.wait_for_ready), (Some(Duration::from_millis(100)), true));
        assert_eq!(traffic.limits.max_pending, 3);
        let health = |more| node(&text(more)).unwrap().client.services.remove(0).traffic.unwrap().health.unwrap();
        assert_eq!(health(""), CheckConfig::new(Check::Grpc("a.B".into())));
        let tcp = CheckConfig { interval: Duration::from_millis(50), fall: 1, ..CheckConfig::new(Check::Tcp) };
        assert_eq!(health("traffic = { health = { check = \"tcp\", interval-ms = 50, fall = 1 } }"), tcp);
        let own = node(&text("policy = \"random\"")).unwrap().client.services.remove(0);
        assert_eq!(own.policy, Some(PluginChoice::bundled("random")));
        std::fs::write(&path, r#"{"methodConfig": [{"name": [{}], "timeout": "soon"}]}"#).unwrap();
        let error = node(&text("")).unwrap_err().to_string();
        assert!(error.contains("greeter.json: methodConfig[0].timeout"), "{error}");
    }

    #[test]
    fn a_repeat_is_a_retry_or_a_hedge() {
        let of = |text: &str| {
            let node = node(&format!("[traffic]\n{text}")).unwrap();
            (node.client.traffic.methods.of("/a.B/C").repeat.as_deref().cloned(), node.client.traffic.retry_budget)
        };
        let (retry, budget) = of("retry = { codes = [\"ABORTED\"], max-attempts = 2 }\nretry-budget = { ratio = 0.5 }");
        let codes = [Code::Aborted].into_iter().collect();
        assert_eq!(retry, Some(Repeat::Retry(RetryPolicy { max_attempts: 2, codes, ..RetryPolicy::default() })));
        assert_eq!(budget, RetryBudget { max_tokens: 100, ratio_thousandths: 500 });
        let (hedge, _) = of("hedge = { delay-ms = 30 }");
        let delay = Duration::from_millis(30);
        let policy = HedgingPolicy { max_attempts: 2, delay, non_fatal: CodeSet::default() };
        assert_eq!(hedge, Some(Repeat::Hedge(policy)));
    }

    #[test]
    fn outliers_are_looked_for_both_ways_unless_one_is_named() {
        let outlier =
            |text: &str| node(&format!("[traffic]\noutlier = {text}")).unwrap().client.traffic.outlier.unwrap();
        let both = OutlierDetection {
            success_rate: Some(SuccessRate::default()),
            failure_percentage: Some(FailurePercentage::default()),
            ..OutlierDetection::default()
        };
        assert_eq!(outlier("{}"), both);
        let one = outlier("{ interval-ms = 500, panic-threshold = 0, failure-percentage = { threshold = 20 } }");
        let by = FailurePercentage { threshold: 20, ..FailurePercentage::default() };
        assert_eq!((one.success_rate, one.failure_percentage), (None, Some(by)));
        assert_eq!((one.interval, one.panic_threshold), (Duration::from_millis(500), 0));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_name() {
        let error = node("lissten = \"127.0.0.1:1\"").unwrap_err().to_string();
        assert!(error.contains("lissten") && error.contains("did you mean `listen`?"), "{error}");
        let error = node("[registry]\nendpoint = []").unwrap_err().to_string();
        assert!(error.contains("did you mean `endpoints`?"), "{error}");
    }

    #[test]
    fn a_bad_value_names_its_setting() {
        for (text, setting) in [
            ("listen = \"nowhere\"", "listen"),
            ("[plugins]\npick-deadline-ms = 0", "plugins.pick-deadline-ms"),
            ("[plugins]\nquarantine-failures = 0", "plugins.quarantine-failures"),
            ("[[service]]\nname = \"a\"\nlimits = { memory-mib = 9999 }", "service a: limits.memory-mib"),
            ("[[service]]\nname = \"a\"\nlimits = { memory-mb = 1 }", "did you mean `memory-mib`"),
            ("[traffic]\nmax-in-flight = 0", "traffic.max-in-flight"),
            ("[traffic]\nretry = { codes = [\"NOPE\"] }", "traffic.retry.codes"),
            ("[traffic]\nretry = { max-attempts = 6 }", "traffic.retry.max-attempts"),
            ("[traffic]\nhealth = {}", "traffic.health.check: is missing"),
            ("[traffic]\nhealth = { check = \"ping\" }", "traffic.health.check"),
            ("[traffic]\nhealth = { check = \"tcp\", fall = 0 }", "traffic.health.fall"),
            ("[traffic]\nslow-start = {}", "traffic.slow-start.window-s"),
            ("[traffic]\nslow-start = { window-s = 5, aggression = 0.0 }", "traffic.slow-start.aggression"),
            ("[traffic]\nhedge = {}", "traffic.hedge.delay-ms"),
            ("[traffic]\nretry = {}\nhedge = { delay-ms = 1 }", "traffic.hedge"),
            ("[traffic]\nretry-budget = { ratio = 0.0 }", "traffic.retry-budget.ratio"),
            ("[traffic]\noutlier = { max-ejection-percent = 101 }", "traffic.outlier.max-ejection-percent"),
            ("[traffic.outlier.success-rate]\nrequest-volume = 0", "traffic.outlier.success-rate.request-volume"),
            ("[[service]]\nname = \"a\"\ntraffic = { timeout-ms = 0 }", "service a: traffic.timeout-ms"),
            ("[policy]\nallow = [\"files\"]", "policy.allow"),
            ("[[service]]\nname = \"a\"\nallow = [\"wasi\"]", "service a: allow"),
            ("[policy]\nhash-key = \"cookie\"", "policy.hash-key"),
            ("[[service]]\nname = \"a b\"", "service.name"),
            ("[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"", "configured twice"),
            ("[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nuser = \"u\"", "registry.user"),
            ("[[route]]\nservice = \"a\"", "names neither"),
            ("[[route]]\nservice = \"a\"\nauthority = \"http://a.example\"", "can never match: authority"),
            ("[[route]]\nservice = \"a\"\ngrpc-service = \"a.B/C\"", "grpc-method = \"C\""),
            ("[[route]]\nservice = \"a\"\ngrpc-method = \"C\"", "goes with the grpc-service"),
            ("listen-service = \"a b\"", "listen-service"),
            ("listen-unix-service = \"\"", "listen-unix-service"),
            ("[policy]\nhash-key = \"header:x-bin\"", "policy.hash-key"),
            ("[tls]\nkey-file = \"k\"", "tls.key-file"),
            ("[tls]", "tls.cert-file"),
            ("listen-unix-mode = \"0888\"", "listen-unix-mode"),
            ("take-over = \"/run/w.sock\"", "take-over: goes without an embedded registry"),
            ("access-log-format = \"xml\"", "access-log-format"),
            ("[clients]\nmax-age-s = 0", "clients.max-age-s"),
            ("[clients]\nmax-age-grace-s = 5", "clients.max-age-grace-s"),
            ("[clients]\nmax-connections = 0", "clients.max-connections"),
            ("[clients]\nmax-streams = 0", "clients.max-streams"),
            ("[clients]\nmax-header-kib = 0", "clients.max-header-kib: 0 is not within 1 to 4096"),
            ("[endpoints]\nmax-header-kib = 4097", "endpoints.max-header-kib: 4097 is not within 1 to 4096"),
            ("[clients]\nallow = [\"shop\"]", "clients.allow: \"shop\" is none of"),
            ("[clients]\nallow = [\"*\"]", "clients.allow: \"*\": clients show no certificates"),
            ("[[service]]\nname = \"a\"\nallow-clients = [\"CN:a\"]", "tls.client-ca-file"),
            ("[clients]\nstream-idle-timeout-s = 0", "clients.stream-idle-timeout-s"),
            ("[discovery]\nmax-services = 0", "discovery.max-services"),
            ("[discovery]\nmax-empty = 0", "discovery.max-empty"),
            ("[discovery]\nallow = [\"a b\"]", "discovery.allow"),
            ("[discovery]\nallow = []\ndiscover = false", "discovery.allow"),
            ("[discovery]\nalow = []", "did you mean `allow`"),
            ("[endpoints]\nmax-connections = 0", "endpoints.max-connections"),
            ("[endpoints]\nidle-timeout-s = 99999999", "endpoints.idle-timeout-s"),
            ("[endpoints.tls]\ncert-file = \"c\"", "endpoints.tls.cert-file"),
            ("[[service]]\nname = \"a\"\ntls = { cert-file = \"c\" }", "service a: tls.cert-file"),
            ("[endpoints.tls]\ncafile = \"c\"", "did you mean `ca-file`"),
            ("[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-share = 1.0", "registry.hold-share"),
            ("[registry]\nhold-share = 1.0", "registry.hold-share"),
            ("[registry]\nnamespace = \"prod\"", "registry.namespace: \"prod\" does not end with a separator"),
            ("[registry]\nuser = \"u\"\npassword = \"p\"", "registry.user: goes without an embedded registry"),
            ("[registry]\npassword-file = \"p\"", "registry.password-file: goes without an embedded registry"),
            ("[registry]\nendpoints = [\"embedded\"]\nca-file = \"c\"", "registry.ca-file: goes without"),
            ("[registry]\nserver-name = \"c\"", "registry.server-name: goes without an embedded registry"),
            (
                "[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nembedded-listen = \"127.0.0.1:1\"",
                "registry.embedded-listen: goes with an embedded registry alone",
            ),
            (
                "[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-share = 0.5\nhold-time-s = 0",
                "registry.hold-time-s",
            ),
            ("[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-time-s = 5", "registry.hold-share"),
            (
                "[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nstate-max-age-s = 0",
                "registry.state-max-age-s: 0 is not within 1",
            ),
        ] {
            let error = node(text).unwrap_err().to_string();
            assert!(error.contains(setting), "{text}: {error}");
        }
    }
}
