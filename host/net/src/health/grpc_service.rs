//! gRPC's health service as this process answers it, for whatever it is asked about.
//!
//! Nothing is stored: the answer is read off its source when it is asked for, and a Watch looks
//! again every [`LOOK_EVERY`], because not everything that an answer depends on tells when it
//! changes.

use std::{convert::Infallible, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use http::{Request, Response};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tower_service::Service as _;
use waymark_core::text;

/// How often a Watch looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A question has the name of a service in it, and no more.
const LARGEST_QUESTION: usize = 4096;

/// Answers health checks. `status` says whether a service serves, none where there is no such
/// service; it is told whether the process is ending.
#[derive(Clone)]
pub struct HealthService<F> {
    status: F,
    closing: CancellationToken,
}

impl<F: Fn(&str, bool) -> Option<bool> + Clone + Send + Sync + 'static> HealthService<F> {
    /// By this source. A Watch ends with the last word after `closing` was cancelled.
    pub fn new(status: F, closing: CancellationToken) -> Self {
        Self { status, closing }
    }

    /// Answers one call of the health service.
    pub async fn answer<B>(self, request: Request<B>) -> Response<tonic::body::Body>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let mut server = HealthServer::new(self).max_decoding_message_size(LARGEST_QUESTION);
        let answered: Result<_, Infallible> = server.call(request).await;
        answered.unwrap_or_else(|never| match never {})
    }

    fn status(&self, service: &str) -> Option<ServingStatus> {
        let serving = (self.status)(service, self.closing.is_cancelled())?;
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    /// Waits until the status differs from the one told before. None: there is nothing more to
    /// tell.
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
impl<F: Fn(&str, bool) -> Option<bool> + Clone + Send + Sync + 'static> Health for HealthService<F> {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = self.status(&service).ok_or_else(|| {
            let shown = text::printable(&service, text::NAME);
            Status::not_found(format!("this node does not watch {shown:?}"))
        })?;
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let messages = stream::unfold((self.clone(), service, None), |(own, service, told)| async move {
            let now = own.change(&service, told).await?;
            Some((Ok(HealthCheckResponse { status: now.into() }), (own, service, Some(now))))
        });
        Ok(tonic::Response::new(Box::pin(messages)))
    }
}
