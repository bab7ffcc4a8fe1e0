//! The Election service (`v3electionpb`), for clients that leave the work to the server.

use std::{collections::VecDeque, sync::Arc};

use etcd_client::proto::{
    PbCampaignResponse, PbKeyValue, PbLeaderKey, PbLeaderResponse, PbProclaimResponse, PbPutRequest, PbResignResponse,
    PbResponseHeader,
};
use futures::{Stream, stream};
use http::Request;
use prost::Message;
use tonic::{Status, body::Body};

use super::{
    concurrency::{self, WaiterGuard, Watch, unknown},
    error::EtcdError,
    key_range::KeyRange,
    rpc::{streaming, unary, unknown_method},
    shared::Shared,
};

#[derive(Clone, PartialEq, Message)]
struct CampaignRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
    #[prost(bytes = "vec", tag = "3")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ProclaimRequest {
    #[prost(message, optional, tag = "1")]
    leader: Option<PbLeaderKey>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct LeaderRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ResignRequest {
    #[prost(message, optional, tag = "1")]
    leader: Option<PbLeaderKey>,
}

/// Answers one call of the service.
///
/// # Cancel safety
///
/// Who is dropped while it campaigns is in line no more.
pub(super) async fn call(shared: Arc<Shared>, method: String, request: Request<Body>) -> http::Response<Body> {
    match method.as_str() {
        "Campaign" => unary(request, |request| campaign(Arc::clone(&shared), request)).await,
        "Proclaim" => unary(request, |request| std::future::ready(proclaim(&shared, request))).await,
        "Leader" => unary(request, |request| std::future::ready(leader(&shared, &request))).await,
        "Observe" => streaming(request, |request| observe(Arc::clone(&shared), &request)).await,
        "Resign" => unary(request, |request| std::future::ready(resign(&shared, request))).await,
        _ => unknown_method(&method, "v3electionpb.Election"),
    }
}

async fn campaign(shared: Arc<Shared>, request: CampaignRequest) -> Result<PbCampaignResponse, Status> {
    let prefix = concurrency::prefix(&request.name);
    let lease = concurrency::session(&shared, request.lease).map_err(unknown)?;
    let waiter = concurrency::enqueue(&shared, &prefix, &request.value, lease).map_err(unknown)?;
    let guard = WaiterGuard::of(&shared, &waiter);
    if waiter.value != request.value {
        // Its key was there already, and says something else.
        write(&shared, &waiter.key, waiter.create_revision, &request.value, lease)?;
    }
    concurrency::wait(&shared, &prefix, waiter.create_revision).await.map_err(unknown)?;
    guard.keep();
    let leader = PbLeaderKey { name: request.name, key: waiter.key, rev: waiter.create_revision, lease };
    Ok(PbCampaignResponse { header: Some(waiter.header), leader: Some(leader) })
}

fn proclaim(shared: &Shared, request: ProclaimRequest) -> Result<PbProclaimResponse, Status> {
    let leader = request.leader.ok_or_else(no_leader_field)?;
    let lease = concurrency::session(shared, leader.lease).map_err(unknown)?;
    let header = write(shared, &leader.key, leader.rev, &request.value, lease)?;
    Ok(PbProclaimResponse { header })
}

/// Writes a key that was created then and is still there.
fn write(
    shared: &Shared,
    key: &[u8],
    created: i64,
    value: &[u8],
    lease: i64,
) -> Result<Option<PbResponseHeader>, Status> {
    if key.is_empty() {
        return Err(unknown(EtcdError::KeyNotProvided));
    }
    let (key, value) = (key.to_vec(), value.to_vec());
    shared.with(|machine| {
        if concurrency::created(machine, &key).map_err(unknown)? != created {
            return Err(Status::unknown("election: not leader"));
        }
        let written = machine.put(&PbPutRequest { key, value, lease, ..PbPutRequest::default() });
        Ok(written.map_err(unknown)?.header)
    })
}

fn leader(shared: &Shared, request: &LeaderRequest) -> Result<PbLeaderResponse, Status> {
    let prefix = concurrency::prefix(&request.name);
    let (first, header) = shared.with(|machine| (concurrency::first(machine, &prefix), machine.header()));
    match first.map_err(unknown)? {
        Some(kv) => Ok(PbLeaderResponse { header: Some(header), kv: Some(kv) }),
        None => Err(Status::unknown("election: no leader")),
    }
}

fn resign(shared: &Shared, request: ResignRequest) -> Result<PbResignResponse, Status> {
    let leader = request.leader.ok_or_else(no_leader_field)?;
    if leader.key.is_empty() {
        return Err(unknown(EtcdError::KeyNotProvided));
    }
    shared.with(|machine| {
        concurrency::remove(machine, &leader.key, leader.rev).map_err(unknown)?;
        Ok(PbResignResponse { header: Some(machine.header()) })
    })
}

fn no_leader_field() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

/// Every leader there is from now on, and everything each proclaims.
fn observe(
    shared: Arc<Shared>,
    request: &LeaderRequest,
) -> impl Stream<Item = Result<PbLeaderResponse, Status>> + use<> {
    let observer =
        Observer { prefix: concurrency::prefix(&request.name), shared, following: None, ready: VecDeque::new() };
    stream::unfold(Some(observer), |observer| async move {
        let mut observer = observer?;
        match observer.next().await {
            Ok(told) => Some((Ok(told), Some(observer))),
            Err(error) => Some((Err(unknown(error)), None)),
        }
    })
}

struct Observer {
    shared: Arc<Shared>,
    prefix: Vec<u8>,
    /// The leader's key, while there is one.
    following: Option<Watch>,
    ready: VecDeque<PbLeaderResponse>,
}

impl Observer {
    async fn next(&mut self) -> Result<PbLeaderResponse, EtcdError> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Ok(told);
            }
            let Some(watch) = &mut self.following else {
                let told = self.find().await?;
                return Ok(told);
            };
            for happened in watch.next().await? {
                let Some(kv) = happened.put else {
                    self.following = None;
                    break;
                };
                self.ready.push_back(self.shared.with(|machine| PbLeaderResponse {
                    header: Some(machine.identity().header(happened.revision)),
                    kv: Some(kv),
                }));
            }
        }
    }

    /// Waits until there is a leader, and follows it.
    async fn find(&mut self) -> Result<PbLeaderResponse, EtcdError> {
        let (found, mut candidates) = self.shared.with(|machine| {
            let found = concurrency::first(machine, &self.prefix)?;
            let range = match &found {
                Some(kv) => KeyRange::new(&kv.key, &[]),
                None => KeyRange::new(&self.prefix, &concurrency::range_end(&self.prefix)),
            };
            Ok::<_, EtcdError>((found.map(|kv| (machine.header(), kv)), Watch::open(&self.shared, machine, range, 0)))
        })?;
        if let Some((header, kv)) = found {
            self.following = Some(candidates);
            return Ok(PbLeaderResponse { header: Some(header), kv: Some(kv) });
        }
        let kv: PbKeyValue = loop {
            let happened = candidates.next().await?;
            if let Some(kv) = happened.into_iter().find_map(|it| it.put) {
                break kv;
            }
        };
        self.shared.with(|machine| {
            let header = machine.identity().header(kv.mod_revision);
            let range = KeyRange::new(&kv.key, &[]);
            self.following = Some(Watch::open(&self.shared, machine, range, kv.mod_revision + 1));
            Ok(PbLeaderResponse { header: Some(header), kv: Some(kv) })
        })
    }
}
