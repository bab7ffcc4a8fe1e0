//! The words of the whole crate as types: services, instances, endpoints, and how they change.
//!
//! Nothing here knows async, clocks, I/O or a wire format. What crosses a wire (an etcd value, a
//! WIT record, a proto) is a type of its own there, converted at that edge.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use crate::text;

/// Why a text is not one of this module's types.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
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
    /// A time to live of no use.
    #[error("a TTL of {seconds} s is not within 1 s to a year ({} s)", Ttl::MAX_SECS)]
    Ttl {
        /// The number of seconds asked for.
        seconds: i64,
    },
}

/// A service: a named interface that instances serve, for example `ayang/server1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name taken, in bytes: far over any real one, and short enough for a log line or
    /// a metric label.
    pub const MAX_LEN: usize = 512;

    /// Takes a name that is not empty, not over [`Self::MAX_LEN`] bytes, and free of control
    /// characters and white space. Whether a key scheme can name it is the scheme's decision.
    pub fn new(name: impl AsRef<str>) -> Result<Self, ModelError> {
        let name = name.as_ref();
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > Self::MAX_LEN {
            "is longer than 512 bytes"
        } else if !name.chars().all(|c| text::prints(c) && !c.is_whitespace()) {
            "has white space or a character that does not print"
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

    /// The identifier of an instance that is known by its address, as most are: the two share one
    /// text.
    pub fn of(address: &Address) -> Self {
        Self(Arc::clone(&address.text))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an instance listens, as one text: a host (name or IP address) and a port; or `unix:/PATH`,
/// a Unix socket for those on the same machine, as gRPC writes it (doc/naming.md).
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

    /// One text for all ways to write this address: names in lower case and without a dot at their
    /// end, IP addresses in their shortest form and IPv4 without IPv6's clothes, Unix sockets with
    /// one slash.
    pub fn canonical(&self) -> Cow<'_, str> {
        if let Some(path) = self.unix_path() {
            return Cow::Owned(format!("unix:{path}"));
        }
        let (host, port) = (self.host(), self.port);
        match host.parse::<IpAddr>() {
            // It has one form only, and is what most are.
            Ok(IpAddr::V4(_)) => Cow::Borrowed(&self.text),
            Ok(ip) => Cow::Owned(SocketAddr::from((ip.to_canonical(), port)).to_string()),
            Err(_) => Cow::Owned(format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase())),
        }
    }

    /// Whether this is a wildcard such as `0.0.0.0` or `::`, which nobody can dial. Also in the
    /// short forms that a system's resolver takes for one (`0`, `0.0`, `0x0`).
    pub fn is_unspecified(&self) -> bool {
        let host = self.host();
        let is_zero = |part: &str| {
            let digits = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")).unwrap_or(part);
            !digits.is_empty() && digits.bytes().all(|digit| digit == b'0')
        };
        match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_unspecified(),
            Err(_) => host.split('.').count() <= 4 && host.split('.').all(is_zero),
        }
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
                path if !path.chars().all(text::prints) => Err(fail("has a character that does not print")),
                _ => Ok(Self { text: text.into(), host_len: 0, port: 0 }),
            };
        }
        if let Some(problem) = other_than_an_address(text) {
            return Err(fail(problem));
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
            None if host.contains(':') => return Err(fail("has more than one colon, and is no IPv6 address")),
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

/// What a text is that people write where an address belongs; none where it may be one.
fn other_than_an_address(text: &str) -> Option<&'static str> {
    // gRPC's resolvers (doc/naming.md), and what others put before an address that is dialled.
    const SCHEMES: [&str; 14] = [
        "dns",
        "ipv4",
        "ipv6",
        "unix-abstract",
        "vsock",
        "passthrough",
        "xds",
        "etcd",
        "grpc",
        "grpcs",
        "http",
        "https",
        "tcp",
        "tcp4",
    ];
    let is_ipv6 = |text: &str| text.split('%').next().is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let has_scheme = text.contains("://") || SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    // `http:80` is a host of that name.
    let rest_is_a_port = text.split_once(':').is_some_and(|(_, rest)| rest.bytes().all(|byte| byte.is_ascii_digit()));
    Some(if text.contains([',', ';']) {
        "lists several addresses, where one belongs"
    } else if has_scheme && !rest_is_a_port {
        "is a URL or a target with a scheme in front, where only a host and a port belong"
    } else if text.contains(char::is_whitespace) {
        "has white space"
    } else if text.contains('/') {
        "has a path"
    } else if is_ipv6(text) || text.rsplit_once(':').is_some_and(|(host, _)| is_ipv6(host)) {
        "has an IPv6 address without brackets"
    } else if text.starts_with('[') && text.ends_with(']') {
        "has no port"
    } else if text.starts_with("*:") {
        "is a wildcard, which nobody can dial"
    } else {
        return None;
    })
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

    /// A year: an entry that outlives its instance for longer is a mistake. etcd takes up to
    /// 9,000,000,000 s.
    pub const MAX_SECS: i64 = 366 * 86_400;

    /// Takes 1 second to a year. etcd raises what is under its own minimum (2 s by default) and
    /// says so in its answer.
    pub fn from_secs(seconds: i64) -> Result<Self, ModelError> {
        let within = Some(seconds).filter(|seconds| (1..=Self::MAX_SECS).contains(seconds));
        let seconds_of = |seconds| u32::try_from(seconds).ok().and_then(NonZeroU32::new).map(Self);
        within.and_then(seconds_of).ok_or(ModelError::Ttl { seconds })
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

/// What of a service's entries is not served, by the reason; and what is served otherwise than it
/// was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Entries that the key scheme cannot read.
    pub unreadable: u64,
    /// Entries on which the key scheme failed: what they said before is served, if they said
    /// anything.
    pub failed: u64,
    /// Entries that have yet to be read, because the key scheme is slow or fails on others:
    /// likewise.
    pub waiting: u64,
    /// Instances at addresses that are not to be called.
    pub refused: u64,
    /// Instances over a limit: too many, or too large.
    pub over_limit: u64,
    /// Entries that are served, and of which the key scheme warns: they do not count as left out.
    pub warned: u64,
    /// Instances at the address of another one, which stands for them.
    pub duplicate: u64,
}

impl Skipped {
    /// All that is left out.
    pub fn total(&self) -> u64 {
        self.parts().into_iter().map(|(n, _)| n).sum()
    }

    /// Each reason to leave something out by a short name, with its number.
    pub fn parts(&self) -> [(u64, &'static str); 6] {
        [
            (self.unreadable, "unreadable"),
            (self.failed, "failed"),
            (self.waiting, "waiting"),
            (self.refused, "refused"),
            (self.over_limit, "over_limit"),
            (self.duplicate, "duplicate"),
        ]
    }

    /// These too.
    pub fn add(&mut self, other: Self) {
        self.unreadable += other.unreadable;
        self.failed += other.failed;
        self.waiting += other.waiting;
        self.refused += other.refused;
        self.over_limit += other.over_limit;
        self.warned += other.warned;
        self.duplicate += other.duplicate;
    }

    /// These no longer.
    pub fn remove(&mut self, other: Self) {
        self.unreadable -= other.unreadable;
        self.failed -= other.failed;
        self.waiting -= other.waiting;
        self.refused -= other.refused;
        self.over_limit -= other.over_limit;
        self.warned -= other.warned;
        self.duplicate -= other.duplicate;
    }
}

/// What is left out of a service, and which key scheme read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skips {
    /// How much, by the reason.
    pub counts: Skipped,
    /// The key scheme's name; empty before anything was read.
    pub scheme: Arc<str>,
}

impl std::ops::Deref for Skips {
    type Target = Skipped;

    fn deref(&self) -> &Skipped {
        &self.counts
    }
}

/// In words, those that are left out for a reason.
impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = text::shown(&self.scheme, text::NAME);
        let parts = [
            (self.unreadable, format!("that the key scheme {scheme} cannot read")),
            (self.failed, format!("on which the key scheme {scheme} failed")),
            (self.waiting, "that wait to be read".to_owned()),
            (self.refused, "at addresses that are not to be called".to_owned()),
            (self.over_limit, "over a limit".to_owned()),
            (self.duplicate, "at the address of another".to_owned()),
        ];
        let mut comma = "";
        for (n, words) in parts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{comma}{n} {words}")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// One change of a service's endpoints: everything that the registry tells the snapshot.
///
/// "This data is gone" ([`Update::Reset`], [`Update::Changed`]) and "the source is away, keep what
/// you have" ([`Update::Stale`]) are different messages, so that losing etcd never empties a
/// snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The whole set at this revision, after a list. Replaces everything known.
    Reset {
        /// The revision of the list.
        revision: Revision,
        /// All endpoints of the service.
        endpoints: Vec<Endpoint>,
        /// Entries and instances that were left out, by now.
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
        /// Entries and instances that were left out, by now.
        skipped: u64,
    },
    /// The registry cannot be reached: keep what is known.
    Stale {
        /// The last failure, for people.
        reason: String,
    },
    /// The registry does not answer yet: these are the endpoints that were known before this
    /// process started.
    Restored {
        /// The revision they were known at.
        revision: Revision,
        /// All endpoints that were known.
        endpoints: Vec<Endpoint>,
        /// How long ago they were last known to be right.
        age: Duration,
        /// Why they are used, for people.
        reason: String,
    },
    /// Why entries and instances were left out: it changed.
    Skipped(Skips),
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
            ("2001:db8::1", "without brackets"),
            ("fe80::1%eth0:443", "without brackets"),
            ("[2001:db8::1]", "has no port"),
            ("http://192.0.2.1:443", "a scheme in front"),
            ("grpc://192.0.2.1:443", "a scheme in front"),
            ("grpc://192.0.2.1:443?isSecure=false", "a scheme in front"),
            ("rpcx://server", "a scheme in front"),
            ("dns:///a.example:443", "a scheme in front"),
            ("dns:a.example:443", "a scheme in front"),
            ("ipv6:[2001:db8::1]:443", "a scheme in front"),
            ("passthrough:///192.0.2.1:443", "a scheme in front"),
            ("unix-abstract:x", "a scheme in front"),
            ("192.0.2.1:80,192.0.2.2:80", "several addresses"),
            ("192.0.2.1:80;192.0.2.2:80", "several addresses"),
            ("ipv4:192.0.2.1:80,192.0.2.2:80", "several addresses"),
            ("192.0.2.1:80 192.0.2.2:80", "has white space"),
            (" 192.0.2.1:80", "has white space"),
            ("192.0.2.1:80\n", "has white space"),
            ("192.0.2.1:80/path", "has a path"),
            ("a:b:80", "more than one colon"),
            ("*:80", "wildcard"),
            ("user@a:80", "neither a name nor an IP"),
            ("unix:greeter.sock", "does not begin with a slash"),
            ("unix:", "does not begin with a slash"),
            ("unix:/a\n", "does not print"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
    }

    #[test]
    fn wildcards_are_recognised() {
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_unspecified());
        for wildcard in ["[::]:1", "[::ffff:0.0.0.0]:1", "0:1", "0.0:1", "0x0:1", "00.0.0.0:1"] {
            assert!(wildcard.parse::<Address>().unwrap().is_unspecified(), "{wildcard}");
        }
        assert!(!"0.0.0.0.example:1".parse::<Address>().unwrap().is_unspecified());
        // Names that are schemes elsewhere.
        assert_eq!("http:80".parse::<Address>().unwrap().host(), "http");
        assert!(!"localhost:1".parse::<Address>().unwrap().is_unspecified());
    }

    #[test]
    fn service_names_refuse_what_no_log_line_should_hold() {
        assert!(ServiceName::new("ayang/server1").is_ok());
        assert!(ServiceName::new("").is_err());
        assert!(ServiceName::new("a b").is_err());
        assert!(ServiceName::new("a\n").is_err());
        assert!(ServiceName::new("a\u{202e}b").is_err());
        assert!(ServiceName::new("a\u{200b}").is_err());
        assert!(ServiceName::new("x".repeat(513)).is_err());
    }

    #[test]
    fn a_ttl_is_at_least_one_second() {
        assert!(Ttl::from_secs(0).is_err());
        assert!(Ttl::from_secs(-1).is_err());
        assert!(Ttl::from_secs(Ttl::MAX_SECS).is_ok());
        for long in [Ttl::MAX_SECS + 1, i64::from(u32::MAX), i64::MAX] {
            let error = Ttl::from_secs(long).unwrap_err().to_string();
            assert!(error.contains("not within 1 s to a year (31622400 s)"), "{error}");
        }
        assert_eq!(Ttl::from_secs(2).unwrap().as_duration(), Duration::from_secs(2));
    }
}
