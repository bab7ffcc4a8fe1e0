//! `waymark node`.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    output::Failure,
    registry::{RegistryArgs, listen_address},
    terminated,
};
use crate::{
    app::{self, Node},
    config::{NodeConfig, PluginChoice},
    dataplane::{AccessFormat, AccessTarget},
    plugin::Grants,
};

/// Flags of `waymark node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark node                                             with an embedded registry
  waymark node --registry http://127.0.0.1:2379 --zone a --policy zone_aware
  waymark node --policy ./my_policy.wasm --policy-config '{\"factor\": 2}'
  waymark node --config waymark.toml

Clients in any language dial the node and name the service with the header `waymark-service`, with a route of the
configuration file, or by the authority they dial.

Flags win over WAYMARK_* variables, which win over the file.")]
pub(super) struct Args {
    /// Where gRPC calls come in [default: 127.0.0.1:7000].
    #[arg(long, env = "WAYMARK_LISTEN", value_name = "IP:PORT", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// A Unix socket where gRPC calls come in too.
    #[arg(long, env = "WAYMARK_LISTEN_UNIX", value_name = "PATH")]
    listen_unix: Option<PathBuf>,
    /// Where the node's API, health, metrics and dashboard are [default: 127.0.0.1:7001].
    #[arg(long, env = "WAYMARK_ADMIN", value_name = "IP:PORT", value_parser = listen_address)]
    admin: Option<SocketAddr>,
    /// Where every call is logged: stdout, stderr or a file, which is followed when it is moved and on SIGHUP [default: nowhere].
    #[arg(long, env = "WAYMARK_ACCESS_LOG", value_name = "stdout|stderr|FILE")]
    access_log: Option<AccessTarget>,
    /// How calls are logged: json or text [default: json].
    #[arg(long, env = "WAYMARK_ACCESS_LOG_FORMAT", value_name = "FORMAT")]
    access_log_format: Option<AccessFormat>,
    /// Where a registry inside this node listens, for others to use [default: a free port of loopback].
    #[arg(long, env = "WAYMARK_EMBEDDED_LISTEN", value_name = "IP:PORT", value_parser = listen_address)]
    embedded_listen: Option<SocketAddr>,
    /// The zone this node stands in, for policies that prefer their own.
    #[arg(long, env = "WAYMARK_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// The policy of services for which nothing else is said: a bundled one or a .wasm file [default: round_robin].
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
    /// The share of a service's endpoints that may disappear at once; the others are held back [default: no limit].
    #[arg(long, env = "WAYMARK_HOLD_SHARE", value_name = "0..1")]
    hold_share: Option<f64>,
    /// How long they are held back, seconds [default: 30].
    #[arg(long, env = "WAYMARK_HOLD_TIME", value_name = "SECONDS")]
    hold_time: Option<u64>,
    /// Where the last known endpoints are kept, to start with while etcd is down; `none` for nowhere
    /// [default: waymark in the user's state folder].
    #[arg(long, env = "WAYMARK_STATE_DIR", value_name = "FOLDER|none")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Args {
    fn into_config(self) -> Result<NodeConfig, Failure> {
        let mut file = self.registry.file()?;
        if self.hash_key.is_some() {
            file.policy.hash_key = self.hash_key;
        }
        if let Some(listen) = self.embedded_listen {
            file.registry.embedded_listen = Some(listen.to_string());
        }
        file.registry.hold_share = self.hold_share.or(file.registry.hold_share);
        file.registry.hold_time_s = self.hold_time.or(file.registry.hold_time_s);
        file.registry.state_dir = self.state_dir.or(file.registry.state_dir).or_else(app::default_state_dir);
        let mut config = file.into_node()?;
        config.listen = self.listen.unwrap_or(config.listen);
        config.listen_unix = self.listen_unix.or(config.listen_unix);
        config.admin = self.admin.unwrap_or(config.admin);
        config.access_log = self.access_log.or(config.access_log);
        config.access_log_format = self.access_log_format.unwrap_or(config.access_log_format);
        config.zone = self.zone.unwrap_or(config.zone);
        if let Some(policy) = self.policy {
            let Ok(plugin) = policy.parse();
            config.policy = PluginChoice { plugin, ..PluginChoice::bundled("") };
        }
        if let Some(policy_config) = self.policy_config {
            config.policy.config = policy_config;
        }
        config.policy.allow = self.policy_allow.unwrap_or(config.policy.allow);
        config.follow_files &= !self.no_follow_files;
        config.plugin_cache = self.plugin_cache.or(config.plugin_cache).or_else(app::default_plugin_cache);
        Ok(config)
    }
}

/// Has as many descriptors as the system lets it have. The lower limit that processes begin with is for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not, it goes on with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    raise_descriptor_limit();
    let node = Node::start(args.into_config()?).await?;
    println!("node       grpc://{}  (header `waymark-service` names the service)", node.proxy_addr());
    if let Some(path) = node.unix_path() {
        println!("           unix:{}", path.display());
    }
    println!("admin      http://{}  (dashboard, /metrics, /healthz, /readyz, gRPC API)", node.admin_addr());
    println!("registry   {}", node.registry_urls().join(", "));
    let signal = tokio::select! {
        signal = terminated() => signal,
        never = reopen_at_hangup(&node) => match never {},
    };
    eprintln!("{signal}: no more calls are taken; running ones may finish");
    let drained = node.shutdown().await;
    if drained.cut_off > 0 {
        return Err(Failure::failed(format!("{} connections still had calls and were closed", drained.cut_off)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the access log anew at each SIGHUP. Without one, SIGHUP ends the process, as ever.
async fn reopen_at_hangup(node: &Node) -> Infallible {
    use tokio::signal::unix::{SignalKind, signal};
    if let Some(log) = node.access_log()
        && let Ok(mut hangups) = signal(SignalKind::hangup())
    {
        while hangups.recv().await.is_some() {
            log.reopen().await;
        }
    }
    std::future::pending().await
}
