//! A bare client of etcd's protocol: what a server says reaches the probe untouched by any client
//! library.

use std::time::Duration;

use futures::Stream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Answers of the probe stay far below; a server that sends more is wrong in a way worth seeing.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) channel: Channel,
}

impl Wire {
    /// Connects to `http://host:port`.
    pub(crate) async fn connect(url: &str) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| format!("{url} is no URL: {error}"))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5));
        let channel = endpoint.connect().await.map_err(|error| format!("cannot connect to {url}: {error:?}"))?;
        Ok(Self { channel })
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("the connection is lost: {error}")))?;
        Ok(grpc)
    }

    pub(crate) async fn unary<Q, A>(&self, path: &str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(path).unwrap();
        let answer = self.ready().await?.unary(Request::new(request), path, ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }

    /// Opens a stream in both directions.
    pub(crate) async fn duplex<Q, A>(
        &self,
        path: &str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(path).unwrap();
        let answers = self.ready().await?.streaming(Request::new(requests), path, ProstCodec::default()).await?;
        Ok(answers.into_inner())
    }
}
