//! The Cluster service: a cluster of one member, which cannot change.

use std::sync::Arc;

use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest, PbMemberListResponse,
    PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest, PbMemberRemoveResponse,
    PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::{error::EtcdError, shared::Shared};

#[derive(Debug)]
pub(super) struct ClusterApi(pub(super) Arc<Shared>);

impl ClusterApi {
    /// Refuses what is about a member that is not us; what is about us is not possible here.
    fn refuse(&self, member: u64, ours: Status) -> Status {
        let own = self.0.with(|machine| machine.identity().member_id);
        if member == own { ours } else { EtcdError::MemberNotFound.into() }
    }
}

fn one_member_only(wish: &str) -> Status {
    Status::unimplemented(format!("the embedded registry is a cluster of one member: it cannot {wish}; use etcd"))
}

#[tonic::async_trait]
impl PbClusterService for ClusterApi {
    async fn member_add(&self, _request: Request<PbMemberAddRequest>) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(one_member_only("add a member"))
    }

    async fn member_remove(
        &self,
        request: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(self.refuse(request.into_inner().id, one_member_only("remove its member")))
    }

    async fn member_update(
        &self,
        request: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(self.refuse(request.into_inner().id, one_member_only("change its member")))
    }

    async fn member_list(
        &self,
        _request: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let identity = self.0.with(|machine| machine.identity());
        let member = PbMember {
            id: identity.member_id,
            name: self.0.name.clone(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: vec![self.0.url.clone()],
            is_learner: false,
        };
        // etcd leaves the revision out of this header.
        Ok(Response::new(PbMemberListResponse { header: Some(identity.header(0)), members: vec![member] }))
    }

    async fn member_promote(
        &self,
        request: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(self.refuse(request.into_inner().id, EtcdError::MemberNotLearner.into()))
    }
}
