//! The processes that benchmarks start beside their own: a registry, and a whole node.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::runtime::{Builder, Runtime};
use waymark_node::{
    app::Node,
    config::{ClientConfig, NodeConfig, RegistrySource},
    embedded,
    plugin::prepare_thread,
    registry::RegistryConfig,
};

use super::harness::child;

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread().on_thread_start(prepare_thread).enable_all().build()?)
}

/// The embedded registry.
pub(crate) fn server(listen: SocketAddr) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let server = runtime.block_on(embedded::Server::start(listen, embedded::Options::default()))?;
    child::serve(server.url(), |line| anyhow::bail!("a server is not asked {line:?}"))?;
    runtime.shutdown_background();
    Ok(())
}

/// A whole node as `waymark node` starts it. It says where its proxy is, and where its API.
pub(crate) fn node(url: &str) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = NodeConfig {
        listen: free,
        admin: free,
        client: ClientConfig {
            registry: RegistrySource::Etcd(Box::new(RegistryConfig::new([url]))),
            ..ClientConfig::default()
        },
        ..NodeConfig::default()
    };
    let node = runtime.block_on(Node::start(config))?;
    let ready = format!("{} {}", node.proxy_addr(), node.admin_addr());
    child::serve(&ready, |line| anyhow::bail!("a node is not asked {line:?}"))?;
    runtime.shutdown_background();
    Ok(())
}
