//! Calls of services for which `etcd-client` has no server's stubs: a handler for each method, by
//! the method's name.

use std::future::Future;

use futures::Stream;
use http::Request;
use prost::Message;
use tonic::{Response, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

/// Biggest message that is read at all; what etcd refuses below that is refused with etcd's words.
pub(super) const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;

fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(MAX_DECODED_BYTES), None)
}

/// Answers a call of one request by one answer.
pub(super) async fn unary<Q, A, F>(request: Request<Body>, mut handler: impl FnMut(Q) -> F) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Status>>,
{
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let answer = handler(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    grpc::<Q, A>().unary(service, request).await
}

/// Answers a call of one request by a stream.
pub(super) async fn streaming<Q, A, S>(request: Request<Body>, mut handler: impl FnMut(Q) -> S) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let answers = handler(request.into_inner());
        async move { Ok(Response::new(answers)) }
    });
    grpc::<Q, A>().server_streaming(service, request).await
}

/// An answer to a method that the service does not have, in etcd's words.
pub(super) fn unknown_method(method: &str, service: &str) -> http::Response<Body> {
    Status::unimplemented(format!("unknown method {method} for service {service}")).into_http()
}
