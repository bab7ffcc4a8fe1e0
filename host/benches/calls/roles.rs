//! The three roles that a process of this benchmark can have.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tonic::transport::{Server, server::TcpIncoming};
use waymark::{
    balancer::{Candidate, Services},
    dataplane::{self, Dataplane, Metrics, Routes},
    model::ServiceName,
    plugin::{Engine, EngineConfig, prepare_thread},
};

use super::{
    echo::Echo,
    harness::{
        child,
        services::{bundled, endpoints_at, services, started},
    },
    load::Load,
    swaps::Swaps,
};

/// Services are named after their policies.
pub(crate) const PLAN: &str = "round_robin";
/// As [`PLAN`], for the policy that is asked for each request.
pub(crate) const EACH_REQUEST: &str = "least_request";

fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread().on_thread_start(prepare_thread).enable_all().build()?)
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on loopback")
}

/// Echoes on `instances` ports.
pub(crate) fn backend(instances: u16) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let mut addresses = Vec::new();
    for _ in 0..instances {
        let listener = runtime.block_on(listen())?;
        addresses.push(listener.local_addr()?.to_string());
        let _runtime = runtime.enter();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        runtime.spawn(Server::builder().serve_with_incoming(Echo, incoming));
    }
    child::serve(&addresses.join(" "), |line| anyhow::bail!("a backend is not asked {line:?}"))?;
    runtime.shutdown_background();
    Ok(())
}

/// The data plane of a node, with a service for each kind of policy.
pub(crate) fn dataplane(instances: &[SocketAddr]) -> anyhow::Result<(Services, Dataplane)> {
    let engine = Engine::new(EngineConfig::default())?;
    let load = |name| anyhow::Ok(Candidate::new(bundled(&engine, name)?, "benchmark"));
    let (plan, each_request) = (load(PLAN)?, load(EACH_REQUEST)?);
    let policy = move |name: &ServiceName| if name.as_str() == PLAN { plan.clone() } else { each_request.clone() };
    let services = services(endpoints_at(instances), None, policy);
    let dataplane =
        Dataplane::new(services.clone(), Routes::default(), dataplane::Options::default(), Metrics::default());
    Ok((services, dataplane))
}

/// Waits until both services are balanced as their names say.
pub(crate) async fn settled(services: &Services) -> anyhow::Result<()> {
    for (name, kind) in [(PLAN, "rotation"), (EACH_REQUEST, "each-request")] {
        let handle = started(services, name).await?;
        let plan = handle.state().plan_kind();
        anyhow::ensure!(plan == kind, "{name} made a {plan} plan instead of {kind}");
    }
    Ok(())
}

/// Proxies to these instances.
pub(crate) fn node(instances: &[SocketAddr]) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (services, dataplane) = dataplane(instances)?;
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
    let runtime = runtime()?;
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
