//! The key of a request and its hash, for policies that send equal keys to the same endpoint.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;
use xxhash_rust::xxh64::xxh64;

/// What of a request is its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The first value of this header.
    Header(http::HeaderName),
    /// The gRPC path.
    Path,
    /// The address of the client, without its port.
    Peer,
}

/// A text that names no [`HashKey`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("hash key {0:?} is none of header:NAME, path, peer")]
pub struct HashKeyError(String);

impl HashKey {
    /// The hash of a request's key; none when the request lacks it. xxHash64 folded to 32 bits: the 64-bit function is the one
    /// that Envoy's ring hash uses, and interface 0.1 carries 32 bits.
    pub fn hash(&self, path: &str, headers: &http::HeaderMap, peer: Option<IpAddr>) -> Option<u32> {
        let hash = match self {
            Self::Header(name) => xxh64(headers.get(name)?.as_bytes(), 0),
            Self::Path => xxh64(path.as_bytes(), 0),
            Self::Peer => match peer? {
                IpAddr::V4(ip) => xxh64(&ip.octets(), 0),
                IpAddr::V6(ip) => xxh64(&ip.octets(), 0),
            },
        };
        Some((hash ^ (hash >> 32)) as u32)
    }
}

impl FromStr for HashKey {
    type Err = HashKeyError;

    fn from_str(text: &str) -> Result<Self, HashKeyError> {
        match text {
            "path" => Ok(Self::Path),
            "peer" => Ok(Self::Peer),
            _ => text
                .strip_prefix("header:")
                .and_then(|name| name.to_ascii_lowercase().parse().ok())
                .map(Self::Header)
                .ok_or_else(|| HashKeyError(text.into())),
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Path => f.write_str("path"),
            Self::Peer => f.write_str("peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_key_is_read_and_printed_the_same() {
        for text in ["header:x-user", "path", "peer"] {
            assert_eq!(text.parse::<HashKey>().unwrap().to_string(), text);
        }
        assert!("header:".parse::<HashKey>().is_err());
        assert!("cookie:a".parse::<HashKey>().unwrap_err().to_string().contains("cookie:a"));
    }

    #[test]
    fn a_request_without_the_key_has_no_hash() {
        let key: HashKey = "header:x-user".parse().unwrap();
        let mut headers = http::HeaderMap::new();
        assert_eq!(key.hash("/a/b", &headers, None), None);
        headers.insert("x-user", "ann".parse().unwrap());
        let hash = key.hash("/a/b", &headers, None);
        assert!(hash.is_some());
        assert_eq!(hash, key.hash("/other", &headers, None));
    }
}
