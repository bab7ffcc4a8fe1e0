//! The last known endpoints of each service, on disk, so that a node can start and serve while etcd
//! is down.
//!
//! ```text
//!   STATE-DIR/cluster-5d1e77ab2c90f3e4/               one folder a registry
//!       addresses                                     where it answered, and when last
//!       ayang_server1-3f9c2b7a51d06e84.endpoints      one file a service, see `file`
//! ```
//!
//! What was kept belongs to the cluster that said it. A registry that has answered is known by its
//! cluster; one that has not yet, by its addresses: an address belongs to the cluster that answered
//! there last, and to no other.
//!
//! Files are written whole beside the old one and renamed over it, so that neither a crash nor
//! another process that shares the folder leaves half a file. A file that is damaged all the same
//! is set aside and reported, never used and never lost.
//!
//! Everything here blocks: call it off the async threads.

mod file;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

pub(super) use self::file::{CacheKey, CachedEndpoints, read_and_write_again};
use self::file::{Unusable, decode, encode};
use super::identity::Identity;

/// How often it is written down where a cluster answers, at most; and how often what has not
/// changed is written again, so that it counts as right at that time.
pub(super) const CONFIRM_EVERY: Duration = Duration::from_hours(1);

/// The file that says where a cluster answered.
const ADDRESSES: &str = "addresses";

/// What a cluster's folder begins with.
const CLUSTER: &str = "cluster-";

/// Where a cluster answered, and when last, in milliseconds of Unix time.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Addresses(BTreeMap<String, u64>);

/// The folder with the files.
#[derive(Debug)]
pub(super) struct DiskCache {
    path: PathBuf,
    identity: Identity,
    /// How old what was kept may be.
    max_age: Duration,
    /// When it was last written down where each cluster answers.
    recorded: Mutex<HashMap<u64, SystemTime>>,
    /// What cannot be written is reported once, not once a service and second.
    warned: AtomicBool,
}

impl DiskCache {
    pub(super) fn new(path: PathBuf, identity: Identity, max_age: Duration) -> Self {
        Self { path, identity, max_age, recorded: Mutex::default(), warned: AtomicBool::new(false) }
    }

    fn folder(&self, cluster: u64) -> PathBuf {
        self.path.join(format!("{CLUSTER}{cluster:016x}"))
    }

    /// What was kept of this service of this registry, if anything that can be used.
    pub(super) fn load(&self, key: &CacheKey) -> Option<CachedEndpoints> {
        let cluster = self.identity.cluster().or_else(|| self.last_at_our_addresses())?;
        let path = self.folder(cluster).join(key.file_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.warn_once("read", &path, &error);
                return None;
            }
        };
        let kept = match decode(key, &bytes) {
            Ok(kept) if kept.cluster == cluster => kept,
            Ok(kept) => {
                set_aside(&path, &format!("it is of cluster {:x}", kept.cluster));
                return None;
            }
            Err(Unusable::Newer(version)) => {
                let path = path.display();
                tracing::warn!(%path, version, "endpoints kept by a newer release are left alone");
                return None;
            }
            Err(Unusable::Damaged(reason)) => {
                set_aside(&path, &reason);
                return None;
            }
        };
        let age = SystemTime::now().duration_since(kept.right_at).unwrap_or_default();
        if age > self.max_age {
            let (service, age, max_age) = (&key.service, age.as_secs(), self.max_age.as_secs());
            tracing::warn!(
                service,
                age_seconds = age,
                max_age_seconds = max_age,
                "the endpoints kept on disk are too old and are not served"
            );
            return None;
        }
        Some(kept)
    }

    /// The cluster that answered last at one of our addresses.
    fn last_at_our_addresses(&self) -> Option<u64> {
        let ours = |Addresses(all): Addresses| {
            all.into_iter().filter(|(address, _)| self.identity.addresses().contains(address)).map(|(_, at)| at).max()
        };
        let found = self.clusters().into_iter().filter_map(|(cluster, addresses)| Some((ours(addresses)?, cluster)));
        found.max().map(|(_, cluster)| cluster)
    }

    /// All clusters of which something is kept, with their addresses.
    fn clusters(&self) -> Vec<(u64, Addresses)> {
        let folders = match fs::read_dir(&self.path) {
            Ok(folders) => folders,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.warn_once("read", &self.path, &error);
                }
                return Vec::new();
            }
        };
        let cluster = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let id = u64::from_str_radix(name.to_str()?.strip_prefix(CLUSTER)?, 16).ok()?;
            // What cannot be read names no address: it is found by its cluster alone.
            let text = fs::read(entry.path().join(ADDRESSES)).unwrap_or_default();
            Some((id, serde_json::from_slice(&text).unwrap_or_default()))
        };
        folders.filter_map(Result::ok).filter_map(cluster).collect()
    }

    /// Keeps these endpoints, or nothing where there are none. What goes wrong is reported, and
    /// changes nothing else.
    pub(super) fn save(&self, key: &CacheKey, kept: &CachedEndpoints) {
        let path = self.folder(kept.cluster).join(key.file_name());
        let result = self.record_addresses(kept.cluster).and_then(|()| write_or_remove(&path, key, kept));
        match result {
            Ok(()) => self.warned.store(false, Ordering::Relaxed),
            Err(error) => self.warn_once("write", &path, &error),
        }
    }

    /// Writes down that our addresses are this cluster's, and no other's.
    fn record_addresses(&self, cluster: u64) -> io::Result<()> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let fresh = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < CONFIRM_EVERY);
        if recorded.get(&cluster).is_some_and(fresh) {
            return Ok(());
        }
        let ours = self.identity.addresses();
        let at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let mut addresses = Addresses::default();
        for (other, Addresses(mut theirs)) in self.clusters() {
            if other == cluster {
                addresses.0 = theirs;
                continue;
            }
            let before = theirs.len();
            theirs.retain(|address, _| !ours.contains(address));
            if theirs.len() == before {
                continue;
            }
            // What nobody can ask for any more.
            if theirs.is_empty() {
                fs::remove_dir_all(self.folder(other))?;
            } else {
                write(&self.folder(other).join(ADDRESSES), &text_of(&Addresses(theirs))?, false)?;
            }
            recorded.remove(&other);
        }
        addresses.0.extend(ours.iter().map(|address| (address.clone(), at)));
        write(&self.folder(cluster).join(ADDRESSES), &text_of(&addresses)?, false)?;
        recorded.insert(cluster, now);
        Ok(())
    }

    fn warn_once(&self, what: &str, path: &Path, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot {what} kept endpoints; without them the node cannot serve when it starts while etcd is down");
        }
    }
}

fn text_of(addresses: &Addresses) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(addresses)?)
}

fn set_aside(path: &Path, reason: &str) {
    // One such file a service: a later one takes the place of an earlier one.
    let aside = path.with_added_extension("damaged");
    let renamed = fs::rename(path, &aside);
    let (path, aside) = (path.display(), aside.display());
    match renamed {
        Ok(()) => tracing::warn!(%path, %aside, reason, "a damaged file of kept endpoints was set aside"),
        Err(error) => tracing::warn!(%path, reason, %error, "a file of kept endpoints is damaged"),
    }
}

fn write(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if sync {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn write_or_remove(path: &Path, key: &CacheKey, kept: &CachedEndpoints) -> io::Result<()> {
    if kept.endpoints.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let old = fs::read(path).ok().and_then(|old| decode(key, &old).ok());
    let same = old.filter(|old| old.endpoints == kept.endpoints && old.cluster == kept.cluster);
    let confirmed =
        |old: &CachedEndpoints| kept.right_at.duration_since(old.right_at).is_ok_and(|age| age > CONFIRM_EVERY / 2);
    match same {
        // After a restart most are as they were, and writing thousands of files to disk is what
        // takes long.
        Some(old) if !confirmed(&old) => Ok(()),
        // The old file would do for a while yet: it need not be on the disk at once.
        Some(_) => write(path, &encode(key, kept), false),
        None => write(path, &encode(key, kept), true),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_core::model::{Endpoint, Revision};

    use super::*;

    const A: u64 = 0xa;
    const B: u64 = 0xb;
    const DAY: Duration = Duration::from_hours(24);

    fn key(service: &str) -> CacheKey {
        CacheKey { service: service.into(), key_scheme: "etcd_naming".into(), namespace: String::new() }
    }

    /// To the millisecond, as files have it.
    fn ago(time: Duration) -> SystemTime {
        let since = SystemTime::now().checked_sub(time).unwrap().duration_since(UNIX_EPOCH).unwrap();
        UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64)
    }

    fn kept(cluster: u64, n: u8) -> CachedEndpoints {
        let endpoints = (1..=n).map(|n| Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())).collect();
        CachedEndpoints { cluster, revision: Revision(7), right_at: ago(Duration::from_secs(1)), endpoints }
    }

    /// What a process sees that reaches its registry so; `cluster`: which one has answered it.
    fn process(folder: &Path, addresses: &[&str], cluster: Option<u64>) -> DiskCache {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>();
        let identity = Identity::new(&addresses, false);
        identity.answered(cluster.unwrap_or(0));
        DiskCache::new(folder.join("state"), identity, DAY)
    }

    fn files(folder: &Path) -> usize {
        let all = |path: PathBuf| fs::read_dir(path).map_or(0, Iterator::count);
        let clusters = fs::read_dir(folder.join("state")).unwrap();
        clusters.map(|entry| all(entry.unwrap().path()) - 1).sum()
    }

    #[test]
    fn what_is_saved_is_loaded_and_an_empty_set_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let svc = key("ayang/server1");
        assert_eq!(state.load(&svc), None);
        for kept in [kept(A, 3), kept(A, 2)] {
            state.save(&svc, &kept);
            assert_eq!(state.load(&svc), Some(kept));
        }
        assert_eq!(files(folder.path()), 1);
        state.save(&svc, &kept(A, 0));
        assert_eq!(state.load(&svc), None);
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn what_has_not_changed_is_written_again_only_to_be_younger() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let old = CachedEndpoints { right_at: ago(CONFIRM_EVERY), ..kept(A, 2) };
        state.save(&key("svc"), &old);
        let soon = CachedEndpoints {
            right_at: ago(CONFIRM_EVERY.checked_sub(Duration::from_secs(9)).unwrap()),
            ..old.clone()
        };
        state.save(&key("svc"), &soon);
        assert_eq!(state.load(&key("svc")), Some(old));
        let now = kept(A, 2);
        state.save(&key("svc"), &now);
        assert_eq!(state.load(&key("svc")), Some(now));
    }

    #[test]
    fn services_namespaces_and_schemes_have_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let long = "x/".repeat(200);
        let keys = [
            key("a/b"),
            key("a_b"),
            key("../../etc/passwd"),
            key(&long),
            CacheKey { namespace: "prod/".into(), ..key("a/b") },
            CacheKey { key_scheme: "bare_prefix".into(), ..key("a/b") },
        ];
        for (n, key) in (1u8..).zip(&keys) {
            state.save(key, &kept(A, n));
        }
        for (n, key) in (1u8..).zip(&keys) {
            assert_eq!(state.load(key).unwrap().endpoints.len(), usize::from(n), "{key:?}");
        }
        assert_eq!(files(folder.path()), keys.len());
    }

    #[test]
    fn a_registry_that_has_not_answered_is_known_by_its_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let svc = key("svc");
        process(folder.path(), &["HTTP://a:1/", "http://b:1"], Some(A)).save(&svc, &kept(A, 1));
        process(folder.path(), &["http://c:1"], Some(B)).save(&svc, &kept(B, 2));
        let seen = |addresses: &[&str]| process(folder.path(), addresses, None).load(&svc).map(|kept| kept.cluster);
        assert_eq!(seen(&["a:1"]), Some(A));
        assert_eq!(seen(&["http://x:1", "http://b:1"]), Some(A), "one of its addresses will do");
        assert_eq!(seen(&["c:1"]), Some(B));
        assert_eq!(seen(&["d:1"]), None, "nobody has answered there yet");
        assert_eq!(seen(&["https://a:1"]), None);
    }

    #[test]
    fn a_registry_that_has_answered_is_known_by_its_cluster_whatever_its_addresses_were() {
        let folder = tempfile::tempdir().unwrap();
        let svc = key("svc");
        process(folder.path(), &["a:1"], Some(A)).save(&svc, &kept(A, 1));
        let seen = |cluster| process(folder.path(), &["a:1"], Some(cluster)).load(&svc).map(|kept| kept.cluster);
        assert_eq!(seen(B), None, "another one answers there by now");
        assert_eq!(seen(A), Some(A));
        let moved = process(folder.path(), &["z:1"], Some(A)).load(&svc);
        assert_eq!(moved.unwrap().cluster, A);
    }

    #[test]
    fn an_address_belongs_to_who_answered_there_last() {
        let folder = tempfile::tempdir().unwrap();
        let svc = key("svc");
        process(folder.path(), &["a:1", "b:1"], Some(A)).save(&svc, &kept(A, 1));
        // Rebuilt at the same place: it knows other services.
        process(folder.path(), &["a:1"], Some(B)).save(&key("other"), &kept(B, 1));
        assert_eq!(process(folder.path(), &["a:1"], None).load(&svc), None);
        assert_eq!(process(folder.path(), &["b:1"], None).load(&svc).map(|kept| kept.cluster), Some(A));
        process(folder.path(), &["b:1"], Some(B)).save(&key("other"), &kept(B, 1));
        // Nobody can ask for it any more.
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_too_old_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let svc = key("svc");
        let aged = |age| CachedEndpoints { right_at: ago(age), ..kept(A, 1) };
        state.save(&svc, &aged(DAY + Duration::from_secs(1)));
        assert_eq!(state.load(&svc), None);
        state.save(&svc, &aged(DAY.checked_sub(Duration::from_hours(1)).unwrap()));
        assert!(state.load(&svc).is_some());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let svc = key("svc");
        state.save(&svc, &kept(A, 3));
        let path = state.folder(A).join(svc.file_name());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(state.load(&svc), None);
        assert!(!path.exists());
        assert_eq!(fs::read(path.with_added_extension("damaged")).unwrap(), whole[..whole.len() / 2]);
        // One that was copied there from another registry's folder is not this one's.
        fs::write(&path, encode(&svc, &kept(B, 1))).unwrap();
        assert_eq!(state.load(&svc), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_newer_releases_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = process(folder.path(), &["a:1"], Some(A));
        let svc = key("svc");
        state.save(&svc, &kept(A, 3));
        let path = state.folder(A).join(svc.file_name());
        let newer = String::from_utf8(fs::read(&path).unwrap()).unwrap().replacen(" 2 ", " 3 ", 1);
        fs::write(&path, &newer).unwrap();
        assert_eq!(state.load(&svc), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }

    #[test]
    fn a_folder_that_cannot_be_written_harms_nobody() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state"), "").unwrap();
        for cluster in [None, Some(A)] {
            let state = process(folder.path(), &["a:1"], cluster);
            state.save(&key("svc"), &kept(A, 1));
            assert_eq!(state.load(&key("svc")), None);
        }
    }
}
