//! The words of the whole crate as types: services, instances, endpoints, and how they change.
//!
//! Nothing here knows async, clocks, I/O or a wire format. What crosses a wire (an etcd value, a WIT record, a proto) is a
//! type of its own there, converted at that edge.

use std::{fmt, num::NonZeroU32, str::FromStr, sync::Arc, time::Duration};

use thiserror::Error;

/// Why a text is not one of this module's types.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelError {
    /// A service name that nothing could be registered under.
    #[error("service name {name:?} {problem}")]
    ServiceName {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not `host:port`.
    #[error(
        "address {address:?} {problem}; write host:port, for example 192.0.2.10:8080 or [2001:db8::1]:8080, or unix:/PATH"
    )]
    Address {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A time to live that etcd would not take.
    #[error("a TTL of {seconds} s is out of range; etcd takes 1 to 9000000000 seconds")]
    Ttl {
        /// The number of seconds asked for.
        seconds: i64,
    },
}

/// A service: a named interface that instances serve, for example `ayang/server1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name taken, in bytes: far over any real one, and short enough for a log line or a metric label.
    pub const MAX_LEN: usize = 512;

    /// Takes a name that is not empty, not over [`Self::MAX_LEN`] bytes, and free of control characters and white space.
    /// Whether a key scheme can name it is the scheme's decision.
    pub fn new(name: impl AsRef<str>) -> Result<Self, ModelError> {
        let name = name.as_ref();
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > Self::MAX_LEN {
            "is longer than 512 bytes"
        } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "has white space or a control character"
        } else {
            return Ok(Self(name.into()));
        };
        Err(ModelError::ServiceName { name: name.chars().take(80).collect(), problem })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One running process that serves a service; unique within the service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Takes any text: what an identifier looks like is the key scheme's business.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// The identifier of an instance that is known by its address, as most are: the two share one text.
    pub fn of(address: &Address) -> Self {
        Self(Arc::clone(&address.text))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an instance listens, as one text: a host (name or IP address) and a port; or `unix:/PATH`, a Unix socket for those on the
/// same machine, as gRPC writes it (doc/naming.md).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: Arc<str>,
    host_len: u16,
    port: u16,
}

impl Address {
    /// The host without brackets; empty for a Unix socket.
    pub fn host(&self) -> &str {
        self.text[..usize::from(self.host_len)].trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, never 0; but 0 for a Unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The whole text, `host:port`, as it was registered.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path of a Unix socket, if it is one.
    pub fn unix_path(&self) -> Option<&str> {
        let path = self.text.strip_prefix("unix:")?;
        Some(path.strip_prefix("//").unwrap_or(path))
    }

    /// Whether this is a wildcard such as `0.0.0.0` or `::`, which nobody can dial.
    pub fn is_unspecified(&self) -> bool {
        self.host().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl FromStr for Address {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let fail = |problem| ModelError::Address { address: text.chars().take(80).collect(), problem };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                // On another machine, or in another folder, a relative path is another socket.
                path if !path.starts_with('/') => Err(fail("has a path that does not begin with a slash")),
                // sockaddr_un has room for 108 bytes, with the one that ends it.
                path if path.len() > 107 => Err(fail("has a path longer than 107 bytes")),
                path if path.chars().any(char::is_control) => Err(fail("has a control character")),
                _ => Ok(Self { text: text.into(), host_len: 0, port: 0 }),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fail("has no port"))?;
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(fail("has port 0")),
            Ok(port) if !text.ends_with(&format!(":+{port}")) => port,
            _ => return Err(fail("has a port that is not a number from 1 to 65535")),
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        match bracketed {
            Some(inner) => {
                inner
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| fail("has brackets around what is not an IPv6 address"))?;
            }
            None if host.is_empty() => return Err(fail("has no host")),
            None if host.contains(':') => return Err(fail("has an IPv6 address without brackets")),
            None if host.len() > 253 => return Err(fail("has a host name longer than 253 bytes")),
            None if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {
                return Err(fail("has a host that is neither a name nor an IP address"));
            }
            None => {}
        }
        let host_len = u16::try_from(host.len()).map_err(|_| fail("has a host that is too long"))?;
        Ok(Self { text: text.into(), host_len, port })
    }
}

/// Where an instance stands. Only the zone is known to plugins of interface 0.1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The zone; empty when unknown.
    pub zone: Arc<str>,
}

impl Locality {
    /// The locality of this zone; an empty one means unknown.
    pub fn zone(zone: impl AsRef<str>) -> Self {
        Self { zone: zone.as_ref().into() }
    }
}

/// How to reach an instance, and what was registered with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The instance, unique within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Where it stands.
    pub locality: Locality,
    /// Its share relative to the others; 1 when nothing was set, 0 for "send it nothing".
    pub weight: u32,
    /// Everything else, sorted by key, each key once.
    pub metadata: Arc<[(String, String)]>,
}

impl Endpoint {
    /// An endpoint of weight 1 with nothing else set, known by its address.
    pub fn at(address: Address) -> Self {
        Self {
            id: InstanceId::of(&address),
            address,
            locality: Locality::default(),
            weight: 1,
            metadata: Arc::default(),
        }
    }
}

/// etcd's store revision. Higher is later; 0 stands for "nothing read yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision that follows: where a watch begins after a list at this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// An etcd lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A lease's time to live, in whole seconds as etcd counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(NonZeroU32);

impl Ttl {
    /// 10 s: what the Go tutorials of etcd naming use and its users expect.
    pub const DEFAULT: Self = Self(NonZeroU32::new(10).expect("10 is not 0"));

    /// Takes 1 second and more. etcd raises what is under its own minimum (2 s by default) and says so in its answer.
    pub fn from_secs(seconds: i64) -> Result<Self, ModelError> {
        u32::try_from(seconds).ok().and_then(NonZeroU32::new).map(Self).ok_or(ModelError::Ttl { seconds })
    }

    /// Whole seconds.
    pub fn as_secs(self) -> u32 {
        self.0.get()
    }

    /// As a duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0.get()))
    }
}

/// One change of a service's endpoints: everything that the registry tells the snapshot.
///
/// "This data is gone" ([`Update::Reset`], [`Update::Changed`]) and "the source is away, keep what you have"
/// ([`Update::Stale`]) are different messages, so that losing etcd never empties a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The whole set at this revision, after a list. Replaces everything known.
    Reset {
        /// The revision of the list.
        revision: Revision,
        /// All endpoints of the service.
        endpoints: Vec<Endpoint>,
        /// Entries that the key scheme could not read, by now.
        skipped: u64,
    },
    /// What one etcd revision changed.
    Changed {
        /// The revision of the change.
        revision: Revision,
        /// Added endpoints, and known ones with other attributes.
        upserted: Vec<Endpoint>,
        /// Gone ones.
        removed: Vec<InstanceId>,
        /// Entries that the key scheme could not read, by now.
        skipped: u64,
    },
    /// The registry cannot be reached: keep what is known.
    Stale {
        /// The last failure, for people.
        reason: String,
    },
    /// The registry does not answer yet: these are the endpoints that were known before this process started.
    Restored {
        /// The revision they were known at.
        revision: Revision,
        /// All endpoints that were known.
        endpoints: Vec<Endpoint>,
        /// Why they are used, for people.
        reason: String,
    },
    /// The registry is back, and what is known is right again.
    Fresh {
        /// The revision up to which it is right.
        revision: Revision,
    },
}

macro_rules! text_like {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}
text_like!(ServiceName, InstanceId, Address);

/// Maps keyed by name can be asked with a text: it hashes and compares the same.
impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Self::new(text)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// etcd prints lease ids in hexadecimal, and so do we.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_keep_their_text_and_show_their_parts() {
        for (text, host, port) in [
            ("192.0.2.1:8080", "192.0.2.1", 8080),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
            ("backend-1.example:65535", "backend-1.example", 65535),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.as_str(), address.host(), address.port()), (text, host, port));
        }
    }

    #[test]
    fn a_unix_socket_is_an_address_with_a_path_and_no_port() {
        for text in ["unix:/run/greeter.sock", "unix:///run/greeter.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.as_str(), address.unix_path()), (text, Some("/run/greeter.sock")));
            assert_eq!((address.host(), address.port()), ("", 0));
        }
        assert_eq!("192.0.2.1:80".parse::<Address>().unwrap().unix_path(), None);
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_its_reason() {
        for (text, problem) in [
            ("", "has no port"),
            ("192.0.2.1", "has no port"),
            (":80", "has no host"),
            ("192.0.2.1:0", "has port 0"),
            ("192.0.2.1:+80", "has a port that is not a number"),
            ("192.0.2.1:65536", "has a port that is not a number"),
            ("2001:db8::1:443", "without brackets"),
            ("[192.0.2.1]:443", "brackets"),
            ("http://192.0.2.1:443", "without brackets"),
            ("a b:1", "neither a name nor an IP"),
            ("unix:greeter.sock", "does not begin with a slash"),
            ("unix:", "does not begin with a slash"),
            ("unix:/a\n", "control character"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
    }

    #[test]
    fn wildcards_are_recognised() {
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_unspecified());
        assert!("[::]:1".parse::<Address>().unwrap().is_unspecified());
        assert!(!"localhost:1".parse::<Address>().unwrap().is_unspecified());
    }

    #[test]
    fn service_names_refuse_what_no_log_line_should_hold() {
        assert!(ServiceName::new("ayang/server1").is_ok());
        assert!(ServiceName::new("").is_err());
        assert!(ServiceName::new("a b").is_err());
        assert!(ServiceName::new("a\n").is_err());
        assert!(ServiceName::new("x".repeat(513)).is_err());
    }

    #[test]
    fn a_ttl_is_at_least_one_second() {
        assert!(Ttl::from_secs(0).is_err());
        assert!(Ttl::from_secs(-1).is_err());
        assert_eq!(Ttl::from_secs(2).unwrap().as_duration(), Duration::from_secs(2));
    }
}
