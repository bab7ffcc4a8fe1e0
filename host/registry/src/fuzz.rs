//! What fuzz targets reach of this module, and nobody else may (`host/fuzz`): what others wrote
//! into etcd or into the folder of kept endpoints.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest as _, Sha256};
use waymark_core::{
    model::{Endpoint, InstanceId, Revision, ServiceName, Update},
    naming::KeyScheme,
};

use super::{
    EntryLimits,
    codec::Codec,
    decode::{Reading, read_here},
    disk_cache,
    etcd::{Event, Kv},
};

/// One change of the registry: a key, and what was written there; none for a deletion.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// Follows these changes one by one, as a watch tells them, and compares what is known in the end
/// with what a list of what is left finds. Answers with a sign for each endpoint and each entry
/// that was skipped.
///
/// # Panics
///
/// Both ways of learning the same do not agree.
pub fn changes(scheme: &dyn KeyScheme, service: &ServiceName, changes: &[Change<'_>]) -> String {
    let mut watched = Codec::new(service.clone(), EntryLimits::default().endpoints);
    let mut known: BTreeMap<InstanceId, Endpoint> = BTreeMap::new();
    let mut left: BTreeMap<&[u8], Kv> = BTreeMap::new();
    let mut failed = false;
    for (revision, (key, value)) in (1..).map(Revision).zip(changes) {
        let event = if let Some(value) = value {
            let kv = Kv { key: key.to_vec(), value: value.to_vec(), mod_revision: revision, lease: None };
            left.insert(key, kv.clone());
            Event::Put(kv)
        } else {
            left.remove(key);
            Event::Delete { key: key.to_vec(), mod_revision: revision }
        };
        let (revision, deleted, put) = Codec::latest(vec![event]);
        let readings = read(scheme, service, &put);
        failed |= readings.iter().any(|reading| matches!(reading, Reading::Failed(_)));
        apply(&mut known, watched.apply(revision, deleted, put, readings));
    }
    let left: Vec<Kv> = left.into_values().collect();
    let readings = read(scheme, service, &left);
    // A scheme that failed leaves what was known before, which a list does not know.
    failed |= readings.iter().any(|reading| matches!(reading, Reading::Failed(_)));
    let mut listed = BTreeMap::new();
    let mut fresh = Codec::new(service.clone(), EntryLimits::default().endpoints);
    apply(&mut listed, fresh.reset(Revision(i64::try_from(changes.len()).unwrap_or(i64::MAX)), left, readings));
    assert!(failed || known == listed, "watched {known:?}, and listed {listed:?}");
    // One sign each, up to some.
    let signs = |sign: &str, n: usize| sign.repeat(n.min(12));
    let skipped = usize::try_from(fresh.skipped().total()).unwrap_or(usize::MAX);
    format!("{}{}{}", signs("+", listed.len()), signs("?", skipped), if failed { " failed" } else { "" })
}

fn apply(known: &mut BTreeMap<InstanceId, Endpoint>, update: Update) {
    match update {
        Update::Reset { endpoints, .. } => {
            *known = endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)).collect();
        }
        Update::Changed { upserted, removed, .. } => {
            let ids: HashSet<&InstanceId> = upserted.iter().map(|endpoint| &endpoint.id).collect();
            assert!(removed.iter().all(|id| !ids.contains(id)), "an instance came and went in one change");
            known.retain(|id, _| !removed.contains(id));
            known.extend(upserted.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)));
        }
        Update::Stale { .. } | Update::Restored { .. } | Update::Fresh { .. } | Update::Skipped(_) => {}
    }
}

fn read(scheme: &dyn KeyScheme, service: &ServiceName, kvs: &[Kv]) -> Vec<Reading> {
    kvs.iter().map(|kv| read_here(scheme, service, kv)).collect()
}

/// Reads a file of kept endpoints: as it is, and with a first line that fits what follows it, since
/// otherwise nothing but the checksum would be tried. What was read is written and read again.
///
/// # Panics
///
/// What was written and read again is something else.
pub fn kept(bytes: &[u8]) -> String {
    let as_it_is = disk_cache::read_and_write_again(bytes);
    let body = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |newline| &bytes[newline + 1..]);
    let mended = [format!("waymark-endpoints 2 {:x}\n", Sha256::digest(body)).as_bytes(), body].concat();
    format!("{as_it_is}; {}", disk_cache::read_and_write_again(&mended))
}
