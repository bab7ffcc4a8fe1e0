//! The node's configuration: `waymark.toml`, `WAYMARK_*` and flags mean the same things, and become one checked
//! [`NodeConfig`].
//!
//! `file` is what may be written in the file, this module what the node works with. A flag wins over the environment (clap sees
//! to that), which wins over the file, which wins over the default.

mod connections;
mod file;
mod limits;
mod tls;
mod traffic;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;

pub use self::{
    file::{FileConfig, LimitsFile, RegistryFile, TrafficFile, parse as parse_file, read as read_file},
    tls::{TlsFiles, Transport},
};
use crate::{
    balancer::HashKey,
    dataplane::{AccessFormat, AccessTarget, ConnectOptions, InboundOptions, Route, RouteError, Routes},
    model::{ModelError, ServiceName},
    plugin::{Grants, Kind, Limits},
    registry::{Hold, RegistryConfig, TlsConfig},
    traffic::{ServiceConfigError, Traffic, service_config},
};

/// How long endpoints are held back when only the share is given: three TTLs of the default, by when whoever lives has registered again.
const DEFAULT_HOLD_TIME_S: u64 = 30;

/// What is wrong with a configuration. Nothing was started.
#[derive(Debug, Error)]
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

/// Which component: one that comes with the binary, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginRef {
    /// A bundled one, by name.
    Bundled(String),
    /// A file.
    File(PathBuf),
}

impl FromStr for PluginRef {
    type Err = std::convert::Infallible;

    /// What ends in `.wasm` or has a path separator is a file, everything else a bundled name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = std::path::Path::new(text);
        let is_file = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wasm"))
            || text.contains(std::path::is_separator);
        Ok(if is_file { Self::File(path.into()) } else { Self::Bundled(text.into()) })
    }
}

impl fmt::Display for PluginRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundled(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A component with its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginChoice {
    /// Which component.
    pub plugin: PluginRef,
    /// A JSON object.
    pub config: String,
    /// What it is given beyond its world.
    pub allow: Grants,
}

impl PluginChoice {
    /// A bundled component with nothing configured.
    pub fn bundled(name: &str) -> Self {
        Self { plugin: PluginRef::Bundled(name.into()), config: "{}".into(), allow: Grants::NONE }
    }
}

/// Where the registry is.
#[derive(Debug, Clone)]
pub enum RegistrySource {
    /// A server in this process, at this address; all of it is gone when the process ends.
    Embedded(SocketAddr),
    /// An etcd cluster.
    Etcd(Box<RegistryConfig>),
}

/// How one service is balanced, where it differs from the default.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceConfig {
    /// The service.
    pub name: ServiceName,
    /// Its first policy; the node's default when unset.
    pub policy: Option<PluginChoice>,
    /// What of a request is its key, for policies that hash.
    pub hash_key: Option<HashKey>,
    /// Whether its calls may be carried out twice: then one whose instance was lost before it answered is sent to another.
    /// Default false.
    pub idempotent: bool,
    /// How its endpoints are spoken to; as [`NodeConfig::endpoints`] says when unset.
    pub transport: Option<Transport>,
    /// What its policies may take, where that differs from the node's limits.
    pub limits: Option<Limits>,
    /// What is said of its calls, where that differs from what is said of all.
    pub traffic: Option<Traffic>,
}

impl ServiceConfig {
    /// A service with no settings of its own.
    pub fn new(name: ServiceName) -> Self {
        Self { name, policy: None, hash_key: None, idempotent: false, transport: None, limits: None, traffic: None }
    }

    /// A service for which a gRPC service config says how it is balanced and called. What the config says nothing of is as in `base`.
    pub fn from_service_config(name: ServiceName, json: &str, base: &Traffic) -> Result<Self, ServiceConfigError> {
        let known = |policy: &str| crate::plugin::bundled::of(Kind::Policy).any(|bundled| bundled.name == policy);
        let service_config::ServiceConfig { policy, traffic, .. } = service_config::parse(json, base, &known)?;
        let policy = policy.map(|(name, config)| PluginChoice { config, ..PluginChoice::bundled(&name) });
        Ok(Self { policy, traffic: Some(traffic), ..Self::new(name) })
    }
}

/// Everything a node needs to start.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where gRPC calls come in. Default 127.0.0.1:7000.
    pub listen: SocketAddr,
    /// A Unix socket where gRPC calls come in too. Default: none.
    pub listen_unix: Option<PathBuf>,
    /// Its permission bits. Default: none, what the umask leaves.
    pub listen_unix_mode: Option<u32>,
    /// Where the node's API, health, metrics and dashboard are. Default 127.0.0.1:7001.
    pub admin: SocketAddr,
    /// Where every call is logged. Default: nowhere.
    pub access_log: Option<AccessTarget>,
    /// How. Default: in JSON.
    pub access_log_format: AccessFormat,
    /// TLS with clients. Default: none, they speak cleartext.
    pub tls: Option<TlsFiles>,
    /// Connections from clients; their certificates are in [`Self::tls`].
    pub inbound: InboundOptions,
    /// How the endpoints of services for which nothing else is said are spoken to. Default: in cleartext.
    pub endpoints: Transport,
    /// Connections to endpoints.
    pub connect: ConnectOptions,
    /// The zone the node stands in; empty when unknown.
    pub zone: String,
    /// Where the registry is. Default: embedded, on a free port of loopback.
    pub registry: RegistrySource,
    /// What keys and values look like. Default `etcd_naming`.
    pub key_scheme: PluginChoice,
    /// The policy of services for which nothing else is said. Default `round_robin`.
    pub policy: PluginChoice,
    /// The key of requests to services for which nothing else is said.
    pub hash_key: Option<HashKey>,
    /// Services with settings of their own. They are watched from the start; all others at their first request.
    pub services: Vec<ServiceConfig>,
    /// Which requests are for which service.
    pub routes: Routes,
    /// What plugins may take.
    pub limits: Limits,
    /// What is said of the calls of services for which nothing else is.
    pub traffic: Traffic,
    /// Where compiled plugins are kept; none keeps them in memory only.
    pub plugin_cache: Option<PathBuf>,
    /// Whether a policy that is a file follows it: a change of the file is a new version of the policy. Default true.
    pub follow_files: bool,
    /// How long running calls may go on after a shutdown began. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            listen_unix: None,
            listen_unix_mode: None,
            admin: SocketAddr::from(([127, 0, 0, 1], 7001)),
            access_log: None,
            access_log_format: AccessFormat::default(),
            tls: None,
            inbound: InboundOptions::default(),
            endpoints: Transport::default(),
            connect: ConnectOptions::default(),
            zone: String::new(),
            registry: RegistrySource::Embedded(SocketAddr::from(([127, 0, 0, 1], 0))),
            key_scheme: PluginChoice::bundled("etcd_naming"),
            policy: PluginChoice::bundled("round_robin"),
            hash_key: None,
            services: Vec::new(),
            routes: Routes::default(),
            limits: Limits::default(),
            traffic: Traffic::default(),
            plugin_cache: None,
            follow_files: true,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl NodeConfig {
    /// The largest component that any service takes, in bytes.
    pub fn largest_component(&self) -> usize {
        let own = self.services.iter().filter_map(|service| service.limits.as_ref());
        own.chain([&self.limits]).map(|limits| limits.component_size).max().unwrap_or_default()
    }
}

impl FileConfig {
    /// Checks what was written and fills in the defaults.
    pub fn into_node(self) -> Result<NodeConfig, ConfigError> {
        let default = NodeConfig::default();
        let registry = self.registry.to_source()?;
        let limits = self.plugins.limits().over(&default.limits, "plugins")?;
        let traffic = self.traffic.over(&default.traffic, "traffic")?;
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
            let (policy, traffic) = match &service.service_config {
                Some(path) => {
                    let setting = || setting("service-config");
                    let json = ServiceConfig::from_service_config(name.clone(), &read_text(path)?, &traffic)
                        .map_err(|error| ConfigError::value(setting(), format!("{}: {error}", path.display())))?;
                    (policy.or(json.policy), json.traffic)
                }
                None => (policy, own.then(|| traffic.clone())),
            };
            let over = |base| service.traffic.over(&base, &setting("traffic"));
            let traffic = traffic.map(over).transpose()?;
            let hash_key = service.hash_key.map(|key| parse(setting("hash-key"), &key)).transpose()?;
            let own = service.limits != LimitsFile::default();
            let limits = own.then(|| service.limits.over(&limits, &setting("limits"))).transpose()?;
            let transport = service.tls.map(|tls| tls.into_transport(&setting("tls"))).transpose()?;
            Ok(ServiceConfig { name, policy, hash_key, idempotent: service.idempotent, transport, limits, traffic })
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
            Ok(Route { authority: route.authority, grpc_service: route.grpc_service, service })
        });
        let routes = Routes::new(routes.collect::<Result<Vec<_>, ConfigError>>()?)?;
        Ok(NodeConfig {
            listen: self.listen.map_or(Ok(default.listen), |text| parse("listen", &text))?,
            listen_unix: self.listen_unix,
            listen_unix_mode: self.listen_unix_mode.map(|text| mode("listen-unix-mode", &text)).transpose()?,
            admin: self.admin.map_or(Ok(default.admin), |text| parse("admin", &text))?,
            access_log: self.access_log.map(|text| parse("access-log", &text)).transpose()?,
            access_log_format: match self.access_log_format {
                Some(text) => parse("access-log-format", &text)?,
                None => default.access_log_format,
            },
            inbound: self.clients.to_options()?,
            connect: self.endpoints.to_options()?,
            tls: self.tls.map(file::TlsFile::into_files).transpose()?,
            endpoints: self.endpoints.tls.map_or(Ok(default.endpoints), |tls| tls.into_transport("endpoints.tls"))?,
            zone: self.zone.unwrap_or_default(),
            registry,
            key_scheme: match self.registry.key_scheme {
                Some(scheme) => choice(
                    &scheme,
                    self.registry.key_scheme_config,
                    self.registry.key_scheme_allow.as_deref(),
                    "registry.key-scheme-allow",
                )?,
                None => default.key_scheme,
            },
            policy: match self.policy.plugin {
                Some(policy) => choice(&policy, self.policy.config, self.policy.allow.as_deref(), "policy.allow")?,
                None => choice(
                    &default.policy.plugin.to_string(),
                    self.policy.config,
                    self.policy.allow.as_deref(),
                    "policy.allow",
                )?,
            },
            hash_key: self.policy.hash_key.map(|key| parse("policy.hash-key", &key)).transpose()?,
            services,
            routes,
            limits,
            traffic,
            plugin_cache: self.plugins.cache_dir,
            follow_files: self.plugins.follow_files.unwrap_or(default.follow_files),
            drain_timeout: self.drain_timeout_s.map_or(default.drain_timeout, Duration::from_secs),
        })
    }
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
            let listen =
                self.embedded_listen.as_deref().map(|text| parse("registry.embedded-listen", text)).transpose()?;
            return Ok(RegistrySource::Embedded(listen.unwrap_or(default_embedded)));
        }
        let mut config = RegistryConfig::new(endpoints);
        config.namespace.clone_from(&self.namespace);
        config.user = match (&self.user, &self.password, &self.password_file) {
            (None, None, None) => None,
            (Some(user), Some(password), None) => Some((user.clone(), password.clone())),
            (Some(user), None, Some(path)) => Some((user.clone(), read_text(path)?.trim_end().to_owned())),
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
        config.hold = self.hold()?;
        // A path that is none is a word, as on the command line.
        config.state_dir = self.state_dir.clone().filter(|path| path.as_os_str() != "none");
        Ok(RegistrySource::Etcd(Box::new(config)))
    }

    fn hold(&self) -> Result<Option<Hold>, ConfigError> {
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
        if !(1..=86_400).contains(&seconds) {
            return Err(ConfigError::value("registry.hold-time-s", format!("{seconds} s is not within 1 s to a day")));
        }
        Ok(Some(Hold { share, time: Duration::from_secs(seconds) }))
    }
}

impl PluginRef {
    /// The kind's bundled names, for help texts.
    pub fn bundled_names(kind: Kind) -> String {
        crate::plugin::bundled::of(kind).map(|bundled| bundled.name).collect::<Vec<_>>().join(", ")
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
        health::{Check, CheckConfig},
        traffic::{
            CallLimits, Code, CodeSet, FailurePercentage, HedgingPolicy, OutlierDetection, Repeat, RetryBudget,
            RetryPolicy, SuccessRate,
        },
    };

    fn node(text: &str) -> Result<NodeConfig, ConfigError> {
        parse_file("waymark.toml".as_ref(), text)?.into_node()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let node = node("").unwrap();
        assert_eq!(node.listen.to_string(), "127.0.0.1:7000");
        assert_eq!(node.policy, PluginChoice::bundled("round_robin"));
        assert!(matches!(node.registry, RegistrySource::Embedded(_)));
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
        assert_eq!(node.policy.config, r#"{"min_endpoints":2}"#);
        assert_eq!(node.services[0].policy.as_ref().unwrap().plugin, PluginRef::File("./mine.wasm".into()));
        assert_eq!(node.services[0].policy.as_ref().unwrap().allow.to_string(), "wasi,clocks");
        assert_eq!(node.limits.pick_deadline, Duration::from_millis(20));
        let RegistrySource::Etcd(registry) = node.registry else { panic!("endpoints were given") };
        assert_eq!(registry.user, Some(("node".into(), "secret".into())));
        assert_eq!(registry.hold, Some(Hold { share: 0.5, time: Duration::from_secs(30) }));
        assert_eq!(registry.state_dir, Some("/var/lib/waymark".into()));
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
        assert_eq!((node.limits.memory, node.limits.pick_deadline), (8 << 20, Duration::from_millis(10)));
        assert_eq!(node.services[0].limits, None);
        let strict = Limits {
            pick_deadline: Duration::from_millis(2),
            quarantine_failures: 1,
            component_size: 40 << 20,
            ..node.limits.clone()
        };
        assert_eq!(node.services[1].limits, Some(strict));
        assert_eq!(node.largest_component(), 40 << 20);
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
        assert_eq!(node.tls, Some(tls));
        let all = TlsFiles { authorities: Some("ca.pem".into()), ..TlsFiles::default() };
        assert_eq!(node.endpoints, Transport::Tls(all));
        let own = TlsFiles {
            identity: Some(("c".into(), "k".into())),
            authorities: None,
            server_name: Some("own.example".into()),
        };
        let services: Vec<_> = node.services.into_iter().map(|service| service.transport).collect();
        assert_eq!(services, [None, Some(Transport::Cleartext), Some(Transport::Tls(own))]);
    }

    #[test]
    fn limits_of_connections_are_gone_unless_they_are_written_but_for_those_that_have_a_default() {
        let node_of = |text: &str| node(text).unwrap();
        let plain = node_of("");
        let inbound = &plain.inbound;
        assert_eq!((inbound.max_connections, inbound.max_age, inbound.idle_timeout), (None, None, None));
        assert_eq!(plain.connect.idle_timeout, Some(Duration::from_mins(30)));
        let written = node_of(
            "[clients]\nmax-connections = 7\nmax-age-s = 60\nmax-age-grace-s = 0\n[endpoints]\nidle-timeout-s = 0",
        );
        assert_eq!(written.inbound.max_connections, Some(7));
        assert_eq!(written.inbound.max_age, Some(Duration::from_mins(1)));
        assert_eq!(written.inbound.max_age_grace, Some(Duration::ZERO));
        assert_eq!(written.connect.idle_timeout, None);
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
        assert_eq!((node.traffic.limits.max_in_flight, node.traffic.limits.max_pending), (Some(100), 5));
        assert_eq!(node.services[0].traffic, None);
        let own = node.services[1].traffic.as_ref().unwrap();
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
        let a = node(&text("traffic = { timeout-ms = 100 }")).unwrap().services.remove(0);
        assert_eq!(a.policy, Some(PluginChoice::bundled("least_request")));
        let traffic = a.traffic.unwrap();
        let method = traffic.methods.of("/a.B/C");
        assert_eq!((method.timeout, method.wait_for_ready), (Some(Duration::from_millis(100)), true));
        assert_eq!(traffic.limits.max_pending, 3);
        let health = |more| node(&text(more)).unwrap().services.remove(0).traffic.unwrap().health.unwrap();
        assert_eq!(health(""), CheckConfig::new(Check::Grpc("a.B".into())));
        let tcp = CheckConfig { interval: Duration::from_millis(50), fall: 1, ..CheckConfig::new(Check::Tcp) };
        assert_eq!(health("traffic = { health = { check = \"tcp\", interval-ms = 50, fall = 1 } }"), tcp);
        let own = node(&text("policy = \"random\"")).unwrap().services.remove(0);
        assert_eq!(own.policy, Some(PluginChoice::bundled("random")));
        std::fs::write(&path, r#"{"methodConfig": [{"name": [{}], "timeout": "soon"}]}"#).unwrap();
        let error = node(&text("")).unwrap_err().to_string();
        assert!(error.contains("greeter.json: methodConfig[0].timeout"), "{error}");
    }

    #[test]
    fn a_repeat_is_a_retry_or_a_hedge() {
        let of = |text: &str| {
            let node = node(&format!("[traffic]\n{text}")).unwrap();
            (node.traffic.methods.of("/a.B/C").repeat.as_deref().cloned(), node.traffic.retry_budget)
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
        let outlier = |text: &str| node(&format!("[traffic]\noutlier = {text}")).unwrap().traffic.outlier.unwrap();
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
            ("[tls]\nkey-file = \"k\"", "tls.key-file"),
            ("[tls]", "tls.cert-file"),
            ("listen-unix-mode = \"0888\"", "listen-unix-mode"),
            ("access-log-format = \"xml\"", "access-log-format"),
            ("[clients]\nmax-age-s = 0", "clients.max-age-s"),
            ("[clients]\nmax-age-grace-s = 5", "clients.max-age-grace-s"),
            ("[clients]\nmax-connections = 0", "clients.max-connections"),
            ("[clients]\nmax-streams = 0", "clients.max-streams"),
            ("[endpoints]\nmax-connections = 0", "endpoints.max-connections"),
            ("[endpoints]\nidle-timeout-s = 99999999", "endpoints.idle-timeout-s"),
            ("[endpoints.tls]\ncert-file = \"c\"", "endpoints.tls.cert-file"),
            ("[[service]]\nname = \"a\"\ntls = { cert-file = \"c\" }", "service a: tls.cert-file"),
            ("[endpoints.tls]\ncafile = \"c\"", "did you mean `ca-file`"),
            ("[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-share = 1.0", "registry.hold-share"),
            (
                "[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-share = 0.5\nhold-time-s = 0",
                "registry.hold-time-s",
            ),
            ("[registry]\nendpoints = [\"http://192.0.2.1:1\"]\nhold-time-s = 5", "registry.hold-share"),
        ] {
            let error = node(text).unwrap_err().to_string();
            assert!(error.contains(setting), "{text}: {error}");
        }
    }
}
