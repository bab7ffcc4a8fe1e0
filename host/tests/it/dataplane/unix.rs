//! Unix sockets: clients that come by one, and endpoints behind one.

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};
use waymark_node::{
    dataplane::{self, Listener},
    model::Endpoint,
};

use super::support::{Answer, Client, Instance, Node, echo, message, soon, text};

#[tokio::test]
async fn calls_come_in_by_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let (node, a) = (Node::new().await, Instance::echo("a").await);
    node.serve("svc", &[&a]).await;
    let listener = Listener::unix(&path, Some(0o600)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(dataplane::serve(listener, node.dataplane.clone(), async { stopped.await.unwrap() }));
    let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(Client { sender }.echo("svc", "x").await.code(), "0");
    // What is no HTTP/2 is told, as on a port.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 13];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 505 ");
    drop(stream);
    stop.send(()).unwrap();
    soon(served).await.unwrap();
    assert!(!path.exists(), "the socket goes with the node");
}

#[tokio::test]
async fn an_endpoint_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("instance.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async {
                let authority = request.uri().authority().unwrap().to_string();
                let mut reply = echo("a", request).await;
                reply.headers_mut().insert("x-authority", authority.parse().unwrap());
                Ok::<_, std::convert::Infallible>(reply)
            });
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
        }
    });
    let node = Node::new().await;
    let address = format!("unix:{}", path.display());
    let gone = format!("unix://{}", folder.path().join("gone.sock").display());
    let endpoints = [&gone, &address].map(|address| Endpoint::at(address.parse().unwrap()));
    node.set("svc", endpoints.to_vec()).await;
    let encoded = prost::Message::encode_to_vec(&text("x"));
    for _ in 0..4 {
        let body = tonic::body::Body::new(http_body_util::Full::new(message(&encoded)));
        let request = Client::request("svc", "/test.Echo/Unary").body(body).unwrap();
        let answer: Answer = node.client().await.answer(request).await;
        assert_eq!((answer.code(), answer.headers["x-authority"].to_str().unwrap()), ("0", "127.0.0.1"));
    }
    node.set("svc", vec![Endpoint::at(gone.parse().unwrap())]).await;
    let answer = node.client().await.echo("svc", "x").await;
    assert_eq!(answer.code(), "14");
    assert!(answer.message().contains(&gone) && answer.message().contains("o such file"), "{}", answer.message());
}
