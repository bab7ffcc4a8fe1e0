//! The roles that a process of ours can have in this benchmark, beside the instances.

use std::{
    collections::{HashMap, hash_map::Entry},
    iter,
    net::SocketAddr,
    thread,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions, Runtime},
    sync::oneshot,
};
use tonic::transport::Channel;

pub(crate) use super::parts::backend;
use super::{
    bare, h2_only,
    harness::child,
    own_http2,
    parts::{EACH_REQUEST, PLAN, listen, runtime},
    streams::{Load, Until, connect, run},
};

/// Hyper, and nothing else: on this thread, or on a runtime with so many workers.
pub(crate) fn bare(workers: Option<usize>, instances: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = match workers {
        None => this_thread()?,
        workers => runtime(workers)?,
    };
    runtime.block_on(proxy(async |listener| bare::start(listener, instances).await))?;
    runtime.shutdown_background();
    Ok(())
}

/// The crate `h2`, and nothing else, on this thread.
pub(crate) fn h2_only(instances: &[SocketAddr]) -> anyhow::Result<()> {
    this_thread()?.block_on(proxy(async |listener| h2_only::start(listener, instances).await))
}

/// Our own HTTP/2, and nothing else, on this thread.
pub(crate) fn own_http2(instances: &[SocketAddr]) -> anyhow::Result<()> {
    // As the others', but that its tasks need not be of a kind that could go to another thread.
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(proxy(async |listener| own_http2::start(listener, instances).await))
}

fn this_thread() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Proxies until nobody asks any more.
async fn proxy(start: impl AsyncFnOnce(TcpListener) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let listener = listen().await?;
    let address = listener.local_addr()?.to_string();
    start(listener).await?;
    let (end, ended) = oneshot::channel();
    // Standard input blocks, and this thread may be the one that proxies.
    thread::spawn(move || {
        let served = child::serve(&address, |line| anyhow::bail!("a proxy is not asked {line:?}"));
        // There is always somebody who waits for it.
        let _ = end.send(served);
    });
    ended.await.context("nobody asks")?
}

/// What a load generator is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Connect to these in turn.
    pub(crate) to: Vec<SocketAddr>,
    /// Whether calls are for the service whose policy is asked for each request. Only a node heeds
    /// it.
    pub(crate) each_request: bool,
    pub(crate) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// Call over so many connections, which are kept for the next time.
    Call { connections: usize, load: Load },
    /// Open so many connections more, make one call on each, and keep them until the next order.
    Idle { connections: usize },
    /// Close all connections.
    HangUp,
}

/// Calls whatever it is told to.
pub(crate) fn load() -> anyhow::Result<()> {
    let runtime = runtime(None)?;
    let mut channels: HashMap<(Vec<SocketAddr>, usize), Vec<Channel>> = HashMap::new();
    let mut idle = Vec::new();
    child::serve("ready", |line| {
        let Order { to, each_request, what } = serde_json::from_str(line)?;
        let service = if each_request { EACH_REQUEST } else { PLAN };
        idle.clear();
        runtime.block_on(async {
            match what {
                What::Call { connections, load } => {
                    let channels = match channels.entry((to, connections)) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => {
                            let connected = connect(new.key().0.iter().cycle().take(connections)).await?;
                            new.insert(connected)
                        }
                    };
                    Ok(serde_json::to_string(&run(channels, service, &load).await?)?)
                }
                What::Idle { connections } => {
                    for address in to.iter().cycle().take(connections) {
                        let connected = connect(iter::once(address)).await?;
                        run(&connected, service, &Load::unary(Until::Calls(1))).await?;
                        idle.extend(connected);
                    }
                    Ok(idle.len().to_string())
                }
                What::HangUp => {
                    channels.clear();
                    Ok(String::new())
                }
            }
        })
    })?;
    runtime.shutdown_background();
    Ok(())
}
