//! What may be written in `waymark.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// The whole file. Every key may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FileConfig {
    /// Where gRPC calls come in, `IP:port`.
    pub listen: Option<String>,
    /// A Unix socket where gRPC calls come in too.
    pub listen_unix: Option<PathBuf>,
    /// Its permission bits, octal, for example `"0660"`.
    pub listen_unix_mode: Option<String>,
    /// Where the node's API, health, metrics and dashboard are, `IP:port`.
    pub admin: Option<String>,
    /// The zone this node stands in.
    pub zone: Option<String>,
    /// How long running calls may go on after a shutdown began, seconds.
    pub drain_timeout_s: Option<u64>,
    /// Where every call is logged: `stdout`, `stderr` or a file. Left out: nowhere.
    pub access_log: Option<String>,
    /// How: `json` (default) or `text`.
    pub access_log_format: Option<String>,
    /// TLS with clients; without it they speak cleartext.
    pub tls: Option<TlsFile>,
    /// Connections from clients.
    pub clients: ClientsFile,
    /// Connections to endpoints.
    pub endpoints: EndpointsFile,
    /// The registry and what is in it.
    pub registry: RegistryFile,
    /// The policy of services for which nothing else is said.
    pub policy: PolicyFile,
    /// Services with settings of their own.
    pub service: Vec<ServiceFile>,
    /// Which requests are for which service.
    pub route: Vec<RouteFile>,
    /// What plugins may take.
    pub plugins: PluginsFile,
    /// What is said of the calls of all services.
    pub traffic: TrafficFile,
}

/// `[tls]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[allow(clippy::struct_field_names, reason = "they are written like this")]
pub struct TlsFile {
    /// The node's certificate with its chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities that clients have to have a certificate of, PEM. Left out: clients need none.
    pub client_ca_file: Option<PathBuf>,
}

/// `[clients]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ClientsFile {
    /// The most connections at once. Default: three quarters of what descriptors the process may have.
    pub max_connections: Option<u64>,
    /// The most calls that run on one connection at once. Default 1000.
    pub max_streams: Option<u64>,
    /// A connection this old takes no new calls, seconds. Default: without end.
    pub max_age_s: Option<u64>,
    /// How long calls go on running on a connection of that age, seconds. Default: without end.
    pub max_age_grace_s: Option<u64>,
    /// A connection on which no call ran for this long is closed, seconds. Default: without end.
    pub idle_timeout_s: Option<u64>,
}

/// `[endpoints]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EndpointsFile {
    /// The most connections to one endpoint. Default 4.
    pub max_connections: Option<u64>,
    /// A connection on which no call ran for this long is closed, seconds; 0 for never. Default 1800.
    pub idle_timeout_s: Option<u64>,
    /// TLS with the endpoints of services for which nothing else is said.
    pub tls: Option<EndpointTlsFile>,
}

/// `[endpoints.tls]`, and `tls` of a `[[service]]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EndpointTlsFile {
    /// Whether TLS is spoken at all. Default true: to write the table is to want it.
    pub enabled: Option<bool>,
    /// The authorities to trust, PEM. Left out: the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate for endpoints that ask for one, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name that the endpoints' certificates must be for. Left out: the host of each one's address.
    pub server_name: Option<String>,
}

/// `[registry]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RegistryFile {
    /// etcd's endpoints, or `["embedded"]`.
    pub endpoints: Option<Vec<String>>,
    /// Where the embedded registry listens, `IP:port`.
    pub embedded_listen: Option<String>,
    /// Put before every key.
    pub namespace: Option<String>,
    /// etcd's user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// A file with its password.
    pub password_file: Option<PathBuf>,
    /// The certificate authorities to trust, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name that etcd's certificate must be for.
    pub server_name: Option<String>,
    /// The share of a service's endpoints that may disappear within `hold-time-s`; the others are held back that long.
    pub hold_share: Option<f64>,
    /// How long, seconds. Default 30.
    pub hold_time_s: Option<u64>,
    /// The folder where the last known endpoints are kept, to start with while etcd is down; `none` for nowhere.
    pub state_dir: Option<PathBuf>,
    /// A bundled key scheme or a file.
    pub key_scheme: Option<String>,
    /// Its configuration.
    pub key_scheme_config: Option<toml::Table>,
    /// What it is given beyond its world: `wasi`, `clocks`, `random`.
    pub key_scheme_allow: Option<Vec<String>>,
}

/// `[policy]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PolicyFile {
    /// A bundled policy or a file.
    pub plugin: Option<String>,
    /// Its configuration.
    pub config: Option<toml::Table>,
    /// What it is given beyond its world: `wasi`, `clocks`, `random`.
    pub allow: Option<Vec<String>>,
    /// What of a request is its key: `header:NAME`, `path` or `peer`.
    pub hash_key: Option<String>,
}

/// `[[service]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceFile {
    /// The service.
    pub name: String,
    /// A bundled policy or a file.
    pub policy: Option<String>,
    /// Its configuration.
    pub config: Option<toml::Table>,
    /// What it is given beyond its world: `wasi`, `clocks`, `random`.
    pub allow: Option<Vec<String>>,
    /// What of a request is its key.
    pub hash_key: Option<String>,
    /// Its calls may be carried out twice: one whose instance was lost before it answered is sent to another.
    #[serde(default)]
    pub idempotent: bool,
    /// TLS with its endpoints, where that differs from `[endpoints.tls]`.
    pub tls: Option<EndpointTlsFile>,
    /// What its policies may take, where that differs from `[plugins]`.
    #[serde(default)]
    pub limits: LimitsFile,
    /// What is said of its calls, where that differs from `[traffic]`.
    #[serde(default)]
    pub traffic: TrafficFile,
    /// A file with a gRPC service config, JSON. What stands in `traffic` and `policy` goes before it.
    pub service_config: Option<PathBuf>,
}

/// `[traffic]`, and `traffic` of a `[[service]]`: what is left out there is as in `[traffic]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TrafficFile {
    /// The most calls of a service that run at once on this node.
    pub max_in_flight: Option<u64>,
    /// The most calls that run at once on one endpoint.
    pub max_in_flight_per_endpoint: Option<u64>,
    /// The most calls of a service that wait at once.
    pub max_pending: Option<u64>,
    /// The longest a call may take, milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether calls wait while no endpoint can be reached.
    pub wait_for_ready: Option<bool>,
    /// Eject endpoints that fail more than the others (gRFC A50). Replaces what `[traffic]` has as a whole.
    pub outlier: Option<OutlierFile>,
    /// Let the share of an endpoint that joins grow. Replaces what `[traffic]` has as a whole.
    pub slow_start: Option<SlowStartFile>,
    /// Send a call that failed to another endpoint (gRFC A6). Replaces what `[traffic]` has as a whole, a `hedge` too.
    pub retry: Option<RetryFile>,
    /// Send a call that takes long to another endpoint as well (gRFC A6). Only for calls that may be carried out twice. As `retry`.
    pub hedge: Option<HedgeFile>,
    /// How many retries and hedges the service bears.
    pub retry_budget: Option<RetryBudgetFile>,
    /// Check endpoints, and send no call to those that fail. Replaces what `[traffic]` has as a whole.
    pub health: Option<HealthFile>,
}

/// `health`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HealthFile {
    /// What is tried: `grpc` or `grpc:SERVICE` watches gRPC's health service over the connection that calls use; `tcp`, and `http:/PATH`
    /// for endpoints without TLS, connect anew each time.
    pub check: Option<String>,
    /// The time between two checks, milliseconds; a watch needs none. Default 2000.
    pub interval_ms: Option<u64>,
    /// How long a check, or the first answer to a watch, may take, milliseconds. Default 1000.
    pub timeout_ms: Option<u64>,
    /// So many successes in a row make an endpoint usable; a watch's first good word does. Default 1.
    pub rise: Option<u64>,
    /// So many failures in a row take it out; a watch's first bad word does. Default 3.
    pub fall: Option<u64>,
}

/// `slow-start`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SlowStartFile {
    /// How long it takes to the full share, seconds.
    pub window_s: Option<u64>,
    /// How the share grows: evenly at 1, fast at first over it, slowly at first under it. Default 1.
    pub aggression: Option<f64>,
    /// The least share, percent. Default 10.
    pub min_percent: Option<u64>,
}

/// `retry`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RetryFile {
    /// Attempts in all, the first one included: 2 to 5. Default 4.
    pub max_attempts: Option<u64>,
    /// The longest wait before the first retry, milliseconds; the wait is drawn from 0 to it. Default 100.
    pub initial_backoff_ms: Option<u64>,
    /// The longest wait before any, milliseconds. Default 1000.
    pub max_backoff_ms: Option<u64>,
    /// How much longer each further wait may be. Default 2.
    pub multiplier: Option<f64>,
    /// The gRPC codes after which a call is sent again. Default `["UNAVAILABLE"]`.
    pub codes: Option<Vec<String>>,
}

/// `hedge`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HedgeFile {
    /// Attempts in all, the first one included: 2 to 5. Default 2.
    pub max_attempts: Option<u64>,
    /// How long each attempt may take before the next one begins, milliseconds; 0 sends all at once.
    pub delay_ms: Option<u64>,
    /// The gRPC codes after which the next attempt begins at once; any other answer is the call's. Default none.
    pub non_fatal_codes: Option<Vec<String>>,
}

/// `retry-budget`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RetryBudgetFile {
    /// Tokens at most, and in the beginning; a failed attempt takes one, and with half of them left nothing is retried. Default 100.
    pub tokens: Option<u64>,
    /// What a call that ends well gives back, in tokens. Default 0.1.
    pub ratio: Option<f64>,
}

/// `outlier`: with neither `success-rate` nor `failure-percentage`, both are looked at.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct OutlierFile {
    /// The time between two looks, milliseconds. Default 10,000.
    pub interval_ms: Option<u64>,
    /// How long a first ejection lasts, milliseconds. Default 30,000.
    pub base_ejection_ms: Option<u64>,
    /// The longest ejection, milliseconds. Default 300,000.
    pub max_ejection_ms: Option<u64>,
    /// The most endpoints that are ejected at once, percent; one may be in any case. Default 10.
    pub max_ejection_percent: Option<u64>,
    /// With fewer endpoints left than this, ejections are not heeded, percent. Default 50.
    pub panic_threshold: Option<u64>,
    /// Who is far under the mean of all.
    pub success_rate: Option<SuccessRateFile>,
    /// Who fails more than a fixed share.
    pub failure_percentage: Option<FailurePercentageFile>,
}

/// `outlier.success-rate`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SuccessRateFile {
    /// How many thousandths of the standard deviation under the mean are too many. Default 1900.
    pub stdev_factor: Option<u64>,
    /// How likely an outlier is ejected, percent. Default 100.
    pub enforcement_percentage: Option<u64>,
    /// So many endpoints must have had enough calls. Default 5.
    pub minimum_hosts: Option<u64>,
    /// Enough calls in one interval. Default 100.
    pub request_volume: Option<u64>,
}

/// `outlier.failure-percentage`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FailurePercentageFile {
    /// Who fails more than this is an outlier, percent. Default 85.
    pub threshold: Option<u64>,
    /// How likely an outlier is ejected, percent. Default 100.
    pub enforcement_percentage: Option<u64>,
    /// So many endpoints there must be. Default 5.
    pub minimum_hosts: Option<u64>,
    /// Enough calls in one interval. Default 50.
    pub request_volume: Option<u64>,
}

/// `[[route]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteFile {
    /// Requests of this authority.
    pub authority: Option<String>,
    /// Requests of this gRPC service.
    pub grpc_service: Option<String>,
    /// Are for this service.
    pub service: String,
}

/// Writes the limits into two tables, because serde cannot both flatten one into another and refuse unknown keys.
macro_rules! limits_tables {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// `[plugins]`
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub struct PluginsFile {
            /// Where compiled plugins are kept.
            pub cache_dir: Option<PathBuf>,
            /// Whether a policy that is a file follows it.
            pub follow_files: Option<bool>,
            $($(#[$doc])* pub $field: Option<u64>,)*
        }

        /// `limits` of a `[[service]]`: what is left out is as in `[plugins]`.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub struct LimitsFile {
            $($(#[$doc])* pub $field: Option<u64>,)*
        }

        impl PluginsFile {
            /// The limits of all services for which nothing else is said.
            pub fn limits(&self) -> LimitsFile {
                LimitsFile { $($field: self.$field),* }
            }
        }
    };
}

limits_tables! {
    /// The longest a pick may run, milliseconds.
    pick_deadline_ms,
    /// The longest that `describe`, a build, or a function of a key scheme may run, milliseconds.
    build_deadline_ms,
    /// The most linear memory of an instance, MiB.
    memory_mib,
    /// The most elements in a table of an instance.
    table_elements,
    /// The largest component, MiB.
    component_mib,
    /// The longest plan, entries.
    plan_entries,
    /// The most that is handed over in one call, MiB.
    transfer_mib,
    /// The most log messages in 10 seconds.
    log_messages,
    /// The longest log message, bytes.
    log_message_bytes,
    /// This many failed picks within the window take a policy out of service.
    quarantine_failures,
    /// The window, seconds.
    quarantine_window_s,
}

/// Reads and parses a file.
pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(path, &text)
}

/// Parses a file's text. `path` is for the message.
pub fn parse(path: &Path, text: &str) -> Result<FileConfig, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let mut reason = error.to_string().trim_end().to_owned();
        if let Some(nearest) = nearest_known(error.message()) {
            reason = format!("{reason}\ndid you mean `{nearest}`?");
        }
        ConfigError::Parse { path: path.into(), reason }
    })
}

/// serde says: unknown field `lissten`, expected one of `listen`, `admin`, … The nearest of these helps more than all.
fn nearest_known(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}
