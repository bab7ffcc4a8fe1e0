//! A floor under what HTTP/2 costs in Rust today: the crate `h2` on both sides without hyper's
//! services, bodies and timers, on one thread.
//!
//! It does what the bare hyper proxy does, with the same windows, so that the difference is
//! hyper's. It is not a proxy to run: a call that one side gives up is not told to the other.

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use futures::future::try_join;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, SendRequest},
    server::{self, SendResponse},
};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::turns::Turns;

/// Connects to the instances, and proxies to them until the runtime ends.
pub(crate) async fn start(listener: TcpListener, instances: &[SocketAddr]) -> anyhow::Result<()> {
    let mut senders = Vec::new();
    for instance in instances {
        let socket = TcpStream::connect(instance).await?;
        socket.set_nodelay(true)?;
        // The windows that hyper's client asks for.
        let mut builder = client::Builder::new();
        builder.initial_window_size(2 << 20).initial_connection_window_size(5 << 20);
        let (sender, connection) = builder.handshake(socket).await?;
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

/// Until the client or an error ends the connection; its calls then fail, and say so.
async fn serve(socket: TcpStream, upstreams: Turns<SendRequest<Bytes>>) {
    // The windows that hyper's server asks for.
    let mut builder = server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20).max_concurrent_streams(200);
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(call(request, respond, upstreams.next()));
    }
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let ended = body.is_end_stream();
    let (answer, sending) = upstream.ready().await?.send_request(Request::from_parts(head, ()), ended)?;
    let asking = async { if ended { Ok(()) } else { copy(body, sending).await } };
    let answering = async {
        let (head, body) = answer.await?.into_parts();
        let ended = body.is_end_stream();
        let sending = respond.send_response(Response::from_parts(head, ()), ended)?;
        if ended { Ok(()) } else { copy(body, sending).await }
    };
    try_join(asking, answering).await?;
    Ok(())
}

/// Hands a body through, and its trailers.
async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = from.data().await {
        let mut data = data?;
        let len = data.len();
        let last = from.is_end_stream();
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            while to.capacity() == 0 {
                poll_fn(|context| to.poll_capacity(context)).await.ok_or(Reason::CANCEL)??;
            }
            let piece = data.split_to(data.len().min(to.capacity()));
            to.send_data(piece, last && data.is_empty())?;
        }
        from.flow_control().release_capacity(len)?;
        if last && len > 0 {
            return Ok(());
        }
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}
