//! How to reach etcd: endpoints, who we are, and how long to wait for what.

use std::{fmt, path::PathBuf, time::Duration};

use waymark_core::secret::Secret;
use waymark_net::address_filter::AddressFilter;

use super::removal_damping::RemovalDamping;

/// How to reach the registry. Every field has a default but the endpoints.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Where etcd listens: `http://host:port`, `https://host:port`, or `host:port` (which means
    /// `https` when [`Self::tls`] is set and `http` otherwise). One is enough; with several, a call
    /// that one cannot serve goes to the next, and the one that answered is asked first from then
    /// on.
    pub endpoints: Vec<String>,
    /// Who we are. Default: nobody. An etcd without authentication ignores it.
    pub user: Option<User>,
    /// For `https` endpoints. Default: none, which means the system's certificate authorities and
    /// no client certificate.
    pub tls: Option<TlsConfig>,
    /// Put before every key and taken off every key read, like etcd's own namespaces. Default:
    /// none.
    pub namespace: Option<String>,
    /// How long a connection may take to be there. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long one call to one endpoint may take; a watch is not a call. Default: 3 s.
    pub request_timeout: Duration,
    /// How long a connection in use may be silent before an HTTP/2 ping is sent. Default: 6 s. Not
    /// under 5 s: etcd counts more frequent pings as abuse and closes the connection (its flag
    /// `--grpc-keepalive-min-time`).
    pub keep_alive_interval: Duration,
    /// How long that ping may go unanswered before the connection counts as dead. Default: 3 s.
    pub keep_alive_timeout: Duration,
    /// How long the watch stream may bring nothing before it counts as dead. After half of it etcd
    /// is asked for its progress, so that a healthy but quiet stream always brings something.
    /// Default: 6 s.
    pub idle_timeout: Duration,
    /// The first pause after a failure; it doubles with each further one. Half of every pause is
    /// random, so that many clients do not come back at once. Default: 100 ms.
    pub backoff_base: Duration,
    /// The longest pause after a failure. Default: 2 s.
    pub backoff_cap: Duration,
    /// Holds back a mass disappearance of a service's endpoints. Default: none, what the registry
    /// takes away is gone at once.
    pub removal_damping: Option<RemovalDamping>,
    /// The folder where the last known endpoints of every service are kept, so that they can be
    /// served when etcd is down at the start. Default: none. Several processes may share one.
    pub state_dir: Option<PathBuf>,
    /// How long ago kept endpoints may have been known to be right, to be served. Default: a day.
    pub state_max_age: Duration,
    /// What of entries is taken.
    pub entries: EntryLimits,
    /// Where instances may be. Default: anywhere, this machine included, but for wildcards.
    pub address_filter: AddressFilter,
    /// How many keys to read in one answer at most; fewer where they are large, so that it has some
    /// 2 MiB. Default: 1000.
    pub page_size: u32,
}

/// A user of etcd's, with what it is known by there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What it authenticates with.
    pub password: Password,
}

impl User {
    /// One whose password does not change.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: Password::Text(password.into().into()) }
    }
}

/// Where a user's password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// It is this text.
    Text(Secret),
    /// It is what this file holds, white space at its end left out, at the time of each
    /// authentication: a password that was rotated there needs no restart. Where the file cannot be
    /// read, or is empty, the password that was read last is used.
    File(PathBuf),
}

/// What one entry may register, and a service have. What is over a limit is left out, counted and
/// said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryLimits {
    /// How many instances one entry may register. Default 64: nearly all register one.
    pub instances: usize,
    /// How many instances a service may have. Default 100,000.
    pub endpoints: usize,
    /// How many metadata pairs an instance may have. Default 64.
    pub metadata_pairs: usize,
    /// How long an instance's metadata may be, keys and values together, in bytes. Default 16 KiB.
    pub metadata_bytes: usize,
    /// How long an instance's identifier and its zone may be, in bytes. Default 512.
    pub text_bytes: usize,
}

impl Default for EntryLimits {
    fn default() -> Self {
        Self { instances: 64, endpoints: 100_000, metadata_pairs: 64, metadata_bytes: 16 << 10, text_bytes: 512 }
    }
}

/// TLS towards etcd. All parts are PEM texts.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// The authorities to trust instead of the system's. Default: the system's.
    pub ca: Option<Vec<u8>>,
    /// Our certificate (with its chain) and its key, for an etcd that asks clients for one.
    /// Default: none.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name the server's certificate must be for. Default: the endpoint's host.
    pub server_name: Option<String>,
}

impl RegistryConfig {
    /// The defaults, with these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            tls: None,
            namespace: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(3),
            keep_alive_interval: Duration::from_secs(6),
            keep_alive_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(6),
            backoff_base: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(2),
            removal_damping: None,
            state_dir: None,
            state_max_age: Duration::from_hours(24),
            entries: EntryLimits::default(),
            address_filter: AddressFilter::default(),
            page_size: 1000,
        }
    }
}

/// Passwords and keys stay out of logs.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|user| &user.name))
            .field("tls", &self.tls)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
