//! `waymark node`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    output::{self, CommandError, announce},
    registry::{RegistryArgs, listen_address},
    signals::{Signals, Wish},
};
use crate::{
    app::{Inherited, Node},
    config::{NodeConfig, PluginChoice},
    dataplane::{AccessFormat, AccessTarget},
    plugin::Grants,
    stages::load,
};

/// Flags of `waymark node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark node                                             with an embedded registry
  waymark node --registry http://127.0.0.1:2379 --zone a --policy zone_aware
  waymark node --policy ./my_policy.wasm --policy-config '{\"factor\": 2}'
  waymark node --config waymark.toml
  waymark node --registry http://127.0.0.1:2379 --take-over /run/waymark.sock     started again, it takes over

Clients in any language dial the node and name the service with the header `waymark-service`, with a route of the
configuration file, or by the authority they dial; not by the authority where its name has a slash, which gRPC's
clients write as %2F and HTTP/2 refuses. --listen-service is for those who name none.

SIGTERM, SIGINT and SIGQUIT end it in order; SIGHUP and SIGUSR1 open the access log anew; other signals mean nothing to it.

Flags win over WAYMARK_* variables, which win over the file.")]
pub(super) struct Args {
    /// Where gRPC calls come in [default: 127.0.0.1:7000].
    #[arg(long, env = "WAYMARK_LISTEN", value_name = "IP:PORT", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// The service of calls that come in there and name none (no header, no route, an address or
    /// localhost as the authority).
    #[arg(long, env = "WAYMARK_LISTEN_SERVICE", value_name = "SERVICE")]
    listen_service: Option<String>,
    /// A Unix socket where gRPC calls come in too.
    #[arg(long, env = "WAYMARK_LISTEN_UNIX", value_name = "PATH")]
    listen_unix: Option<PathBuf>,
    /// The service of calls that come in there and name none.
    #[arg(long, env = "WAYMARK_LISTEN_UNIX_SERVICE", value_name = "SERVICE")]
    listen_unix_service: Option<String>,
    /// Where the node's API, health, metrics and dashboard are [default: 127.0.0.1:7001].
    #[arg(long, env = "WAYMARK_ADMIN", value_name = "IP:PORT", value_parser = listen_address)]
    admin: Option<SocketAddr>,
    /// A Unix socket where they are, too; its peers are known by their user.
    #[arg(long, env = "WAYMARK_ADMIN_UNIX", value_name = "PATH")]
    admin_unix: Option<PathBuf>,
    /// A file with tokens, `NAME:TOKEN` a line: who shows one may change policies, and nobody else.
    #[arg(long, env = "WAYMARK_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Names by which the node's API is called, beside addresses and localhost.
    #[arg(long, env = "WAYMARK_ADMIN_ALLOWED_HOSTS", value_name = "NAME,..", value_delimiter = ',')]
    admin_allowed_hosts: Vec<String>,
    /// Let whoever reaches the node's API change policies, also from beyond this machine.
    #[arg(long, env = "WAYMARK_ADMIN_INSECURE")]
    admin_insecure: bool,
    /// A port for health, readiness and metrics alone; it may be reached by everybody.
    #[arg(long, env = "WAYMARK_PROBE", value_name = "IP:PORT", value_parser = listen_address)]
    probe: Option<SocketAddr>,
    /// A Unix socket where a node that is started later with the same path takes this one's ports
    /// over: to restart without losing a call, start the node once more; the old one finishes its
    /// calls and ends.
    #[arg(long, env = "WAYMARK_TAKE_OVER", value_name = "PATH")]
    take_over: Option<PathBuf>,
    /// Where every call is logged: stdout, stderr or a file, which is followed when it is moved,
    /// and opened anew on SIGHUP and SIGUSR1 [default: nowhere].
    #[arg(long, env = "WAYMARK_ACCESS_LOG", value_name = "stdout|stderr|FILE")]
    access_log: Option<AccessTarget>,
    /// How calls are logged: json or text [default: json].
    #[arg(long, env = "WAYMARK_ACCESS_LOG_FORMAT", value_name = "FORMAT")]
    access_log_format: Option<AccessFormat>,
    /// Where a registry inside this node listens, for others to use [default: a free port of
    /// loopback].
    #[arg(long, env = "WAYMARK_EMBEDDED_LISTEN", value_name = "IP:PORT", value_parser = listen_address)]
    embedded_listen: Option<SocketAddr>,
    /// The zone this node stands in, for policies that prefer their own.
    #[arg(long, env = "WAYMARK_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// How many threads serve calls; with 1 everything runs on one thread, which costs a call the
    /// least [default: one for each processor].
    #[arg(long, env = "WAYMARK_WORKERS", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1024))]
    workers: Option<u64>,
    /// The policy of services for which nothing else is said: a bundled one or a .wasm file
    /// [default: round_robin].
    #[arg(long, env = "WAYMARK_POLICY", value_name = "NAME|FILE")]
    policy: Option<String>,
    /// Its configuration.
    #[arg(long, env = "WAYMARK_POLICY_CONFIG", value_name = "JSON")]
    policy_config: Option<String>,
    /// What it is given beyond its world: wasi (with nothing behind it), clocks, random.
    #[arg(long, env = "WAYMARK_POLICY_ALLOW", value_name = "WHAT,..")]
    policy_allow: Option<Grants>,
    /// Load policies from their files once, and do not follow the files when they change.
    #[arg(long, env = "WAYMARK_NO_FOLLOW_FILES")]
    no_follow_files: bool,
    /// What of a request is its key, for policies that hash: header:NAME, path or peer.
    #[arg(long, env = "WAYMARK_HASH_KEY", value_name = "KEY")]
    hash_key: Option<String>,
    /// Where compiled plugins are kept [default: waymark/plugins in the user's cache folder].
    #[arg(long, env = "WAYMARK_PLUGIN_CACHE", value_name = "FOLDER")]
    plugin_cache: Option<PathBuf>,
    /// The share of a service's endpoints that may disappear at once; the others are held back
    /// [default: no limit].
    #[arg(long, env = "WAYMARK_HOLD_SHARE", value_name = "0..1")]
    hold_share: Option<f64>,
    /// How long they are held back, seconds [default: 30].
    #[arg(long, env = "WAYMARK_HOLD_TIME", value_name = "SECONDS")]
    hold_time: Option<u64>,
    /// Where the last known endpoints are kept, to start with while etcd is down; `none` for
    /// nowhere [default: waymark in the user's state folder].
    #[arg(long, env = "WAYMARK_STATE_DIR", value_name = "FOLDER|none")]
    state_dir: Option<PathBuf>,
    /// How long ago they may have been known to be right, to be served, seconds [default: 86400].
    #[arg(long, env = "WAYMARK_STATE_MAX_AGE", value_name = "SECONDS")]
    state_max_age: Option<u64>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Args {
    /// These flags, as a command of their own, for whoever prints what they are.
    pub(super) fn command_for_reference() -> clap::Command {
        <Self as clap::Args>::augment_args(clap::Command::new("node"))
    }

    /// The file that they go before.
    pub(super) fn file_path(&self) -> Option<PathBuf> {
        self.registry.config.clone()
    }

    /// The configuration of a node with these flags.
    pub(super) fn into_config(self) -> Result<NodeConfig, CommandError> {
        let mut file = self.registry.file()?;
        if self.hash_key.is_some() {
            file.policy.hash_key = self.hash_key;
        }
        if let Some(listen) = self.embedded_listen {
            file.registry.embedded_listen = Some(listen.to_string());
        }
        file.listen_service = self.listen_service.or(file.listen_service);
        file.listen_unix_service = self.listen_unix_service.or(file.listen_unix_service);
        file.take_over = self.take_over.or(file.take_over);
        file.workers = self.workers.or(file.workers);
        file.registry.hold_share = self.hold_share.or(file.registry.hold_share);
        file.registry.hold_time_s = self.hold_time.or(file.registry.hold_time_s);
        file.registry.state_dir = self.state_dir.or(file.registry.state_dir).or_else(load::default_state_dir);
        file.registry.state_max_age_s = self.state_max_age.or(file.registry.state_max_age_s);
        let mut config = file.into_node()?;
        config.listen = self.listen.unwrap_or(config.listen);
        config.listen_unix = self.listen_unix.or(config.listen_unix);
        config.admin = self.admin.unwrap_or(config.admin);
        let control = &mut config.control;
        control.unix = self.admin_unix.or(control.unix.take());
        control.token_file = self.admin_token_file.or(control.token_file.take());
        control.hosts.extend(self.admin_allowed_hosts);
        control.insecure |= self.admin_insecure;
        control.probe = self.probe.or(control.probe);
        let client = &mut config.client;
        client.access_log = self.access_log.or(client.access_log.take());
        client.access_log_format = self.access_log_format.unwrap_or(client.access_log_format);
        if let Some(zone) = self.zone {
            client.zone = zone;
        }
        if let Some(policy) = self.policy {
            let Ok(plugin) = policy.parse();
            client.policy = PluginChoice { plugin, ..PluginChoice::bundled("") };
        }
        if let Some(policy_config) = self.policy_config {
            client.policy.config = policy_config;
        }
        client.policy.allow = self.policy_allow.unwrap_or(client.policy.allow);
        client.follow_files &= !self.no_follow_files;
        client.plugin_cache = self.plugin_cache.or(client.plugin_cache.take()).or_else(load::default_plugin_cache);
        client.compile.program = super::compiling().program;
        Ok(config)
    }
}

/// Has as many descriptors as the system lets it have. The lower limit that processes begin with is
/// for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not, it goes on with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

pub(super) async fn run(config: NodeConfig, inherited: Inherited) -> Result<ExitCode, CommandError> {
    // First of all, so that no signal ends it half-way.
    let mut signals = Signals::new()?;
    raise_descriptor_limit();
    let node = tokio::select! {
        node = Node::start_on(config, inherited) => node?,
        heard = signals.end() => {
            output::say(format_args!("{}: it ends before it was up", heard.name));
            return Ok(ExitCode::SUCCESS);
        }
    };
    let proxy = node.proxy_addr();
    announce(format_args!("node       grpc://{proxy}  (header `waymark-service` names the service)"));
    if let Some(path) = node.unix_path() {
        announce(format_args!("           unix:{}", path.display()));
    }
    let (scheme, admin) = (if node.admin_speaks_tls() { "https" } else { "http" }, node.admin_addr());
    announce(format_args!("admin      {scheme}://{admin}  (dashboard, /metrics, /healthz, /readyz, gRPC API)"));
    if let Some(path) = node.admin_unix_path() {
        announce(format_args!("           unix:{}", path.display()));
    }
    if let Some(probe) = node.probe_addr() {
        announce(format_args!("probe      http://{probe}  (/metrics, /healthz, /livez, /readyz, gRPC health)"));
    }
    announce(format_args!("registry   {}", node.registry_urls().join(", ")));
    let why = tokio::select! {
        signal = heed(&mut signals, &node) => signal,
        () = node.taken_over() => "another node has taken over",
    };
    output::say(format_args!("{why}: no more calls are taken; running ones may finish"));
    let drained = node.shutdown().await;
    if drained.cut_off > 0 {
        return Err(CommandError::failed(format!("{} connections still had calls and were closed", drained.cut_off)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what signals ask for until one asks for an end; says which.
async fn heed(signals: &mut Signals, node: &Node) -> &'static str {
    loop {
        let heard = signals.next().await;
        match (heard.wish, node.access_log()) {
            (Wish::End, _) => return heard.name,
            (Wish::Reopen, Some(log)) => log.reopen().await,
            (Wish::Reopen, None) | (Wish::Nothing, _) => heard.ignored(),
        }
    }
}
