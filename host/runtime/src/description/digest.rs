//! Digests by which components are told apart.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a component's bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The SHA-256 of a component's bytes as the history and `plugin inspect` show it, in hex.
pub fn digest(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// A digest as people compare it.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing into a String does not fail.
        text
    })
}
