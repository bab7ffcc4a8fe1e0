//! What a client may send: any bytes on a connection of its own, most of them HTTP/2.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use greeter::hello::{HelloRequest, greeter1_client::Greeter1Client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::node::{SERVICE, world};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may go on whose client has nothing more to say. A node ends what it waits
/// for after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes come after HTTP/2's preface and empty settings if the first one is even, else all by
/// themselves. Once in a while an honest call has to be answered.
pub(crate) fn frames(input: &[u8]) -> String {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let Some((first, bytes)) = input.split_first() else { return String::new() };
    let world = world();
    let answer = world.runtime.block_on(async {
        let mut connection = TcpStream::connect(world.node.proxy_addr()).await.expect("the node listens");
        let (mut read, mut write) = connection.split();
        let sending = async {
            if first % 2 == 0 {
                write.write_all(PREFACE).await?;
                write.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
            }
            write.write_all(bytes).await?;
            write.shutdown().await
        };
        let mut answer = Vec::new();
        // A node that has had enough closes; what was being sent then fails.
        let both = async { tokio::join!(sending, read.read_to_end(&mut answer)) };
        let _ = timeout(PATIENCE, both).await.expect("a connection ends whose client has nothing more to say");
        answer
    });
    if RUN.fetch_add(1, Relaxed).is_multiple_of(64) {
        world.runtime.block_on(honest_call());
    }
    kinds(&answer)
}

async fn honest_call() {
    let node = format!("http://{}", world().node.proxy_addr());
    let channel = tonic::transport::Endpoint::from_shared(node).expect("an address").connect().await;
    let mut request = tonic::Request::new(HelloRequest { name: "honest".into() });
    request.metadata_mut().insert("waymark-service", SERVICE.parse().expect("a plain name"));
    let mut client = Greeter1Client::new(channel.expect("the node takes connections"));
    let answer = timeout(PATIENCE, client.say_hello1(request)).await.expect("an honest call is answered");
    answer.expect("an honest call is answered well");
}

/// The kinds of the frames of an answer, with the codes of those that end something.
fn kinds(mut answer: &[u8]) -> String {
    let mut text = String::new();
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = answer {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = &rest[..len.min(rest.len())];
        // Writing into a String does not fail.
        let _ = match (kind, payload) {
            (3, [.., code]) | (7, [_, _, _, _, _, _, _, code, ..]) => write!(text, "{kind}:{code} "),
            _ => write!(text, "{kind}/{flags} "),
        };
        answer = &rest[payload.len()..];
        if text.len() > 100 {
            break;
        }
    }
    text
}
