//! What the programs of others are told: HTTP/2 in cleartext on both sides, each instance in turn,
//! connections kept, no access log. It is what the bare proxy does.

use std::{fs, net::SocketAddr, process::Command};

use super::{proxies::Setting, subjects::Subject};

/// Adds the arguments with which a program listens at `address`, and writes its file if it has one.
pub(crate) fn arguments(
    command: &mut Command,
    subject: Subject,
    setting: Setting<'_>,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let file = || {
        let (file, config) = config(subject, setting, address);
        let file = setting.folder.join(file);
        fs::write(&file, config).map(|()| file)
    };
    let workers = setting.workers.to_string();
    match subject {
        Subject::Haproxy => command.args(["-db", "-f"]).arg(file()?),
        Subject::Nginx => command.arg("-p").arg(setting.folder).arg("-c").arg(file()?),
        Subject::Nghttpx => {
            let end = |address: &SocketAddr| format!("{},{}", address.ip(), address.port());
            let backends = setting.instances.iter().map(|instance| format!("--backend={};;proto=h2", end(instance)));
            command
                .args(["--single-process", "--conf=/dev/null", "--accesslog-file=/dev/null"])
                .args(["--no-via", "--no-server-rewrite", "--no-location-rewrite", "--log-level=ERROR"])
                .args(["--frontend-http2-max-concurrent-streams=1000", "--backend-http2-max-concurrent-streams=1000"])
                .arg(format!("--workers={workers}"))
                .arg(format!("--frontend={};no-tls", end(&address)))
                .args(backends)
        }
        Subject::Pingora => {
            let instances = setting.instances.iter().map(SocketAddr::to_string);
            command.args([workers, address.to_string()]).args(instances)
        }
        _ => command.arg("-c").arg(file()?).args(["--disable-hot-restart", "-l", "error", "--concurrency", &workers]),
    };
    Ok(())
}

/// The name of a configuration file, and what is in it.
fn config(subject: Subject, setting: Setting<'_>, address: SocketAddr) -> (&'static str, String) {
    let (workers, port) = (setting.workers, address.port());
    let each = |f: &dyn Fn(usize, &SocketAddr) -> String| -> String {
        setting.instances.iter().enumerate().map(|(at, instance)| f(at, instance)).collect()
    };
    match subject {
        Subject::Haproxy => (
            "haproxy.cfg",
            format!(
                "global\n  nbthread {workers}\n  maxconn 5000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5m\n  \
                 timeout server 5m\nfrontend in\n  bind {address} proto h2\n  default_backend out\nbackend out\n  balance roundrobin\n  \
                 http-reuse always\n{}",
                each(&|at, instance| format!("  server s{at} {instance} proto h2\n")),
            ),
        ),
        Subject::Nginx => {
            let master = if workers == 1 { "off" } else { "on" };
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("  {kind}_temp_path {kind};\n"))
                .concat();
            (
                "nginx.conf",
                format!(
                    "daemon off;\nmaster_process {master};\nworker_processes {workers};\nuser root;\npid nginx.pid;\nerror_log stderr;\n\
                     worker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\nhttp {{\n  access_log off;\n{temporary}  \
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
