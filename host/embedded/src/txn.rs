//! Transactions: the rules a txn must keep, its comparisons, and its execution on an open revision.
//!
//! Order as in etcd: what can be refused without the data, then all comparisons (those of nested
//! txns too, on the data as it was before the txn), then what the data refuses on the branches
//! taken, then the operations. Nothing is written unless everything is admitted.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use etcd_client::{
    CompareOp,
    proto::{
        PbCompare, PbCompareTarget, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
        PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
    },
};

use super::{
    error::EtcdError,
    key_range::KeyRange,
    keyspace::{Keyspace, check_delete, check_put},
    query,
    store::{Kv, Store},
};

/// Most comparisons, or operations in one branch, of one txn (`--max-txn-ops`). Nested txns share
/// what is left.
pub(super) const MAX_OPS: usize = 128;

/// What can be refused without looking at the data.
pub(super) fn check(request: &PbTxnRequest) -> Result<(), EtcdError> {
    check_shape(request, MAX_OPS)?;
    written_by(&request.success)?;
    written_by(&request.failure)?;
    Ok(())
}

fn check_shape(request: &PbTxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(EtcdError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::KeyNotProvided);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(range)) => query::check(range)?,
            Some(PbTxnOpRequest::RequestPut(put)) => check_put(put)?,
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(PbTxnOpRequest::RequestTxn(nested)) => check_shape(nested, max_ops - ops)?,
            None => return Err(EtcdError::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys one branch puts and the ranges it deletes.
#[derive(Default)]
struct Written<'r> {
    puts: HashSet<&'r [u8]>,
    deletes: Intervals<'r>,
}

/// Collects what a branch writes and refuses overlaps: of puts with puts, and of puts with deletes.
/// Two branches of one nested txn may put the same key, since only one of them runs.
fn written_by(ops: &[PbTxnRequestOp]) -> Result<Written<'_>, EtcdError> {
    let mut written = Written::default();
    for op in ops {
        if let Some(PbTxnOpRequest::RequestDeleteRange(delete)) = &op.request {
            written.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Some(PbTxnOpRequest::RequestTxn(nested)) = &op.request else { continue };
        let then = written_by(&nested.success)?;
        let otherwise = written_by(&nested.failure)?;
        let all: HashSet<_> = then.puts.union(&otherwise.puts).copied().collect();
        for key in all {
            written.put(key)?;
        }
        written.deletes.join(then.deletes);
        written.deletes.join(otherwise.deletes);
    }
    for op in ops {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &op.request {
            written.put(&put.key)?;
        }
    }
    Ok(written)
}

impl<'r> Written<'r> {
    fn put(&mut self, key: &'r [u8]) -> Result<(), EtcdError> {
        if self.deletes.contain(key) || !self.puts.insert(key) { Err(EtcdError::DuplicateKey) } else { Ok(()) }
    }
}

/// A union of single keys and of disjoint key ranges, start (inclusive) to end (exclusive).
#[derive(Default)]
struct Intervals<'r> {
    keys: HashSet<&'r [u8]>,
    ranges: BTreeMap<&'r [u8], &'r [u8]>,
}

impl<'r> Intervals<'r> {
    /// etcd's overlap check reads an end of one zero byte as that very key, hence as an empty
    /// range, and so do we: a txn that deletes "everything from here on" and puts one of those keys
    /// is accepted by both.
    fn insert(&mut self, start: &'r [u8], end: &'r [u8]) {
        if end.is_empty() {
            self.keys.insert(start);
        } else if start < end {
            self.insert_range(start, end);
        }
    }

    fn insert_range(&mut self, mut start: &'r [u8], mut end: &'r [u8]) {
        // Swallow every range that touches the new one.
        while let Some((other_start, other_end)) = self.last_starting_by(end).filter(|(_, other)| *other >= start) {
            self.ranges.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
    }

    fn last_starting_by(&self, key: &[u8]) -> Option<(&'r [u8], &'r [u8])> {
        self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back().map(|(s, e)| (*s, *e))
    }

    fn contain(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.last_starting_by(key).is_some_and(|(_, end)| key < end)
    }

    fn join(&mut self, other: Self) {
        self.keys.extend(other.keys);
        for (start, end) in other.ranges {
            self.insert_range(start, end);
        }
    }
}

/// A txn with its comparisons decided: the branch to run, nested txns likewise.
struct Plan<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

enum Step<'r> {
    Op(&'r PbTxnOpRequest),
    Nested(Plan<'r>),
}

impl<'r> Plan<'r> {
    fn new(store: &Store, request: &'r PbTxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|compare| holds(store, compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let steps = ops
            .iter()
            .filter_map(|op| op.request.as_ref())
            .map(|op| match op {
                PbTxnOpRequest::RequestTxn(nested) => Step::Nested(Self::new(store, nested)),
                op => Step::Op(op),
            })
            .collect();
        Self { succeeded, steps }
    }

    fn admit<'p>(
        &'p self,
        admit: &mut impl FnMut(&'p PbTxnOpRequest) -> Result<(), EtcdError>,
    ) -> Result<(), EtcdError> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Op(op) => admit(op),
            Step::Nested(plan) => plan.admit(admit),
        })
    }

    fn run(&self, keyspace: &mut Keyspace) -> Result<PbTxnResponse, EtcdError> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let response = match step {
                Step::Nested(plan) => PbTxnOpResponse::ResponseTxn(plan.run(keyspace)?),
                Step::Op(PbTxnOpRequest::RequestRange(range)) => {
                    PbTxnOpResponse::ResponseRange(keyspace.range(range)?.into_response(range.keys_only))
                }
                Step::Op(PbTxnOpRequest::RequestPut(put)) => PbTxnOpResponse::ResponsePut(keyspace.put(put)),
                Step::Op(PbTxnOpRequest::RequestDeleteRange(delete)) => {
                    PbTxnOpResponse::ResponseDeleteRange(keyspace.delete(delete))
                }
                Step::Op(PbTxnOpRequest::RequestTxn(_)) => continue, // planned as `Nested`
            };
            responses.push(PbResponseOp { response: Some(response) });
        }
        // The header of a nested txn stays empty, as in etcd; the outermost one is filled in by the
        // caller.
        Ok(PbTxnResponse { header: Some(PbResponseHeader::default()), succeeded: self.succeeded, responses })
    }
}

/// Runs a checked txn on the open revision.
pub(super) fn run(keyspace: &mut Keyspace, request: &PbTxnRequest) -> Result<PbTxnResponse, EtcdError> {
    let plan = Plan::new(&keyspace.store, request);
    plan.admit(&mut |op| match op {
        PbTxnOpRequest::RequestPut(put) => keyspace.admits_put_in_txn(put),
        _ => Ok(()),
    })?;
    plan.admit(&mut |op| match op {
        PbTxnOpRequest::RequestRange(range) => keyspace.admits_range(range),
        _ => Ok(()),
    })?;
    let mut response = plan.run(keyspace)?;
    response.header = Some(keyspace.revision_header());
    Ok(response)
}

/// Bytes a txn may add, for the quota: the keys and values of its bigger branch.
pub(super) fn put_bytes(request: &PbTxnRequest) -> usize {
    let branch = |ops: &[PbTxnRequestOp]| -> usize {
        ops.iter()
            .map(|op| match &op.request {
                Some(PbTxnOpRequest::RequestPut(put)) => put.key.len() + put.value.len(),
                Some(PbTxnOpRequest::RequestTxn(nested)) => put_bytes(nested),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

/// Whether a comparison holds for every key of its range. A missing key compares as all zeroes, but
/// never by value.
fn holds(store: &Store, compare: &PbCompare) -> bool {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let by_value = compare.target == PbCompareTarget::Value as i32;
    let mut found = store.range(&range, i64::MAX).peekable();
    if found.peek().is_none() {
        let missing = Kv {
            key: bytes::Bytes::new(),
            value: bytes::Bytes::new(),
            create_revision: 0,
            mod_revision: 0,
            version: 0,
            lease: 0,
        };
        return !by_value && holds_for(&missing, compare);
    }
    found.all(|kv| holds_for(kv, compare))
}

/// An operand of another kind than the target counts as 0 or empty, as in etcd.
fn holds_for(kv: &Kv, compare: &PbCompare) -> bool {
    use PbTargetUnion as Operand;
    let operand = compare.target_union.as_ref();
    let ordering = match PbCompareTarget::try_from(compare.target) {
        Ok(PbCompareTarget::Version) => kv.version.cmp(&if let Some(Operand::Version(v)) = operand { *v } else { 0 }),
        Ok(PbCompareTarget::Create) => {
            kv.create_revision.cmp(&if let Some(Operand::CreateRevision(v)) = operand { *v } else { 0 })
        }
        Ok(PbCompareTarget::Mod) => {
            kv.mod_revision.cmp(&if let Some(Operand::ModRevision(v)) = operand { *v } else { 0 })
        }
        Ok(PbCompareTarget::Lease) => kv.lease.cmp(&if let Some(Operand::Lease(v)) = operand { *v } else { 0 }),
        Ok(PbCompareTarget::Value) => kv.value[..].cmp(if let Some(Operand::Value(v)) = operand { v } else { &[] }),
        Err(_) => Ordering::Equal,
    };
    match CompareOp::try_from(compare.result) {
        Ok(CompareOp::Equal) => ordering.is_eq(),
        Ok(CompareOp::NotEqual) => ordering.is_ne(),
        Ok(CompareOp::Greater) => ordering.is_gt(),
        Ok(CompareOp::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
