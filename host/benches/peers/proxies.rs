//! The contestants: what stands between the clients and the instances, and how each is started.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::harness::child::Child;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Nothing in between: what the others are compared with in latency.
    Direct,
    /// What the others are compared with in cost.
    Bare,
    Plan,
    EachRequest,
    Haproxy,
    Nginx,
    Pingora,
    Envoy,
}

impl Contestant {
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Bare,
        Self::Plan,
        Self::EachRequest,
        Self::Haproxy,
        Self::Nginx,
        Self::Pingora,
        Self::Envoy,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare hyper, round robin",
            Self::Plan => "Waymark, plan (round_robin.wasm)",
            Self::EachRequest => "Waymark, Wasm each request (least_request.wasm)",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Pingora => "Pingora",
            Self::Envoy => "Envoy",
        }
    }

    /// The program, if it is not ours.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Bare | Self::Plan | Self::EachRequest => None,
            Self::Haproxy => Some("haproxy"),
            Self::Nginx => Some("nginx"),
            Self::Pingora => Some("pingora-round-robin"),
            Self::Envoy => Some("envoy"),
        }
    }

    /// Whether it is not ours.
    pub(crate) fn is_theirs(self) -> bool {
        self.program().is_some()
    }

    /// What it says of its version, if it can be started; nothing for what is ours.
    pub(crate) fn version(self) -> Option<String> {
        let Some(program) = self.program() else { return Some(String::new()) };
        let flag = if matches!(self, Self::Pingora | Self::Envoy) { "--version" } else { "-v" };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// How a proxy is started.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) instances: &'a [SocketAddr],
    /// How many threads, or processes with nginx, move bytes.
    pub(crate) workers: usize,
    /// Its files are put here.
    pub(crate) folder: &'a Path,
    /// A program that runs it, with that program's own arguments.
    pub(crate) wrapper: &'a [String],
}

/// A proxy that runs; for [`Contestant::Direct`] nothing does.
pub(crate) struct Proxy {
    pub(crate) contestant: Contestant,
    /// Where clients connect to: as many connections as there are instances.
    pub(crate) to: Vec<SocketAddr>,
    process: Process,
}

enum Process {
    None,
    Ours(Child),
    Theirs(Theirs),
}

struct Theirs(std::process::Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        // It may have ended, and it has nothing to lose. Asked and not killed: nginx would leave
        // its workers behind.
        let _ = self.end();
    }
}

impl Theirs {
    fn end(&mut self) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.0), Signal::TERM)?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Proxy {
    pub(crate) fn start(contestant: Contestant, setting: Setting<'_>) -> anyhow::Result<Self> {
        let instances: Vec<String> = setting.instances.iter().map(SocketAddr::to_string).collect();
        let workers = setting.workers.to_string();
        let cache = setting.folder.join("cache");
        let cache = cache.to_str().context("a folder that can be named")?;
        let role = match contestant {
            Contestant::Direct => {
                return Ok(Self { contestant, to: setting.instances.to_owned(), process: Process::None });
            }
            Contestant::Bare => vec!["bare", "--workers", &workers],
            Contestant::Plan | Contestant::EachRequest => vec!["node", "--workers", &workers, "--cache", cache],
            Contestant::Haproxy | Contestant::Nginx | Contestant::Pingora | Contestant::Envoy => {
                let (address, theirs) = theirs(contestant, setting).with_context(|| contestant.title())?;
                let to = vec![address; instances.len()];
                return Ok(Self { contestant, to, process: Process::Theirs(theirs) });
            }
        };
        let args: Vec<&str> = role.into_iter().chain(instances.iter().map(String::as_str)).collect();
        let (child, address) = Child::start_under(setting.wrapper, &args)?;
        Ok(Self { contestant, to: vec![address.parse()?; instances.len()], process: Process::Ours(child) })
    }

    /// Its process, if there is one.
    pub(crate) fn id(&self) -> Option<u32> {
        match &self.process {
            Process::None => None,
            Process::Ours(child) => Some(child.id()),
            Process::Theirs(theirs) => Some(theirs.0.id()),
        }
    }

    /// Lets it come to its own end.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        match self.process {
            Process::None => Ok(()),
            Process::Ours(child) => child.end(),
            Process::Theirs(mut theirs) => theirs.end(),
        }
    }
}

/// Starts a program that is not ours, and waits until it takes connections.
fn theirs(contestant: Contestant, setting: Setting<'_>) -> anyhow::Result<(SocketAddr, Theirs)> {
    // It is bound again at once; in between nobody else is given the port.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let file = || {
        let (file, config) = config(contestant, setting, address);
        let file = setting.folder.join(file);
        fs::write(&file, config).map(|()| file)
    };
    let log = setting.folder.join("log");
    let to_log = || fs::File::options().create(true).append(true).open(&log);
    let program = contestant.program().context("a program")?;
    let words = setting.wrapper.iter().map(String::as_str).chain([program]).collect::<Vec<_>>();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    match contestant {
        Contestant::Haproxy => command.args(["-db", "-f"]).arg(file()?),
        Contestant::Pingora => {
            let instances = setting.instances.iter().map(SocketAddr::to_string);
            command.args([setting.workers.to_string(), address.to_string()]).args(instances)
        }
        Contestant::Nginx => command.arg("-p").arg(setting.folder).arg("-c").arg(file()?),
        _ => {
            let workers = setting.workers.to_string();
            command.arg("-c").arg(file()?).args(["--disable-hot-restart", "-l", "error", "--concurrency", &workers])
        }
    };
    let process = command.stdin(Stdio::null()).stdout(to_log()?).stderr(to_log()?).spawn()?;
    let mut theirs = Theirs(process);
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        let said = || fs::read_to_string(&log).unwrap_or_default();
        if let Some(status) = theirs.0.try_wait()? {
            anyhow::bail!("it ended with {status}: {}", said());
        }
        anyhow::ensure!(began.elapsed() < Duration::from_mins(2), "it takes no connections: {}", said());
        thread::sleep(Duration::from_millis(20));
    }
    Ok((address, theirs))
}

/// A configuration that does what the bare proxy does: HTTP/2 in cleartext on both sides, each
/// instance in turn, connections kept, no access log.
fn config(contestant: Contestant, setting: Setting<'_>, address: SocketAddr) -> (&'static str, String) {
    let (workers, port) = (setting.workers, address.port());
    let each = |f: &dyn Fn(usize, &SocketAddr) -> String| -> String {
        setting.instances.iter().enumerate().map(|(at, instance)| f(at, instance)).collect()
    };
    match contestant {
        Contestant::Haproxy => (
            "haproxy.cfg",
            format!(
                "global\n  nbthread {workers}\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5m\n  \
                 timeout server 5m\nfrontend in\n  bind {address} proto h2\n  default_backend out\nbackend out\n  balance roundrobin\n  \
                 http-reuse always\n{}",
                each(&|at, instance| format!("  server s{at} {instance} proto h2\n")),
            ),
        ),
        Contestant::Nginx => {
            let master = if workers == 1 { "off" } else { "on" };
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("  {kind}_temp_path {kind};\n"))
                .concat();
            (
                "nginx.conf",
                format!(
                    "daemon off;\nmaster_process {master};\nworker_processes {workers};\nuser root;\npid nginx.pid;\nerror_log stderr;\n\
                     worker_rlimit_nofile 8192;\nevents {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{temporary}  \
                     upstream out {{\n{}    keepalive 256;\n    keepalive_requests 1000000000;\n  }}\n  server {{\n    \
                     listen {address} http2;\n    keepalive_requests 1000000000;\n    client_max_body_size 0;\n    \
                     location / {{ grpc_pass grpc://out; }}\n  }}\n}}\n",
                    each(&|_, instance| format!("    server {instance};\n")),
                ),
            )
        }
        _ => {
            let socket = |address: &SocketAddr| {
                format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
            };
            let options = "\"@type\": type.googleapis.com/envoy.extensions";
            (
                "envoy.yaml",
                format!(
                    "static_resources:\n  listeners:\n  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}\n    \
                     filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \
                     {options}.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: in\n          \
                     codec_type: HTTP2\n          generate_request_id: false\n          route_config:\n            virtual_hosts:\n            \
                     - name: all\n              domains: [\"*\"]\n              routes:\n              - match: {{ prefix: / }}\n                \
                     route: {{ cluster: out, timeout: 0s }}\n          http_filters:\n          - name: router\n            \
                     typed_config: {{ {options}.filters.http.router.v3.Router }}\n  clusters:\n  - name: out\n    type: STATIC\n    \
                     lb_policy: ROUND_ROBIN\n    circuit_breakers: {{ thresholds: [ {{ max_connections: 10000, max_requests: 100000, \
                     max_pending_requests: 100000 }} ] }}\n    typed_extension_protocol_options:\n      \
                     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
                     {options}.upstreams.http.v3.HttpProtocolOptions\n        explicit_http_config: {{ http2_protocol_options: {{}} }}\n    \
                     load_assignment:\n      cluster_name: out\n      endpoints:\n      - lb_endpoints:\n{}",
                    each(&|_, instance| format!("        - endpoint: {{ address: {} }}\n", socket(instance))),
                ),
            )
        }
    }
}
