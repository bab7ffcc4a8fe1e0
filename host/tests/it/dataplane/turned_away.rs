//! Clients that are turned away, because there are too many or because they have the protocol mixed
//! up.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use waymark_node::dataplane::{InboundOptions, Options, Routes};

use super::support::{Caller, Client, Instance, Node, soon, until};

const TOO_MANY: &str = "dataplane_client_connections_refused_total{reason=\"too-many\"}";

/// A node that takes so many connections.
async fn takes(max_connections: usize) -> (Node, Instance) {
    let inbound = InboundOptions { max_connections: Some(max_connections), ..InboundOptions::default() };
    let (node, a) =
        (Node::with(Routes::default(), Options { inbound, ..Options::default() }).await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    (node, a)
}

/// What is read until the connection is closed.
async fn rest(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    soon(stream.read_to_end(&mut text)).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn a_connection_that_is_one_too_many_is_told_so_and_the_others_go_on() {
    let (node, a) = takes(2).await;
    let (mut first, mut second) = (node.client().await, node.client().await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    // A client of HTTP/2 gets its reason, and may send its call elsewhere: no stream was looked at.
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (_sender, connection) = h2::client::handshake(stream).await.unwrap();
    let error = soon(connection).await.unwrap_err();
    assert_eq!((error.reason(), error.is_remote()), (Some(h2::Reason::ENHANCE_YOUR_CALM), true), "{error:?}");
    let status = Caller::new(node.dial().await, Some("svc")).unary("x").await.unwrap_err();
    assert!(format!("{status:?}").contains("as many client connections as it takes"), "{status:?}");
    // So does one of HTTP/1.
    let mut web = TcpStream::connect(node.address).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = rest(&mut web).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("waymark-error: too-many-connections"), "{answer}");
    assert!(node.metric(TOO_MANY).unwrap() >= 3);
    for client in [&mut first, &mut second] {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    assert_eq!(a.n_calls(), 4);
    // A place is free again as soon as a connection has ended.
    drop(first);
    until(|| node.metric("dataplane_client_connections") == Some(1)).await;
    assert_eq!(node.client().await.echo("svc", "x").await.code(), "0");
}

#[tokio::test]
async fn those_who_are_too_many_and_say_nothing_are_bounded_too() {
    let (node, _a) = takes(1).await;
    let mut served = node.client().await;
    assert_eq!(served.echo("svc", "x").await.code(), "0");
    // As many as are told why at once. They keep the node waiting for what they speak.
    let mut silent = Vec::new();
    for _ in 0..128 {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    until(|| node.metric(TOO_MANY) == Some(128)).await;
    let mut next = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(rest(&mut next).await.unwrap(), "", "closed at once");
    assert_eq!(served.echo("svc", "x").await.code(), "0");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_strangers_mix_up_is_told_at_most_once_a_second() {
    let process = super::process::Process::start().await;
    let began = std::time::Instant::now();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(process.node).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
        // Closed, with bytes that nobody read.
        let _ = rest(&mut stream).await;
    }
    // However slow that was, there are no more turns than seconds begun.
    let turns = began.elapsed().as_secs() + 1;
    process.logged("a client speaks TLS to a cleartext port").await;
    let told = process.log().matches("a client speaks TLS to a cleartext port").count() as u64;
    assert!(told <= turns && told < 50, "{told} lines in {turns} s");
    // And it serves as ever.
    assert_eq!(Client::to(process.node).await.echo("none", "x").await.kind(), "no-endpoints");
}
