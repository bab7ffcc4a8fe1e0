//! The node's own front door: its gRPC API, gRPC health and reflection, and over plain HTTP `/healthz`, `/readyz`, `/metrics` and a
//! dashboard. One port speaks all of it, HTTP/1.1 and cleartext HTTP/2.
//!
//! ```text
//!   grpcurl, waymark policy ──▶ waymark.v1.Node ─────────────┐
//!   load balancers ───────────▶ grpc.health.v1, /readyz ─────┼──▶ balancer::Services
//!   Prometheus ───────────────▶ /metrics ────────────────────┤    plugin::Engine (loads what SetPolicy sends)
//!   people ───────────────────▶ / (dashboard) ───────────────┘
//! ```
//!
//! Everything is read when it is asked for: nothing here keeps a copy that could be old. There is no authentication, and
//! whoever reaches the port can change policies: listen on loopback, or where only operators get through.
//!
//! Calls of services go through the data plane, on another port. [`NodeClient`] is the client of this API for the command line
//! and the demo. Nothing outside this module names axum or tonic servers.

mod api;
mod candidate;
pub mod client;
mod convert;
mod dashboard;
mod health;
mod metrics;
mod proto;
mod readiness;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt as _,
};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tracing::{info, warn};

use self::{api::NodeApi, candidate::Candidates, dashboard::Filter, health::HealthApi, proto::node_server::NodeServer};
pub use self::{
    client::{ClientError, NodeClient},
    metrics::{Metrics, registry as metrics_registry},
    readiness::{Check, CheckReport, Readiness, Report},
};
use crate::{balancer::Services, plugin::Engine};

/// What the front door shows and changes.
pub struct Admin {
    /// The services of this node.
    pub services: Services,
    /// Loads what SetPolicy sends.
    pub engine: Engine,
    /// Where other modules have registered their metric families: begin with [`metrics_registry`].
    pub metrics: Registry,
    /// What has to be there before the node counts as ready.
    pub readiness: Readiness,
    /// The largest component that SetPolicy takes for any service, in bytes. Default: the engine's limit.
    pub component_size: usize,
    /// How long calls may go on after shutdown was asked for. Streams of this API end by themselves at once. Default 5 s.
    pub grace: Duration,
}

impl Admin {
    /// The front door of these services, with nothing else to show or to wait for.
    pub fn new(services: Services, engine: Engine) -> Self {
        Self {
            services,
            component_size: engine.limits().component_size,
            engine,
            metrics: metrics_registry(),
            readiness: Readiness::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// Why the front door does not open.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The descriptors in the binary are damaged: a fault of the build.
    #[error("the descriptors for gRPC reflection cannot be read")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The server ended by itself.
    #[error("the node's API stopped")]
    Serve(#[source] std::io::Error),
}

/// Serves until `shutdown` completes and the last call has ended, or its grace period is over.
///
/// # Cancel safety
///
/// Dropping the future stops taking connections; calls that run then end with the runtime.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let grace = admin.grace;
    let closing = CancellationToken::new();
    let router = router(admin, &closing)?;
    if let Ok(address) = listener.local_addr() {
        info!(%address, "the node's API, health, metrics and dashboard are up");
    }
    // Small answers must not wait for a full segment.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true); // Only slower without.
    });
    let asked = {
        let closing = closing.clone();
        async move {
            shutdown.await;
            closing.cancel();
        }
    };
    let mut server = pin!(axum::serve(listener, router).with_graceful_shutdown(asked).into_future());
    let out_of_time = async {
        closing.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        done = &mut server => done.map_err(AdminError::Serve),
        () = out_of_time => {
            warn!(grace_seconds = grace.as_secs_f64(), "calls of the node's API did not end in time and are cut off");
            Ok(())
        }
    }
}

/// What the plain HTTP pages read.
struct Pages {
    services: Services,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    closing: CancellationToken,
}

fn router(admin: Admin, closing: &CancellationToken) -> Result<Router, AdminError> {
    let Admin { services, engine, metrics, readiness, component_size, grace: _ } = admin;
    let readiness = Arc::new(readiness);
    let candidates = Candidates::new(engine);
    let message_size = component_size.saturating_add(candidate::BESIDE_COMPONENT);
    let node = NodeApi::new(services.clone(), candidates, closing.clone());
    let health = HealthApi::new(services.clone(), Arc::clone(&readiness), closing.clone());
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
        metrics: Metrics::new(metrics, services.clone()),
        services,
        readiness,
        closing: closing.clone(),
    });
    let http = Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(pages);
    Ok(grpc.merge(http).fallback(nothing_here))
}

async fn index(State(pages): State<Arc<Pages>>, Query(filter): Query<Filter>) -> Response {
    let report = pages.report();
    let page = dashboard::page(&pages.services, &report, &filter);
    // The page is made of other people's names: a browser shall run none of it, whatever it looks like.
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
    match pages.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}

/// Answers each in its own language: gRPC clients with a status, people with a text.
async fn nothing_here(request: Request) -> Response {
    let path = request.uri().path();
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        let shown: String = path.chars().take(200).collect();
        return tonic::Status::unimplemented(format!(
            "{shown} is not served here: this is the node's own API; calls of services go to the node's proxy port"
        ))
        .into_http();
    }
    let text = "not found; there are /, /healthz, /readyz and /metrics, and the gRPC services that reflection lists\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

impl Pages {
    fn report(&self) -> Report {
        self.readiness.report(&self.services, self.closing.is_cancelled())
    }
}
