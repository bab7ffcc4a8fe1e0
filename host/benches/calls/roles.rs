//! The three roles that a process of this benchmark can have.

use std::{future::pending, net::SocketAddr};

use anyhow::Context as _;
use waymark_node::{dataplane, plugin::EngineConfig};

pub(crate) use super::parts::backend;
use super::{
    harness::child,
    load::Load,
    parts::{dataplane, listen, runtime, settled},
    swaps::Swaps,
};

/// Proxies to these instances.
pub(crate) fn node(instances: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = runtime(None)?;
    let (services, dataplane) = dataplane(instances, EngineConfig::default())?;
    let listener = runtime.block_on(listen())?;
    let address = listener.local_addr()?;
    runtime.block_on(settled(&services))?;
    runtime.spawn(dataplane::serve(listener, dataplane, pending()));
    let mut swaps = Swaps::new(&services)?;
    child::serve(&address.to_string(), |line| {
        let times =
            line.strip_prefix("swap ").with_context(|| format!("a node is not asked {line:?}"))?.parse::<u32>()?;
        Ok(serde_json::to_string(&runtime.block_on(swaps.run(times))?)?)
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Calls the instances, directly and through the node.
pub(crate) fn load(node: SocketAddr, streams: u16, instances: Vec<SocketAddr>) -> anyhow::Result<()> {
    let runtime = runtime(None)?;
    let mut load = Load::new(node, streams, instances);
    child::serve("ready", |line| {
        let (name, time) = line
            .strip_prefix("run ")
            .and_then(|rest| rest.split_once(' '))
            .with_context(|| format!("a load generator is not asked {line:?}"))?;
        let tally = runtime.block_on(load.run(name.parse()?, time.parse()?))?;
        Ok(serde_json::to_string(&tally)?)
    })?;
    runtime.shutdown_background();
    Ok(())
}
