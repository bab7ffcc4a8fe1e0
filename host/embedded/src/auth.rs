//! The Auth service of a server on which authentication was never enabled, and cannot be.
//!
//! The stubs of `etcd-client` cannot be used: a type one of their methods needs is not exported.
//! Clients depend on the answers: one with a user and a password goes on without when
//! `Authenticate` says "not enabled", but gives up when it says anything else.

use std::sync::Arc;

use etcd_client::proto::{
    PbAuthDisableRequest, PbAuthDisableResponse, PbAuthEnableRequest, PbAuthEnableResponse, PbAuthRoleAddRequest,
    PbAuthRoleAddResponse, PbAuthRoleDeleteRequest, PbAuthRoleDeleteResponse, PbAuthRoleGetRequest,
    PbAuthRoleGetResponse, PbAuthRoleGrantPermissionRequest, PbAuthRoleGrantPermissionResponse, PbAuthRoleListRequest,
    PbAuthRoleListResponse, PbAuthRoleRevokePermissionRequest, PbAuthRoleRevokePermissionResponse,
    PbAuthUserAddRequest, PbAuthUserAddResponse, PbAuthUserChangePasswordRequest, PbAuthUserChangePasswordResponse,
    PbAuthUserDeleteRequest, PbAuthUserDeleteResponse, PbAuthUserGetRequest, PbAuthUserGetResponse,
    PbAuthUserGrantRoleRequest, PbAuthUserGrantRoleResponse, PbAuthUserListRequest, PbAuthUserListResponse,
    PbAuthUserRevokeRoleRequest, PbAuthUserRevokeRoleResponse, PbAuthenticateRequest, PbAuthenticateResponse,
    PbResponseHeader,
};
use http::Request;
use prost::Message;
use tonic::{Status, body::Body};

use super::{
    auth_store::{AuthStore, Permission},
    error::EtcdError,
    rpc::{unary, unknown_method},
    shared::Shared,
};

/// What `AuthStatus` answers: that type is not exported.
#[derive(Clone, PartialEq, Message)]
struct AuthStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

/// Answers one call of the service.
///
/// # Cancel safety
///
/// A call is one step, which is done or not.
pub(super) async fn call(shared: Arc<Shared>, method: String, request: Request<Body>) -> http::Response<Body> {
    /// One step on the accounts, and an answer made of what it says and the header.
    macro_rules! step {
        ($request:ty, $step:expr, $answer:expr) => {
            unary(request, |request: $request| std::future::ready(step(&shared, request, $step, $answer))).await
        };
    }
    /// The same for a step that answers nothing but the header.
    macro_rules! change {
        ($request:ty => $answer:ident, $step:expr) => {
            step!($request, $step, |header, ()| $answer { header })
        };
    }
    match method.as_str() {
        "AuthStatus" => step!((), |it, ()| Ok(it.revision()), |header, auth_revision| AuthStatus {
            header,
            enabled: false,
            auth_revision
        }),
        "AuthEnable" => unary(request, |_: PbAuthEnableRequest| std::future::ready(enable(&shared))).await,
        "AuthDisable" => change!(PbAuthDisableRequest => PbAuthDisableResponse, |_, _| Ok(())),
        "Authenticate" => step!(PbAuthenticateRequest, |_, _| Err::<(), _>(EtcdError::AuthNotEnabled), |header, ()| {
            PbAuthenticateResponse { header, token: String::new() }
        }),
        "UserAdd" => change!(PbAuthUserAddRequest => PbAuthUserAddResponse, |it, q| it.add_user(&q.name)),
        "UserGet" => step!(
            PbAuthUserGetRequest,
            |it, q| it.user(&q.name).map(|roles| roles.iter().cloned().collect()),
            |header, roles| PbAuthUserGetResponse { header, roles }
        ),
        "UserList" => step!(PbAuthUserListRequest, |it, _| Ok(it.users()), |header, users| PbAuthUserListResponse {
            header,
            users
        }),
        "UserDelete" => change!(PbAuthUserDeleteRequest => PbAuthUserDeleteResponse, |it, q| it.delete_user(&q.name)),
        "UserChangePassword" => change!(
            PbAuthUserChangePasswordRequest => PbAuthUserChangePasswordResponse,
            |it, q| it.change_password(&q.name)
        ),
        "UserGrantRole" => change!(
            PbAuthUserGrantRoleRequest => PbAuthUserGrantRoleResponse,
            |it, q| it.grant_role(&q.user, &q.role)
        ),
        "UserRevokeRole" => change!(
            PbAuthUserRevokeRoleRequest => PbAuthUserRevokeRoleResponse,
            |it, q| it.revoke_role(&q.name, &q.role)
        ),
        "RoleAdd" => change!(PbAuthRoleAddRequest => PbAuthRoleAddResponse, |it, q| it.add_role(&q.name)),
        "RoleGet" => step!(PbAuthRoleGetRequest, |it, q| it.role(&q.role), role_answer),
        "RoleList" => step!(PbAuthRoleListRequest, |it, _| Ok(it.roles()), |header, roles| PbAuthRoleListResponse {
            header,
            roles
        }),
        "RoleDelete" => change!(PbAuthRoleDeleteRequest => PbAuthRoleDeleteResponse, |it, q| it.delete_role(&q.role)),
        "RoleGrantPermission" => change!(
            PbAuthRoleGrantPermissionRequest => PbAuthRoleGrantPermissionResponse,
            |it, q| {
                let perm = q.perm;
                let perm = perm.map(|it| Permission { kind: it.perm_type, key: it.key, range_end: it.range_end });
                it.grant_permission(&q.name, perm)
            }
        ),
        "RoleRevokePermission" => change!(
            PbAuthRoleRevokePermissionRequest => PbAuthRoleRevokePermissionResponse,
            |it, q| it.revoke_permission(&q.role, &q.key, &q.range_end)
        ),
        _ => unknown_method(&method, "etcdserverpb.Auth"),
    }
}

fn step<Q, T, A>(
    shared: &Shared,
    request: Q,
    step: impl FnOnce(&mut AuthStore, Q) -> Result<T, EtcdError>,
    answer: impl FnOnce(Option<PbResponseHeader>, T) -> A,
) -> Result<A, Status> {
    shared.with(|machine| {
        let done = step(machine.auth_store(), request)?;
        Ok(answer(Some(machine.header()), done))
    })
}

/// What etcd would refuse is refused so; what it would do cannot be done here.
fn enable(shared: &Shared) -> Result<PbAuthEnableResponse, Status> {
    shared.with(|machine| machine.auth_store().may_enable())?;
    Err(Status::unimplemented(
        "the embedded registry asks nobody who he is: users and roles are kept, and cannot be enabled; use etcd",
    ))
}

/// The type of its permissions is not exported, and so is filled in where it stands.
fn role_answer(header: Option<PbResponseHeader>, permissions: Vec<Permission>) -> PbAuthRoleGetResponse {
    let mut answer = PbAuthRoleGetResponse { header, perm: Vec::new() };
    answer.perm.resize_with(permissions.len(), Default::default);
    for (to, from) in answer.perm.iter_mut().zip(permissions) {
        (to.perm_type, to.key, to.range_end) = (from.kind, from.key, from.range_end);
    }
    answer
}
