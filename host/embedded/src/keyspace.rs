//! Keys and leases together: the writes of etcd, applied to an open revision.
//!
//! Every method here leaves the revision open; closing it, telling the watchers and the time are
//! left to the machine.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbResponseHeader,
};

use super::{
    error::EtcdError,
    key_range::KeyRange,
    lease::Leases,
    query::{self, key_value},
    store::{Kv, Store},
};

/// The data of the server.
#[derive(Debug)]
pub(super) struct Keyspace {
    pub(super) store: Store,
    pub(super) leases: Leases,
}

/// What of a put can be refused without looking at the data.
pub(super) fn check_put(request: &PbPutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::KeyNotProvided);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// What of a delete can be refused without looking at the data.
pub(super) fn check_delete(request: &PbDeleteRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::KeyNotProvided) } else { Ok(()) }
}

impl Keyspace {
    /// Whether a put can be applied to the data as it is now.
    pub(super) fn admits_put(&self, request: &PbPutRequest) -> Result<(), EtcdError> {
        self.has_lease(request)?;
        self.has_what_is_kept(request)
    }

    /// The same inside a txn, where etcd looks at the key before the lease.
    pub(super) fn admits_put_in_txn(&self, request: &PbPutRequest) -> Result<(), EtcdError> {
        self.has_what_is_kept(request)?;
        self.has_lease(request)
    }

    fn has_lease(&self, request: &PbPutRequest) -> Result<(), EtcdError> {
        let found = request.lease == 0 || self.leases.exists(request.lease);
        if found { Ok(()) } else { Err(EtcdError::LeaseNotFound) }
    }

    fn has_what_is_kept(&self, request: &PbPutRequest) -> Result<(), EtcdError> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.store.get(&request.key).is_none() { Err(EtcdError::KeyNotFound) } else { Ok(()) }
    }

    /// Whether a range inside a txn can be answered. Unlike in a plain range, a negative revision
    /// is not the newest one here but one long gone, as in etcd.
    pub(super) fn admits_range(&self, request: &PbRangeRequest) -> Result<(), EtcdError> {
        if request.revision == 0 {
            Ok(())
        } else if request.revision > self.store.revision() {
            Err(EtcdError::FutureRevision)
        } else if request.revision < self.store.compact_revision() {
            Err(EtcdError::Compacted)
        } else {
            Ok(())
        }
    }

    /// Applies a put that was admitted.
    pub(super) fn put(&mut self, request: &PbPutRequest) -> PbPutResponse {
        let current = self.store.get(&request.key).cloned();
        let value = match &current {
            Some(current) if request.ignore_value => current.value.clone(),
            _ => Bytes::copy_from_slice(&request.value),
        };
        let lease = match &current {
            Some(current) if request.ignore_lease => current.lease,
            _ => request.lease,
        };
        let key = Bytes::copy_from_slice(&request.key);
        self.store.put(key.clone(), value, lease);
        if let Some(current) = &current {
            self.leases.detach(current.lease, &key);
        }
        self.leases.attach(lease, key);
        PbPutResponse {
            header: Some(self.revision_header()),
            prev_kv: current.filter(|_| request.prev_kv).map(|kv| key_value(&kv, false)),
        }
    }

    /// Applies a delete.
    pub(super) fn delete(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let deleted = self.delete_range(&KeyRange::new(&request.key, &request.range_end));
        PbDeleteResponse {
            header: Some(self.revision_header()),
            deleted: i64::try_from(deleted.len()).unwrap_or(i64::MAX),
            prev_kvs: deleted.iter().filter(|_| request.prev_kv).map(|kv| key_value(kv, false)).collect(),
        }
    }

    fn delete_range(&mut self, range: &KeyRange) -> Vec<Arc<Kv>> {
        let deleted = self.store.delete(range);
        for kv in &deleted {
            self.leases.detach(kv.lease, &kv.key);
        }
        deleted
    }

    /// Ends a lease and deletes its keys, in key order.
    pub(super) fn revoke(&mut self, lease: i64) -> Result<(), EtcdError> {
        let keys = self.leases.remove(lease).ok_or(EtcdError::LeaseNotFound)?;
        for key in keys {
            self.delete_range(&KeyRange::Key(key));
        }
        Ok(())
    }

    /// Runs a checked range.
    pub(super) fn range(&self, request: &PbRangeRequest) -> Result<query::Selection, EtcdError> {
        query::select(&self.store, request)
    }

    /// A header that holds the revision an open write is at; the machine adds who we are.
    pub(super) fn revision_header(&self) -> PbResponseHeader {
        PbResponseHeader { revision: self.store.read_revision(), ..PbResponseHeader::default() }
    }
}
