//! The file with the last known endpoints of a service: what stands in it. Where the files are is
//! `disk_cache`'s business.
//!
//! ```text
//!   waymark-endpoints 2 6d1c…                     format, version, SHA-256 of the rest
//!   {"cluster":"5d1…","service":"ayang/server1","key_scheme":"etcd_naming","namespace":"","revision":…,"endpoints":[…]}
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use waymark_core::model::{Endpoint, InstanceId, Locality, Revision};

/// The first word of every file.
const FORMAT: &str = "waymark-endpoints";

/// What this release reads and writes. Files of version 1 did not say of which registry they are.
const VERSION: u32 = 2;

/// What makes kept endpoints those of one service and no other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CacheKey {
    pub(crate) service: String,
    pub(crate) key_scheme: String,
    pub(crate) namespace: String,
}

impl CacheKey {
    /// A name that any file system takes, that a person recognizes, and that no two keys share.
    pub(super) fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
        let readable: String = self.service.trim_start_matches('.').chars().take(80).map(plain).collect();
        let digest = Sha256::digest([&self.namespace, &self.key_scheme, &self.service].map(String::as_str).join("\0"));
        format!("{readable}-{}.endpoints", &hex(&digest)[..16])
    }
}

/// One service's endpoints, as they were.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CachedEndpoints {
    /// The cluster that said so.
    pub(crate) cluster: u64,
    pub(crate) revision: Revision,
    /// When that was last known to be right.
    pub(crate) right_at: SystemTime,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What stands in a file after its first line.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(flatten)]
    key: CacheKey,
    /// Hexadecimal: JSON's numbers are too small for it.
    cluster: String,
    revision: i64,
    right_unix_ms: u64,
    endpoints: Vec<CachedEndpoint>,
}

#[derive(Serialize, Deserialize)]
struct CachedEndpoint {
    id: String,
    address: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone: String,
    weight: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

/// Why a file says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is not what was written.
    Damaged(String),
    /// A later release wrote it, and will want it again.
    Newer(u32),
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The whole file.
pub(super) fn encode(key: &CacheKey, kept: &CachedEndpoints) -> Vec<u8> {
    let since_epoch = kept.right_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let entry = |endpoint: &Endpoint| CachedEndpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        zone: endpoint.locality.zone.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.to_vec(),
    };
    let body = Body {
        key: key.clone(),
        cluster: format!("{:x}", kept.cluster),
        revision: kept.revision.0,
        right_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        endpoints: kept.endpoints.iter().map(entry).collect(),
    };
    let body = serde_json::to_vec(&body).expect("texts and numbers are JSON");
    let mut text = format!("{FORMAT} {VERSION} {}\n", hex(&Sha256::digest(&body))).into_bytes();
    text.extend(body);
    text
}

/// What was kept of this service.
pub(super) fn decode(key: &CacheKey, bytes: &[u8]) -> Result<CachedEndpoints, Unusable> {
    let damaged = |what: String| Unusable::Damaged(what);
    let newline = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no first line".into()))?;
    let (head, body) = (&bytes[..newline], &bytes[newline + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| damaged("its first line is not text".into()))?;
    let (version, checksum) = match head.split(' ').collect::<Vec<_>>().as_slice() {
        [FORMAT, version, checksum] => (version.parse::<u32>(), *checksum),
        _ => return Err(damaged(format!("its first line is not `{FORMAT} VERSION SHA-256`"))),
    };
    match version {
        Ok(VERSION) => {}
        Ok(newer) if newer > VERSION => return Err(Unusable::Newer(newer)),
        _ => return Err(damaged("its version is not one that was ever written".into())),
    }
    if hex(&Sha256::digest(body)) != checksum {
        return Err(damaged("its checksum is another".into()));
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
    if body.key != *key {
        return Err(damaged(format!("it is of service {:?}", body.key.service)));
    }
    let endpoints = body.endpoints.into_iter().map(|entry| {
        let address =
            entry.address.parse().map_err(|error: waymark_core::model::ModelError| damaged(error.to_string()))?;
        Ok(Endpoint {
            id: InstanceId::new(entry.id),
            address,
            locality: Locality::zone(entry.zone),
            weight: entry.weight,
            metadata: entry.metadata.into(),
        })
    });
    let cluster = u64::from_str_radix(&body.cluster, 16);
    let right_at = UNIX_EPOCH.checked_add(Duration::from_millis(body.right_unix_ms));
    Ok(CachedEndpoints {
        cluster: cluster.map_err(|_| damaged("its cluster is not a number".into()))?,
        revision: Revision(body.revision),
        right_at: right_at.ok_or_else(|| damaged("its time is none".into()))?,
        endpoints: endpoints.collect::<Result<_, _>>()?,
    })
}

/// Reads a file, whatever it is of, and what is written of that once more; in a word. For fuzzing.
pub(crate) fn read_and_write_again(bytes: &[u8]) -> String {
    let body = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |newline| &bytes[newline + 1..]);
    let Ok(Body { key, .. }) = serde_json::from_slice::<Body>(body) else {
        return format!("{:?}", decode(&CacheKey::default(), bytes).err());
    };
    match decode(&key, bytes) {
        Ok(kept) => {
            assert_eq!(decode(&key, &encode(&key, &kept)).as_ref(), Ok(&kept), "written and read again");
            format!("{} endpoints", kept.endpoints.len())
        }
        Err(error) => format!("{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn key(service: &str) -> CacheKey {
        CacheKey { service: service.into(), key_scheme: "etcd_naming".into(), namespace: String::new() }
    }

    fn kept(n: u8) -> CachedEndpoints {
        let endpoint = |n: u8| Endpoint {
            locality: Locality::zone("a"),
            weight: u32::from(n),
            metadata: [("version".to_owned(), "ünï\n".to_owned())].into(),
            ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())
        };
        CachedEndpoints {
            cluster: u64::MAX,
            revision: Revision(i64::MAX),
            right_at: UNIX_EPOCH + Duration::from_millis(1_764_149_000_123),
            endpoints: (1..=n).map(endpoint).collect(),
        }
    }

    #[test]
    fn another_services_file_is_not_taken_for_ours() {
        let bytes = encode(&key("a"), &kept(1));
        assert!(matches!(decode(&key("b"), &bytes), Err(Unusable::Damaged(reason)) if reason.contains("\"a\"")));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1u8..) {
            let mut bytes = encode(&key("svc"), &kept(2));
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(decode(&key("svc"), &bytes).is_err());
        }

        #[test]
        fn any_shortened_file_is_noticed(len in any::<prop::sample::Index>()) {
            let bytes = encode(&key("svc"), &kept(2));
            prop_assert!(decode(&key("svc"), &bytes[..len.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&key("svc"), &bytes);
        }
    }
}
