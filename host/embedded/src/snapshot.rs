//! The data as a file that an etcd can be started from (`etcdctl snapshot save`,
//! `etcdutl snapshot restore`).
//!
//! Buckets and their encodings are those of etcd's `server/storage/schema`. What an etcd makes anew
//! when it is restored, its members and its place in the raft log, is written as for a cluster of
//! one.

use std::{collections::HashMap, sync::Arc};

use etcd_client::proto::PbSnapshotResponse;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{
    bolt::{self, Entries},
    query::key_value,
    state_machine::{RAFT_TERM, StateMachine},
    store::Kv,
    version::STORAGE_VERSION,
};

/// As etcd sends it.
const BLOB: usize = 32 * 1024;

/// What is taken under the lock: cheap, as versions are shared.
#[derive(Debug)]
pub(super) struct Data {
    versions: Vec<Arc<Kv>>,
    leases: Vec<(i64, i64)>,
    compact_revision: i64,
    applied: u64,
    member_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

impl Data {
    pub(super) fn of(machine: &StateMachine) -> Self {
        let store = machine.store();
        let leases = machine.lease_ids().into_iter();
        Self {
            versions: store.versions().cloned().collect(),
            leases: leases.map(|id| (id, machine.time_to_live(id, false).granted_ttl)).collect(),
            compact_revision: store.compact_revision(),
            applied: machine.applied(),
            member_id: machine.identity().member_id,
        }
    }

    /// The file. It takes as much memory as the data, and time in proportion.
    pub(super) fn into_file(self) -> Vec<u8> {
        let Self { versions, leases, compact_revision, applied, member_id } = self;
        // Versions of one revision are told apart by a number; those of one key come in their
        // order.
        let mut within: HashMap<i64, i64> = HashMap::new();
        let mut keys: Entries = Vec::with_capacity(versions.len());
        for kv in versions {
            let sub = within.entry(kv.mod_revision).or_default();
            let mut key = revision(kv.mod_revision, *sub);
            *sub += 1;
            let value = if kv.is_tombstone() {
                key.push(b't');
                etcd_client::proto::PbKeyValue { key: kv.key.to_vec(), ..Default::default() }
            } else {
                key_value(&kv, false)
            };
            keys.push((key, value.encode_to_vec()));
        }
        keys.sort();
        let mut leases: Entries = leases
            .into_iter()
            .map(|(id, ttl)| (id.to_be_bytes().to_vec(), Lease { id, ttl }.encode_to_vec()))
            .collect();
        leases.sort();
        let compacted = revision(compact_revision.max(0), 0);
        let voters = format!(r#"{{"voters":[{member_id}],"auto_leave":false}}"#);
        let mut meta: Entries = vec![
            (b"confState".to_vec(), voters.into_bytes()),
            (b"consistent_index".to_vec(), applied.to_be_bytes().to_vec()),
            (b"finishedCompactRev".to_vec(), compacted.clone()),
            (b"scheduledCompactRev".to_vec(), compacted),
            (b"term".to_vec(), RAFT_TERM.to_be_bytes().to_vec()),
        ];
        if compact_revision < 0 {
            meta.retain(|(name, _)| !name.ends_with(b"CompactRev"));
        }
        let auth = vec![(b"authEnabled".to_vec(), vec![0]), (b"authRevision".to_vec(), 1_u64.to_be_bytes().to_vec())];
        bolt::file(vec![
            (b"alarm", Vec::new()),
            (b"auth", auth),
            (b"authRoles", Vec::new()),
            (b"authUsers", Vec::new()),
            (b"cluster", vec![(b"clusterVersion".to_vec(), STORAGE_VERSION.into())]),
            (b"key", keys),
            (b"lease", leases),
            (b"members", Vec::new()),
            (b"members_removed", Vec::new()),
            (b"meta", meta),
        ])
    }
}

/// A revision as a key: sorted by the time it was made.
fn revision(main: i64, sub: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// The messages that hand the file over, and its SHA-256 after it.
pub(super) fn messages(file: Vec<u8>) -> impl Iterator<Item = PbSnapshotResponse> {
    let digest = Sha256::digest(&file).to_vec();
    let total = file.len();
    let blobs = (0..total.div_ceil(BLOB)).map(move |nth| {
        let (begin, end) = (nth * BLOB, ((nth + 1) * BLOB).min(total));
        ((total - end) as u64, file[begin..end].to_vec())
    });
    blobs.chain([(0, digest)]).map(|(remaining_bytes, blob)| PbSnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: STORAGE_VERSION.into(),
    })
}
