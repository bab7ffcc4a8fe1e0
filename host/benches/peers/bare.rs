//! What a proxy costs that does nothing but take turns: hyper on both sides, and not a line more
//! than that needs.

use std::net::SocketAddr;

use hyper::{
    Request,
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::turns::Turns;

/// Connects to the instances, and proxies to them until the runtime ends.
pub(crate) async fn start(listener: TcpListener, instances: &[SocketAddr]) -> anyhow::Result<()> {
    let mut senders = Vec::new();
    for instance in instances {
        let socket = TcpStream::connect(instance).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    let upstreams = Turns::new(senders);
    tokio::spawn(async move {
        // An error here would be the benchmark's: its clients then fail, and say so.
        while let Ok((socket, _)) = listener.accept().await {
            if socket.set_nodelay(true).is_ok() {
                tokio::spawn(serve(socket, upstreams.clone()));
            }
        }
    });
    Ok(())
}

async fn serve(socket: TcpStream, upstreams: Turns<SendRequest<Incoming>>) {
    let service = service_fn(move |request: Request<Incoming>| upstreams.next().send_request(request));
    // How the connection ends is the client's business.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
}
