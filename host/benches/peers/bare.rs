//! What a proxy costs that does nothing but take turns: hyper on both sides, and not a line more
//! than that needs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use hyper::{
    Request,
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// A connection to each instance, and whose turn it is.
struct Upstreams {
    senders: Vec<SendRequest<Incoming>>,
    next: AtomicUsize,
}

impl Upstreams {
    fn take_turns(&self) -> SendRequest<Incoming> {
        self.senders[self.next.fetch_add(1, Relaxed) % self.senders.len()].clone()
    }
}

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
    let upstreams = Arc::new(Upstreams { senders, next: AtomicUsize::new(0) });
    tokio::spawn(async move {
        // An error here would be the benchmark's: its clients then fail, and say so.
        while let Ok((socket, _)) = listener.accept().await {
            if socket.set_nodelay(true).is_ok() {
                tokio::spawn(serve(socket, Arc::clone(&upstreams)));
            }
        }
    });
    Ok(())
}

async fn serve(socket: TcpStream, upstreams: Arc<Upstreams>) {
    let service = service_fn(move |request: Request<Incoming>| upstreams.take_turns().send_request(request));
    // How the connection ends is the client's business.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
}
