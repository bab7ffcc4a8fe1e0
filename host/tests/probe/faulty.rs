//! A server with one fault: a proxy in front of a right one, which changes a request or an answer
//! on its way.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
};

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompareTarget, PbDeleteRequest, PbDeleteResponse, PbKeyValue,
    PbKvServer, PbKvService, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest,
    PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseServer, PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse,
    PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbResponseHeader, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchServer, PbWatchService,
};
use futures::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, body::Body};
use tower::{Service, ServiceExt};

use super::{
    faults::Fault,
    fixture::LOOPBACK,
    script::{FENCE, put_request},
    wire::Wire,
};

const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A running proxy; it ends when this is dropped.
pub(crate) struct Proxy {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// A server like that at `url`, but for the fault.
    pub(crate) async fn start(url: &str, fault: Fault) -> Result<Self, String> {
        let faulty = Faulty { wire: Wire::connect(url).await?, fault, memory: Arc::default() };
        let listener = TcpListener::bind(LOOPBACK).await.map_err(|error| error.to_string())?;
        let url = format!("http://{}", listener.local_addr().map_err(|error| error.to_string())?);
        let big = MAX_BYTES;
        let kv = PbKvServer::new(faulty.clone()).max_decoding_message_size(big).max_encoding_message_size(big);
        let watch = PbWatchServer::new(faulty.clone()).max_encoding_message_size(big);
        let lease = PbLeaseServer::new(faulty.clone());
        let front = tower::service_fn(move |request: http::Request<Body>| {
            let (mut kv, mut watch, mut lease) = (kv.clone(), watch.clone(), lease.clone());
            let rest = faulty.wire.channel.clone();
            async move {
                let path = request.uri().path();
                let known = |service: &str| path.starts_with(service) && !path.ends_with("/NoSuchMethod");
                if known("/etcdserverpb.KV/") {
                    kv.call(request).await
                } else if known("/etcdserverpb.Watch/") {
                    watch.call(request).await
                } else if known("/etcdserverpb.Lease/") {
                    lease.call(request).await
                } else {
                    let lost = |error: tonic::transport::Error| Status::unavailable(error.to_string()).into_http();
                    Ok::<_, Infallible>(rest.oneshot(request).await.unwrap_or_else(lost))
                }
            }
        });
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder().serve_with_incoming(front, incoming).await;
            served.expect("the proxy serves");
        });
        Ok(Self { url, task })
    }
}

/// What a fault needs to know of what came before.
#[derive(Debug, Default)]
struct Memory {
    /// The newest header that was answered.
    header: PbResponseHeader,
    /// For each key, when it was deleted and which version it had reached.
    lives: HashMap<Vec<u8>, Vec<(i64, i64)>>,
}

#[derive(Debug, Clone)]
struct Faulty {
    wire: Wire,
    fault: Fault,
    memory: Arc<Mutex<Memory>>,
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn memory<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(&mut self.memory.lock().unwrap())
    }

    fn note(&self, header: Option<&PbResponseHeader>) {
        if let Some(header) = header {
            self.memory(|memory| {
                if header.revision > memory.header.revision {
                    memory.header = *header;
                }
            });
        }
    }

    async fn look(&self, key: &[u8], range_end: &[u8]) -> Result<PbRangeResponse, Status> {
        let range = PbRangeRequest { key: key.into(), range_end: range_end.into(), ..PbRangeRequest::default() };
        self.wire.unary("/etcdserverpb.KV/Range", range).await
    }

    /// Versions that were never taken back.
    fn age(&self, kv: &mut PbKeyValue) {
        if self.is(Fault::VersionGoesOnAfterDelete) && kv.version > 0 {
            kv.version += self.memory(|memory| {
                let lives = memory.lives.get(&kv.key).into_iter().flatten();
                lives.filter(|(deleted, _)| *deleted < kv.create_revision).map(|(_, version)| version).sum::<i64>()
            });
        }
    }

    /// What becomes of a message of a watch stream.
    fn tell(&self, mut message: PbWatchResponse) -> Vec<PbWatchResponse> {
        let revision = |event: &etcd_client::proto::PbEvent| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let of_lease = |event: &etcd_client::proto::PbEvent| {
            event.r#type == 1 && event.prev_kv.as_ref().is_some_and(|prev| prev.lease != 0)
        };
        message.events.iter_mut().filter_map(|event| event.kv.as_mut()).for_each(|kv| self.age(kv));
        match self.fault {
            Fault::CreatedShowsAnOlderRevision if message.created => {
                message.header.iter_mut().for_each(|header| header.revision -= 1);
            }
            Fault::CompactedWatchNamesNoRevision => message.compact_revision = 0,
            Fault::CompactedWatchHasAHeaderRevision if message.compact_revision != 0 => {
                message.header.iter_mut().for_each(|header| header.revision = message.compact_revision);
            }
            Fault::TombstoneOfLeaseHasNoPrevious => {
                message.events.iter_mut().filter(|event| of_lease(event)).for_each(|event| event.prev_kv = None);
            }
            Fault::TombstoneHasAVersion => {
                let tombstones = message.events.iter_mut().filter(|event| event.r#type == 1);
                tombstones.filter_map(|event| event.kv.as_mut()).for_each(|kv| kv.version = 1);
            }
            Fault::LeaseEndsInSeveralRevisions if message.events.iter().all(of_lease) => {
                let events = std::mem::take(&mut message.events);
                let pieces = events.into_iter().zip(0..).map(|(mut event, later)| {
                    event.kv.iter_mut().for_each(|kv| kv.mod_revision += later);
                    let mut piece = PbWatchResponse { events: vec![event], ..message.clone() };
                    piece.header.iter_mut().for_each(|header| header.revision += later);
                    piece
                });
                let pieces: Vec<_> = pieces.collect();
                return if pieces.is_empty() { vec![message] } else { pieces };
            }
            Fault::ReplaySplitsATxn => {
                let events = &message.events;
                let replayed = events.first().map(revision) != events.last().map(revision);
                let inside = events.windows(2).position(|two| revision(&two[0]) == revision(&two[1]));
                if let Some(inside) = inside.filter(|_| replayed) {
                    let rest = message.events.split_off(inside + 1);
                    return vec![message.clone(), PbWatchResponse { events: rest, ..message }];
                }
            }
            _ => {}
        }
        vec![message]
    }

    /// Whether a comparison is one that the fault takes for true.
    async fn holds_wrongly(&self, compare: &etcd_client::proto::PbCompare) -> Result<bool, Status> {
        let concerned = self.is(Fault::ValueCompareOfMissingKeyHolds)
            && compare.target == PbCompareTarget::Value as i32
            && !compare.key.is_empty();
        Ok(concerned && self.look(&compare.key, &compare.range_end).await?.count == 0)
    }
}

#[tonic::async_trait]
impl PbKvService for Faulty {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let mut range = request.into_inner();
        let (limit, before) = (range.limit, range.range_end != [0] && range.range_end <= range.key);
        if self.is(Fault::EndBeforeKeyIsTheKey) && before {
            range.range_end.clear();
        }
        if self.is(Fault::SortNeedsAnOrder) && range.sort_order == 0 {
            range.sort_target = 0;
        }
        let answer: Result<PbRangeResponse, Status> = self.wire.unary("/etcdserverpb.KV/Range", range).await;
        let mut answer = answer.map_err(|status| match status.code() {
            Code::OutOfRange if self.is(Fault::CompactedReadIsInvalidArgument) => {
                Status::invalid_argument(status.message())
            }
            _ => status,
        })?;
        self.note(answer.header.as_ref());
        if self.is(Fault::CountHonoursLimit) && limit > 0 {
            answer.count = answer.count.min(limit);
        }
        answer.kvs.iter_mut().for_each(|kv| self.age(kv));
        Ok(Response::new(answer))
    }

    type RangeStreamStream = Answers<PbRangeStreamResponse>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not used by the probe"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let mut put = request.into_inner();
        if self.is(Fault::PutKeepsTheLease) && put.lease == 0 && !put.key.is_empty() {
            put.ignore_lease = self.look(&put.key, b"").await?.count > 0;
        }
        let answer: PbPutResponse = self.wire.unary("/etcdserverpb.KV/Put", put).await?;
        self.note(answer.header.as_ref());
        Ok(Response::new(answer))
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        let delete = request.into_inner();
        let dying = match self.fault {
            Fault::VersionGoesOnAfterDelete if !delete.key.is_empty() => {
                self.look(&delete.key, &delete.range_end).await?.kvs
            }
            _ => Vec::new(),
        };
        let mut answer: PbDeleteResponse = self.wire.unary("/etcdserverpb.KV/DeleteRange", delete).await?;
        if self.is(Fault::NoOpDeleteRaisesRevision) && answer.deleted == 0 {
            let raised: PbPutResponse = self.wire.unary("/etcdserverpb.KV/Put", put_request(FENCE, "")).await?;
            answer.header = raised.header;
        }
        self.note(answer.header.as_ref());
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        self.memory(|memory| {
            for kv in dying {
                memory.lives.entry(kv.key).or_default().push((revision, kv.version));
            }
        });
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let mut txn = request.into_inner();
        let mut wrong = Vec::new();
        for compare in &txn.compare {
            wrong.push(self.holds_wrongly(compare).await?);
        }
        let mut wrong = wrong.into_iter();
        txn.compare.retain(|_| !wrong.next().unwrap_or(false));
        let mut earlier = Vec::new();
        if self.is(Fault::TxnReadsMissEarlierWrites) {
            for op in &txn.success {
                earlier.push(match &op.request {
                    Some(PbTxnOpRequest::RequestRange(range)) => {
                        let read: Result<PbRangeResponse, Status> =
                            self.wire.unary("/etcdserverpb.KV/Range", range.clone()).await;
                        read.ok()
                    }
                    _ => None,
                });
            }
        }
        let mut answer: PbTxnResponse = self.wire.unary("/etcdserverpb.KV/Txn", txn).await?;
        self.note(answer.header.as_ref());
        if answer.succeeded {
            for (op, earlier) in answer.responses.iter_mut().zip(earlier) {
                if let (Some(PbTxnOpResponse::ResponseRange(range)), Some(earlier)) = (&mut op.response, earlier) {
                    *range = PbRangeResponse { header: range.header.take(), ..earlier };
                }
            }
        }
        Ok(Response::new(answer))
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let answer = self.wire.unary("/etcdserverpb.KV/Compact", request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl PbLeaseService for Faulty {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let grant = request.into_inner();
        let asked = grant.ttl;
        let mut answer: PbLeaseGrantResponse = self.wire.unary("/etcdserverpb.Lease/LeaseGrant", grant).await?;
        if self.is(Fault::ShortTtlIsKept) {
            answer.ttl = asked;
        }
        Ok(Response::new(answer))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let answer: PbLeaseRevokeResponse =
            self.wire.unary("/etcdserverpb.Lease/LeaseRevoke", request.into_inner()).await?;
        self.note(answer.header.as_ref());
        Ok(Response::new(answer))
    }

    type LeaseKeepAliveStream = Answers<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let requests = request.into_inner().filter_map(|request| async { request.ok() });
        let answers: Streaming<PbLeaseKeepAliveResponse> =
            self.wire.duplex("/etcdserverpb.Lease/LeaseKeepAlive", requests).await?;
        let errs = self.is(Fault::MissingLeaseEndsKeepAlive);
        Ok(Response::new(Box::pin(answers.map(move |answer| match answer {
            Ok(answer) if errs && answer.ttl == 0 => Err(Status::not_found("etcdserver: requested lease not found")),
            answer => answer,
        }))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let answer: PbLeaseTimeToLiveResponse =
            self.wire.unary("/etcdserverpb.Lease/LeaseTimeToLive", request.into_inner()).await?;
        if self.is(Fault::MissingLeaseHasNoTimeToLive) && answer.ttl < 0 {
            return Err(Status::not_found("etcdserver: requested lease not found"));
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let answer = self.wire.unary("/etcdserverpb.Lease/LeaseLeases", request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl PbWatchService for Faulty {
    type WatchStream = Answers<PbWatchResponse>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let (to_server, forwarded) = mpsc::unbounded_channel();
        // What the proxy says by itself, and its end of the stream.
        let (to_client, own) = mpsc::unbounded_channel();
        let (faulty, hangs_up) = (self.clone(), self.is(Fault::HalfCloseEndsTheStream));
        tokio::spawn(async move {
            while let Ok(Some(mut request)) = requests.message().await {
                match &mut request.request_union {
                    Some(PbWatchRequestUnion::CreateRequest(create)) if faulty.is(Fault::FragmentsUnasked) => {
                        create.fragment = true;
                    }
                    Some(PbWatchRequestUnion::ProgressRequest(_)) if faulty.is(Fault::ProgressBeforeAllAreInStep) => {
                        let header = Some(faulty.memory(|memory| memory.header));
                        let at_once = PbWatchResponse { header, watch_id: -1, ..PbWatchResponse::default() };
                        let _ = to_client.send(Some(Ok(at_once)));
                        continue;
                    }
                    _ => {}
                }
                let _ = to_server.send(request);
            }
            if hangs_up {
                let _ = to_client.send(None);
            }
        });
        let requests = UnboundedReceiverStream::new(forwarded);
        let answers: Streaming<PbWatchResponse> = self.wire.duplex("/etcdserverpb.Watch/Watch", requests).await?;
        let faulty = self.clone();
        let answers = answers.flat_map(move |answer| {
            let told = match answer {
                Ok(message) => faulty.tell(message).into_iter().map(|message| Some(Ok(message))).collect(),
                Err(status) => vec![Some(Err(status))],
            };
            stream::iter(told)
        });
        let both = stream::select(UnboundedReceiverStream::new(own), answers.chain(stream::once(async { None })));
        Ok(Response::new(Box::pin(
            both.take_while(|said| std::future::ready(said.is_some())).filter_map(std::future::ready),
        )))
    }
}
