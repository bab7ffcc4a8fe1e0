//! Runs the script against a server and writes down what comes back.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::proto::{
    PbAlarmResponse, PbCompactionResponse, PbDeleteResponse, PbHashKvResponse, PbLeaseGrantResponse,
    PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse,
    PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
    PbMemberListRequest, PbMemberListResponse, PbPutResponse, PbRangeResponse, PbResponseHeader, PbStatusRequest,
    PbStatusResponse, PbTxnResponse, PbWatchRequestUnion, PbWatchResponse,
};
use futures::stream;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::{
    say::{Known, refusal},
    script::{Action, Create, FENCE, REST, Step, blank, get_request, put_request, resolve},
    storm,
    stream::{FENCE_WATCHER, Stream, Watcher},
    wire::Wire,
};

/// What one step of the script brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) rule: String,
    pub(crate) lines: Vec<String>,
}

/// An answer that is nothing but a header; others of its fields are not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct HeaderOnly {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
}

/// A run.
pub(crate) struct Runner {
    wire: Wire,
    known: Known,
    streams: BTreeMap<usize, Stream>,
    patience: Duration,
    lines: Vec<String>,
}

/// Runs the whole script, and hands each step's lines on as they come.
///
/// # Errors
///
/// When the server cannot be reached, or holds data: the script deletes everything.
pub(crate) async fn run(
    url: &str,
    steps: &[Step],
    patience: Duration,
    mut hear: impl FnMut(usize, &Said),
) -> Result<Vec<Said>, String> {
    let mut runner = Runner::new(url, patience).await?;
    let mut all = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        runner.step(step.action.clone()).await;
        let said = Said { rule: step.rule.clone(), lines: std::mem::take(&mut runner.lines) };
        hear(number, &said);
        all.push(said);
    }
    runner.leave().await;
    Ok(all)
}

/// The version of the server.
pub(crate) async fn version(url: &str) -> Result<String, String> {
    let status = Wire::connect(url).await?.unary("/etcdserverpb.Maintenance/Status", PbStatusRequest::default()).await;
    let status: PbStatusResponse = status.map_err(|status| format!("{url}: {}", refusal(&status)))?;
    Ok(status.version)
}

impl Runner {
    async fn new(url: &str, patience: Duration) -> Result<Self, String> {
        let wire = Wire::connect(url).await?;
        let failed = |status: Status| format!("{url}: {}", refusal(&status));
        let everything = etcd_client::proto::PbRangeRequest { count_only: true, ..get_request(REST, REST) };
        let found: PbRangeResponse = wire.unary("/etcdserverpb.KV/Range", everything).await.map_err(failed)?;
        let leases = PbLeaseLeasesRequest::default();
        let leases: PbLeaseLeasesResponse =
            wire.unary("/etcdserverpb.Lease/LeaseLeases", leases).await.map_err(failed)?;
        if found.count > 0 || !leases.leases.is_empty() {
            return Err(format!(
                "{url} holds {} keys and {} leases: the probe deletes everything, and runs only on an empty server",
                found.count,
                leases.leases.len()
            ));
        }
        let header = found.header.ok_or_else(|| format!("{url} answers without a header"))?;
        let known = Known {
            start: header.revision,
            now: header.revision,
            cluster: header.cluster_id,
            member: header.member_id,
            ..Known::default()
        };
        Ok(Self { wire, known, streams: BTreeMap::new(), patience, lines: Vec::new() })
    }

    /// Ends the leases whose ids the server chose: the script cannot name them. All else it has
    /// cleared away itself.
    async fn leave(&mut self) {
        for id in std::mem::take(&mut self.known.leases) {
            let request = PbLeaseRevokeRequest { id };
            // It may be gone.
            let _: Result<PbLeaseRevokeResponse, Status> = self.unary("/etcdserverpb.Lease/LeaseRevoke", request).await;
        }
    }

    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    async fn unary<Q, A>(&self, path: &str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        match timeout(self.patience, self.wire.unary(path, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    async fn step(&mut self, mut action: Action) {
        if let Action::Watch(_, create) = &action
            && create.start > 0
        {
            // So that the last revision is one that the watcher will be told of.
            self.sync().await;
        }
        resolve(&mut action, self.known.start, self.known.now);
        match action {
            Action::Open(stream) => self.open(stream).await,
            Action::Watch(stream, create) => self.watch(stream, create).await,
            Action::Cancel(stream, nth) => self.cancel(stream, nth).await,
            Action::CancelUnknown(stream, watch_id) => self.send_cancel(stream, watch_id),
            Action::Progress(stream) => self.progress(stream).await,
            Action::HalfClose(stream) => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.requests = None;
                }
            }
            Action::Close(stream) => {
                self.sync().await;
                self.streams.remove(&stream);
            }
            Action::Await(stream, watch_id, messages) => self.wait(stream, watch_id, messages).await,
            Action::Sync => self.sync().await,
            Action::KeepAlive(ids) => self.keep_alive(ids).await,
            Action::Storm => {
                let lines = storm::run(&self.wire, self.patience, &mut self.known).await;
                self.lines.extend(lines);
            }
            call => {
                let line = self.call(call).await.unwrap_or_else(|status| refusal(&status));
                self.say(line);
            }
        }
    }

    async fn call(&mut self, action: Action) -> Result<String, Status> {
        Ok(match action {
            Action::Range(range) => {
                let answer: PbRangeResponse = self.unary("/etcdserverpb.KV/Range", range).await?;
                self.known.note(answer.header.as_ref());
                self.known.range(&answer)
            }
            Action::Put(put) => {
                let answer: PbPutResponse = self.unary("/etcdserverpb.KV/Put", put).await?;
                self.known.note(answer.header.as_ref());
                self.known.put(&answer)
            }
            Action::Delete(delete) => {
                let answer: PbDeleteResponse = self.unary("/etcdserverpb.KV/DeleteRange", delete).await?;
                self.known.note(answer.header.as_ref());
                self.known.delete(&answer)
            }
            Action::Txn(txn) => {
                let answer: PbTxnResponse = self.unary("/etcdserverpb.KV/Txn", txn).await?;
                self.known.note(answer.header.as_ref());
                self.known.txn(&answer)
            }
            Action::Compact(compact) => {
                let at = self.known.revision(compact.revision);
                let answer: PbCompactionResponse = self.unary("/etcdserverpb.KV/Compact", compact).await?;
                format!("compacted at {at} {}", self.known.header(answer.header.as_ref()))
            }
            Action::Grant(grant) => {
                let answer: PbLeaseGrantResponse = self.unary("/etcdserverpb.Lease/LeaseGrant", grant).await?;
                let id = self.known.lease(answer.id);
                format!("granted {id} for {} s {}", answer.ttl, self.known.header(answer.header.as_ref()))
            }
            Action::Revoke(id) => {
                let request = PbLeaseRevokeRequest { id };
                let answer: PbLeaseRevokeResponse = self.unary("/etcdserverpb.Lease/LeaseRevoke", request).await?;
                self.known.note(answer.header.as_ref());
                format!("revoked {id} {}", self.known.header(answer.header.as_ref()))
            }
            Action::TimeToLive { id, keys } => {
                let request = PbLeaseTimeToLiveRequest { id, keys };
                let answer: PbLeaseTimeToLiveResponse =
                    self.unary("/etcdserverpb.Lease/LeaseTimeToLive", request).await?;
                let left = match answer.ttl {
                    left if (0..=answer.granted_ttl).contains(&left) => "some".into(),
                    none => none.to_string(),
                };
                let mut keys: Vec<_> = answer.keys.iter().map(|key| super::say::bytes(key)).collect();
                keys.sort();
                let id = self.known.lease(answer.id);
                let header = self.known.header(answer.header.as_ref());
                format!("lease {id} has {left} of {} s left, keys {keys:?} {header}", answer.granted_ttl)
            }
            Action::Leases => {
                let request = PbLeaseLeasesRequest::default();
                let answer: PbLeaseLeasesResponse = self.unary("/etcdserverpb.Lease/LeaseLeases", request).await?;
                let mut ids: Vec<_> = answer.leases.iter().map(|lease| self.known.lease(lease.id)).collect();
                ids.sort();
                format!("leases {ids:?} {}", self.known.header(answer.header.as_ref()))
            }
            Action::Alarm(alarm) => {
                let answer: PbAlarmResponse = self.unary("/etcdserverpb.Maintenance/Alarm", alarm).await?;
                let alarms: Vec<_> = answer
                    .alarms
                    .iter()
                    .map(|alarm| format!("{} of {}", alarm.alarm, self.known.member(alarm.member_id)))
                    .collect();
                format!("alarms {alarms:?} {}", self.known.header(answer.header.as_ref()))
            }
            Action::HashKv(hash) => {
                let answer: PbHashKvResponse = self.unary("/etcdserverpb.Maintenance/HashKV", hash).await?;
                format!("hashed {}", self.known.header(answer.header.as_ref()))
            }
            Action::Status => {
                let request = PbStatusRequest::default();
                let answer: PbStatusResponse = self.unary("/etcdserverpb.Maintenance/Status", request).await?;
                let header = self.known.header(answer.header.as_ref());
                format!("led by {}, errors {:?} {header}", self.known.member(answer.leader), answer.errors)
            }
            Action::Members => {
                let request = PbMemberListRequest::default();
                let answer: PbMemberListResponse = self.unary("/etcdserverpb.Cluster/MemberList", request).await?;
                let members: Vec<_> = answer.members.iter().map(|member| self.known.member(member.id)).collect();
                format!("members {members:?} {}", self.known.header(answer.header.as_ref()))
            }
            Action::Plain(path) => {
                let answer: HeaderOnly = self.unary(path, ()).await?;
                format!("answered {}", self.known.header(answer.header.as_ref()))
            }
            other => unreachable!("{other:?} is no single call"),
        })
    }

    async fn keep_alive(&mut self, ids: Vec<i64>) {
        let requests = stream::iter(ids.into_iter().map(|id| PbLeaseKeepAliveRequest { id }));
        let opened = self.wire.duplex("/etcdserverpb.Lease/LeaseKeepAlive", requests).await;
        let mut answers: Streaming<PbLeaseKeepAliveResponse> = match opened {
            Ok(answers) => answers,
            Err(status) => return self.say(refusal(&status)),
        };
        loop {
            let line = match timeout(self.patience, answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    let header = self.known.header(answer.header.as_ref());
                    format!("kept {} for {} s {header}", self.known.lease(answer.id), answer.ttl)
                }
                // Not every etcd answers all of them after the requests have ended; what it answers
                // is in order.
                Ok(Ok(None)) => return,
                Ok(Err(status)) => return self.say(refusal(&status)),
                Err(_) => return self.say("no answer"),
            };
            self.say(line);
        }
    }

    async fn open(&mut self, number: usize) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The watcher that shows how far the stream is; etcd sends no headers before the first
        // request.
        let fence = Create { watch_id: FENCE_WATCHER, ..Create::new(FENCE, "") };
        let _ = sender.send(fence.request());
        let requests = UnboundedReceiverStream::new(receiver);
        match timeout(self.patience, self.wire.duplex("/etcdserverpb.Watch/Watch", requests)).await {
            Ok(Ok(messages)) => {
                self.streams.insert(number, Stream::new(sender, messages));
                // Its answer, which is nobody's business, comes first: a fence written before would
                // not be told.
                self.read(number, "the first watcher", |stream| stream.begun).await;
            }
            Ok(Err(status)) => self.say(format!("stream {number}: {}", refusal(&status))),
            Err(_) => self.say(format!("stream {number}: no answer")),
        }
        self.sync().await;
    }

    /// Reads a stream until `done`, and says why if that fails.
    async fn read(&mut self, number: usize, what: &str, done: impl FnMut(&mut Stream) -> bool) {
        if let Some(stream) = self.streams.get_mut(&number)
            && let Err(why) = stream.read_until(self.patience, done).await
        {
            self.say(format!("stream {number}: waited for {what}, but {why}"));
        }
    }

    /// Says the pending messages of a stream, those of one watcher after those of another: between
    /// them no order is promised.
    fn say_pending(&mut self, number: usize) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let mut pending = std::mem::take(&mut stream.pending);
        pending.sort_by_key(|message| message.watch_id);
        for message in &pending {
            let line = format!("stream {number}: {}", self.known.watch(message));
            self.say(line);
        }
    }

    async fn watch(&mut self, number: usize, create: Create) {
        let (now, start) = (self.known.now, create.start);
        let replayed = start > 0 && start <= now && create.covers_fence();
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.send(create.request().request_union.unwrap());
        let mut created = None;
        self.read(number, "created", |stream| {
            created = stream.pick(|message| message.created);
            created.is_some()
        })
        .await;
        let Some(created) = created else { return };
        let line = format!("stream {number}: {}", self.known.watch(&created));
        self.say(line);
        if created.canceled {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.seen.remove(&created.watch_id);
            stream.watchers.push(Watcher { id: created.watch_id, create, over: false });
        }
        if replayed {
            let id = created.watch_id;
            self.read(number, "the history", |stream| {
                let over = stream.watchers.iter().any(|watcher| watcher.id == id && watcher.over);
                over || stream.seen.get(&id).is_some_and(|seen| *seen >= now)
            })
            .await;
        } else if start > 0 && start <= now {
            // Narrower than the fence: it is waited for in a step of its own.
            return;
        }
        self.say_pending(number);
    }

    fn send_cancel(&self, number: usize, watch_id: i64) {
        let mut cancel = PbWatchRequestUnion::CancelRequest(blank());
        if let PbWatchRequestUnion::CancelRequest(cancel) = &mut cancel {
            cancel.watch_id = watch_id;
        }
        if let Some(stream) = self.streams.get(&number) {
            stream.send(cancel);
        }
    }

    async fn cancel(&mut self, number: usize, nth: usize) {
        let Some(stream) = self.streams.get_mut(&number).filter(|stream| !stream.watchers.is_empty()) else { return };
        let nth = nth % stream.watchers.len();
        let watcher = stream.watchers.remove(nth);
        self.send_cancel(number, watcher.id);
        let mut canceled = None;
        self.read(number, "canceled", |stream| {
            canceled = stream.pick(|message| message.canceled && !message.created && message.watch_id == watcher.id);
            canceled.is_some()
        })
        .await;
        if let Some(canceled) = canceled {
            let line = format!("stream {number}: {}", self.known.watch(&canceled));
            self.say(line);
        }
    }

    async fn progress(&mut self, number: usize) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.send(PbWatchRequestUnion::ProgressRequest(blank()));
        // Whether there will be an answer is the question, so we ask for something that is always
        // answered: an id in use.
        let taken = Create { watch_id: FENCE_WATCHER, ..Create::new("taken", "") };
        stream.send(taken.request().request_union.unwrap());
        self.read(number, "the refusal of a taken id", |stream| stream.pick(|message| message.created).is_some()).await;
        self.sync().await;
    }

    async fn wait(&mut self, number: usize, watch_id: i64, messages: usize) {
        let of = |message: &PbWatchResponse| message.watch_id == watch_id;
        self.read(number, "a message", |stream| {
            stream.pending.iter().filter(|message| of(message)).count() >= messages
        })
        .await;
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let (told, rest) = std::mem::take(&mut stream.pending).into_iter().partition(of);
        stream.pending = rest;
        let told: Vec<PbWatchResponse> = told;
        for message in &told {
            self.known.note(message.header.as_ref());
            let line = format!("stream {number}: {}", self.known.watch(message));
            self.say(line);
        }
    }

    /// Writes the fence and reads every stream up to it.
    async fn sync(&mut self) {
        let put: Result<PbPutResponse, Status> = self.unary("/etcdserverpb.KV/Put", put_request(FENCE, "")).await;
        let revision = match put {
            Ok(put) => {
                self.known.note(put.header.as_ref());
                put.header.map_or(0, |header| header.revision)
            }
            Err(status) => return self.say(format!("the fence: {}", refusal(&status))),
        };
        let numbers: Vec<_> = self.streams.keys().copied().collect();
        for number in numbers {
            self.read(number, "the fence", |stream| stream.has_reached(revision)).await;
            self.say_pending(number);
        }
    }
}
