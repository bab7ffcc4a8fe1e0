//! The load generator: what calls can go over.

use std::{iter, net::SocketAddr, str::FromStr, time::Duration};

use anyhow::Context as _;
use tonic::transport::Channel;
use waymark_node::{dataplane::Dataplane, model::ServiceName, plugin::EngineConfig};

use super::{
    parts::{EACH_REQUEST, PLAN, dataplane, settled},
    streams::{Load as Shape, Tally, Until, connect, endpoint, run},
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
            Self::InProcess(PLAN) => "in process: waymark_node::Channel, plan (round_robin.wasm)",
            Self::InProcess(_) => "in process: waymark_node::Channel, Wasm each request (least_request.wasm)",
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
        let load = Shape { streams: self.streams, ..Shape::unary(Until::Over(Duration::from_millis(millis))) };
        match contestant {
            Contestant::Direct => {
                let channels = match &mut self.direct {
                    Some(channels) => channels,
                    none => none.insert(connect(self.instances.iter()).await?),
                };
                run(channels, PLAN, &load).await
            }
            Contestant::Proxy(service) => {
                let channels = match &mut self.proxied {
                    Some(channels) => channels,
                    none => none.insert(connect(iter::repeat_n(&self.node, self.instances.len())).await?),
                };
                run(channels, service, &load).await
            }
            Contestant::TonicBalancer => {
                let channel = match &mut self.balanced {
                    Some(channel) => channel,
                    none => {
                        let endpoints = self.instances.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
                        none.insert(Channel::balance_list(endpoints.into_iter()))
                    }
                };
                run(std::slice::from_ref(channel), PLAN, &load).await
            }
            Contestant::InProcess(service) => {
                let dataplane = match &mut self.in_process {
                    Some(dataplane) => dataplane,
                    none => {
                        let (services, dataplane) = dataplane(&self.instances, EngineConfig::default())?;
                        settled(&services).await?;
                        none.insert(dataplane)
                    }
                };
                run(&[dataplane.channel(ServiceName::new(service)?)], service, &load).await
            }
        }
    }
}
