//! gRPC health, `grpc.health.v1`, on the node's API.
//!
//! | asked for | SERVING when |
//! |---|---|
//! | `""` | `/readyz` says ready |
//! | `waymark.v1.Node` | the node is not shutting down |
//! | a service this node watches | it was listed, and an endpoint of it is not backing off |
//! | anything else | NOT_FOUND (Check), SERVICE_UNKNOWN (Watch) |

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::pb::health_server::Health;

use super::{api::NodeApi, proto::node_server::NodeServer, readiness::Readiness};
use crate::{balancer::Services, health::HealthService};

/// Answers health checks.
pub(super) fn api(services: Services, readiness: Arc<Readiness>, closing: CancellationToken) -> impl Health {
    let status = move |service: &str, closing: bool| {
        if service.is_empty() {
            return Some(readiness.report(&services, closing).ready);
        }
        if service == NodeServer::<NodeApi>::NAME {
            return Some(!closing);
        }
        let handle = services.get(service)?;
        let state = handle.state();
        Some(!closing && state.endpoints.iter().any(|endpoint| endpoint.cell.is_reachable()))
    };
    HealthService::new(status, closing)
}
