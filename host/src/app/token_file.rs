//! The file of tokens: read at the start, and again when it changes. One that cannot be used leaves
//! the tokens that there are.

use std::{
    fs::Metadata,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::{info, warn};
use waymark_stages::file_watch::{FileContents, Reload, ReloadError, known_by, watch_files};

use crate::{
    admin::{Tokens, TokensError},
    plugin,
};

/// The most bytes of a file that are read.
const LIMIT: usize = 1 << 20;

/// Why a file of tokens cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the tokens in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is there, and is not to be trusted, or has no tokens.
    #[error("the tokens in {path} cannot be used: it {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Who else than its owner could read the tokens, or put one there.
fn distrusted(metadata: &Metadata) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Some(format!(
            "has the mode {mode:04o}, so that others may read or change it; `chmod 600` it (a group may read it, 640)"
        ));
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    (owner != 0 && owner != own)
        .then(|| format!("belongs to the user {owner}, neither to root nor to this process's {own}"))
}

/// The tokens in a file, and what tells its bytes from others.
pub(super) fn load(path: &Path) -> Result<(Tokens, String), TokenFileError> {
    let read = |source| TokenFileError::Read { path: path.to_owned(), source };
    let unusable = |problem: String| TokenFileError::Unusable { path: path.to_owned(), problem };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if let Some(problem) = distrusted(&metadata) {
        return Err(unusable(problem));
    }
    if metadata.len() > LIMIT as u64 {
        return Err(unusable(format!("has {} bytes, over {LIMIT}", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let tokens = Tokens::parse(&bytes).map_err(|error: TokensError| unusable(error.to_string()))?;
    Ok((tokens, known_by([plugin::digest(&bytes)])))
}

/// Follows a file that was loaded, until it is dropped.
pub(super) async fn follow_tokens(path: PathBuf, tokens: Tokens, handled: String) {
    watch_files(TokenFile(tokens), vec![path], handled).await;
}

struct TokenFile(Tokens);

impl Reload for TokenFile {
    fn limit(&self) -> usize {
        LIMIT
    }

    async fn take(&self, files: Vec<FileContents>) -> Result<(), ReloadError> {
        let Some(whole) = files.into_iter().next() else { return Ok(()) };
        let path = &whole.path;
        if whole.sha256.is_none() {
            return Err(ReloadError::new(path, format!("it has {} bytes, over {LIMIT}", whole.size)));
        }
        let metadata = std::fs::metadata(path).map_err(|error| ReloadError::new(path, error))?;
        if let Some(problem) = distrusted(&metadata) {
            return Err(ReloadError::new(path, format!("it {problem}")));
        }
        self.0
            .replace(&whole.bytes)
            .map_err(|error| ReloadError { may_be_half: true, ..ReloadError::new(path, format!("it {error}")) })?;
        info!(file = %path.display(), "the tokens of the node's API changed");
        Ok(())
    }

    async fn refuse(&self, refusal: ReloadError) {
        let (file, reason) = (refusal.path.display(), refusal.reason);
        warn!(%file, reason, "the file of tokens changed and is refused; the old tokens stay");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_that_others_may_read_or_change_has_no_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(matches!(load(&path), Err(TokenFileError::Read { .. })));
        fs::write(&path, "anna:0123456789abcdef").unwrap();
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = load(&path).map(|_| ()).map_err(|error| error.to_string());
            assert_eq!(error.is_ok(), good, "{mode:o}: {error:?}");
            assert!(good || error.unwrap_err().contains("chmod 600"));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "anna:short").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("short\""), "{error}");
    }
}
