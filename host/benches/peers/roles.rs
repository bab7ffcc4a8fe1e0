//! The roles that a process of ours can have in this benchmark, beside the instances.

use std::{collections::HashMap, future::pending, iter, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use waymark_node::{
    dataplane,
    plugin::{EngineConfig, Limits},
};

pub(crate) use super::parts::backend;
use super::{
    bare,
    harness::child,
    parts::{EACH_REQUEST, PLAN, dataplane, listen, runtime, settled},
    streams::{Load, Until, connect, run},
};

/// What a plugin's call may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// A node that proxies to these instances.
pub(crate) fn node(workers: usize, cache: Option<PathBuf>, instances: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = runtime(Some(workers))?;
    // Under valgrind a pick takes many times as long, and the thread's clock, which is read when
    // half of its deadline is over, cannot be read at all. Calls that are in time cost the same
    // whatever the deadline is.
    let limits = Limits { pick_deadline: PATIENCE, build_deadline: PATIENCE, ..Limits::default() };
    let (services, dataplane) =
        dataplane(instances, EngineConfig { cache_dir: cache, limits, ..EngineConfig::default() })?;
    let listener = runtime.block_on(listen())?;
    let address = listener.local_addr()?;
    runtime.block_on(settled(&services))?;
    runtime.spawn(dataplane::serve(listener, dataplane, pending()));
    answer(address, runtime)
}

/// Hyper, and nothing else.
pub(crate) fn bare(workers: usize, instances: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = runtime(Some(workers))?;
    let listener = runtime.block_on(listen())?;
    let address = listener.local_addr()?;
    runtime.block_on(bare::start(listener, instances))?;
    answer(address, runtime)
}

fn answer(address: SocketAddr, runtime: Runtime) -> anyhow::Result<()> {
    child::serve(&address.to_string(), |line| anyhow::bail!("a proxy is not asked {line:?}"))?;
    runtime.shutdown_background();
    Ok(())
}

/// What a load generator is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Connect to these, once each.
    pub(crate) to: Vec<SocketAddr>,
    /// Whether calls are for the service whose policy is asked for each request. Only a node heeds
    /// it.
    pub(crate) each_request: bool,
    pub(crate) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// Call over connections that are kept for the next time.
    Call(Load),
    /// Open so many more connections to each, make one call on each, and keep them until the next
    /// order.
    Idle(usize),
}

/// Calls whatever it is told to.
pub(crate) fn load() -> anyhow::Result<()> {
    let runtime = runtime(None)?;
    let mut channels: HashMap<Vec<SocketAddr>, Vec<Channel>> = HashMap::new();
    let mut idle = Vec::new();
    child::serve("ready", |line| {
        let Order { to, each_request, what } = serde_json::from_str(line)?;
        let service = if each_request { EACH_REQUEST } else { PLAN };
        idle.clear();
        runtime.block_on(async {
            match what {
                What::Call(load) => {
                    let channels = match channels.entry(to) {
                        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                        std::collections::hash_map::Entry::Vacant(new) => {
                            let connected = connect(new.key().iter()).await?;
                            new.insert(connected)
                        }
                    };
                    Ok(serde_json::to_string(&run(channels, service, &load).await?)?)
                }
                What::Idle(count) => {
                    for address in to.iter().flat_map(|address| iter::repeat_n(address, count)) {
                        let connected = connect(iter::once(address)).await?;
                        run(&connected, service, &Load::unary(Until::Calls(1))).await?;
                        idle.extend(connected);
                    }
                    Ok(idle.len().to_string())
                }
            }
        })
    })?;
    runtime.shutdown_background();
    Ok(())
}
