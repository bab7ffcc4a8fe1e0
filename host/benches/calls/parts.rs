//! What the processes of a benchmark of calls are made of: instances that echo, and a node's data
//! plane.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tonic::transport::{Server, server::TcpIncoming};
use waymark_node::{
    balancer::{Candidate, Services},
    dataplane::{self, Dataplane, Metrics, Routes},
    model::ServiceName,
    plugin::{Engine, EngineConfig, prepare_thread},
};

use super::{
    echo::Echo,
    harness::{
        child,
        services::{bundled, endpoints_at, services_config, started},
    },
};

/// Services are named after their policies.
pub(crate) const PLAN: &str = "round_robin";
/// As [`PLAN`], for the policy that is asked for each request.
pub(crate) const EACH_REQUEST: &str = "least_request";

/// A runtime with so many workers, or one for each core.
pub(crate) fn runtime(workers: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    Ok(builder.on_thread_start(prepare_thread).enable_all().build()?)
}

/// A port of this machine.
pub(crate) async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on loopback")
}

/// Echoes on `instances` ports.
pub(crate) fn backend(instances: u16) -> anyhow::Result<()> {
    let runtime = runtime(None)?;
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
pub(crate) fn dataplane(instances: &[SocketAddr], engine: EngineConfig) -> anyhow::Result<(Services, Dataplane)> {
    let engine = Engine::new(engine)?;
    let load = |name| anyhow::Ok(Candidate::new(bundled(&engine, name)?, "benchmark"));
    let (plan, each_request) = (load(PLAN)?, load(EACH_REQUEST)?);
    let policy = move |name: &ServiceName| if name.as_str() == PLAN { plan.clone() } else { each_request.clone() };
    let services = services_config(endpoints_at(instances), None, policy);
    let dataplane = Dataplane::new(services, Routes::default(), dataplane::Options::default(), Metrics::default());
    Ok((dataplane.services().clone(), dataplane))
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
