//! Tokens that stand for those who may change something.

use std::{fmt, str, sync::Arc};

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// A token that can be guessed is none. 16 characters of hexadecimal digits are 64 bits.
const SHORTEST: usize = 16;

/// The most tokens in a file: each is compared with what a caller shows.
const MOST: usize = 1024;

/// Why a text has no tokens to use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokensError {
    /// There are none in it.
    #[error("has no token in it: write one a line, as NAME:TOKEN or TOKEN; `openssl rand -hex 32` makes one")]
    Empty,
    /// It is no text.
    #[error("is not a text")]
    NotText,
    /// There are too many.
    #[error("has more than {MOST} tokens in it")]
    TooMany,
    /// One is too short, or has characters that a header cannot carry.
    #[error("line {line}: {problem}")]
    Token {
        /// Where it stands, from 1.
        line: usize,
        /// What is wrong. It does not show the token.
        problem: &'static str,
    },
}

/// The tokens of a node. Cheap to clone; clones are replaced together. What is kept of each is its
/// digest.
#[derive(Clone, Default)]
pub struct Tokens {
    known: Arc<ArcSwap<Vec<Token>>>,
}

struct Token {
    name: Arc<str>,
    digest: [u8; 32],
}

impl Tokens {
    /// None: nobody has one.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of a text: one a line, `NAME:TOKEN` or `TOKEN`. What begins with `#` is a comment.
    pub fn parse(text: &[u8]) -> Result<Self, TokensError> {
        Ok(Self { known: Arc::new(ArcSwap::from_pointee(tokens(text)?)) })
    }

    /// Puts those of another text in their place. On an error nothing changes.
    pub fn replace(&self, text: &[u8]) -> Result<(), TokensError> {
        self.known.store(Arc::new(tokens(text)?));
        Ok(())
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.known.load().is_empty()
    }

    /// Whose token this is. How long that takes says nothing of the tokens there are: digests are
    /// compared, all of them, and each to its end.
    pub(super) fn owner(&self, shown: &[u8]) -> Option<Arc<str>> {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let mut owner = None;
        for token in self.known.load().iter() {
            if bool::from(token.digest.ct_eq(&shown)) {
                owner = Some(Arc::clone(&token.name));
            }
        }
        owner
    }
}

fn tokens(text: &[u8]) -> Result<Vec<Token>, TokensError> {
    let text = str::from_utf8(text).map_err(|_| TokensError::NotText)?;
    let mut tokens = Vec::new();
    for (nth, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), nth + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |problem| TokensError::Token { line: number, problem };
        let (name, token) = match line.split_once(':') {
            Some((name, token)) => (name.trim().to_owned(), token.trim()),
            None => (format!("token of line {number}"), line),
        };
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            return Err(bad("the name before the colon has to have 1 to 64 characters"));
        }
        if token.len() < SHORTEST {
            return Err(bad("the token is shorter than 16 characters; `openssl rand -hex 32` makes a good one"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("the token has other characters than visible ASCII"));
        }
        if tokens.len() == MOST {
            return Err(TokensError::TooMany);
        }
        tokens.push(Token { name: name.into(), digest: Sha256::digest(token).into() });
    }
    if tokens.is_empty() { Err(TokensError::Empty) } else { Ok(tokens) }
}

/// Tokens stay out of logs, their digests too.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.known.load().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_token_has_an_owner_and_others_have_none() {
        let text = b"# ours\n\nrelease: 0123456789abcdef\r\nfedcba9876543210\n";
        let tokens = Tokens::parse(text).unwrap();
        assert_eq!(&*tokens.owner(b"0123456789abcdef").unwrap(), "release");
        assert_eq!(&*tokens.owner(b"fedcba9876543210").unwrap(), "token of line 4");
        for other in [&b""[..], b"release", b"0123456789abcde", b"0123456789abcdef0", b"release: 0123456789abcdef"] {
            assert!(tokens.owner(other).is_none());
        }
        assert!(!format!("{tokens:?}").contains("0123"));
    }

    #[test]
    fn a_bad_text_changes_nothing_and_does_not_show_its_tokens() {
        let tokens = Tokens::parse(b"a:0123456789abcdef").unwrap();
        for (text, said) in [
            (&b"# nothing"[..], "no token"),
            (b"a:0123456789abcdef\nb:short-secret", "line 2: the token is shorter"),
            (b":0123456789abcdef", "line 1: the name"),
            (b"a:0123456789 abcdef", "line 1: the token has"),
            (b"\xff\xfe", "not a text"),
        ] {
            let error = tokens.replace(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("short-secret"), "{error}");
        }
        assert!(tokens.owner(b"0123456789abcdef").is_some());
        tokens.replace(b"b:fedcba9876543210").unwrap();
        assert!(tokens.owner(b"0123456789abcdef").is_none(), "a token that was taken out is none at once");
    }
}
