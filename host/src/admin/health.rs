//! gRPC health, `grpc.health.v1`.
//!
//! | asked for | SERVING when |
//! |---|---|
//! | `""` | `/readyz` says ready |
//! | `waymark.v1.Node` | the node is not shutting down |
//! | a service this node watches | it was listed, and an endpoint of it is not backing off |
//! | anything else | NOT_FOUND (Check), SERVICE_UNKNOWN (Watch) |
//!
//! Nothing is stored: the answer is read off the balancer when it is asked for, and a Watch looks again every
//! [`LOOK_EVERY`], because an endpoint that backs off publishes no generation.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use super::{api::NodeApi, proto::node_server::NodeServer, readiness::Readiness};
use crate::balancer::Services;

/// How often a Watch looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Answers health checks.
#[derive(Clone)]
pub(super) struct HealthApi {
    services: Services,
    readiness: Arc<Readiness>,
    closing: CancellationToken,
}

impl HealthApi {
    pub(super) fn new(services: Services, readiness: Arc<Readiness>, closing: CancellationToken) -> Self {
        Self { services, readiness, closing }
    }

    fn status(&self, service: &str) -> Option<ServingStatus> {
        let closing = self.closing.is_cancelled();
        let serving = if service.is_empty() {
            self.readiness.report(&self.services, closing).ready
        } else if service == NodeServer::<NodeApi>::NAME {
            !closing
        } else {
            let handle = self.services.get(service)?;
            let state = handle.state();
            !closing && state.endpoints.iter().any(|endpoint| endpoint.cell.is_reachable())
        };
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    /// Waits until the status differs from the one told before. None: there is nothing more to tell.
    async fn change(&self, service: &str, told: Option<ServingStatus>) -> Option<ServingStatus> {
        loop {
            let closing = self.closing.is_cancelled();
            let now = self.status(service).unwrap_or(ServingStatus::ServiceUnknown);
            if told != Some(now) {
                return Some(now);
            }
            if closing {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = self.status(&service).ok_or_else(|| {
            let shown: String = service.chars().take(200).collect();
            Status::not_found(format!("this node does not watch {shown:?}"))
        })?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let messages = stream::unfold((self.clone(), service, None), |(api, service, told)| async move {
            let now = api.change(&service, told).await?;
            Some((Ok(HealthCheckResponse { status: now.into() }), (api, service, Some(now))))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}
