//! The script: what is called, in which order. It is one fixed list, so that a difference stays
//! where it is.

use etcd_client::{
    WatchFilterType,
    proto::{
        PbAlarmRequest, PbCompactionRequest, PbCompare, PbDeleteRequest, PbHashKvRequest, PbLeaseGrantRequest,
        PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp, PbWatchRequest,
        PbWatchRequestUnion,
    },
};

/// `NOW + n` as a revision: n after the newest one that an answer has shown.
pub(crate) const NOW: i64 = 1 << 60;
/// `START + n` as a revision: n after the one that the probe found.
pub(crate) const START: i64 = 1 << 59;
/// How far from those two a revision may be.
const REACH: i64 = 1 << 40;

/// The end of a range that means "and everything after".
pub(crate) const REST: &str = "\0";

/// The key of the writes that show how far a watcher is. It comes after all others.
pub(crate) const FENCE: &str = "~";

/// One call and the rule that it is about.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) rule: String,
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Range(PbRangeRequest),
    Put(PbPutRequest),
    Delete(PbDeleteRequest),
    Txn(PbTxnRequest),
    Compact(PbCompactionRequest),
    Grant(PbLeaseGrantRequest),
    Revoke(i64),
    TimeToLive {
        id: i64,
        keys: bool,
    },
    Leases,
    /// All on one stream.
    KeepAlive(Vec<i64>),
    Alarm(PbAlarmRequest),
    HashKv(PbHashKvRequest),
    Status,
    Members,
    /// A call without a request worth mentioning, by its path; the header of the answer is shown.
    Plain(&'static str),
    /// Opens a watch stream.
    Open(usize),
    Watch(usize, Create),
    /// Cancels one of the stream's watchers: the nth of those that were created and not cancelled
    /// yet.
    Cancel(usize, usize),
    /// Cancels an id that the stream does not have.
    CancelUnknown(usize, i64),
    Progress(usize),
    /// Closes the stream's requests, and only those.
    HalfClose(usize),
    /// Drops the stream.
    Close(usize),
    /// Waits for the next messages of a watcher: stream, id, how many.
    Await(usize, i64, usize),
    /// Reads all streams up to now.
    Sync,
    /// Many writers and watchers at once.
    Storm,
}

/// What is asked for in a watcher. The type of `etcd-client` has no name outside of it.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "the options of one request")]
pub(crate) struct Create {
    pub(crate) key: String,
    pub(crate) end: String,
    pub(crate) start: i64,
    pub(crate) watch_id: i64,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) prev_kv: bool,
    pub(crate) fragment: bool,
    pub(crate) progress_notify: bool,
}

impl Create {
    pub(crate) fn new(key: &str, end: &str) -> Self {
        Self { key: key.into(), end: end.into(), ..Self::default() }
    }

    /// Whether it hears of the fence (once it is as far).
    pub(crate) fn covers_fence(&self) -> bool {
        let (key, end) = (self.key.as_str(), self.end.as_str());
        !self.no_put && (key == FENCE && end.is_empty() || key <= FENCE && (end == REST || end > FENCE))
    }

    pub(crate) fn request(&self) -> PbWatchRequest {
        let mut union = PbWatchRequestUnion::CreateRequest(blank());
        if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
            create.key = self.key.clone().into_bytes();
            create.range_end = self.end.clone().into_bytes();
            create.start_revision = self.start;
            create.watch_id = self.watch_id;
            create.prev_kv = self.prev_kv;
            create.fragment = self.fragment;
            create.progress_notify = self.progress_notify;
            let filters =
                [(self.no_put, WatchFilterType::NoPut), (self.no_delete, WatchFilterType::NoDelete)].into_iter();
            create.filters = filters.filter(|(set, _)| *set).map(|(_, filter)| filter as i32).collect();
        }
        PbWatchRequest { request_union: Some(union) }
    }
}

/// A message of a type that `etcd-client` does not export.
pub(crate) fn blank<T: Default>() -> T {
    T::default()
}

/// Collects the steps.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    rule: String,
}

impl Script {
    /// The rule that the steps from here on are about.
    pub(crate) fn rule(&mut self, rule: impl Into<String>) -> &mut Self {
        self.rule = rule.into();
        self
    }

    pub(crate) fn act(&mut self, action: Action) -> &mut Self {
        self.steps.push(Step { rule: self.rule.clone(), action });
        self
    }

    /// A call, and what the watchers hear of it.
    pub(crate) fn told(&mut self, action: Action) -> &mut Self {
        self.act(action).act(Action::Sync)
    }

    /// Deletes every key.
    pub(crate) fn clear(&mut self) -> &mut Self {
        self.act(delete(REST, REST))
    }
}

/// Gives the revisions of an action their meaning.
pub(crate) fn resolve(action: &mut Action, start: i64, now: i64) {
    let fix = |revision: &mut i64| {
        if (*revision - NOW).abs() < REACH {
            *revision += now - NOW;
        } else if (*revision - START).abs() < REACH {
            *revision += start - START;
        }
    };
    match action {
        Action::Range(range) => resolve_range(range, &fix),
        Action::Txn(txn) => resolve_txn(txn, &fix),
        Action::Compact(compact) => fix(&mut compact.revision),
        Action::HashKv(hash) => fix(&mut hash.revision),
        Action::Watch(_, create) => fix(&mut create.start),
        _ => {}
    }
}

fn resolve_range(range: &mut PbRangeRequest, fix: &impl Fn(&mut i64)) {
    fix(&mut range.revision);
    fix(&mut range.min_mod_revision);
    fix(&mut range.max_mod_revision);
    fix(&mut range.min_create_revision);
    fix(&mut range.max_create_revision);
}

fn resolve_txn(txn: &mut PbTxnRequest, fix: &impl Fn(&mut i64)) {
    for compare in &mut txn.compare {
        if let Some(PbTargetUnion::ModRevision(revision) | PbTargetUnion::CreateRevision(revision)) =
            &mut compare.target_union
        {
            fix(revision);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(PbTxnOpRequest::RequestRange(range)) => resolve_range(range, fix),
            Some(PbTxnOpRequest::RequestTxn(nested)) => resolve_txn(nested, fix),
            _ => {}
        }
    }
}

// Short forms, as the script would be unreadable in the types of the wire.

pub(crate) fn get_request(key: &str, end: &str) -> PbRangeRequest {
    PbRangeRequest { key: key.into(), range_end: end.into(), ..PbRangeRequest::default() }
}

pub(crate) fn put_request(key: &str, value: &str) -> PbPutRequest {
    PbPutRequest { key: key.into(), value: value.into(), ..PbPutRequest::default() }
}

pub(crate) fn delete_request(key: &str, end: &str) -> PbDeleteRequest {
    PbDeleteRequest { key: key.into(), range_end: end.into(), prev_kv: true }
}

pub(crate) fn get(key: &str, end: &str) -> Action {
    Action::Range(get_request(key, end))
}

/// A range with something changed.
pub(crate) fn get_with(key: &str, end: &str, change: impl FnOnce(&mut PbRangeRequest)) -> Action {
    let mut request = get_request(key, end);
    change(&mut request);
    Action::Range(request)
}

pub(crate) fn put(key: &str, value: &str) -> Action {
    Action::Put(put_request(key, value))
}

/// A put with something changed.
pub(crate) fn put_with(key: &str, value: &str, change: impl FnOnce(&mut PbPutRequest)) -> Action {
    let mut request = put_request(key, value);
    change(&mut request);
    Action::Put(request)
}

pub(crate) fn put_leased(key: &str, value: &str, lease: i64) -> Action {
    put_with(key, value, |put| put.lease = lease)
}

pub(crate) fn delete(key: &str, end: &str) -> Action {
    Action::Delete(delete_request(key, end))
}

pub(crate) fn compact(revision: i64) -> Action {
    Action::Compact(PbCompactionRequest { revision, physical: false })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Action {
    Action::Grant(PbLeaseGrantRequest { ttl, id })
}

pub(crate) fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
    PbTxnRequestOp { request: Some(request) }
}

pub(crate) fn op_get(key: &str, end: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestRange(get_request(key, end)))
}

pub(crate) fn op_put(key: &str, value: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestPut(put_request(key, value)))
}

pub(crate) fn op_delete(key: &str, end: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestDeleteRange(delete_request(key, end)))
}

pub(crate) fn op_txn(txn: PbTxnRequest) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestTxn(txn))
}

/// `if compares { success } else { failure }`.
pub(crate) fn txn_request(
    compare: impl Into<Vec<PbCompare>>,
    success: impl Into<Vec<PbTxnRequestOp>>,
    failure: impl Into<Vec<PbTxnRequestOp>>,
) -> PbTxnRequest {
    PbTxnRequest { compare: compare.into(), success: success.into(), failure: failure.into() }
}

pub(crate) fn txn(
    compare: impl Into<Vec<PbCompare>>,
    success: impl Into<Vec<PbTxnRequestOp>>,
    failure: impl Into<Vec<PbTxnRequestOp>>,
) -> Action {
    Action::Txn(txn_request(compare, success, failure))
}

/// The comparisons of etcd, as numbered on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Is {
    Equal = 0,
    Greater = 1,
    Less = 2,
    NotEqual = 3,
}

pub(crate) fn compare(key: &str, end: &str, is: Is, with: PbTargetUnion) -> PbCompare {
    let target = match with {
        PbTargetUnion::Version(_) => 0,
        PbTargetUnion::CreateRevision(_) => 1,
        PbTargetUnion::ModRevision(_) => 2,
        PbTargetUnion::Value(_) => 3,
        PbTargetUnion::Lease(_) => 4,
    };
    PbCompare { key: key.into(), range_end: end.into(), result: is as i32, target, target_union: Some(with) }
}
