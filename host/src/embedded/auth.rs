//! The Auth service of a server on which authentication was never enabled, and cannot be.
//!
//! The stubs of `etcd-client` cannot be used: a type one of their methods needs is not exported. The answers need no
//! request, though: they follow from the method's name. Clients depend on them: one with a user and a password goes on
//! without when `Authenticate` says "not enabled", but gives up when it says anything else.

use std::sync::Arc;

use etcd_client::proto::PbResponseHeader;
use http::Request;
use tonic::{Response, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use super::{refusal::Refusal, shared::Shared};

/// Every answer that is not a refusal: a header, and for `AuthStatus` "not enabled" and the revision of a fresh store.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

fn answer(shared: &Shared, method: &str) -> Result<Response<Answer>, Status> {
    let refusal = match method {
        "AuthStatus" | "AuthDisable" | "UserList" | "RoleList" => {
            let header = Some(shared.with(|machine| machine.header()));
            let auth_revision = u64::from(method == "AuthStatus");
            return Ok(Response::new(Answer { header, enabled: false, auth_revision }));
        }
        "AuthEnable" => Refusal::RootUserNotExist,
        "UserGet" | "UserDelete" | "UserChangePassword" | "UserGrantRole" | "UserRevokeRole" => Refusal::UserNotFound,
        "RoleGet" | "RoleDelete" | "RoleGrantPermission" | "RoleRevokePermission" => Refusal::RoleNotFound,
        // etcd would remember new users and roles for later; here there is no later.
        "Authenticate" | "UserAdd" | "RoleAdd" => Refusal::AuthNotEnabled,
        _ => return Err(Status::unimplemented(format!("unknown method {method} for service etcdserverpb.Auth"))),
    };
    Err(refusal.into())
}

/// Answers one call of the service.
///
/// # Cancel safety
///
/// Nothing is changed by a call, so dropping it is safe.
pub(super) async fn call(shared: Arc<Shared>, method: String, request: Request<Body>) -> http::Response<Body> {
    let service = tower::service_fn(move |_request: tonic::Request<()>| {
        let answer = answer(&shared, &method);
        async move { answer }
    });
    Grpc::new(ProstCodec::<Answer, ()>::default()).unary(service, request).await
}
