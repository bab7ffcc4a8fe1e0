//! The settings of a registration that runs, in a file that is followed: how whoever operates it
//! changes its weight, or drains it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tokio::{sync::watch, task::JoinSet};

use super::output::{self, CommandError};
use crate::{
    plugin,
    stages::file_watch::{FileContents, Reload, ReloadError, known_by, watch_files},
};

/// The most bytes of the file that are read.
const LIMIT: usize = 64 << 10;

/// What the file says. What it leaves out is as on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    /// The weight to register.
    pub(super) weight: Option<u32>,
    /// Whether the instance is taken out of the registry, and its calls may end.
    pub(super) drain: bool,
}

impl Settings {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not a text".to_owned())?;
        toml::from_str(text).map_err(|error| {
            let example = "such as `weight = 3` or `drain = true`, a line each";
            format!("is not settings, {example}: {}", error.message())
        })
    }
}

/// The settings as they are, for as long as this is kept.
pub(super) struct Followed {
    pub(super) settings: watch::Receiver<Settings>,
    _follower: JoinSet<()>,
}

impl Followed {
    /// Reads the file, and follows it. One that is not there yet says nothing.
    ///
    /// # Errors
    ///
    /// It is there and cannot be read, or says something else. Later that is logged, and what it
    /// said before counts.
    pub(super) fn new(path: Option<&Path>) -> Result<Self, CommandError> {
        let mut follower = JoinSet::new();
        let Some(path) = path else {
            let (_, settings) = watch::channel(Settings::default());
            return Ok(Self { settings, _follower: follower });
        };
        let wrong = |problem: String| CommandError::usage(format!("--settings: {} {problem}", path.display()));
        let (first, handled) = match std::fs::read(path) {
            Ok(bytes) => (Settings::parse(&bytes).map_err(wrong)?, known_by([plugin::digest(&bytes)])),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Settings::default(), String::new()),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        };
        let (told, settings) = watch::channel(first);
        follower.spawn(watch_files(File(Arc::new(told)), vec![PathBuf::from(path)], handled));
        Ok(Self { settings, _follower: follower })
    }
}

struct File(Arc<watch::Sender<Settings>>);

impl Reload for File {
    fn limit(&self) -> usize {
        LIMIT
    }

    async fn take(&self, files: Vec<FileContents>) -> Result<(), ReloadError> {
        let Some(whole) = files.into_iter().next() else { return Ok(()) };
        if whole.sha256.is_none() {
            return Err(ReloadError::new(&whole.path, format!("has {} bytes, over {LIMIT}", whole.size)));
        }
        let settings = Settings::parse(&whole.bytes);
        let settings =
            settings.map_err(|problem| ReloadError { may_be_half: true, ..ReloadError::new(&whole.path, problem) })?;
        self.0.send_replace(settings);
        Ok(())
    }

    async fn refuse(&self, refusal: ReloadError) {
        output::say(format_args!("warning: {} {}; what it said before counts", refusal.path.display(), refusal.reason));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_says_what_it_says_and_nothing_else() {
        let of = |text: &str| Settings::parse(text.as_bytes());
        assert_eq!(of("").unwrap(), Settings::default());
        assert_eq!(of("weight = 3").unwrap(), Settings { weight: Some(3), drain: false });
        assert_eq!(of("drain = true\n").unwrap(), Settings { weight: None, drain: true });
        for wrong in ["weight = -1", "weight = 2.5", "weight = \"3\"", "wait = 3", "3", "drain = 1"] {
            assert!(of(wrong).unwrap_err().contains("weight = 3"), "{wrong}");
        }
        assert!(Settings::parse(b"\xff").is_err());
    }
}
