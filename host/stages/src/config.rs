//! What the stages are told: which registry, which plugins, which services and how their endpoints
//! are called.

#[cfg(feature = "embedded")]
use std::net::SocketAddr;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use waymark_balancer::{Discoverable, HashKey};
use waymark_core::{
    model::ServiceName,
    traffic::{ServiceConfigError, Traffic, service_config},
};
use waymark_dataplane::{AccessFormat, AccessTarget, ClientRule, ConnectOptions, Forwarding, InboundOptions, Routes};
use waymark_net::address_filter::Allow;
#[cfg(feature = "embedded")]
use waymark_registry::RemovalDamping;
use waymark_registry::{EntryLimits, RegistryConfig};
use waymark_runtime::{CompileLimits, Grants, Kind, Limits, bundled};

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
    /// A server in this process; all of it is gone when the process ends.
    #[cfg(feature = "embedded")]
    Embedded(Embedded),
    /// An etcd cluster.
    Etcd(Box<RegistryConfig>),
}

/// The registry inside this process, and what of the settings of a registry has a meaning there.
#[cfg(feature = "embedded")]
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Put before every key by this node; whoever else uses it says so for himself. Default: none.
    pub namespace: Option<String>,
    /// Holds back a mass disappearance of a service's endpoints. Default: none.
    pub removal_damping: Option<RemovalDamping>,
}

#[cfg(feature = "embedded")]
impl Embedded {
    /// One that listens there.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, namespace: None, removal_damping: None }
    }
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
    /// Whether its calls may be carried out twice: then one whose instance was lost before it
    /// answered is sent to another. Default false.
    pub idempotent: bool,
    /// How its endpoints are spoken to; as [`ClientConfig::endpoints`] says when unset.
    pub transport: Option<Transport>,
    /// Which clients may call it; as [`Ports::allow_clients`] says when unset, and nobody when
    /// empty.
    pub allow_clients: Option<Vec<ClientRule>>,
    /// What its policies may take, where that differs from the node's limits.
    pub limits: Option<Limits>,
    /// What is said of its calls, where that differs from what is said of all.
    pub traffic: Option<Traffic>,
}

impl ServiceConfig {
    /// A service with no settings of its own.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            policy: None,
            hash_key: None,
            idempotent: false,
            transport: None,
            allow_clients: None,
            limits: None,
            traffic: None,
        }
    }

    /// A service for which a gRPC service config says how it is balanced and called. What the
    /// config says nothing of is as in `base`.
    pub fn from_service_config(name: ServiceName, json: &str, base: &Traffic) -> Result<Self, ServiceConfigError> {
        let known = |policy: &str| bundled::of(Kind::Policy).any(|bundled| bundled.name == policy);
        let service_config::ServiceConfig { policy, hash_header, traffic } = service_config::parse(json, base, &known)?;
        let policy =
            policy.map(|(name, config)| PluginChoice { config: seeded(&name, config), ..PluginChoice::bundled(&name) });
        let hash_key = hash_header.and_then(|header| format!("header:{header}").parse().ok());
        Ok(Self { policy, hash_key, traffic: Some(traffic), ..Self::new(name) })
    }
}

/// The configuration of a `pick_first` that shuffles, with something to shuffle by: gRPC's clients
/// choose an order of their own each, and nodes without a seed would all have the same one.
fn seeded(policy: &str, config: String) -> String {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(&config) else { return config };
    if policy != "pick_first" || fields.get("shuffle") != Some(&true.into()) || fields.contains_key("seed") {
        return config;
    }
    fields.insert("seed".into(), format!("{:016x}", fastrand::u64(..)).into());
    serde_json::Value::Object(fields).to_string()
}

impl PluginRef {
    /// The kind's bundled names, for help texts.
    pub fn bundled_names(kind: Kind) -> String {
        bundled::of(kind).map(|bundled| bundled.name).collect::<Vec<_>>().join(", ")
    }
}

/// The files of one TLS configuration, all PEM. They are followed: what they hold later counts for
/// later connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate with its chain, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The authorities to trust. For clients none means that they need no certificate, for
    /// endpoints the system's authorities.
    pub authorities: Option<PathBuf>,
    /// For endpoints, the name that their certificates must be for; none is the host of each one's
    /// address.
    pub server_name: Option<String>,
}

/// How endpoints are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/2 with prior knowledge.
    #[default]
    Cleartext,
    /// HTTP/2 in TLS.
    Tls(TlsFiles),
}

/// Which services callers may bring about by naming them, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Which services callers may bring about. Default: any.
    pub discoverable: Discoverable,
    /// The most services at once, those that are configured included. Default 10,000.
    pub max_services: usize,
    /// The most that callers brought about and that never had an endpoint. Default 1,000.
    pub max_empty: usize,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { discoverable: Discoverable::All, max_services: 10_000, max_empty: 1_000 }
    }
}

/// Everything that discovery, balancing and calls need, in a process with ports or without.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the registry is.
    pub registry: RegistrySource,
    /// What of entries is taken, also of an embedded registry.
    pub entries: EntryLimits,
    /// What keys and values look like. Default `etcd_naming`.
    pub key_scheme: PluginChoice,
    /// The policy of services for which nothing else is said. Default `round_robin`.
    pub policy: PluginChoice,
    /// The key of requests to services for which nothing else is said.
    pub hash_key: Option<HashKey>,
    /// Services with settings of their own. They are watched from the start; all others at their
    /// first request.
    pub services: Vec<ServiceConfig>,
    /// Which services callers may bring about by naming them, and how many.
    pub discovery: Discovery,
    /// The zone this process stands in; empty when unknown.
    pub zone: String,
    /// How the endpoints of services for which nothing else is said are spoken to. Default: in
    /// cleartext.
    pub endpoints: Transport,
    /// Connections to endpoints.
    pub connect: ConnectOptions,
    /// Which endpoints may be called, beside what never is: see [`waymark_net::address_filter`].
    /// Default: loopback and Unix sockets where calls come from this machine alone, all other
    /// addresses in any case.
    pub allow: Option<Allow>,
    /// Limits of calls, retries, hedges, checks and ejection, for services for which nothing else
    /// is said.
    pub traffic: Traffic,
    /// What plugins may take.
    pub limits: Limits,
    /// What all instances of plugins may hold together, in bytes. Default: what fits the machine,
    /// see [`EngineConfig::total_memory`](waymark_runtime::EngineConfig::total_memory).
    pub plugin_memory: Option<usize>,
    /// What compiling a plugin may take, and in which process it is done.
    pub compile: CompileLimits,
    /// Where compiled plugins are kept; none keeps them in memory only.
    pub plugin_cache: Option<PathBuf>,
    /// Whether a policy that is a file follows it: a change of the file is a new version of the
    /// policy. Default true.
    pub follow_files: bool,
    /// Where every call is logged. Default: nowhere.
    pub access_log: Option<AccessTarget>,
    /// How. Default: in JSON.
    pub access_log_format: AccessFormat,
}

impl ClientConfig {
    /// The defaults, with this registry.
    pub fn new(registry: RegistrySource) -> Self {
        Self {
            registry,
            entries: EntryLimits::default(),
            key_scheme: PluginChoice::bundled("etcd_naming"),
            policy: PluginChoice::bundled("round_robin"),
            hash_key: None,
            services: Vec::new(),
            discovery: Discovery::default(),
            zone: String::new(),
            endpoints: Transport::default(),
            connect: ConnectOptions::default(),
            allow: None,
            traffic: Traffic::default(),
            limits: Limits::default(),
            plugin_memory: None,
            compile: CompileLimits::default(),
            plugin_cache: None,
            follow_files: true,
            access_log: None,
            access_log_format: AccessFormat::default(),
        }
    }

    /// The defaults, with the etcd cluster that has these endpoints, such as
    /// `http://127.0.0.1:2379`.
    pub fn etcd(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let registry = RegistryConfig::new(endpoints.into_iter().map(Into::into));
        Self::new(RegistrySource::Etcd(Box::new(registry)))
    }

    /// The largest component that any service takes, in bytes.
    pub fn largest_component(&self) -> usize {
        let own = self.services.iter().filter_map(|service| service.limits.as_ref());
        own.chain([&self.limits]).map(|limits| limits.component_size).max().unwrap_or_default()
    }
}

/// With a registry inside this process, on a free port of loopback.
#[cfg(feature = "embedded")]
impl Default for ClientConfig {
    fn default() -> Self {
        Self::new(RegistrySource::Embedded(Embedded::new(SocketAddr::from(([127, 0, 0, 1], 0)))))
    }
}

/// What only a process has that takes calls of others. A client has none of it.
#[derive(Debug, Clone)]
pub struct Ports {
    /// TLS with clients. Default: none, they speak cleartext.
    pub tls: Option<TlsFiles>,
    /// Connections from clients; their certificates are in [`Self::tls`].
    pub inbound: InboundOptions,
    /// Which requests are for which service.
    pub routes: Routes,
    /// Which clients may call services for which nothing else is said. Default: all.
    pub allow_clients: Option<Vec<ClientRule>>,
    /// What instances are told of clients. Default: nothing, and nothing that callers say of
    /// clients reaches them.
    pub forwarding: Forwarding,
    /// How long running calls may go on after a shutdown began. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            tls: None,
            inbound: InboundOptions::default(),
            routes: Routes::default(),
            allow_clients: None,
            forwarding: Forwarding::default(),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
