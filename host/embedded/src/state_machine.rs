//! The whole server as one state machine: keys, leases, watchers and alarms, driven by requests and
//! the time.
//!
//! Pure: the time passes in as the duration since the server's start, watchers are told through the
//! wakers of their streams. It is used behind one lock; every method is short and none waits.

use std::{
    collections::BTreeSet,
    task::{Context, Poll},
    time::Duration,
};

use etcd_client::{
    AlarmAction, AlarmType,
    proto::{
        PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbDeleteRequest, PbDeleteResponse, PbLeaseGrantResponse,
        PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbResponseHeader, PbTxnRequest,
        PbTxnResponse,
    },
};

use super::{
    auth_store::AuthStore,
    error::EtcdError,
    keyspace::Keyspace,
    lease::Leases,
    query,
    store::{AutoCompaction, Store},
    txn,
    watch::{Message, StreamId, WatchDispatcher, WatchSpec},
};

/// The term a cluster of one member is in after its first start.
pub(super) const RAFT_TERM: u64 = 2;
/// What a lease counts against the quota (`leaseOverhead` in etcd).
const LEASE_BYTES: usize = 64;

/// Who answers, in every header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
}

/// The limits of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) compaction: AutoCompaction,
    /// Messages a watcher may leave unread before it reads from history instead.
    pub(super) watch_queue: usize,
    /// Bytes of all versions of all keys.
    pub(super) quota: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StateMachine {
    keyspace: Keyspace,
    watches: WatchDispatcher,
    /// (type, member), as set by us or by an operator.
    alarms: BTreeSet<(i32, u64)>,
    auth_store: AuthStore,
    identity: Identity,
    limits: Limits,
    random: fastrand::Rng,
    now: Duration,
    /// Requests applied, in place of etcd's raft index.
    applied: u64,
    /// A request ended half-way, through a fault of ours.
    damaged: bool,
}

impl StateMachine {
    /// An empty machine at `revision`, where everything before `compact_revision` counts as
    /// compacted.
    pub(super) fn new(
        identity: Identity,
        revision: i64,
        compact_revision: i64,
        limits: Limits,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            keyspace: Keyspace { store: Store::new(revision, compact_revision), leases: Leases::default() },
            watches: WatchDispatcher::new(limits.watch_queue),
            alarms: BTreeSet::new(),
            auth_store: AuthStore::default(),
            identity,
            limits,
            random,
            now: Duration::ZERO,
            applied: 0,
            damaged: false,
        }
    }

    /// Moves the time on: ends the leases that are over, each in a revision of its own, and
    /// compacts.
    pub(super) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.damaged {
            return;
        }
        while let Some(lease) = self.keyspace.leases.first_expired(self.now) {
            tracing::debug!(lease = format_args!("{lease:x}"), "lease expired");
            // It exists: it was found a line above, under the same lock.
            if self.keyspace.revoke(lease).is_ok() {
                self.commit();
            }
        }
        self.keyspace.store.auto_compact(self.limits.compaction, self.now);
    }

    /// When [`Self::advance`] has to be called next for a lease to end in time.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        if self.damaged { None } else { self.keyspace.leases.next_deadline() }
    }

    /// A request that ends half-way.
    #[cfg(test)]
    pub(super) fn end_half_way(&mut self, request: &PbPutRequest) {
        self.keyspace.put(request);
        panic!("a fault, for a test");
    }

    fn commit(&mut self) {
        debug_assert!(!self.damaged, "nothing is written any more");
        self.applied += 1;
        if let Some(commit) = self.keyspace.store.commit(self.now) {
            self.watches.dispatch(&commit);
        }
        self.keyspace.store.auto_compact(self.limits.compaction, self.now);
    }

    /// A header at the newest revision.
    pub(super) fn header(&self) -> PbResponseHeader {
        self.identity.header(self.keyspace.store.revision())
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn store(&self) -> &Store {
        &self.keyspace.store
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    pub(super) fn quota(&self) -> usize {
        self.limits.quota
    }

    fn fill(&self, header: &mut Option<PbResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        let revision = if revision == 0 { self.keyspace.store.revision() } else { revision };
        *header = Some(self.identity.header(revision));
    }

    /// Runs a checked range.
    pub(super) fn range(&self, request: &PbRangeRequest) -> Result<query::Selection, EtcdError> {
        self.refuse_if_corrupt()?;
        self.keyspace.range(request)
    }

    /// Runs a checked put.
    pub(super) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, EtcdError> {
        self.refuse_if_corrupt()?;
        self.reserve(request.key.len() + request.value.len())?;
        self.keyspace.admits_put(request)?;
        let mut response = self.keyspace.put(request);
        self.commit();
        self.fill(&mut response.header);
        Ok(response)
    }

    /// Runs a checked delete.
    pub(super) fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, EtcdError> {
        self.refuse_if_corrupt()?;
        let mut response = self.keyspace.delete(request);
        self.commit();
        self.fill(&mut response.header);
        Ok(response)
    }

    /// Runs a checked txn.
    pub(super) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, EtcdError> {
        self.refuse_if_corrupt()?;
        self.reserve(txn::put_bytes(request))?;
        let mut response = txn::run(&mut self.keyspace, request)?;
        self.commit();
        self.fill(&mut response.header);
        Ok(response)
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<PbResponseHeader, EtcdError> {
        self.refuse_if_corrupt()?;
        self.keyspace.store.compact(revision)?;
        self.applied += 1;
        Ok(self.header())
    }

    /// Grants a lease; an id of 0 lets us choose one.
    pub(super) fn grant(&mut self, id: i64, ttl: i64) -> Result<PbLeaseGrantResponse, EtcdError> {
        self.refuse_if_corrupt()?;
        self.reserve(LEASE_BYTES)?;
        let id = if id == 0 { self.free_lease_id() } else { id };
        let ttl = self.keyspace.leases.grant(id, ttl, self.now)?;
        self.applied += 1;
        Ok(PbLeaseGrantResponse { header: Some(self.header()), id, ttl, error: String::new() })
    }

    fn free_lease_id(&mut self) -> i64 {
        loop {
            let id = self.random.i64(1..i64::MAX);
            if !self.keyspace.leases.exists(id) {
                return id;
            }
        }
    }

    pub(super) fn revoke(&mut self, lease: i64) -> Result<PbResponseHeader, EtcdError> {
        self.refuse_if_corrupt()?;
        self.keyspace.revoke(lease)?;
        self.commit();
        Ok(self.header())
    }

    /// Starts a lease's TTL anew and returns it; 0 when there is no such lease.
    pub(super) fn renew(&mut self, lease: i64) -> i64 {
        self.keyspace.leases.renew(lease, self.now).unwrap_or(0)
    }

    /// What is left of a lease; a TTL of −1 when there is no such lease.
    pub(super) fn time_to_live(&self, id: i64, with_keys: bool) -> PbLeaseTimeToLiveResponse {
        let header = Some(self.header());
        match self.keyspace.leases.view(id, self.now) {
            None => PbLeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
            Some(view) => PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl: view.remaining,
                granted_ttl: view.granted,
                keys: view.keys.iter().filter(|_| with_keys).map(|key| key.to_vec()).collect(),
            },
        }
    }

    /// The ids of all leases, the one that ends first first.
    pub(super) fn lease_ids(&self) -> Vec<i64> {
        self.keyspace.leases.ids()
    }

    pub(super) fn open_stream(&mut self) -> StreamId {
        self.watches.open()
    }

    pub(super) fn close_stream(&mut self, stream: StreamId) {
        self.watches.close(stream);
    }

    pub(super) fn watch(&mut self, stream: StreamId, spec: WatchSpec) {
        self.watches.create(stream, spec, self.keyspace.store.revision());
    }

    pub(super) fn cancel_watch(&mut self, stream: StreamId, watch_id: i64) {
        self.watches.cancel(stream, watch_id, self.keyspace.store.revision());
    }

    pub(super) fn request_progress(&mut self, stream: StreamId) {
        self.watches.request_progress(stream, self.keyspace.store.revision());
    }

    pub(super) fn tick_progress(&mut self, stream: StreamId) {
        self.watches.tick_progress(stream, self.keyspace.store.revision());
    }

    /// How many messages wait on a watch stream.
    pub(super) fn watch_backlog(&self, stream: StreamId) -> usize {
        self.watches.backlog(stream)
    }

    /// The next message of a watch stream; see [`WatchDispatcher::poll`].
    pub(super) fn poll_watch(&mut self, stream: StreamId, cx: &mut Context<'_>) -> Poll<Result<Message, EtcdError>> {
        self.watches.poll(stream, &self.keyspace.store, cx)
    }

    pub(super) fn auth_store(&mut self) -> &mut AuthStore {
        &mut self.auth_store
    }

    /// Ends all watch streams.
    pub(super) fn shut_down(&mut self) {
        self.watches.shut_down();
    }

    /// Lists, raises or clears alarms as an operator asks. Alarms and what they stop are those of
    /// etcd.
    pub(super) fn alarm(&mut self, request: &PbAlarmRequest) -> PbAlarmResponse {
        let changed = (request.alarm, request.member_id);
        let known = request.alarm != AlarmType::None as i32 && AlarmType::try_from(request.alarm).is_ok();
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms(request.alarm),
            Ok(AlarmAction::Activate) if known => {
                self.alarms.insert(changed);
                vec![alarm_member(changed)]
            }
            Ok(AlarmAction::Deactivate) if self.alarms.remove(&changed) => vec![alarm_member(changed)],
            _ => Vec::new(),
        };
        PbAlarmResponse { header: Some(self.header()), alarms }
    }

    /// The alarms of a type, or all of them for type 0.
    pub(super) fn alarms(&self, alarm: i32) -> Vec<PbAlarmMember> {
        let all = AlarmType::None as i32;
        self.alarms.iter().filter(|(raised, _)| alarm == all || *raised == alarm).map(|a| alarm_member(*a)).collect()
    }

    fn raised(&self, alarm: AlarmType) -> bool {
        self.alarms.iter().any(|(raised, _)| *raised == alarm as i32)
    }

    fn refuse_if_corrupt(&self) -> Result<(), EtcdError> {
        if self.damaged || self.raised(AlarmType::Corrupt) { Err(EtcdError::Corrupt) } else { Ok(()) }
    }

    /// Serves nobody from now on, for good, and ends all watches: what a request that ended
    /// half-way has written is not to be read, and clients shall look for another server. As etcd
    /// with the alarm CORRUPT, which it raises too.
    pub(super) fn damaged(&mut self) {
        if !self.damaged {
            tracing::error!("the embedded registry is damaged by a fault of its own, and serves no more; restart it");
        }
        self.damaged = true;
        self.alarms.insert((AlarmType::Corrupt as i32, self.identity.member_id));
        self.watches.shut_down();
    }

    /// Refuses what would add `bytes` when space is out, and raises the alarm that stays until an
    /// operator clears it.
    fn reserve(&mut self, bytes: usize) -> Result<(), EtcdError> {
        if bytes == 0 {
            return Ok(());
        }
        if self.raised(AlarmType::Nospace) {
            return Err(EtcdError::NoSpace);
        }
        if self.keyspace.store.bytes() + bytes > self.limits.quota {
            tracing::warn!(quota_bytes = self.limits.quota, "the embedded registry is full: alarm NOSPACE raised");
            self.alarms.insert((AlarmType::Nospace as i32, self.identity.member_id));
            return Err(EtcdError::NoSpace);
        }
        Ok(())
    }
}

impl Identity {
    pub(super) fn header(self, revision: i64) -> PbResponseHeader {
        PbResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term: RAFT_TERM }
    }
}

fn alarm_member((alarm, member_id): (i32, u64)) -> PbAlarmMember {
    PbAlarmMember { member_id, alarm }
}
