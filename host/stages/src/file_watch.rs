//! Watches files that make up one thing: a change of theirs is taken whole or not at all.
//!
//! ```text
//!             another stamp              still for SETTLE            other bytes
//!    Quiet ─────────────────▶ Settling ──────────────────▶ read ──────────────────▶ load, check, swap ──▶ Quiet
//!      ▲                      ▲   ▲  another stamp          │ same bytes                  │ may be half
//!      └──────────────────────┼───┼────────────────────────┘                             ▼
//!                             │   └──────────────────────────────────────────────── Doubtful
//!                             └ another stamp                                             │ still for PATIENCE
//!                                                                        refused, once ◀──┘
//! ```
//!
//! Files are looked at, not subscribed to: that finds what is renamed over them, written in place,
//! swapped behind a link (Kubernetes does that with a whole folder) or changed on another machine,
//! all by the same few system calls. A file that is gone is no change. Of several files (a
//! certificate and its key) one is changed before the other: half of the change is waited out like
//! half a file. What becomes of the bytes is the [`Reload`]'s business.

use std::{
    fmt::Display,
    fs::{File, Metadata},
    future::Future,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use waymark_runtime as plugin;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a file must have stayed as it is before it is read: whoever writes it is done then,
/// most of the time.
const SETTLE: Duration = Duration::from_millis(500);

/// How long what looks like half of a change may stay so, before it is called bad.
const PATIENCE: Duration = Duration::from_secs(5);

/// What tells that a file may have other bytes than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The file behind the path, links followed. None: there is none, or it is no file.
    fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| Self::of(&metadata))
    }
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Look again later.
    Wait,
    /// Read the file, then tell [`Watch::read`] of it.
    Read,
    /// What was read is bad for good.
    GiveUp,
}

/// Where the following stands. The stamps are those of all files, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The files were dealt with as they are; none was seen yet.
    Quiet(Option<Vec<Stamp>>),
    /// They have changed, at this time for the last time.
    Settling { stamp: Vec<Stamp>, since: Instant },
    /// They were read and look like half of a change. Whoever writes them may be slow.
    Doubtful { stamp: Vec<Stamp>, since: Instant },
}

/// Decides when to read files. Knows neither files nor clocks: both are told to it.
#[derive(Debug)]
struct Watch {
    state: State,
    /// What tells the bytes that were dealt with last from others.
    handled: String,
}

impl Watch {
    fn new(handled: String) -> Self {
        Self { state: State::Quiet(None), handled }
    }

    /// After a look at the files.
    fn step(&mut self, seen: Option<Vec<Stamp>>, now: Instant) -> Step {
        // Gone, perhaps for the moment between two renames.
        let Some(seen) = seen else { return Step::Wait };
        match &self.state {
            State::Quiet(Some(stamp)) if *stamp == seen => Step::Wait,
            State::Settling { stamp, since } if *stamp == seen => {
                if now.duration_since(*since) >= SETTLE {
                    Step::Read
                } else {
                    Step::Wait
                }
            }
            State::Doubtful { stamp, since } if *stamp == seen => {
                if now.duration_since(*since) < PATIENCE {
                    return Step::Wait;
                }
                self.state = State::Quiet(Some(seen));
                Step::GiveUp
            }
            State::Quiet(_) | State::Settling { .. } | State::Doubtful { .. } => {
                self.state = State::Settling { stamp: seen, since: now };
                Step::Wait
            }
        }
    }

    /// After they were read whole, between two looks that saw `stamp`: whether these bytes are new.
    fn read(&mut self, stamp: Vec<Stamp>, bytes: &str) -> bool {
        self.state = State::Quiet(Some(stamp));
        if self.handled == bytes {
            return false;
        }
        bytes.clone_into(&mut self.handled);
        true
    }

    /// What was read last looks like half of a change.
    fn doubt(&mut self, now: Instant) {
        if let State::Quiet(Some(stamp)) = &self.state {
            self.state = State::Doubtful { stamp: stamp.clone(), since: now };
        }
    }
}

/// The bytes of a file that did not change while it was read.
pub struct FileContents {
    /// Which file.
    pub path: PathBuf,
    /// All of it; empty if it is too large.
    pub bytes: Vec<u8>,
    /// Of the bytes; none when the file is over the limit and was not read.
    pub sha256: Option<String>,
    /// Its full size, also when it was not read.
    pub size: u64,
    stamp: Stamp,
}

impl FileContents {
    /// What tells it from other bytes.
    fn known_by(&self) -> String {
        self.sha256.clone().unwrap_or_else(|| format!("{:?}", self.stamp))
    }
}

/// None: it changed meanwhile.
fn read_file(path: &Path, limit: usize) -> io::Result<Option<FileContents>> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    let fits = stamp.size <= limit as u64;
    if fits {
        (&file).take(limit as u64 + 1).read_to_end(&mut bytes)?;
    }
    let same = Stamp::of(&file.metadata()?) == stamp && Stamp::at(path) == Some(stamp);
    let complete = !fits || bytes.len() as u64 == stamp.size;
    let sha256 = fits.then(|| plugin::digest(&bytes));
    Ok((same && complete).then(|| FileContents { path: path.to_owned(), bytes, sha256, size: stamp.size, stamp }))
}

/// What tells the bytes of files from others, together.
pub fn known_by(sha256: impl IntoIterator<Item = String>) -> String {
    sha256.into_iter().collect::<Vec<_>>().join("+")
}

fn look(files: &[PathBuf]) -> Option<Vec<Stamp>> {
    files.iter().map(|path| Stamp::at(path)).collect()
}

/// All of them as they were at one moment.
fn read_all(files: &[PathBuf], limit: usize) -> Result<Option<Vec<FileContents>>, (PathBuf, io::Error)> {
    let read = |path: &PathBuf| read_file(path, limit).map_err(|error| (path.clone(), error));
    let Some(all) = files.iter().map(read).collect::<Result<Option<Vec<_>>, _>>()? else { return Ok(None) };
    // An earlier one may have changed while a later one was read.
    Ok(all.iter().all(|whole| Stamp::at(&whole.path) == Some(whole.stamp)).then_some(all))
}

/// Why changed files are not taken.
pub struct ReloadError {
    /// The file at fault.
    pub path: PathBuf,
    /// Of its bytes, where that is known and says something.
    pub sha256: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether the other half of the change may still come.
    pub may_be_half: bool,
    /// When the same bytes may be taken after all, if time alone may mend them.
    pub again_in: Option<Duration>,
}

impl ReloadError {
    /// One that no waiting would mend.
    pub fn new(path: &Path, reason: impl Display) -> Self {
        Self {
            path: path.to_owned(),
            sha256: String::new(),
            reason: reason.to_string(),
            may_be_half: false,
            again_in: None,
        }
    }
}

/// Takes over what changed files hold, or says why not.
pub trait Reload: Send + Sync {
    /// The most bytes of a file that are read.
    fn limit(&self) -> usize;

    /// Takes what the files hold now, all of it or nothing.
    fn take(&self, files: Vec<FileContents>) -> impl Future<Output = Result<(), ReloadError>> + Send;

    /// Says once why changed files are not taken.
    fn refuse(&self, refusal: ReloadError) -> impl Future<Output = ()> + Send;
}

/// Follows these files until it is dropped. `handled`: what they held when they were taken first,
/// see [`known_by`].
pub async fn watch_files(reload: impl Reload, files: Vec<PathBuf>, handled: String) {
    let mut watch = Watch::new(handled);
    let mut pause = tokio::time::interval(LOOK);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Why the bytes that are doubted are bad.
    let mut doubted: Option<ReloadError> = None;
    // When they are to be read once more, whether they have changed or not.
    let mut again_at: Option<Instant> = None;
    loop {
        pause.tick().await;
        if again_at.is_some_and(|at| at <= Instant::now()) {
            again_at = None;
            watch = Watch::new(String::new());
        }
        let looked = files.clone();
        let Ok(seen) = tokio::task::spawn_blocking(move || look(&looked)).await else { continue };
        match watch.step(seen.clone(), Instant::now()) {
            Step::Wait => {}
            Step::GiveUp => {
                if let Some(refusal) = doubted.take() {
                    reload.refuse(refusal).await;
                }
            }
            Step::Read => {
                let (from, limit) = (files.clone(), reload.limit());
                let read = tokio::task::spawn_blocking(move || read_all(&from, limit)).await;
                let all = match read {
                    Ok(Ok(Some(all))) => all,
                    // They change, or have gone: the next look tells.
                    Ok(Ok(None)) | Err(_) => continue,
                    Ok(Err((_, error))) if error.kind() == io::ErrorKind::NotFound => continue,
                    Ok(Err((path, error))) => {
                        // Nothing is known but the stamps, and these stand for the bytes.
                        if let Some(stamp) = seen {
                            let bytes = format!("unreadable {stamp:?}");
                            if watch.read(stamp, &bytes) {
                                reload.refuse(ReloadError::new(&path, format!("it cannot be read: {error}"))).await;
                            }
                        }
                        continue;
                    }
                };
                let stamp = all.iter().map(|whole| whole.stamp).collect();
                again_at = None;
                if !watch.read(stamp, &known_by(all.iter().map(FileContents::known_by))) {
                    continue;
                }
                match reload.take(all).await {
                    Ok(()) => {}
                    Err(refusal) if refusal.may_be_half => {
                        doubted = Some(refusal);
                        watch.doubt(Instant::now());
                    }
                    Err(refusal) => {
                        again_at = refusal.again_in.map(|wait| Instant::now() + wait);
                        reload.refuse(refusal).await;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn stamp(n: u64) -> Vec<Stamp> {
        vec![Stamp { device: 1, inode: n, size: n, modified: (0, 0), changed: (0, 0) }]
    }

    /// A watch that has read file 1 with the bytes `a`, and when.
    fn quiet() -> (Watch, Instant) {
        let began = Instant::now();
        let mut watch = Watch::new("a".into());
        assert_eq!(watch.step(Some(stamp(1)), began), Step::Wait);
        assert_eq!(watch.step(Some(stamp(1)), began + SETTLE), Step::Read);
        assert!(!watch.read(stamp(1), "a"), "the file that was loaded at the start is no change");
        (watch, began + SETTLE)
    }

    #[test]
    fn a_file_that_stays_as_it_is_is_read_once() {
        let (mut watch, now) = quiet();
        for seconds in 0..100 {
            assert_eq!(watch.step(Some(stamp(1)), now + Duration::from_secs(seconds)), Step::Wait);
        }
    }

    #[test]
    fn a_changed_file_is_read_when_it_has_been_still_for_a_while() {
        let (mut watch, now) = quiet();
        assert_eq!(watch.step(Some(stamp(2)), now), Step::Wait);
        assert_eq!(watch.step(Some(stamp(2)), now + SETTLE / 2), Step::Wait);
        assert_eq!(watch.step(Some(stamp(2)), now + SETTLE), Step::Read);
        assert!(watch.read(stamp(2), "b"));
        assert_eq!(watch.step(Some(stamp(2)), now + 2 * SETTLE), Step::Wait);
    }

    #[test]
    fn a_file_that_goes_on_growing_is_not_read() {
        let (mut watch, mut now) = quiet();
        for size in 2..50 {
            assert_eq!(watch.step(Some(stamp(size)), now), Step::Wait);
            now += SETTLE / 2;
        }
        assert_eq!(watch.step(Some(stamp(49)), now + SETTLE), Step::Read);
    }

    #[test]
    fn a_file_that_is_gone_is_no_change_and_one_that_comes_back_with_the_same_bytes_neither() {
        let (mut watch, now) = quiet();
        assert_eq!(watch.step(None, now), Step::Wait);
        assert_eq!(watch.step(None, now + 10 * SETTLE), Step::Wait);
        assert_eq!(watch.step(Some(stamp(3)), now + 11 * SETTLE), Step::Wait);
        assert_eq!(watch.step(Some(stamp(3)), now + 12 * SETTLE), Step::Read);
        assert!(!watch.read(stamp(3), "a"));
    }

    #[test]
    fn what_changed_while_it_was_read_is_waited_for_again() {
        let (mut watch, now) = quiet();
        watch.step(Some(stamp(2)), now);
        assert_eq!(watch.step(Some(stamp(2)), now + SETTLE), Step::Read);
        // No word of the reading: it was not whole.
        assert_eq!(watch.step(Some(stamp(3)), now + SETTLE), Step::Wait);
        assert_eq!(watch.step(Some(stamp(3)), now + 2 * SETTLE), Step::Read);
    }

    #[test]
    fn half_of_a_change_is_bad_only_when_nothing_comes_after_it() {
        let (mut watch, now) = quiet();
        watch.step(Some(stamp(2)), now);
        watch.step(Some(stamp(2)), now + SETTLE);
        assert!(watch.read(stamp(2), "half"));
        watch.doubt(now + SETTLE);
        assert_eq!(watch.step(Some(stamp(2)), now + SETTLE + PATIENCE / 2), Step::Wait);
        // The rest comes.
        let then = now + PATIENCE;
        assert_eq!(watch.step(Some(stamp(3)), then), Step::Wait);
        assert_eq!(watch.step(Some(stamp(3)), then + SETTLE), Step::Read);
        assert!(watch.read(stamp(3), "whole"));
        // And once nothing comes.
        watch.doubt(then);
        assert_eq!(watch.step(Some(stamp(3)), then + PATIENCE), Step::GiveUp);
        assert_eq!(watch.step(Some(stamp(3)), then + 2 * PATIENCE), Step::Wait);
    }

    #[test]
    fn a_file_swapped_behind_a_link_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (link, other) = (folder.path().join("link"), folder.path().join("other"));
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), "same size").unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("a"), &link).unwrap();
        let before = Stamp::at(&link).unwrap();
        std::os::unix::fs::symlink(folder.path().join("b"), &other).unwrap();
        std::fs::rename(&other, &link).unwrap();
        assert_ne!(Stamp::at(&link).unwrap(), before);
        assert_eq!(Stamp::at(folder.path()), None, "a folder is no file");
    }
}
