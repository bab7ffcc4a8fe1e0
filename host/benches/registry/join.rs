//! From an instance's registration to the first call that it serves, beside the raw watch of the
//! same put.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use etcd_client::{Client as EtcdClient, WatchOptions};
use http::{Request, Response};
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    body::Body,
    transport::{Channel, Server as TonicServer, server::TcpIncoming},
};
use tower_service::Service;

use super::{
    Args,
    echo::{Client, Echo, Kind, PAYLOAD},
    harness::{
        Samples,
        child::Child,
        quantile,
        report::{Table, Unit},
    },
    processes::runtime,
    server::Server,
};

const SERVICE: &str = "join";

/// The balancer takes the first change at once and further ones at most every 50 ms: this is
/// longer.
const PAUSE: Duration = Duration::from_millis(70);

/// An instance that counts its calls.
#[derive(Clone)]
struct Counting(Arc<AtomicU64>);

impl Service<Request<Body>> for Counting {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <Echo as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.fetch_add(1, Relaxed);
        Echo.call(request)
    }
}

async fn instance() -> anyhow::Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?.to_string();
    let calls = Arc::<AtomicU64>::default();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(TonicServer::builder().serve_with_incoming(Counting(Arc::clone(&calls)), incoming));
    Ok((address, calls))
}

fn entry(address: &str) -> (String, String) {
    (format!("{SERVICE}/{address}"), format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Table> {
    let runtime = runtime()?;
    let server = Server::start(args, &runtime)?;
    let (_node, ready) = Child::start(&["node", &server.url])?;
    let (address, _) = ready.split_once(' ').context("a node says where it is")?;
    let times = if args.options.quick { 3 } else { 300 };
    let mut raw = Vec::new();
    let mut called = Vec::new();
    runtime.block_on(async {
        let mut etcd = EtcdClient::connect([&server.url], None).await?;
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        let mut client = Client::new(channel, SERVICE);
        let (first, _) = instance().await?;
        let (key, value) = entry(&first);
        etcd.put(key, value, None).await?;
        let (joining, calls) = instance().await?;
        let (key, value) = entry(&joining);
        let mut watcher = EtcdClient::connect([&server.url], None).await?;
        let mut watch = watcher.watch(format!("{SERVICE}/"), Some(WatchOptions::new().with_prefix())).await?;
        client.call(Kind::Unary, PAYLOAD, 0, 0).await?;
        for n in 0..times {
            tokio::time::sleep(PAUSE).await;
            let before = calls.load(Relaxed);
            let put_at = Instant::now();
            let seen = async {
                loop {
                    let message = watch.message().await?.context("the watch goes on")?;
                    if message.events().iter().any(|event| event.event_type() == etcd_client::EventType::Put) {
                        return anyhow::Ok(put_at.elapsed());
                    }
                }
            };
            let served = async {
                let mut call = 0;
                while calls.load(Relaxed) == before {
                    client.call(Kind::Unary, PAYLOAD, n, call).await?;
                    call += 1;
                }
                anyhow::Ok(put_at.elapsed())
            };
            let put = async { Ok(etcd.put(key.clone(), value.clone(), None).await.map(drop)?) };
            let all = async { tokio::try_join!(put, seen, served) };
            let ((), seen, served) = timeout(Duration::from_secs(10), all).await.context("nobody called it")??;
            raw.push(seen.as_secs_f64() * 1e3);
            called.push(served.as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
            etcd.delete(key.clone(), None).await?;
        }
        anyhow::Ok(())
    })?;
    let mut table = Table::new(
        format!("From a put to the first call on the new endpoint, {times} times, one caller that calls all the time"),
        [("p50", Unit::Milliseconds), ("p99", Unit::Milliseconds), ("p50, to raw", Unit::Ratio)],
    );
    let quantiles = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        [0.5, 0.99].map(|q| quantile(times, q))
    };
    let (raw, called) = (quantiles(&mut raw), quantiles(&mut called));
    for (name, [p50, p99]) in
        [("raw: an etcd watch has the event", raw), ("called: the endpoint has served a call", called)]
    {
        table.row(name, [p50, p99, p50 / raw[0]].map(Samples::one).into());
    }
    Ok(table)
}
