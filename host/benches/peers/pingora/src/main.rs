//! Pingora in front of some instances, each in turn: HTTP/2 in cleartext on both sides.
//!
//! ```text
//!   pingora-round-robin WORKERS LISTEN INSTANCE..
//! ```

use std::{
    env, process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use pingora::{
    Result,
    apps::HttpServerOptions,
    protocols::ALPN,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{
        Server,
        configuration::{Opt, ServerConf},
    },
    upstreams::peer::HttpPeer,
};

struct RoundRobin {
    instances: Vec<String>,
    next: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for RoundRobin {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let at = self.next.fetch_add(1, Relaxed) % self.instances.len();
        let mut peer = HttpPeer::new(self.instances[at].as_str(), false, String::new());
        peer.options.alpn = ALPN::H2;
        // As many calls on a connection as the others put there.
        peer.options.max_h2_streams = 1000;
        Ok(Box::new(peer))
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.first().is_some_and(|flag| flag == "--version") {
        println!("pingora 0.9");
        return;
    }
    let [workers, listen, instances @ ..] = args.as_slice() else { usage() };
    let Ok(workers) = workers.parse() else { usage() };
    if instances.is_empty() {
        usage();
    }
    let conf = ServerConf {
        threads: workers,
        work_stealing: true,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt::default(), conf);
    server.bootstrap();
    let proxy = RoundRobin { instances: instances.to_vec(), next: AtomicUsize::new(0) };
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), proxy);
    if let Some(logic) = service.app_logic_mut() {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        logic.server_options = Some(options);
    }
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}

fn usage() -> ! {
    eprintln!("usage: pingora-round-robin WORKERS LISTEN INSTANCE..");
    process::exit(2)
}
