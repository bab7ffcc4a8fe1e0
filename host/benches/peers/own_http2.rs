//! What our own HTTP/2 costs before anything is routed and balanced: `waymark-http2` on both sides,
//! on one thread.
//!
//! It is that crate's example, with the windows that the bare hyper proxy and `h2` alone have here,
//! so that the difference to them is the crate's.

#[path = "../../http2/examples/relay.rs"]
mod relay;

use std::net::SocketAddr;

use tokio::{net::TcpListener, task::spawn_local};
use waymark_http2::Limits;

use self::relay::{Listening, Relay};

/// Connects to the instances, and proxies to them until the runtime ends, which runs local tasks.
pub(crate) async fn start(listener: TcpListener, instances: &[SocketAddr]) -> anyhow::Result<()> {
    // What hyper's server and hyper's client ask for.
    let from_clients = Limits { stream_window: 1 << 20, connection_window: 1 << 20, streams: 200, ..Limits::default() };
    let to_servers = Limits { stream_window: 2 << 20, connection_window: 5 << 20, ..Limits::default() };
    let listening = Listening::new(Relay::new(from_clients, to_servers), listener, instances).await?;
    // An error here would be the benchmark's: its clients then fail, and say so.
    spawn_local(listening.run());
    Ok(())
}
