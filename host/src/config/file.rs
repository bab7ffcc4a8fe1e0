//! What may be written in `waymark.toml`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    ConfigError,
    setting::{Kind, Value, settings},
};
use crate::secret::Secret;

settings! {
    /// The whole file. Every key may be left out.
    #[derive(Debug, Clone, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct FileConfig {
        /// Where gRPC calls come in, `IP:port`.
        pub listen: Option<String> [= "127.0.0.1:7000"],
        /// The service of calls that come in there and name none: no header, no route, and no
        /// authority but an address or `localhost`.
        pub listen_service: Option<String>,
        /// A Unix socket where gRPC calls come in too.
        pub listen_unix: Option<PathBuf>,
        /// The service of calls that come in there and name none.
        pub listen_unix_service: Option<String>,
        /// Its permission bits, octal, for example `"0660"`.
        pub listen_unix_mode: Option<String>,
        /// The node's API, health, metrics and dashboard: where they are, `IP:port`, or a table
        /// that says more.
        pub admin: Option<AdminSetting>,
        /// A Unix socket where a node that is started later with the same path takes this one's
        /// ports over, without a call being lost.
        pub take_over: Option<PathBuf>,
        /// The zone this node stands in.
        pub zone: Option<String>,
        /// How many threads serve calls. With 1 everything runs on one thread, which costs a call
        /// the least.
        pub workers: Option<u64> [1..=1024 else "one for each processor"],
        /// How long running calls may go on after a shutdown began, seconds.
        pub drain_timeout_s: Option<u64> [= "30"],
        /// Where every call is logged: `stdout`, `stderr` or a file. Left out: nowhere.
        pub access_log: Option<String>,
        /// How: `json` (default) or `text`.
        pub access_log_format: Option<String> [= "json"],
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
        /// Which services callers may bring about by naming them.
        pub discovery: DiscoveryFile,
        /// Which requests are for which service.
        pub route: Vec<RouteFile>,
        /// What plugins may take.
        pub plugins: PluginsFile,
        /// What is said of the calls of all services.
        pub traffic: TrafficFile,
    }

    /// `[admin]`
    #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct AdminFile {
        /// Where the node's API, health, metrics and dashboard are, `IP:port`.
        pub listen: Option<String> [= "127.0.0.1:7001"],
        /// A Unix socket where they are, too. Its peers are known by their user: root and the
        /// node's own may change policies.
        pub unix: Option<PathBuf>,
        /// A port for health, readiness and metrics alone, `IP:port`.
        pub probe: Option<String>,
        /// A file with tokens, `NAME:TOKEN` or `TOKEN` a line: who shows one may change policies.
        pub token_file: Option<PathBuf>,
        /// Clients whose certificates may change policies; `["*"]` for all that have one of
        /// `tls.client-ca-file`.
        pub allow_clients: Vec<String>,
        /// Further users whose processes may, over the Unix socket.
        pub allow_uids: Vec<u32>,
        /// Names by which the node is called, beside addresses and `localhost`: `node.example`, or
        /// `.example` for all below it.
        pub allowed_hosts: Vec<String>,
        /// Nobody changes policies without one of the above, also on loopback.
        pub require_auth: bool [else "false, and true once one of them is said"],
        /// Nor does anybody see more than health and metrics without it.
        pub protect_reads: bool [= "false"],
        /// Start although whoever reaches an address that is not loopback may change policies.
        pub insecure: bool [= "false"],
        /// TLS on `listen`.
        pub tls: Option<TlsFile>,
    }

    /// `[tls]`, and `tls` of `[admin]`
    #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    #[allow(clippy::struct_field_names, reason = "they are written like this")]
    pub struct TlsFile {
        /// The node's certificate with its chain, PEM.
        pub cert_file: Option<PathBuf>,
        /// Its key, PEM.
        pub key_file: Option<PathBuf>,
        /// The authorities that clients have to have a certificate of, PEM. Left out: clients need
        /// none.
        pub client_ca_file: Option<PathBuf>,
    }

    /// `[clients]`
    #[derive(Debug, Clone, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct ClientsFile {
        /// The most connections at once.
        pub max_connections: Option<u64> [1..=4_294_967_295 else "three quarters of the descriptors that the process may have"],
        /// The most calls that run on one connection at once.
        pub max_streams: Option<u64> [1..=2_147_483_647 = "1000"],
        /// The largest headers of a call that are taken, KiB, by the count of HTTP/2 (name, value
        /// and 32 bytes for each): 1 to 4096. A call with larger ones is refused, and no other.
        pub max_header_kib: Option<u64> [1..=4096 = "64"],
        /// A connection this old takes no new calls, seconds.
        pub max_age_s: Option<u64> [1..=31_622_400 else "without end"],
        /// How long calls go on running on a connection of that age, seconds.
        pub max_age_grace_s: Option<u64> [0..=31_622_400 else "without end"],
        /// A connection on which no call ran for this long is closed, seconds.
        pub idle_timeout_s: Option<u64> [1..=31_622_400 else "without end"],
        /// A call on which nothing moves in either direction for this long is ended, seconds.
        pub stream_idle_timeout_s: Option<u64> [1..=31_622_400 else "without end"],
        /// Which clients may call services that have no `allow-clients` of their own.
        pub allow: Option<Vec<String>> [else "all"],
        /// Whether what callers say of clients before them (`x-forwarded-…`, `forwarded`) is passed
        /// on.
        pub trust_forwarded: bool [= "false"],
    }

    /// `[discovery]`
    #[derive(Debug, Clone, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct DiscoveryFile {
        /// Whether a service that a caller names is looked for in the registry; if not, only those
        /// that are configured are balanced.
        pub discover: Option<bool> [= "true"],
        /// The services that callers may bring about: names, and beginnings that end with a slash.
        pub allow: Option<Vec<String>> [else "any"],
        /// The most services at once.
        pub max_services: Option<u64> [1..=10_000_000 = "10000"],
        /// How many of them may be services that callers brought about and that never had an
        /// endpoint; the oldest goes when another comes.
        pub max_empty: Option<u64> [1..=10_000_000 = "1000"],
    }

    /// `[endpoints]`
    #[derive(Debug, Clone, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct EndpointsFile {
        /// The most connections to one endpoint. Of several the last is in reserve for clients that
        /// have few calls there.
        pub max_connections: Option<u64> [1..=100 = "5"],
        /// The largest headers, and the largest trailers, that an instance may answer with, KiB,
        /// counted as those of clients: 1 to 4096. A call that gets larger ones fails, and no
        /// other.
        pub max_header_kib: Option<u64> [1..=4096 = "64"],
        /// A server from which nothing came for this long while calls wait is pinged, and after as
        /// long again others get its calls until something comes, milliseconds; 0 for never.
        pub quiet_ms: Option<u64> [0..=60_000 = "200"],
        /// While calls run, a server is pinged this often, seconds.
        pub keep_alive_interval_s: Option<u64> [1..=31_622_400 = "305"],
        /// A server that answers no ping for this long is gone, seconds.
        pub keep_alive_timeout_s: Option<u64> [1..=31_622_400 = "20"],
        /// A connection on which no call ran for this long is closed, seconds; 0 for never.
        pub idle_timeout_s: Option<u64> [0..=31_622_400 = "1800"],
        /// Which endpoints may be called: `loopback`, `link-local`, `unix`, and networks
        /// (`10.0.0.0/8`). Left out: `loopback` and `unix` where the node takes calls from its own
        /// machine alone, else neither.
        pub allow: Option<Vec<String>>,
        /// TLS with the endpoints of services for which nothing else is said.
        pub tls: Option<EndpointTlsFile>,
        /// Whether they are told of a client's certificate, as `x-forwarded-client-cert`.
        pub forward_client_cert: bool [= "false"],
        /// Whether they are told of a client's address, as `x-forwarded-for`.
        pub forward_client_address: bool [= "false"],
    }

    /// `[endpoints.tls]`, and `tls` of a `[[service]]`
    #[derive(Debug, Clone, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct EndpointTlsFile {
        /// Whether TLS is spoken at all.
        pub enabled: Option<bool> [= "true"],
        /// The authorities to trust, PEM. Left out: the system's.
        pub ca_file: Option<PathBuf>,
        /// Our certificate for endpoints that ask for one, PEM.
        pub cert_file: Option<PathBuf>,
        /// Its key, PEM.
        pub key_file: Option<PathBuf>,
        /// The name that the endpoints' certificates must be for. Left out: the host of each one's
        /// address.
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
        pub password: Option<Secret>,
        /// A file with its password, read whenever the node authenticates.
        pub password_file: Option<PathBuf>,
        /// The certificate authorities to trust, PEM.
        pub ca_file: Option<PathBuf>,
        /// Our certificate, PEM.
        pub cert_file: Option<PathBuf>,
        /// Its key, PEM.
        pub key_file: Option<PathBuf>,
        /// The name that etcd's certificate must be for.
        pub server_name: Option<String>,
        /// The share of a service's endpoints that may disappear within `hold-time-s`; the others
        /// are held back that long.
        pub hold_share: Option<f64>,
        /// How long, seconds.
        pub hold_time_s: Option<u64> [1..=86_400 = "30"],
        /// The folder where the last known endpoints are kept, to start with while etcd is down;
        /// `none` for nowhere.
        pub state_dir: Option<PathBuf>,
        /// How long ago kept endpoints may have been known to be right, to be served, seconds.
        pub state_max_age_s: Option<u64> [1..=31_622_400 = "86400"],
        /// How many instances one entry may register.
        pub instances_per_entry: Option<u64> [1..=100_000 = "64"],
        /// How many instances a service may have.
        pub endpoints_per_service: Option<u64> [1..=10_000_000 = "100000"],
        /// How many metadata pairs an instance may have.
        pub metadata_pairs: Option<u64> [1..=100_000 = "64"],
        /// How long an instance's metadata may be, bytes.
        pub metadata_bytes: Option<u64> [1..=16_777_216 = "16384"],
        /// How long an instance's identifier and zone may be, bytes.
        pub text_bytes: Option<u64> [1..=1_048_576 = "512"],
        /// A bundled key scheme or a file.
        pub key_scheme: Option<String> [= "etcd_naming"],
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
        pub plugin: Option<String> [= "round_robin"],
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
    pub struct ServiceFile by name {
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
        /// Its calls may be carried out twice: one whose instance was lost before it answered is
        /// sent to another.
        #[serde(default)]
        pub idempotent: bool [= "false"],
        /// TLS with its endpoints, where that differs from `[endpoints.tls]`.
        pub tls: Option<EndpointTlsFile>,
        /// Which clients may call it; as `allow` of `[clients]` says when left out, and nobody when
        /// empty.
        pub allow_clients: Option<Vec<String>>,
        /// What its policies may take, where that differs from `[plugins]`.
        #[serde(default)]
        pub limits: LimitsFile,
        /// What is said of its calls, where that differs from `[traffic]`.
        #[serde(default)]
        pub traffic: TrafficFile,
        /// A file with a gRPC service config, JSON. What stands in `traffic` and `policy` goes
        /// before it.
        pub service_config: Option<PathBuf>,
    }

    /// `[traffic]`, and `traffic` of a `[[service]]`: what is left out there is as in `[traffic]`.
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct TrafficFile {
        /// The most calls of a service that run at once on this node.
        pub max_in_flight: Option<u64> [1..=1_000_000 else "no limit"],
        /// The most calls that run at once on one endpoint.
        pub max_in_flight_per_endpoint: Option<u64> [1..=1_000_000 else "no limit"],
        /// The most calls of a service that wait at once.
        pub max_pending: Option<u64> [0..=1_000_000 = "1024"],
        /// The longest a call may take, milliseconds.
        pub timeout_ms: Option<u64> [1..=86_400_000],
        /// Whether calls wait while no endpoint can be reached.
        pub wait_for_ready: Option<bool> [= "false"],
        /// After so many calls in a row that an endpoint did not answer in a deadline of a second
        /// or more, it gets no calls until it answers one again; 0 for never.
        pub unanswered: Option<u64> [0..=1_000_000 = "5"],
        /// Eject endpoints that fail more than the others (gRFC A50). Replaces what `[traffic]` has
        /// as a whole.
        pub outlier: Option<OutlierFile>,
        /// Let the share of an endpoint that joins grow. Replaces what `[traffic]` has as a whole.
        pub slow_start: Option<SlowStartFile>,
        /// Send a call that failed to another endpoint (gRFC A6). Replaces what `[traffic]` has as
        /// a whole, a `hedge` too.
        pub retry: Option<RetryFile>,
        /// Send a call that takes long to another endpoint as well (gRFC A6). Only for calls that
        /// may be carried out twice. As `retry`.
        pub hedge: Option<HedgeFile>,
        /// How many retries and hedges the service bears.
        pub retry_budget: Option<RetryBudgetFile>,
        /// Check endpoints, and send no call to those that fail. Replaces what `[traffic]` has as a
        /// whole.
        pub health: Option<HealthFile>,
    }

    /// `health`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct HealthFile {
        /// What is tried: `grpc` or `grpc:SERVICE` watches gRPC's health service over the
        /// connection that calls use; `tcp`, and `http:/PATH` for endpoints without TLS, connect
        /// anew each time.
        pub check: Option<String>,
        /// The time between two checks, milliseconds; a watch needs none.
        pub interval_ms: Option<u64> [1..=86_400_000 = "2000"],
        /// How long a check, or the first answer to a watch, may take, milliseconds.
        pub timeout_ms: Option<u64> [1..=86_400_000 = "1000"],
        /// So many successes in a row make an endpoint usable; a watch's first good word does.
        pub rise: Option<u64> [1..=1_000_000 = "1"],
        /// So many failures in a row take it out; a watch's first bad word does.
        pub fall: Option<u64> [1..=1_000_000 = "3"],
    }

    /// `slow-start`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct SlowStartFile {
        /// How long it takes to the full share, seconds.
        pub window_s: Option<u64> [1..=86_400],
        /// How the share grows: evenly at 1, fast at first over it, slowly at first under it.
        pub aggression: Option<f64> [= "1.0"],
        /// The least share, percent.
        pub min_percent: Option<u64> [0..=100 = "10"],
    }

    /// `retry`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct RetryFile {
        /// Attempts in all, the first one included: 2 to 5.
        pub max_attempts: Option<u64> [2..=5 = "4"],
        /// The longest wait before the first retry, milliseconds; the wait is drawn from 0 to it.
        pub initial_backoff_ms: Option<u64> [1..=86_400_000 = "100"],
        /// The longest wait before any, milliseconds.
        pub max_backoff_ms: Option<u64> [1..=86_400_000 = "1000"],
        /// How much longer each further wait may be.
        pub multiplier: Option<f64> [= "2.0"],
        /// The gRPC codes after which a call is sent again.
        pub codes: Option<Vec<String>> [= "[\"UNAVAILABLE\"]"],
    }

    /// `hedge`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct HedgeFile {
        /// Attempts in all, the first one included: 2 to 5.
        pub max_attempts: Option<u64> [2..=5 = "2"],
        /// How long each attempt may take before the next one begins, milliseconds; 0 sends all at
        /// once.
        pub delay_ms: Option<u64> [0..=86_400_000],
        /// The gRPC codes after which the next attempt begins at once; any other answer is the
        /// call's.
        pub non_fatal_codes: Option<Vec<String>> [= "[]"],
    }

    /// `retry-budget`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct RetryBudgetFile {
        /// Tokens at most, and in the beginning; a failed attempt takes one, and with half of them
        /// left nothing is retried.
        pub tokens: Option<u64> [1..=1000 = "100"],
        /// What a call that ends well gives back, in tokens.
        pub ratio: Option<f64> [= "0.1"],
    }

    /// `outlier`: with neither `success-rate` nor `failure-percentage`, both are looked at.
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct OutlierFile {
        /// The time between two looks, milliseconds.
        pub interval_ms: Option<u64> [1..=86_400_000 = "10000"],
        /// How long a first ejection lasts, milliseconds.
        pub base_ejection_ms: Option<u64> [1..=86_400_000 = "30000"],
        /// The longest ejection, milliseconds.
        pub max_ejection_ms: Option<u64> [1..=86_400_000 = "300000"],
        /// The most endpoints that are ejected at once, percent; one may be in any case.
        pub max_ejection_percent: Option<u64> [1..=100 = "10"],
        /// With fewer endpoints left than this, ejections are not heeded, percent.
        pub panic_threshold: Option<u64> [0..=100 = "50"],
        /// Who is far under the mean of all.
        pub success_rate: Option<SuccessRateFile>,
        /// Who fails more than a fixed share.
        pub failure_percentage: Option<FailurePercentageFile>,
    }

    /// `outlier.success-rate`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct SuccessRateFile {
        /// How many thousandths of the standard deviation under the mean are too many.
        pub stdev_factor: Option<u64> [1..=1_000_000 = "1900"],
        /// How likely an outlier is ejected, percent.
        pub enforcement_percentage: Option<u64> [0..=100 = "100"],
        /// So many endpoints must have had enough calls.
        pub minimum_hosts: Option<u64> [1..=1_000_000 = "5"],
        /// Enough calls in one interval.
        pub request_volume: Option<u64> [1..=1_000_000 = "100"],
    }

    /// `outlier.failure-percentage`
    #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    pub struct FailurePercentageFile {
        /// Who fails more than this is an outlier, percent.
        pub threshold: Option<u64> [0..=100 = "85"],
        /// How likely an outlier is ejected, percent.
        pub enforcement_percentage: Option<u64> [0..=100 = "100"],
        /// So many endpoints there must be.
        pub minimum_hosts: Option<u64> [1..=1_000_000 = "5"],
        /// Enough calls in one interval.
        pub request_volume: Option<u64> [1..=1_000_000 = "50"],
    }

    /// `[[route]]`
    #[derive(Debug, Clone, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    pub struct RouteFile {
        /// Requests of this authority.
        pub authority: Option<String>,
        /// Requests of this gRPC service, by its full name: `hello.Greeter1`.
        pub grpc_service: Option<String>,
        /// Of this method of it: `SayHello1`.
        pub grpc_method: Option<String>,
        /// Requests of all gRPC services whose full names begin like this: `hello.`. Goes without
        /// the two above.
        pub grpc_prefix: Option<String>,
        /// Are for this service.
        pub service: String,
    }
}

/// Writes the limits into two tables, because serde cannot both flatten one into another and refuse
/// unknown keys.
macro_rules! limits_tables {
    ($($(#[$($doc:tt)*])* $field:ident [$($about:tt)*],)*) => {
        settings! {
            /// `[plugins]`
            #[derive(Debug, Clone, Default, Deserialize)]
            #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
            pub struct PluginsFile {
                /// Where compiled plugins are kept.
                pub cache_dir: Option<PathBuf> [else "waymark/plugins in the user's cache folder"],
                /// Whether a policy that is a file follows it.
                pub follow_files: Option<bool> [= "true"],
                /// The most that all instances hold together.
                pub total_memory_mib: Option<u64> [16..=16_777_216 else "a quarter of the machine's or container's, 256 to 2048"],
                /// The most compiled code that is kept in memory.
                pub compiled_mib: Option<u64> [0..=1_048_576 = "256"],
                /// The longest that a component is compiled for.
                pub compile_deadline_s: Option<u64> [1..=3600 = "180"],
                /// The most memory that compiling a component takes.
                pub compile_memory_mib: Option<u64> [64..=1_048_576 else "2048, or half of the machine's memory if that is less"],
                $($(#[$($doc)*])* pub $field: Option<u64> [$($about)*],)*
            }

            /// `limits` of a `[[service]]`: what is left out is as in `[plugins]`.
            #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
            #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
            pub struct LimitsFile {
                $($(#[$($doc)*])* pub $field: Option<u64> [$($about)*],)*
            }
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
    /// The longest a pick may run, milliseconds. It runs on a thread that serves requests.
    pick_deadline_ms [1..=1000 = "10"],
    /// The longest that `describe` or a build may run, milliseconds.
    build_deadline_ms [1..=600_000 = "1000"],
    /// The longest that a function of a key scheme may run, for one service or entry, milliseconds.
    key_scheme_deadline_ms [1..=600_000 = "100"],
    /// The most linear memory of an instance, MiB; WebAssembly has 4 GiB of addresses.
    memory_mib [1..=4096 = "64"],
    /// The most elements in a table of an instance.
    table_elements [1..=10_000_000 = "20000"],
    /// The largest component, MiB.
    component_mib [1..=1024 = "32"],
    /// The longest plan, entries.
    plan_entries [1..=268_435_456 = "1048576"],
    /// The most that is handed over in one call, MiB.
    transfer_mib [1..=2048 = "16"],
    /// The most that a policy hands over at once while it picks, KiB.
    pick_transfer_kib [1..=1_048_576 = "64"],
    /// The part of a worker's time that a policy's picks may take for long, percent; 100 is no
    /// bound.
    pick_share_percent [1..=100 = "25"],
    /// The most log messages in 10 seconds.
    log_messages [0..=1_000_000 = "50"],
    /// The longest log message, bytes.
    log_message_bytes [16..=1_048_576 = "1024"],
    /// This many failed picks within the window take a policy out of service.
    quarantine_failures [1..=1_000_000 = "10"],
    /// The window, seconds.
    quarantine_window_s [1..=86_400 = "10"],
}

/// `admin`: an address, or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminSetting {
    /// `admin = "IP:port"`.
    Address(String),
    /// `[admin]`
    Table(Box<AdminFile>),
}

impl<'de> Deserialize<'de> for AdminSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = AdminSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address (admin = \"127.0.0.1:7001\") or a table ([admin])")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AdminSetting, E> {
                Ok(AdminSetting::Address(text.to_owned()))
            }

            // Not `untagged`, which would take the words from errors.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AdminSetting, A::Error> {
                AdminFile::deserialize(MapAccessDeserializer::new(map)).map(|file| AdminSetting::Table(Box::new(file)))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Value for AdminSetting {
    const KIND: Kind = Kind::Table(AdminFile::SETTINGS);

    fn check(&self, at: &str) -> Result<(), ConfigError> {
        match self {
            Self::Address(_) => Ok(()),
            Self::Table(table) => table.check(at),
        }
    }
}

/// Reads and parses a file.
pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(path, &text)
}

/// Parses a file's text. `path` is for the message, and for what the text names: a relative path in
/// it is relative to its folder.
pub fn parse(path: &Path, text: &str) -> Result<FileConfig, ConfigError> {
    let file: Result<FileConfig, _> = toml::from_str(text);
    let file = file.map_err(|error| {
        let mut reason = error.to_string().trim_end().to_owned();
        if let Some(nearest) = nearest_known(error.message()) {
            reason = format!("{reason}\ndid you mean `{nearest}`?");
        }
        ConfigError::Parse { path: path.into(), reason }
    });
    file.map(|file| file.relative_to(path.parent().unwrap_or(path)))
}

/// serde says: unknown field `lissten`, expected one of `listen`, `admin`, … The nearest of these
/// helps more than all.
fn nearest_known(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}
