//! The Lease service.

use std::{pin::Pin, sync::Arc};

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{error::EtcdError, shared::Shared};

#[derive(Debug)]
pub(super) struct LeaseApi(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbLeaseService for LeaseApi {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let PbLeaseGrantRequest { id, ttl } = request.into_inner();
        let granted = self.0.with(|machine| machine.grant(id, ttl))?;
        self.0.deadline_moved.notify_one();
        Ok(Response::new(granted))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let header = self.0.with(|machine| machine.revoke(id))?;
        Ok(Response::new(PbLeaseRevokeResponse { header: Some(header) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<PbLeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let shared = Arc::clone(&self.0);
        let answers = stream::unfold(Some(request.into_inner()), move |requests| {
            let shared = Arc::clone(&shared);
            async move {
                let mut requests = requests?;
                tokio::select! {
                    () = shared.stopping.cancelled() => Some((Err(EtcdError::Stopped.into()), None)),
                    request = requests.message() => {
                        // The end of the requests, by intent or by a lost connection, ends the
                        // answers.
                        let id = request.ok().flatten()?.id;
                        Some((Ok(keep_alive(&shared, id)), Some(requests)))
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        Ok(Response::new(self.0.with(|machine| machine.time_to_live(id, keys))))
    }

    async fn lease_leases(
        &self,
        _request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        Ok(Response::new(self.0.with(|machine| PbLeaseLeasesResponse {
            header: Some(machine.header()),
            leases: machine.lease_ids().into_iter().map(|id| PbLeaseStatus { id }).collect(),
        })))
    }
}

fn keep_alive(shared: &Shared, id: i64) -> PbLeaseKeepAliveResponse {
    shared.with(|machine| {
        // Before the renewal: a client must not see a success at a revision where the lease was
        // gone already.
        let header = Some(machine.header());
        PbLeaseKeepAliveResponse { header, id, ttl: machine.renew(id) }
    })
}
