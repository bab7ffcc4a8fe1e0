//! Streams of calls over some channels: each calls again as soon as it is answered, or as a clock
//! says.

use std::error::Error;

use anyhow::Context as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, sleep_until},
};
use tonic::{
    Status,
    body::Body,
    client::GrpcService,
    transport::{Channel, Endpoint},
};

use super::{
    echo::{Client, Kind, PAYLOAD},
    harness::quantile,
};

/// What is called, how often, and for how long.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    /// How many calls run at once.
    pub(crate) streams: u16,
    pub(crate) kind: Kind,
    /// Bytes of a message's payload.
    pub(crate) payload: usize,
    pub(crate) until: Until,
    /// Calls begin this often a second, all streams together; else as soon as the one before is
    /// answered.
    pub(crate) pace: Option<f64>,
}

/// When to stop calling.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Until {
    Over(Duration),
    /// Each stream has called so often.
    Calls(u64),
}

impl Load {
    /// Small unary calls, one after the other.
    pub(crate) fn unary(until: Until) -> Self {
        Self { streams: 1, kind: Kind::Unary, payload: PAYLOAD, until, pace: None }
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

pub(crate) fn endpoint(address: impl std::fmt::Display) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

pub(crate) async fn connect(addresses: impl Iterator<Item = impl std::fmt::Display>) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for address in addresses {
        let channel = endpoint(&address)?.connect().await;
        channels.push(channel.with_context(|| format!("cannot connect to {address}"))?);
    }
    Ok(channels)
}

/// Calls over these channels, shared out among the streams.
pub(crate) async fn run<T>(channels: &[T], service: &'static str, load: &Load) -> anyhow::Result<Tally>
where
    T: GrpcService<Body> + Clone + Send + 'static,
    T::Future: Send,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in 0..load.streams {
        let client = Client::new(channels[usize::from(stream) % channels.len()].clone(), service);
        tasks.spawn(calls(client, *load, stream, began));
    }
    let mut latencies: Vec<f64> = Vec::new();
    while let Some(stream) = tasks.join_next().await {
        latencies.extend(stream?.with_context(|| format!("a call failed, service {service}"))?);
    }
    let seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(!latencies.is_empty(), "no call was made");
    latencies.sort_unstable_by(f64::total_cmp);
    let [p50_us, p99_us] = [0.5, 0.99].map(|q| quantile(&latencies, q));
    Ok(Tally { calls: latencies.len() as u64, seconds, p50_us, p99_us })
}

/// One stream's calls: how long each took, in microseconds.
async fn calls<T>(mut client: Client<T>, load: Load, stream: u16, began: Instant) -> Result<Vec<f64>, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut latencies = Vec::new();
    loop {
        let call = latencies.len() as u64;
        let sent = match load.pace {
            None => Instant::now(),
            Some(pace) => {
                // The streams' calls lie between each other's.
                let nth = call as f64 * f64::from(load.streams) + f64::from(stream);
                let due = began + Duration::from_secs_f64(nth / pace);
                // A call that is late because the one before was slow has waited since it was due.
                // What the timer is late by (up to a millisecond) is not the answer's fault.
                if Instant::now() < due {
                    sleep_until(due).await;
                    Instant::now()
                } else {
                    due
                }
            }
        };
        let over = match load.until {
            // One call at least, however late a busy machine is; paced, the first one is due at
            // once.
            Until::Over(time) => sent - began >= time && (call > 0 || load.pace.is_some()),
            Until::Calls(calls) => call >= calls,
        };
        if over {
            return Ok(latencies);
        }
        client.call(load.kind, load.payload, stream.into(), call).await?;
        latencies.push(sent.elapsed().as_nanos() as f64 / 1e3);
    }
}
