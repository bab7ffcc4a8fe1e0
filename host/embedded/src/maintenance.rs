//! The Maintenance service: status, alarms, hashes and snapshots.

use std::{pin::Pin, sync::Arc};

use etcd_client::{
    AlarmType,
    proto::{
        PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
        PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService,
        PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest,
        PbStatusResponse,
    },
};
use futures::{Stream, stream};
use tonic::{Request, Response, Status};

use super::{
    error::EtcdError,
    shared::Shared,
    snapshot,
    state_machine::{RAFT_TERM, StateMachine},
    store::Kv,
    version::{STORAGE_VERSION, VERSION},
};

#[derive(Debug)]
pub(super) struct MaintenanceApi(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbMaintenanceService for MaintenanceApi {
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.0.with(|machine| machine.alarm(&request))))
    }

    async fn status(&self, _request: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        Ok(Response::new(self.0.with(|machine| status(machine))))
    }

    async fn defragment(
        &self,
        _request: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        // Memory is given back by compaction; there is no file to shrink. etcd sends no header
        // here.
        Ok(Response::new(PbDefragmentResponse { header: None }))
    }

    async fn hash(&self, _request: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Ok(Response::new(self.0.with(|machine| PbHashResponse {
            header: Some(machine.header()),
            hash: hash(machine.store().versions().map(AsRef::as_ref)),
        })))
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        let asked = request.into_inner().revision;
        Ok(Response::new(self.0.with(|machine| hash_kv(machine, asked))?))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<PbSnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, _request: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let data = self.0.with(|machine| snapshot::Data::of(machine));
        let file = tokio::task::spawn_blocking(move || data.into_file()).await;
        let file = file.map_err(|error| Status::internal(format!("the snapshot was not made: {error}")))?;
        Ok(Response::new(Box::pin(stream::iter(snapshot::messages(file).map(Ok)))))
    }

    async fn move_leader(
        &self,
        request: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        if target != self.0.with(|machine| machine.identity().member_id) {
            return Err(EtcdError::BadLeaderTransferee.into());
        }
        Ok(Response::new(PbMoveLeaderResponse { header: None }))
    }

    async fn downgrade(&self, _request: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("the embedded registry has no versions to downgrade to; use etcd"))
    }
}

fn status(machine: &StateMachine) -> PbStatusResponse {
    let bytes = i64::try_from(machine.store().bytes()).unwrap_or(i64::MAX);
    let errors = machine.alarms(AlarmType::None as i32).into_iter().map(|raised| {
        let name = AlarmType::try_from(raised.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        // The text form of the message, which leaves out a field that is zero.
        let member = if raised.member_id == 0 { String::new() } else { format!("memberID:{} ", raised.member_id) };
        format!("{member}alarm:{name} ")
    });
    PbStatusResponse {
        header: Some(machine.header()),
        version: VERSION.into(),
        db_size: bytes,
        leader: machine.identity().member_id,
        raft_index: machine.applied(),
        raft_term: RAFT_TERM,
        raft_applied_index: machine.applied(),
        errors: errors.collect(),
        db_size_in_use: bytes,
        is_learner: false,
        storage_version: STORAGE_VERSION.into(),
        db_size_quota: i64::try_from(machine.quota()).unwrap_or(i64::MAX),
        downgrade_info: None,
    }
}

fn hash_kv(machine: &StateMachine, asked: i64) -> Result<PbHashKvResponse, EtcdError> {
    let store = machine.store();
    let revision = if asked == 0 { store.revision() } else { asked };
    if revision > store.revision() {
        return Err(EtcdError::FutureRevision);
    }
    if revision < store.compact_revision() {
        return Err(EtcdError::Compacted);
    }
    Ok(PbHashKvResponse {
        header: Some(machine.header()),
        hash: hash(store.versions().map(AsRef::as_ref).filter(|kv| kv.mod_revision <= revision)),
        compact_revision: store.compact_revision(),
        hash_revision: revision,
    })
}

/// CRC-32C (Castagnoli, reflected) over all fields of the versions. Equal data gives equal hashes
/// on this server; etcd hashes its own file format, so its figures differ.
fn hash<'k>(versions: impl Iterator<Item = &'k Kv>) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut crc = u32::MAX;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
    };
    for kv in versions {
        for text in [&kv.key, &kv.value] {
            feed(&text.len().to_le_bytes());
            feed(text);
        }
        for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
            feed(&number.to_le_bytes());
        }
    }
    !crc
}
