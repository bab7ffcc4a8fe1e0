//! The last known endpoints of each service, on disk, so that a node can start and serve while etcd is down.
//!
//! ```text
//!   STATE-DIR/ayang_server1-3f9c2b7a51d06e84.endpoints
//!     waymark-endpoints 1 6d1c…                     format, version, SHA-256 of the rest
//!     {"service":"ayang/server1","key_scheme":"etcd_naming","namespace":"","revision":…,"endpoints":[…]}
//! ```
//!
//! One file a service, written whole beside the old one and renamed over it, so that neither a crash nor another process that shares
//! the folder leaves half a file. A file that is damaged all the same is set aside and reported, never used and never lost.
//!
//! Everything here blocks: call it off the async threads.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::model::{Endpoint, InstanceId, Locality, Revision};

/// The first word of every file.
const FORMAT: &str = "waymark-endpoints";

/// What this release reads and writes.
const VERSION: u32 = 1;

/// What makes kept endpoints those of one service and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) service: String,
    pub(super) key_scheme: String,
    pub(super) namespace: String,
}

impl Subject {
    /// A name that any file system takes, that a person recognizes, and that no two subjects share.
    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
        let readable: String = self.service.trim_start_matches('.').chars().take(80).map(plain).collect();
        let digest = Sha256::digest([&self.namespace, &self.key_scheme, &self.service].map(String::as_str).join("\0"));
        format!("{readable}-{}.endpoints", &hex(&digest)[..16])
    }
}

/// One service's endpoints, as they were. `saved_at` is when they were last others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kept {
    pub(super) revision: Revision,
    pub(super) saved_at: SystemTime,
    pub(super) endpoints: Vec<Endpoint>,
}

/// What stands in a file after its first line.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(flatten)]
    subject: Subject,
    revision: i64,
    saved_unix_ms: u64,
    endpoints: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
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
enum Unusable {
    /// It is not what was written.
    Damaged(String),
    /// A later release wrote it, and will want it again.
    Newer(u32),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn encode(subject: &Subject, kept: &Kept) -> Vec<u8> {
    let since_epoch = kept.saved_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let entry = |endpoint: &Endpoint| Entry {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        zone: endpoint.locality.zone.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.to_vec(),
    };
    let body = Body {
        subject: subject.clone(),
        revision: kept.revision.0,
        saved_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        endpoints: kept.endpoints.iter().map(entry).collect(),
    };
    let body = serde_json::to_vec(&body).expect("texts and numbers are JSON");
    let mut text = format!("{FORMAT} {VERSION} {}\n", hex(&Sha256::digest(&body))).into_bytes();
    text.extend(body);
    text
}

fn decode(subject: &Subject, bytes: &[u8]) -> Result<Kept, Unusable> {
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
    if body.subject != *subject {
        return Err(damaged(format!("it is of service {:?}", body.subject.service)));
    }
    let endpoints = body.endpoints.into_iter().map(|entry| {
        let address = entry.address.parse().map_err(|error: crate::model::ModelError| damaged(error.to_string()))?;
        Ok(Endpoint {
            id: InstanceId::new(entry.id),
            address,
            locality: Locality::zone(entry.zone),
            weight: entry.weight,
            metadata: entry.metadata.into(),
        })
    });
    Ok(Kept {
        revision: Revision(body.revision),
        saved_at: UNIX_EPOCH + Duration::from_millis(body.saved_unix_ms),
        endpoints: endpoints.collect::<Result<_, _>>()?,
    })
}

/// The folder with the files.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// What cannot be written is reported once, not once a service and second.
    complained: AtomicBool,
}

impl StateDir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, complained: AtomicBool::new(false) }
    }

    /// What was kept of this service, if anything that can be used.
    pub(super) fn load(&self, subject: &Subject) -> Option<Kept> {
        let path = self.path.join(subject.file_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.complain("read", &path, &error);
                return None;
            }
        };
        match decode(subject, &bytes) {
            Ok(kept) => Some(kept),
            Err(Unusable::Newer(version)) => {
                let path = path.display();
                tracing::warn!(%path, version, "endpoints kept by a newer release are left alone");
                None
            }
            Err(Unusable::Damaged(reason)) => {
                // One such file a service: a later one takes the place of an earlier one.
                let aside = path.with_added_extension("damaged");
                let renamed = fs::rename(&path, &aside);
                let (path, aside) = (path.display(), aside.display());
                match renamed {
                    Ok(()) => tracing::warn!(%path, %aside, reason, "a damaged file of kept endpoints was set aside"),
                    Err(error) => tracing::warn!(%path, reason, %error, "a file of kept endpoints is damaged"),
                }
                None
            }
        }
    }

    /// Keeps these endpoints, or nothing where there are none. What goes wrong is reported, and changes nothing else.
    pub(super) fn save(&self, subject: &Subject, kept: &Kept) {
        let path = self.path.join(subject.file_name());
        let same = |old: Vec<u8>| decode(subject, &old).is_ok_and(|old| old.endpoints == kept.endpoints);
        if !kept.endpoints.is_empty() && fs::read(&path).is_ok_and(same) {
            // After a restart most are as they were, and writing thousands of files to disk is what takes long.
            return;
        }
        let result = if kept.endpoints.is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            self.write(&path, &encode(subject, kept))
        };
        match result {
            Ok(()) => self.complained.store(false, Ordering::Relaxed),
            Err(error) => self.complain("write", &path, &error),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let mut file = NamedTempFile::new_in(&self.path)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn complain(&self, what: &str, path: &Path, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot {what} kept endpoints; without them the node cannot start while etcd is down");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn subject(service: &str) -> Subject {
        Subject { service: service.into(), key_scheme: "etcd_naming".into(), namespace: String::new() }
    }

    fn kept(n: u8) -> Kept {
        let endpoint = |n: u8| Endpoint {
            locality: Locality::zone("a"),
            weight: u32::from(n),
            metadata: [("version".to_owned(), "ünï\n".to_owned())].into(),
            ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())
        };
        Kept {
            revision: Revision(i64::MAX),
            saved_at: UNIX_EPOCH + Duration::from_millis(1_764_149_000_123),
            endpoints: (1..=n).map(endpoint).collect(),
        }
    }

    fn in_folder() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        (folder, state)
    }

    #[test]
    fn what_is_saved_is_loaded_and_an_empty_set_leaves_no_file() {
        let (_folder, state) = in_folder();
        let svc = subject("ayang/server1");
        assert_eq!(state.load(&svc), None);
        state.save(&svc, &kept(3));
        assert_eq!(state.load(&svc), Some(kept(3)));
        state.save(&svc, &kept(2));
        assert_eq!(state.load(&svc), Some(kept(2)));
        // The same again is not written again.
        state.save(&svc, &Kept { saved_at: UNIX_EPOCH, ..kept(2) });
        assert_eq!(state.load(&svc), Some(kept(2)));
        assert_eq!(fs::read_dir(&state.path).unwrap().count(), 1);
        state.save(&svc, &kept(0));
        assert_eq!(state.load(&svc), None);
        assert_eq!(fs::read_dir(&state.path).unwrap().count(), 0);
    }

    #[test]
    fn services_namespaces_and_schemes_have_files_of_their_own() {
        let (_folder, state) = in_folder();
        let long = "x/".repeat(200);
        let subjects = [
            subject("a/b"),
            subject("a_b"),
            subject("../../etc/passwd"),
            subject(&long),
            Subject { namespace: "prod/".into(), ..subject("a/b") },
            Subject { key_scheme: "bare_prefix".into(), ..subject("a/b") },
        ];
        for (n, subject) in (1..).zip(&subjects) {
            state.save(subject, &kept(n));
        }
        for (n, subject) in (1..).zip(&subjects) {
            assert_eq!(state.load(subject), Some(kept(n)), "{subject:?}");
        }
        assert_eq!(fs::read_dir(&state.path).unwrap().count(), subjects.len());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_not_used() {
        let (_folder, state) = in_folder();
        let svc = subject("svc");
        state.save(&svc, &kept(3));
        let path = state.path.join(svc.file_name());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(state.load(&svc), None);
        assert!(!path.exists());
        assert_eq!(fs::read(path.with_added_extension("damaged")).unwrap(), whole[..whole.len() / 2]);
        state.save(&svc, &kept(1));
        assert_eq!(state.load(&svc), Some(kept(1)));
    }

    #[test]
    fn a_newer_releases_file_is_left_alone() {
        let (_folder, state) = in_folder();
        let svc = subject("svc");
        state.save(&svc, &kept(3));
        let path = state.path.join(svc.file_name());
        let newer = String::from_utf8(fs::read(&path).unwrap()).unwrap().replacen(" 1 ", " 2 ", 1);
        fs::write(&path, &newer).unwrap();
        assert_eq!(state.load(&svc), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }

    #[test]
    fn another_services_file_is_not_taken_for_ours() {
        let bytes = encode(&subject("a"), &kept(1));
        assert!(matches!(decode(&subject("b"), &bytes), Err(Unusable::Damaged(reason)) if reason.contains("\"a\"")));
    }

    #[test]
    fn a_folder_that_cannot_be_written_harms_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let state = StateDir::new(file);
        state.save(&subject("svc"), &kept(1));
        assert_eq!(state.load(&subject("svc")), None);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1u8..) {
            let mut bytes = encode(&subject("svc"), &kept(2));
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(decode(&subject("svc"), &bytes).is_err());
        }

        #[test]
        fn any_shortened_file_is_noticed(len in any::<prop::sample::Index>()) {
            let bytes = encode(&subject("svc"), &kept(2));
            prop_assert!(decode(&subject("svc"), &bytes[..len.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&subject("svc"), &bytes);
        }
    }
}
