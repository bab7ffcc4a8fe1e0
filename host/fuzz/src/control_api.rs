//! The node's own API: any bytes as the message of each of its calls.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::{sync::OnceCell, time::timeout};
use tonic::{
    Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::node::world;

/// The first byte of an input says which.
const CALLS: [&str; 7] = [
    "/waymark.v1.Node/ListServices",
    "/waymark.v1.Node/GetService",
    "/waymark.v1.Node/WatchService",
    "/waymark.v1.Node/GetPolicy",
    "/waymark.v1.Node/SetPolicy",
    "/waymark.v1.Node/RollbackPolicy",
    "/grpc.health.v1.Health/Check",
];

/// A service that is not known takes five seconds to be found out about.
const PATIENCE: Duration = Duration::from_secs(60);

/// One call; of a stream, its first message.
pub(crate) fn control_api(input: &[u8]) -> String {
    static CHANNEL: OnceCell<Channel> = OnceCell::const_new();
    let Some((first, message)) = input.split_first() else { return String::new() };
    let call = CALLS[usize::from(*first) % CALLS.len()];
    let world = world();
    let answer = world.runtime.block_on(async {
        let connect = || async {
            let node = format!("http://{}", world.node.admin_addr());
            tonic::transport::Endpoint::from_shared(node).expect("an address").connect().await.expect("it listens")
        };
        let mut grpc = Grpc::new(CHANNEL.get_or_init(connect).await.clone());
        let asked = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = tonic::Request::new(message.to_vec());
            let mut stream = grpc.server_streaming(request, PathAndQuery::from_static(call), Bytes).await?.into_inner();
            stream.message().await
        };
        timeout(PATIENCE, asked).await.expect("every call is answered")
    });
    match answer {
        Ok(message) => format!("{call} ok {}", message.is_some()),
        Err(status) => {
            // A call that makes the server panic ends its connection.
            assert!(status.code() != tonic::Code::Unavailable || !status.message().is_empty(), "{status:?}");
            format!("{call} {:?} {}", status.code(), status.message())
        }
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut message);
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
