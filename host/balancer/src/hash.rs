//! The key of a request and its hash, for policies that send equal keys to the same endpoint.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use thiserror::Error;
use waymark_core::text;
use xxhash_rust::xxh64::xxh64;

/// What of a request is its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header; where there are several, all of them with commas between, as gRPC
    /// has it (A76). An empty one is none.
    Header(http::HeaderName),
    /// The gRPC path.
    Path,
    /// The address of the client, without its port.
    Peer,
}

/// A text that names no [`HashKey`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("hash key {} {problem}", text::shown(format_args!("{text:?}"), text::NAME))]
#[non_exhaustive]
pub struct HashKeyError {
    text: String,
    problem: &'static str,
}

impl HashKey {
    /// The hash of a request's key; none when the request lacks it. xxHash64 folded to 32 bits: the
    /// 64-bit function is the one that Envoy's ring hash uses, and interface 0.1 carries 32 bits.
    pub fn hash(&self, path: &str, headers: &http::HeaderMap, peer: Option<IpAddr>) -> Option<u32> {
        let hash = match self {
            Self::Header(name) => xxh64(&value(headers, name)?, 0),
            Self::Path => xxh64(path.as_bytes(), 0),
            Self::Peer => match peer? {
                IpAddr::V4(ip) => xxh64(&ip.octets(), 0),
                IpAddr::V6(ip) => xxh64(&ip.octets(), 0),
            },
        };
        Some((hash ^ (hash >> 32)) as u32)
    }
}

/// A header as a key.
fn value<'a>(headers: &'a http::HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let (first, second) = (values.next()?, values.next());
    let key = match second {
        None => Cow::Borrowed(first),
        Some(second) => [first, second].into_iter().chain(values).collect::<Vec<_>>().join(&b',').into(),
    };
    Some(key).filter(|key| !key.is_empty())
}

impl FromStr for HashKey {
    type Err = HashKeyError;

    fn from_str(text: &str) -> Result<Self, HashKeyError> {
        match text {
            "path" => Ok(Self::Path),
            "peer" => Ok(Self::Peer),
            _ => {
                let wrong = |problem| HashKeyError { text: text.into(), problem };
                let name = text.strip_prefix("header:").ok_or_else(|| wrong("is none of header:NAME, path, peer"))?;
                let name: http::HeaderName =
                    name.to_ascii_lowercase().parse().map_err(|_| wrong("names no header that there can be"))?;
                if name.as_str().ends_with("-bin") {
                    return Err(wrong("names a header of bytes (-bin), which is no key (gRFC A76)"));
                }
                Ok(Self::Header(name))
            }
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
        for (text, says) in [
            ("header:", "names no header"),
            ("header:a b", "names no header"),
            ("header:x-user-bin", "-bin"),
            ("header:X-User-BIN", "-bin"),
        ] {
            let error = text.parse::<HashKey>().unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(text), "{error}");
        }
        assert!("x".repeat(100_000).parse::<HashKey>().unwrap_err().to_string().len() < 400);
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

    /// gRFC A76, "Explicitly setting the request hash key".
    #[test]
    fn several_values_are_one_key_and_an_empty_one_is_none() {
        let key: HashKey = "header:x-user".parse().unwrap();
        let hash = |values: &[&'static str]| {
            let mut headers = http::HeaderMap::new();
            for value in values {
                headers.append("x-user", http::HeaderValue::from_static(value));
            }
            key.hash("/a/b", &headers, None)
        };
        assert_eq!(hash(&["ann", "bob"]), hash(&["ann,bob"]));
        assert_ne!(hash(&["ann", "bob"]), hash(&["ann"]));
        assert_ne!(hash(&["ann", "bob"]), hash(&["bob", "ann"]));
        assert_eq!(hash(&[""]), None);
        assert_eq!(hash(&["", ""]), hash(&[","]));
    }
}
