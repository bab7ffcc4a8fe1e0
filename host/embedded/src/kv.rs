//! The KV service: checks that need no data, then one step on the machine.

use std::{pin::Pin, sync::Arc};

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use futures::Stream;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{
    error::EtcdError,
    keyspace::{check_delete, check_put},
    query,
    shared::Shared,
    txn,
};

/// Biggest write (`--max-request-bytes`).
pub(super) const MAX_REQUEST_BYTES: usize = 1536 * 1024;
/// What etcd allows for the rest of a message.
const OVERHEAD_BYTES: usize = 512 * 1024;
/// Biggest message etcd reads or, when a client asks for fragments, sends.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + OVERHEAD_BYTES;

#[derive(Debug)]
pub(super) struct KvApi(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbKvService for KvApi {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let request = request.into_inner();
        query::check(&request)?;
        // The values are copied after the lock is released.
        let (identity, selection) = self.0.with(|machine| (machine.identity(), machine.range(&request)));
        let mut response = selection?.into_response(request.keys_only);
        response.header = response.header.map(|header| identity.header(header.revision));
        Ok(Response::new(response))
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<PbRangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        _request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        // As an etcd 3.5 says it, which does not know this method.
        Err(Status::unimplemented("unknown method RangeStream for service etcdserverpb.KV"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check_put(&request)?;
        check_size(&request)?;
        Ok(Response::new(self.0.with(|machine| machine.put(&request))?))
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        check_delete(&request)?;
        check_size(&request)?;
        Ok(Response::new(self.0.with(|machine| machine.delete(&request))?))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.into_inner();
        txn::check(&request)?;
        check_size(&request)?;
        Ok(Response::new(self.0.with(|machine| machine.txn(&request))?))
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let revision = request.into_inner().revision;
        let header = self.0.with(|machine| machine.compact(revision))?;
        Ok(Response::new(PbCompactionResponse { header: Some(header) }))
    }
}

/// The two limits of etcd: that of its gRPC server on any message, and its own on what it writes.
fn check_size(request: &impl Message) -> Result<(), Status> {
    let size = request.encoded_len();
    if size > MAX_MESSAGE_BYTES {
        let message = format!("grpc: received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    if size > MAX_REQUEST_BYTES { Err(EtcdError::RequestTooLarge.into()) } else { Ok(()) }
}
