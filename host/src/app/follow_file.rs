//! Follows a policy that is a file: a change of the file becomes a new version of the policy, whole or not at all.
//!
//! ```text
//!             another stamp              still for SETTLE            other bytes
//!    Quiet ─────────────────▶ Settling ──────────────────▶ read ──────────────────▶ load, check, swap ──▶ Quiet
//!      ▲                      ▲   ▲  another stamp          │ same bytes                  │ half a component
//!      └──────────────────────┼───┼────────────────────────┘                             ▼
//!                             │   └──────────────────────────────────────────────── Doubtful
//!                             └ another stamp                                             │ still for PATIENCE
//!                                                                        refused, once ◀──┘
//! ```
//!
//! The file is looked at, not subscribed to: that finds what is renamed over it, written in place, swapped behind a link
//! (Kubernetes does that with a whole folder) or changed on another machine, all by the same few system calls. A file that is gone is no
//! change. What was set by hand stays until the bytes of the file change.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::load::{PluginError, try_for_nobody};
use crate::{
    balancer::{Candidate, PolicyInfo, Services},
    config::{PluginChoice, PluginRef},
    model::ServiceName,
    plugin::{self, Engine, Limits, LoadError},
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a file must have stayed as it is before it is read: whoever writes it is done then, most of the time.
const SETTLE: Duration = Duration::from_millis(500);

/// How long what looks like half a component may stay so, before it is called bad.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who set a version, in the history.
const BY: &str = "file changed";

/// A policy of the configuration, as its file has it now. Services that come later begin with it.
pub(super) struct Slot {
    choice: PluginChoice,
    limits: Limits,
    candidate: Mutex<Candidate>,
}

impl Slot {
    pub(super) fn new(choice: PluginChoice, limits: Limits, candidate: Candidate) -> Arc<Self> {
        Arc::new(Self { choice, limits, candidate: Mutex::new(candidate) })
    }

    pub(super) fn candidate(&self) -> Candidate {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, candidate: Candidate) {
        *self.candidate.lock().unwrap_or_else(PoisonError::into_inner) = candidate;
    }

    /// The file that is to be followed, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.choice.plugin {
            PluginRef::File(path) => Some(path),
            PluginRef::Bundled(_) => None,
        }
    }
}

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

/// Where the following of one file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file was dealt with as it is; none was seen yet.
    Quiet(Option<Stamp>),
    /// It has changed, at this time for the last time.
    Settling { stamp: Stamp, since: Instant },
    /// It was read and looks like half a component. Whoever writes it may be slow.
    Doubtful { stamp: Stamp, since: Instant },
}

/// Decides when to read a file. Knows neither files nor clocks: both are told to it.
#[derive(Debug)]
struct Watch {
    state: State,
    /// SHA-256 of the bytes that were dealt with last.
    handled: String,
}

impl Watch {
    fn new(handled: String) -> Self {
        Self { state: State::Quiet(None), handled }
    }

    /// After a look at the file.
    fn step(&mut self, seen: Option<Stamp>, now: Instant) -> Step {
        // Gone, perhaps for the moment between two renames.
        let Some(seen) = seen else { return Step::Wait };
        match self.state {
            State::Quiet(Some(stamp)) if stamp == seen => Step::Wait,
            State::Settling { stamp, since } if stamp == seen => {
                if now.duration_since(since) >= SETTLE {
                    Step::Read
                } else {
                    Step::Wait
                }
            }
            State::Doubtful { stamp, since } if stamp == seen => {
                if now.duration_since(since) < PATIENCE {
                    return Step::Wait;
                }
                self.state = State::Quiet(Some(stamp));
                Step::GiveUp
            }
            State::Quiet(_) | State::Settling { .. } | State::Doubtful { .. } => {
                self.state = State::Settling { stamp: seen, since: now };
                Step::Wait
            }
        }
    }

    /// After it was read whole, between two looks that saw `stamp`: whether these bytes are new.
    fn read(&mut self, stamp: Stamp, sha256: &str) -> bool {
        self.state = State::Quiet(Some(stamp));
        if self.handled == sha256 {
            return false;
        }
        sha256.clone_into(&mut self.handled);
        true
    }

    /// What was read last looks like half a component.
    fn doubt(&mut self, now: Instant) {
        if let State::Quiet(Some(stamp)) = self.state {
            self.state = State::Doubtful { stamp, since: now };
        }
    }
}

/// Whether a component may be one that is still being written.
fn may_be_half(error: &PluginError) -> bool {
    matches!(
        error,
        PluginError::Load(LoadError::Invalid { .. } | LoadError::NotWasm { .. } | LoadError::OtherWorld { .. })
    )
}

/// The bytes of a file that did not change while it was read.
struct Whole {
    stamp: Stamp,
    bytes: Vec<u8>,
    /// Its full size, also when that is over the limit and it was not read.
    size: u64,
}

/// None: it changed meanwhile.
fn read_whole(path: &Path, limit: usize) -> io::Result<Option<Whole>> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    if stamp.size <= limit as u64 {
        (&file).take(limit as u64 + 1).read_to_end(&mut bytes)?;
    }
    let same = Stamp::of(&file.metadata()?) == stamp && Stamp::at(path) == Some(stamp);
    let complete = bytes.is_empty() || bytes.len() as u64 == stamp.size;
    Ok((same && complete).then_some(Whole { stamp, bytes, size: stamp.size }))
}

/// Follows one file for the services that have it as their policy.
pub(super) struct Follower {
    pub(super) engine: Engine,
    pub(super) services: Services,
    pub(super) slot: Arc<Slot>,
    /// Whether a service has its policy from here.
    pub(super) concerns: Box<dyn Fn(&ServiceName) -> bool + Send + Sync>,
    pub(super) zone: Arc<str>,
}

impl Follower {
    /// Runs until it is dropped.
    pub(super) async fn run(self, path: PathBuf) {
        let mut watch = Watch::new(self.slot.candidate().info.sha256);
        let mut pause = tokio::time::interval(LOOK);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Why the bytes that are doubted are bad.
        let mut doubted: Option<(String, PluginError)> = None;
        loop {
            pause.tick().await;
            let looked = path.clone();
            let Ok(seen) = tokio::task::spawn_blocking(move || Stamp::at(&looked)).await else { continue };
            match watch.step(seen, Instant::now()) {
                Step::Wait => {}
                Step::GiveUp => {
                    if let Some((sha256, error)) = doubted.take() {
                        self.refuse(&path, sha256, &error.to_string()).await;
                    }
                }
                Step::Read => {
                    let (from, limit) = (path.clone(), self.engine.limits().component_size);
                    let read = tokio::task::spawn_blocking(move || read_whole(&from, limit)).await;
                    let whole = match read {
                        Ok(Ok(Some(whole))) => whole,
                        // It changes, or has gone: the next look tells.
                        Ok(Ok(None)) | Err(_) => continue,
                        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                        Ok(Err(source)) => {
                            // Nothing of it is known but its stamp, and that stands for the bytes.
                            if let Some(stamp) = seen
                                && watch.read(stamp, &format!("unreadable {stamp:?}"))
                            {
                                let error = PluginError::Read { path: path.clone(), source };
                                self.refuse(&path, String::new(), &error.to_string()).await;
                            }
                            continue;
                        }
                    };
                    let too_large = whole.size > limit as u64;
                    let sha256 = if too_large { String::new() } else { plugin::digest(&whole.bytes) };
                    let known_by = if too_large { format!("{:?}", whole.stamp) } else { sha256.clone() };
                    if !watch.read(whole.stamp, &known_by) {
                        continue;
                    }
                    match self.load(&path, whole, limit).await {
                        Ok(candidate) => self.swap(&path, candidate).await,
                        Err(error) if may_be_half(&error) => {
                            doubted = Some((sha256, error));
                            watch.doubt(Instant::now());
                        }
                        Err(error) => self.refuse(&path, sha256, &error.to_string()).await,
                    }
                }
            }
        }
    }

    async fn load(&self, path: &Path, whole: Whole, limit: usize) -> Result<Candidate, PluginError> {
        let origin = path.display().to_string();
        if whole.size > limit as u64 {
            return Err(LoadError::TooLarge { origin, size: whole.size as usize, limit }.into());
        }
        let (engine, choice, limits) = (self.engine.clone(), self.slot.choice.clone(), self.slot.limits.clone());
        let named = origin.clone();
        let load = move || {
            let plugin = engine.load_with(&whole.bytes, &origin, limits, choice.allow)?;
            Ok(Candidate::new(plugin.into_policy(&choice.config)?, BY))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.unwrap_or_else(|panic| Err(PluginError::Host { plugin: named, reason: panic.to_string() }))
    }

    /// Gives it to each service that has its policy from here. A service that refuses keeps what it has and says so in its history.
    async fn swap(&self, path: &Path, candidate: Candidate) {
        match try_for_nobody(&candidate, &self.zone).await {
            Ok(()) => {}
            Err(error) => {
                self.refuse(path, candidate.info.sha256, &error.to_string()).await;
                return;
            }
        }
        // First what services begin with, then those that have begun: none is missed.
        self.slot.replace(candidate.clone());
        let file = path.display();
        info!(%file, policy = &*candidate.info.name, sha256 = candidate.info.sha256, "the file of a policy changed");
        for handle in self.services.list() {
            if !(self.concerns)(handle.name()) {
                continue;
            }
            if let Err(error) = handle.set_policy(candidate.clone()).await {
                warn!(%file, %error, "the changed file is not taken over");
            }
        }
    }

    /// Says once why the file is not taken, in the log and in the history of each service that would have had it.
    async fn refuse(&self, path: &Path, sha256: String, reason: &str) {
        warn!(file = %path.display(), reason, "the file of a policy changed and is refused; what runs goes on running");
        let info = PolicyInfo {
            name: path.file_stem().map_or_else(|| "?".into(), |stem| stem.to_string_lossy().as_ref().into()),
            plugin_version: String::new(),
            sha256,
            origin: path.display().to_string(),
            config: self.slot.choice.config.clone(),
            allow: self.slot.choice.allow.to_string(),
            by: BY.into(),
        };
        for handle in self.services.list() {
            if (self.concerns)(handle.name()) {
                // A service that has ended meanwhile needs no history.
                let _ = handle.refuse(info.clone(), reason.to_owned()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn stamp(n: u64) -> Stamp {
        Stamp { device: 1, inode: n, size: n, modified: (0, 0), changed: (0, 0) }
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
    fn half_a_component_is_bad_only_when_nothing_comes_after_it() {
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
