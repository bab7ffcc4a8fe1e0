//! Range requests: which keys, at which revision, in which order, how many.

use std::{cmp::Ordering, sync::Arc};

use etcd_client::proto::{PbKeyValue, PbRangeRequest, PbRangeResponse, PbResponseHeader};

use super::{
    error::EtcdError,
    key_range::KeyRange,
    store::{Kv, Store},
};

/// `RangeRequest.SortOrder` on the wire.
pub(super) mod order {
    pub(super) const NONE: i32 = 0;
    pub(crate) const ASCEND: i32 = 1;
    pub(crate) const DESCEND: i32 = 2;
}

/// `RangeRequest.SortTarget` on the wire.
pub(super) mod target {
    pub(super) const KEY: i32 = 0;
    pub(super) const VERSION: i32 = 1;
    pub(crate) const CREATE: i32 = 2;
    pub(super) const MOD: i32 = 3;
    pub(super) const VALUE: i32 = 4;
}

/// What a range request found. Cheap to make under a lock; turning it into a response copies the
/// values.
#[derive(Debug)]
pub(super) struct Selection {
    kvs: Vec<Arc<Kv>>,
    count: usize,
    more: bool,
    revision: i64,
}

/// What can be refused without looking at the data.
pub(super) fn check(request: &PbRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::KeyNotProvided);
    }
    let known = (order::NONE..=order::DESCEND).contains(&request.sort_order)
        && (target::KEY..=target::VALUE).contains(&request.sort_target);
    if known { Ok(()) } else { Err(EtcdError::InvalidSortOption) }
}

/// Runs a checked request. A revision of 0 or less means the newest, the changes of an open write
/// included.
pub(super) fn select(store: &Store, request: &PbRangeRequest) -> Result<Selection, EtcdError> {
    let newest = store.read_revision();
    let at = if request.revision <= 0 { newest } else { request.revision };
    if at > newest {
        return Err(EtcdError::FutureRevision);
    }
    if at < store.compact_revision() {
        return Err(EtcdError::Compacted);
    }
    let range = KeyRange::new(&request.key, &request.range_end);
    let found = store.range(&range, at);
    if request.count_only {
        return Ok(Selection { kvs: Vec::new(), count: found.count(), more: false, revision: newest });
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let filtered =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
            .iter()
            .any(|bound| *bound != 0);
    // Without an order, etcd takes the first keys and sorts those (by a target other than the key,
    // if one is given).
    let wanted = match limit {
        Some(limit) if request.sort_order == order::NONE && !filtered => limit.saturating_add(1),
        _ => usize::MAX,
    };
    let mut count = 0;
    let mut kvs = Vec::new();
    for kv in found {
        count += 1;
        if kvs.len() < wanted && passes(kv, request) {
            kvs.push(Arc::clone(kv));
        }
    }
    sort(&mut kvs, request);
    let more = limit.is_some_and(|limit| kvs.len() > limit);
    if let Some(limit) = limit {
        kvs.truncate(limit);
    }
    Ok(Selection { kvs, count, more, revision: newest })
}

fn passes(kv: &Kv, request: &PbRangeRequest) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Stable, also when descending: keys that compare equal stay in key order.
fn sort(kvs: &mut [Arc<Kv>], request: &PbRangeRequest) {
    let compare: fn(&Kv, &Kv) -> Ordering = match request.sort_target {
        target::VERSION => |a, b| a.version.cmp(&b.version),
        target::CREATE => |a, b| a.create_revision.cmp(&b.create_revision),
        target::MOD => |a, b| a.mod_revision.cmp(&b.mod_revision),
        target::VALUE => |a, b| a.value.cmp(&b.value),
        // Found in key order already.
        _ if request.sort_order != order::DESCEND => return,
        _ => |a, b| a.key.cmp(&b.key),
    };
    if request.sort_order == order::DESCEND {
        kvs.sort_by(|a, b| compare(b, a));
    } else {
        kvs.sort_by(|a, b| compare(a, b));
    }
}

impl Selection {
    /// The response, with a header that holds the revision only, as inside a txn.
    pub(super) fn into_response(self, keys_only: bool) -> PbRangeResponse {
        PbRangeResponse {
            header: Some(PbResponseHeader { revision: self.revision, ..PbResponseHeader::default() }),
            kvs: self.kvs.iter().map(|kv| key_value(kv, keys_only)).collect(),
            more: self.more,
            count: i64::try_from(self.count).unwrap_or(i64::MAX),
        }
    }
}

/// A version as it goes over the wire.
pub(super) fn key_value(kv: &Kv, keys_only: bool) -> PbKeyValue {
    PbKeyValue {
        key: kv.key.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: if keys_only { Vec::new() } else { kv.value.to_vec() },
        lease: kv.lease,
    }
}
