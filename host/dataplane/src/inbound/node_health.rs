//! gRPC's health service on the port where calls come in: it is the node's own where a call names
//! no service, because those who ask it there (a kubelet, a load balancer in front) know of none.
//!
//! | asked for | SERVING when |
//! |---|---|
//! | `""` | the node is not shutting down |
//! | a service this node watches, or a gRPC service with a route to one | an endpoint of it is not backing off |
//! | anything else | NOT_FOUND (Check), SERVICE_UNKNOWN (Watch) |
//!
//! A call that names a service, by whatever means, goes to an instance of it as any other does.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use waymark_core::traffic::Code;
use waymark_net::health::HealthService;

use crate::{
    call::{body::ResponseBody, client::OpenCall},
    wire::{route::NoRoute, status::WireCode as _},
};

/// Whether the node answers this call itself, which named no service.
pub(crate) fn is_for(path: &str, no_route: &NoRoute) -> bool {
    matches!(path, "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch")
        && !matches!(no_route, NoRoute::BadHeader | NoRoute::Twice)
}

/// Answers it.
pub(crate) async fn answer(open: &OpenCall, request: Request<Incoming>) -> Response<ResponseBody> {
    let (shared, peer, path) = (open.shared(), open.origin().peer, request.uri().path());
    let mut record = shared.metrics.service("").begin(open.began(), shared.entry("", path, peer));
    let client = Arc::clone(open.client());
    let leave = client.leave().clone();
    // A connection that is to end says nothing of the node.
    let status = move |service: &str, _: bool| {
        if service.is_empty() {
            return Some(!client.is_draining());
        }
        let shared = client.shared();
        let routed = shared.routes.of_grpc_service(service).map_or(service, |routed| routed.as_str());
        // Who may not call it does not hear of it either.
        let handle = shared.services.get(routed).filter(|_| client.may_call(routed))?;
        let state = handle.state();
        Some(!client.is_draining() && state.endpoints.iter().any(|endpoint| endpoint.cell.is_reachable()))
    };
    let (head, body) = HealthService::new(status, leave).answer(request).await.into_parts();
    if let Some(code) = Code::of(&head.headers) {
        record.set_code(code);
        return Response::from_parts(head, ResponseBody::empty());
    }
    Response::from_parts(head, ResponseBody::own(body, record))
}
