//! What is checked of an instance, and how often: settings alone. `waymark_net::health` carries the
//! checks out.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

use crate::model::Address;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection, or one to a Unix socket, is accepted.
    Tcp,
    /// `GET` of this path over HTTP/1.1 is answered with a status from 200 to 399.
    Http(String),
    /// gRPC health v1 answers SERVING for this service (empty: the whole server). A server that
    /// does not know the health service counts as fit, as gRPC clients have it (gRFC A17).
    Grpc(String),
}

/// A text that names no check.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no check; it is one of tcp, http:/PATH, grpc, grpc:SERVICE")]
pub struct NoSuchCheck(String);

impl FromStr for Check {
    type Err = NoSuchCheck;

    fn from_str(text: &str) -> Result<Self, NoSuchCheck> {
        match text.split_once(':') {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "grpc" => Ok(Self::Grpc(String::new())),
            None if text == "http" => Ok(Self::Http("/".into())),
            Some(("http", path)) if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() => {
                Ok(Self::Http(path.into()))
            }
            Some(("grpc", service)) if !service.is_empty() => Ok(Self::Grpc(service.into())),
            _ => Err(NoSuchCheck(text.into())),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
            Self::Grpc(service) if service.is_empty() => f.write_str("grpc"),
            Self::Grpc(service) => write!(f, "grpc:{service}"),
        }
    }
}

/// How an instance is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    /// What is tried.
    pub check: Check,
    /// Where; the advertised address when unset. Another one helps where the instance serves its
    /// health elsewhere, or cannot be reached from here as others reach it.
    pub address: Option<Address>,
    /// The time from the end of a check to the next one. Default 2 s, as haproxy has it.
    pub interval: Duration,
    /// How long a check may take before it counts as failed. Default 1 s.
    pub timeout: Duration,
    /// So many successes in a row make an instance fit. Default 1.
    pub rise: u32,
    /// So many failures in a row make it unfit. Default 3, so that one lost packet does not take an
    /// instance out.
    pub fall: u32,
}

impl CheckConfig {
    /// The defaults, around what is tried.
    pub fn new(check: Check) -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self { check, address: None, interval, timeout, rise: 1, fall: 3 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_check_is_named_as_it_is_printed() {
        for text in ["tcp", "http:/healthz?full=1", "grpc", "grpc:hello.Greeter1"] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
        for text in ["", "udp", "http:healthz", "http:/a b", "grpc:", "tcp:1", "none"] {
            let error = text.parse::<Check>().unwrap_err().to_string();
            assert!(error.contains("tcp, http:/PATH, grpc"), "{error}");
        }
    }
}
