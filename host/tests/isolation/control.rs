//! The port of the node's own API: connections that do nothing, and requests that get nowhere.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use waymark_node::admin::NodeClient;

use super::{
    Scale,
    arena::{Arena, BYSTANDER, Bounds, Verdict},
    support::{Caller, soon},
    table::Row,
};

/// Over the descriptors that the node has.
const IDLE: usize = 300;

/// How many new callers come meanwhile, each with a connection of its own that stays: a node that
/// shares its descriptors has none for them.
const NEWCOMERS: usize = 80;

/// Crowds at the admin port of a node that has few descriptors, while new callers connect to the
/// other one.
pub(crate) async fn idle_control_connections(scale: Scale) -> Result<Row, String> {
    let arena = Arena::with_descriptors(256).await;
    arena
        .attacked(scale, Bounds::mib(24), async |arena| {
            let began = Instant::now();
            let mut idle = Vec::new();
            for nth in 0..IDLE {
                let mut connection = TcpStream::connect(arena.node.admin).await.unwrap();
                let said: &[u8] = if nth % 2 == 0 { b"" } else { b"GET / HTTP/1.1\r\nhost: lo" };
                let _ = connection.write_all(said).await;
                idle.push(connection);
            }
            let mut newcomers = Vec::new();
            for _ in 0..NEWCOMERS {
                let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", arena.node.node)).unwrap();
                let mut caller = Caller::new(channel.connect_lazy(), Some(BYSTANDER));
                soon(caller.unary("x")).await.map_err(|status| format!("a new caller was lost: {status:?}"))?;
                newcomers.push(caller);
            }
            // And whoever has something to say there gets through.
            let client = NodeClient::connect(&arena.node.admin.to_string()).await.map_err(|error| error.to_string())?;
            client.services(false).await.map_err(|error| error.to_string())?;
            let verdict = Verdict::after("seats given on", began);
            sleep(scale.length.saturating_sub(began.elapsed())).await;
            drop(idle);
            Ok(verdict)
        })
        .await
}

/// A web page's request, over and over, on connections that are made anew when they end.
async fn flood(admin: SocketAddr, until: Instant) -> usize {
    const BODY: &str = "POST /waymark.v1.Node/SetPolicy HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://evil.example\r\n\
        content-type: text/plain\r\ncontent-length: 0\r\n\r\n";
    let batch = BODY.repeat(20);
    let (mut sent, mut answer) = (0, vec![0; 64 << 10]);
    while Instant::now() < until {
        let Ok(mut connection) = TcpStream::connect(admin).await else { continue };
        while Instant::now() < until && connection.write_all(batch.as_bytes()).await.is_ok() {
            sent += 20;
            match timeout(Duration::from_secs(1), connection.read(&mut answer)).await {
                Ok(Ok(len)) if len > 0 => {}
                _ => break,
            }
        }
    }
    sent
}

/// Four clients that ask for what they do not get, as fast as they can.
pub(crate) async fn refused_control_requests(scale: Scale) -> Result<Row, String> {
    let arena = Arena::with(&[]).await;
    arena
        .attacked(scale, Bounds::mib(24), async |arena| {
            let mut floods = JoinSet::new();
            for _ in 0..4 {
                floods.spawn(flood(arena.node.admin, Instant::now() + scale.length));
            }
            let sent: usize = floods.join_all().await.into_iter().sum();
            let client = NodeClient::connect(&arena.node.admin.to_string()).await.map_err(|error| error.to_string())?;
            client.services(false).await.map_err(|error| error.to_string())?;
            let running = client.policy(&BYSTANDER.parse().unwrap()).await.map_err(|error| error.to_string())?;
            if running.history.len() != 1 {
                return Err(format!("a refused request changed the policy: {:?}", running.history));
            }
            Ok(Verdict::word(format!("{sent} refused")))
        })
        .await
}
