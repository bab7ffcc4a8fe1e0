//! The folder of compiled components. What lies in it is machine code that this process runs, so it
//! is looked at first.
//!
//! ```text
//!   FOLDER            0700, ours
//!     key             32 random bytes, 0600
//!     code/           wasmtime's own cache: modules/COMPILER/NAME, and its statistics
//!     signed/         one file a compiled component: a keyed checksum of its place and its bytes
//! ```
//!
//! A folder that belongs to somebody else, or that others may write to, is not used at all. Of
//! ours, what has no checksum by our key is deleted before wasmtime sees it: what another user,
//! another container on the same volume, or a restored backup left there, and what the disk
//! damaged. It is no protection against whoever runs as the same user and can read the key: that
//! one can do all that this process can.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ring::hmac;
use thiserror::Error;
use tracing::{debug, warn};

const KEY_LEN: usize = 32;

/// Why a folder is not used.
#[derive(Debug, Error)]
pub(super) enum Unfit {
    #[error("{path} belongs to user {owner}, not to user {us} that this process runs as")]
    Foreign { path: PathBuf, owner: u32, us: u32 },
    #[error("{path} can be written by others (mode {mode:o}); `chmod go-w` it, or name another folder")]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is no folder")]
    NoFolder { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A folder that may be used.
pub(super) struct DiskCache {
    root: PathBuf,
    key: hmac::Key,
}

impl DiskCache {
    /// Makes the folder fit for use, and deletes from it what has no checksum by its key.
    pub(super) fn open(root: &Path) -> Result<Self, Unfit> {
        make(root)?;
        let folder = Self { root: root.into(), key: key(&root.join("key"))? };
        make(&folder.code())?;
        make(&folder.signatures())?;
        folder.verify()?;
        Ok(folder)
    }

    /// The folder of wasmtime's cache.
    pub(super) fn code(&self) -> PathBuf {
        self.root.join("code")
    }

    fn signatures(&self) -> PathBuf {
        self.root.join("signed")
    }

    /// Writes the checksums of what has none yet: of what this process, or one that it started, has
    /// just compiled.
    pub(super) fn sign(&self) {
        let sign = || -> Result<(), Unfit> {
            for compiled in self.compiled()? {
                let signature = self.signatures().join(compiled.signature());
                if signature.exists() {
                    continue;
                }
                let Ok(bytes) = fs::read(&compiled.path) else { continue };
                let tag = hmac::sign(&self.key, &compiled.signed(&bytes));
                write_new(&signature, tag.as_ref()).map_err(io_at(&signature))?;
            }
            Ok(())
        };
        if let Err(error) = sign() {
            debug!(%error, "what was just compiled is compiled anew at the next start: its checksum cannot be written");
        }
    }

    fn verify(&self) -> Result<(), Unfit> {
        let (mut known, mut deleted) = (HashSet::new(), 0);
        for compiled in self.compiled()? {
            let signature = self.signatures().join(compiled.signature());
            let good = compiled.regular
                && matches!((fs::read(&compiled.path), fs::read(&signature)), (Ok(bytes), Ok(tag))
                    if hmac::verify(&self.key, &compiled.signed(&bytes), &tag).is_ok());
            if good {
                known.insert(compiled.signature());
                continue;
            }
            deleted += 1;
            // Another process may have been faster.
            match fs::remove_file(&compiled.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&compiled.path)(error)),
                _ => {}
            }
        }
        if deleted > 0 {
            let folder = self.root.display();
            warn!(%folder, deleted, "compiled plugins without a checksum of ours were deleted; they are compiled anew");
        }
        for entry in read_dir(&self.signatures())? {
            if !known.contains(&*entry.file_name().to_string_lossy()) {
                let _ = fs::remove_file(entry.path()); // It is in nobody's way.
            }
        }
        Ok(())
    }

    /// Whatever wasmtime would run: files two folders below its own, by names without an ending.
    fn compiled(&self) -> Result<Vec<Compiled>, Unfit> {
        let modules = self.code().join("modules");
        let mut found = Vec::new();
        if !modules.exists() {
            return Ok(found);
        }
        for compiler in read_dir(&modules)? {
            if !compiler.path().is_dir() {
                continue;
            }
            for file in read_dir(&compiler.path())? {
                let path = file.path();
                if path.extension().is_some() {
                    continue;
                }
                let regular = file.file_type().is_ok_and(|ty| ty.is_file());
                let place =
                    format!("{}/{}", compiler.file_name().to_string_lossy(), file.file_name().to_string_lossy());
                found.push(Compiled { path, place, regular });
            }
        }
        Ok(found)
    }
}

struct Compiled {
    path: PathBuf,
    place: String,
    regular: bool,
}

impl Compiled {
    fn signature(&self) -> String {
        self.place.replace('/', " ")
    }

    /// What the checksum is of: where it lies, too, so that one cannot be put in another's place.
    fn signed(&self, bytes: &[u8]) -> Vec<u8> {
        [&(self.place.len() as u64).to_le_bytes(), self.place.as_bytes(), bytes].concat()
    }
}

/// A folder that is ours alone.
fn make(path: &Path) -> Result<(), Unfit> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_at(path))?;
    let found = fs::metadata(path).map_err(io_at(path))?;
    let us = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err(Unfit::NoFolder { path: path.into() });
    }
    if found.uid() != us {
        return Err(Unfit::Foreign { path: path.into(), owner: found.uid(), us });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Unfit::Open { path: path.into(), mode });
    }
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io_at(path))?;
    }
    Ok(())
}

/// The folder's key; a new one if there is none that is fit.
fn key(path: &Path) -> Result<hmac::Key, Unfit> {
    let fit = |path: &Path| -> io::Result<Option<[u8; KEY_LEN]>> {
        let file =
            OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        let found = file.metadata()?;
        let ours = found.uid() == rustix::process::geteuid().as_raw() && is_for_its_owner_alone(found.mode());
        let mut key = Vec::new();
        (&file).take(KEY_LEN as u64 + 1).read_to_end(&mut key)?;
        Ok(<[u8; KEY_LEN]>::try_from(key).ok().filter(|_| ours && found.is_file()))
    };
    let bytes = if let Ok(Some(key)) = fit(path) {
        key
    } else {
        // What others can read is no secret, and what it signed is not trusted any more.
        let mut key = [0; KEY_LEN];
        getrandom::fill(&mut key).map_err(|error| io_at(path)(io::Error::other(error.to_string())))?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(path).map_err(io_at(path))?;
        }
        match write_new(path, &key) {
            Ok(()) => key,
            // Another process was faster; its key is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = fit(path).map_err(io_at(path))?;
                found.ok_or_else(|| io_at(path)(io::Error::other("is not a key that only its owner can read")))?
            }
            Err(error) => return Err(io_at(path)(error)),
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Whether these permission bits give nothing to anybody else.
fn is_for_its_owner_alone(mode: u32) -> bool {
    mode.trailing_zeros() >= 6
}

/// Writes a file that is there whole or not at all, and that nobody else can read.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist_noclobber(path).map(drop).map_err(|error| error.error)
}

fn read_dir(path: &Path) -> Result<Vec<fs::DirEntry>, Unfit> {
    fs::read_dir(path).and_then(Iterator::collect).map_err(io_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Unfit {
    move |source| Unfit::Io { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn put(folder: &DiskCache, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.code().join("modules").join("wasmtime-1").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn only_what_was_signed_here_is_there_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let folder = DiskCache::open(root.path()).unwrap();
        let [good, changed, swapped] = ["good", "changed", "swapped"].map(|name| put(&folder, name, name.as_bytes()));
        folder.sign();
        let foreign = put(&folder, "foreign", b"machine code of somebody else");
        let link = foreign.with_file_name("link");
        std::os::unix::fs::symlink(&good, &link).unwrap();
        fs::write(&changed, b"Changed").unwrap();
        fs::copy(&good, &swapped).unwrap();
        let again = DiskCache::open(root.path()).unwrap();
        assert!(good.exists());
        for bad in [changed, swapped, foreign, link] {
            assert!(bad.symlink_metadata().is_err(), "{} is still there", bad.display());
        }
        assert_eq!(fs::read_dir(again.signatures()).unwrap().count(), 1);
        assert_eq!((mode(root.path()), mode(&root.path().join("key"))), (0o700, 0o600));
    }

    #[test]
    fn a_key_that_others_could_read_is_replaced_and_signs_nothing_any_more() {
        let root = tempfile::tempdir().unwrap();
        let folder = DiskCache::open(root.path()).unwrap();
        let compiled = put(&folder, "code", b"code");
        folder.sign();
        let key = root.path().join("key");
        let before = fs::read(&key).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        DiskCache::open(root.path()).unwrap();
        assert!(!compiled.exists());
        assert_ne!(fs::read(&key).unwrap(), before);
        assert_eq!(mode(&key), 0o600);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        for open in [0o770, 0o707, 0o777] {
            fs::set_permissions(root.path(), Permissions::from_mode(open)).unwrap();
            let refused = DiskCache::open(root.path()).map(drop).unwrap_err().to_string();
            assert!(refused.contains("can be written by others"), "{refused}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        }
        // What others may only read is closed.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        DiskCache::open(root.path()).unwrap();
        assert_eq!(mode(root.path()), 0o700);
        let file = root.path().join("key");
        assert!(DiskCache::open(&file).is_err());
    }
}
