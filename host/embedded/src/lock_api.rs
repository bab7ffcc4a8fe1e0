//! The Lock service (`v3lockpb`), for clients that leave the work to the server.

use std::sync::Arc;

use etcd_client::proto::{PbDeleteRequest, PbLockResponse, PbUnlockResponse};
use http::Request;
use prost::Message;
use tonic::{Status, body::Body};

use super::{
    concurrency::{self, WaiterGuard, unknown},
    keyspace::check_delete,
    rpc::{unary, unknown_method},
    shared::Shared,
};

#[derive(Clone, PartialEq, Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// Answers one call of the service.
///
/// # Cancel safety
///
/// Who is dropped while it waits for a lock is in line no more.
pub(super) async fn call(shared: Arc<Shared>, method: String, request: Request<Body>) -> http::Response<Body> {
    match method.as_str() {
        "Lock" => unary(request, |request| lock(Arc::clone(&shared), request)).await,
        "Unlock" => unary(request, |request| std::future::ready(unlock(&shared, request))).await,
        _ => unknown_method(&method, "v3lockpb.Lock"),
    }
}

async fn lock(shared: Arc<Shared>, request: LockRequest) -> Result<PbLockResponse, Status> {
    let prefix = concurrency::prefix(&request.name);
    let lease = concurrency::session(&shared, request.lease).map_err(unknown)?;
    let waiter = concurrency::enqueue(&shared, &prefix, b"", lease).map_err(unknown)?;
    if waiter.is_first {
        return Ok(PbLockResponse { header: Some(waiter.header), key: waiter.key });
    }
    let guard = WaiterGuard::of(&shared, &waiter);
    concurrency::wait(&shared, &prefix, waiter.create_revision).await.map_err(unknown)?;
    guard.keep();
    let (found, header) = shared.with(|machine| (concurrency::get(machine, &waiter.key), machine.header()));
    if found.map_err(unknown)?.is_none() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(PbLockResponse { header: Some(header), key: waiter.key })
}

fn unlock(shared: &Shared, request: UnlockRequest) -> Result<PbUnlockResponse, Status> {
    let delete = PbDeleteRequest { key: request.key, ..PbDeleteRequest::default() };
    check_delete(&delete).map_err(unknown)?;
    let deleted = shared.with(|machine| machine.delete(&delete)).map_err(unknown)?;
    Ok(PbUnlockResponse { header: deleted.header })
}
