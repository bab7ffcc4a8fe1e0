//! The load generator: a fixed number of streams, each of which calls again as soon as it is answered.

use std::{error::Error, iter, net::SocketAddr, str::FromStr};

use anyhow::Context as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};
use tonic::{
    body::Body,
    client::GrpcService,
    transport::{Channel, Endpoint},
};
use waymark::{dataplane::Dataplane, model::ServiceName};

use super::{
    echo::Client,
    harness::quantile,
    roles::{EACH_REQUEST, PLAN, dataplane, settled},
};

/// One way for a call to reach an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    Direct,
    Proxy(&'static str),
    TonicBalancer,
    InProcess(&'static str),
}

impl Contestant {
    /// The first one is the baseline.
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Proxy(PLAN),
        Self::Proxy(EACH_REQUEST),
        Self::TonicBalancer,
        Self::InProcess(PLAN),
        Self::InProcess(EACH_REQUEST),
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Direct => "direct".into(),
            Self::Proxy(policy) => format!("proxy/{policy}"),
            Self::TonicBalancer => "tonic-balancer".into(),
            Self::InProcess(policy) => format!("in-process/{policy}"),
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct: tonic channels, one an instance",
            Self::Proxy(PLAN) => "proxied by the node, plan (round_robin.wasm)",
            Self::Proxy(_) => "proxied by the node, Wasm each request (least_request.wasm)",
            Self::TonicBalancer => "in process: tonic's own balancer",
            Self::InProcess(PLAN) => "in process: waymark::Channel, plan (round_robin.wasm)",
            Self::InProcess(_) => "in process: waymark::Channel, Wasm each request (least_request.wasm)",
        }
    }

    /// Whether the node is on its way.
    pub(crate) fn is_proxied(self) -> bool {
        matches!(self, Self::Proxy(_))
    }

    /// Whether Waymark runs in the client.
    pub(crate) fn is_in_process(self) -> bool {
        matches!(self, Self::InProcess(_))
    }
}

impl FromStr for Contestant {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|contestant| contestant.name() == name);
        found.with_context(|| format!("there is no contestant {name:?}"))
    }
}

/// What one run came to. A call that fails ends the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Everything that calls can go over, made at first use.
pub(crate) struct Load {
    node: SocketAddr,
    streams: u16,
    instances: Vec<SocketAddr>,
    direct: Option<Vec<Channel>>,
    proxied: Option<Vec<Channel>>,
    balanced: Option<Channel>,
    in_process: Option<Dataplane>,
}

impl Load {
    pub(crate) fn new(node: SocketAddr, streams: u16, instances: Vec<SocketAddr>) -> Self {
        Self { node, streams, instances, direct: None, proxied: None, balanced: None, in_process: None }
    }

    /// Calls for so many milliseconds.
    pub(crate) async fn run(&mut self, contestant: Contestant, millis: u64) -> anyhow::Result<Tally> {
        let (streams, time) = (self.streams, Duration::from_millis(millis));
        match contestant {
            Contestant::Direct => {
                let channels = match &mut self.direct {
                    Some(channels) => channels,
                    none => none.insert(connect(self.instances.iter()).await?),
                };
                run(channels, PLAN, streams, time).await
            }
            Contestant::Proxy(service) => {
                let channels = match &mut self.proxied {
                    Some(channels) => channels,
                    none => none.insert(connect(iter::repeat_n(&self.node, self.instances.len())).await?),
                };
                run(channels, service, streams, time).await
            }
            Contestant::TonicBalancer => {
                let channel = match &mut self.balanced {
                    Some(channel) => channel,
                    none => {
                        let endpoints = self.instances.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
                        none.insert(Channel::balance_list(endpoints.into_iter()))
                    }
                };
                run(std::slice::from_ref(channel), PLAN, streams, time).await
            }
            Contestant::InProcess(service) => {
                let dataplane = match &mut self.in_process {
                    Some(dataplane) => dataplane,
                    none => {
                        let (services, dataplane) = dataplane(&self.instances)?;
                        settled(&services).await?;
                        none.insert(dataplane)
                    }
                };
                run(&[dataplane.channel(ServiceName::new(service)?)], service, streams, time).await
            }
        }
    }
}

fn endpoint(address: &SocketAddr) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

async fn connect(addresses: impl Iterator<Item = &SocketAddr>) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for address in addresses {
        let channel = endpoint(address)?.connect().await;
        channels.push(channel.with_context(|| format!("cannot connect to {address}"))?);
    }
    Ok(channels)
}

/// Calls over these channels, shared out among the streams.
async fn run<T>(channels: &[T], service: &'static str, streams: u16, time: Duration) -> anyhow::Result<Tally>
where
    T: GrpcService<Body> + Clone + Send + 'static,
    T::Future: Send,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in 0..streams {
        let channel = channels[usize::from(stream) % channels.len()].clone();
        tasks.spawn(async move {
            let (mut client, mut latencies) = (Client::new(channel, service), Vec::new());
            loop {
                let sent = Instant::now();
                if sent - began >= time {
                    return Ok(latencies);
                }
                client.call(stream.into(), latencies.len() as u64).await?;
                latencies.push(sent.elapsed().as_nanos() as f64 / 1e3);
            }
        });
    }
    let mut latencies: Vec<f64> = Vec::new();
    while let Some(stream) = tasks.join_next().await {
        let stream: Result<_, tonic::Status> = stream?;
        latencies.extend(stream.with_context(|| format!("a call failed, service {service}"))?);
    }
    let seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(!latencies.is_empty(), "no call was made");
    latencies.sort_unstable_by(f64::total_cmp);
    let [p50_us, p99_us] = [0.5, 0.99].map(|q| quantile(&latencies, q));
    Ok(Tally { calls: latencies.len() as u64, seconds, p50_us, p99_us })
}
