//! The service that is called: it answers what it was sent.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    iter,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{
    Stream, StreamExt as _,
    stream::{self, Iter},
};
use http::{HeaderMap, HeaderValue, uri::PathAndQuery};
use serde::{Deserialize, Serialize};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::GrpcService,
    metadata::MetadataMap,
    server::{self, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;
use waymark_node::dataplane::WAYMARK_SERVICE;

/// The length of a message's payload.
pub(crate) const PAYLOAD: usize = 64;

const ECHO: &str = "/bench.Echo/Echo";
const REPEAT: &str = "/bench.Echo/Repeat";
const ONE_BY_ONE: &str = "/bench.Echo/OneByOne";

/// How many messages answer a call that is answered by a stream.
pub(crate) const REPEATED: usize = 100;

/// What kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Unary,
    /// One message is answered by [`REPEATED`] of the same, all of them ready at once: tonic puts
    /// them into one frame.
    Streaming,
    /// The same, each message ready after the one before has been taken: a frame each.
    OneByOne,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

impl Message {
    /// One that no other call sends.
    fn unique(len: usize, stream: u64, call: u64) -> Self {
        let mut payload = BytesMut::with_capacity(len);
        payload.put_u64(stream);
        payload.put_u64(call);
        payload.put_bytes(b'.', len.saturating_sub(payload.len()));
        Self { payload: payload.freeze() }
    }

    fn check(&self, answer: &Self) -> Result<(), Status> {
        if answer == self {
            Ok(())
        } else {
            Err(Status::data_loss(format!("sent {:?}, was answered {:?}", self.payload, answer.payload)))
        }
    }
}

/// The service as tonic serves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo;

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                REPEAT => grpc.server_streaming(Method, request).await,
                ONE_BY_ONE => grpc.server_streaming(OneByOne, request).await,
                _ => grpc.unary(Method, request).await,
            })
        })
    }
}

struct Method;

impl UnaryService<Message> for Method {
    type Response = Message;
    type Future = Ready<Result<Response<Message>, Status>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl ServerStreamingService<Message> for Method {
    type Response = Message;
    type ResponseStream = Iter<iter::Map<iter::RepeatN<Message>, fn(Message) -> Result<Message, Status>>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let repeated = iter::repeat_n(request.into_inner(), REPEATED).map(Ok as fn(_) -> _);
        ready(Ok(Response::new(stream::iter(repeated))))
    }
}

struct OneByOne;

impl ServerStreamingService<Message> for OneByOne {
    type Response = Message;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let repeated = stream::iter(iter::repeat_n(request.into_inner(), REPEATED)).then(|message| async {
            // Once not ready, so that what there is goes out.
            tokio::task::yield_now().await;
            Ok(message)
        });
        ready(Ok(Response::new(Box::pin(repeated))))
    }
}

/// A client of it.
pub(crate) struct Client<T> {
    grpc: tonic::client::Grpc<T>,
    metadata: MetadataMap,
}

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Calls over `channel`. Every request names `service`, whether a node is there to heed it or
    /// not: all contestants send the same.
    pub(crate) fn new(channel: T, service: &str) -> Self {
        let name = HeaderValue::from_str(service).expect("a benchmark's service has a plain name");
        let headers = HeaderMap::from_iter([(WAYMARK_SERVICE, name)]);
        Self { grpc: tonic::client::Grpc::new(channel), metadata: MetadataMap::from_headers(headers) }
    }

    /// One call, and whether its answer is what was sent.
    pub(crate) async fn call(&mut self, kind: Kind, len: usize, stream: u64, call: u64) -> Result<(), Status> {
        let sent = Message::unique(len, stream, call);
        let mut request = Request::new(sent.clone());
        self.metadata.clone_into(request.metadata_mut());
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unavailable(format!("the channel is not ready: {}", error.into())))?;
        let codec = ProstCodec::<Message, Message>::default();
        match kind {
            Kind::Unary => {
                let path = PathAndQuery::from_static(ECHO);
                sent.check(&self.grpc.unary(request, path, codec).await?.into_inner())
            }
            Kind::Streaming | Kind::OneByOne => {
                let path = PathAndQuery::from_static(if kind == Kind::Streaming { REPEAT } else { ONE_BY_ONE });
                let mut answers = self.grpc.server_streaming(request, path, codec).await?.into_inner();
                let mut count = 0;
                while let Some(answer) = answers.message().await? {
                    sent.check(&answer)?;
                    count += 1;
                }
                if count == REPEATED {
                    Ok(())
                } else {
                    Err(Status::data_loss(format!("{count} messages of {REPEATED} came")))
                }
            }
        }
    }
}
