//! The node's own front door: its gRPC API, gRPC health and reflection, and over plain HTTP
//! `/healthz`, `/readyz`, `/metrics` and a dashboard. One port speaks all of it: pages over
//! HTTP/1.1 and HTTP/2, calls over HTTP/2 alone.
//!
//! ```text
//!   grpcurl, waymark policy ──▶ waymark.v1.Node ─────────────┐
//!   load balancers ───────────▶ grpc.health.v1, /readyz ─────┼──▶ balancer::Services
//!   Prometheus ───────────────▶ /metrics ────────────────────┤    plugin::Engine (loads what SetPolicy sends)
//!   people ───────────────────▶ / (dashboard) ───────────────┘
//! ```
//!
//! Everything is read when it is asked for: nothing here keeps a copy that could be old. Each
//! request passes the `guard` before it gets to any of this: no web page gets through, and who may
//! do what is [`Access`]'s business. There is a port (cleartext or TLS), a Unix socket, and a port
//! that answers probes and nothing else.
//!
//! Calls of services go through the data plane, on another port. [`NodeClient`] is the client of
//! this API for the command line and the demo. Nothing outside this module names axum or tonic
//! servers.

mod access;
mod api;
mod body;
mod candidate;
pub mod client;
mod connection_limit;
mod convert;
mod dashboard;
mod guard;
mod health;
mod plugin_memory;
mod proto;
mod readiness;
mod rejection;
mod roles;
mod scrape;
mod server;
mod similar_names;
mod tokens;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tracing::{info, warn};
use waymark_core::exposition::Families;
use waymark_stages::metrics::{self, Metrics};

pub use self::{
    access::Access,
    client::{ClientError, Credentials, NodeClient},
    plugin_memory::memory_of_plugins,
    readiness::{Check, CheckReport, Readiness, Report},
    server::Doors,
    tokens::{Tokens, TokensError},
};
use self::{
    api::NodeApi, candidate::Candidates, dashboard::Filter, proto::node_server::NodeServer, rejection::Refused,
    scrape::Scrapes, server::Front,
};
use crate::{balancer::Services, plugin::Engine, text};

/// What the front door shows and changes.
pub struct Admin {
    /// The services of this node.
    pub services: Services,
    /// Loads what SetPolicy sends.
    pub engine: Engine,
    /// What other modules have registered.
    pub metrics: Families,
    /// What has to be there before the node counts as ready.
    pub readiness: Readiness,
    /// Who may do what. Default: whoever gets here may do all.
    pub access: Access,
    /// The largest component that SetPolicy takes for any service, in bytes. Default: the engine's
    /// limit.
    pub component_size: usize,
    /// How long calls may go on after shutdown was asked for. Streams of this API end by themselves
    /// at once. Default 5 s.
    pub grace: Duration,
}

impl Admin {
    /// The front door of these services, with nothing else to show or to wait for.
    pub fn new(services: Services, engine: Engine) -> Self {
        Self {
            services,
            component_size: engine.limits().component_size,
            engine,
            metrics: metrics::families(),
            readiness: Readiness::default(),
            access: Access::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// Why the front door does not open.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The descriptors in the binary are damaged: a fault of the build.
    #[error("the descriptors for gRPC reflection cannot be read")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Serves until `shutdown` completes and the last call has ended, or its grace period is over.
///
/// # Cancel safety
///
/// Dropping the future stops taking connections; calls that run then end with the runtime.
pub async fn serve(
    doors: impl Into<Doors>,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let doors = doors.into();
    let grace = admin.grace;
    let closing = CancellationToken::new();
    let front = front(admin, &closing)?;
    if let Ok(address) = doors.control.address() {
        let probe = doors.probe.as_ref().and_then(|probe| probe.address().ok()).map(|address| address.to_string());
        let (probe, tls) = (probe.as_deref().unwrap_or("none"), doors.tls.is_some());
        info!(%address, tls, probe, "the node's API, health, metrics and dashboard are up");
    }
    let out_of_time = async {
        shutdown.await;
        closing.cancel();
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = server::serve(doors, front, closing.clone()) => {}
        () = out_of_time => {
            warn!(grace_seconds = grace.as_secs_f64(), "calls of the node's API did not end in time and are cut off");
        }
    }
    Ok(())
}

/// What the plain HTTP pages read.
struct Pages {
    services: Services,
    readiness: Arc<Readiness>,
    scrapes: Scrapes,
    closing: CancellationToken,
}

fn front(admin: Admin, closing: &CancellationToken) -> Result<Front, AdminError> {
    let Admin { services, engine, mut metrics, readiness, access, component_size, grace: _ } = admin;
    let refused = Refused::register(&mut metrics);
    let readiness = Arc::new(readiness);
    let candidates = Candidates::new(engine);
    let message_size = component_size.saturating_add(candidate::BESIDE_COMPONENT);
    let node = NodeApi::new(services.clone(), candidates, closing.clone());
    let health = health::api(services.clone(), Arc::clone(&readiness), closing.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let grpc = Routes::new(NodeServer::new(node).max_decoding_message_size(message_size))
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1().map_err(AdminError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(AdminError::Reflection)?)
        .into_axum_router();
    let pages = Arc::new(Pages {
        scrapes: Scrapes::new(Metrics::new(metrics, services.clone())),
        services,
        readiness,
        closing: closing.clone(),
    });
    let http = Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(pages);
    let router = grpc.merge(http).fallback(nothing_here);
    Ok(Front { router, access, message_size, refused })
}

async fn index(State(pages): State<Arc<Pages>>, Query(filter): Query<Filter>) -> Response {
    let report = pages.report();
    let page = dashboard::page(&pages.services, &report, &filter);
    // The page is made of other people's names: a browser shall run none of it, whatever it looks
    // like.
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, page).into_response()
}

async fn readyz(State(pages): State<Arc<Pages>>) -> Response {
    let report = pages.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(report)).into_response()
}

async fn scrape(State(pages): State<Arc<Pages>>) -> Response {
    pages.scrapes.answer()
}

/// Answers each in its own language: gRPC clients with a status, people with a text.
async fn nothing_here(request: Request) -> Response {
    let path = request.uri().path();
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        let shown = text::shown(path, text::NAME);
        return tonic::Status::unimplemented(format!(
            "{shown} is not served here: this is the node's own API; calls of services go to the node's proxy port"
        ))
        .into_http();
    }
    let text =
        "not found; there are /, /healthz, /livez, /readyz and /metrics, and the gRPC services that reflection lists\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

impl Pages {
    fn report(&self) -> Report {
        self.readiness.report(&self.services, self.closing.is_cancelled())
    }
}
