//! Networks, and lists of those that are allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use super::ForbiddenAddress;

/// What of addresses is special: it means another machine, or this one, depending on who dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Loopback,
    LinkLocal,
}

impl Special {
    /// What an address is, which is canonical; none for an ordinary one.
    fn of(ip: IpAddr) -> Option<Self> {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        match ip {
            ip if ip.is_loopback() => Some(Self::Loopback),
            _ if link_local => Some(Self::LinkLocal),
            _ => None,
        }
    }

    /// The shortest prefix of a network within it.
    fn least_prefix(self, ip: IpAddr) -> u8 {
        match (self, ip) {
            (Self::Loopback, IpAddr::V4(_)) => 8,
            (Self::LinkLocal, IpAddr::V4(_)) => 16,
            (Self::Loopback, IpAddr::V6(_)) => 128,
            (Self::LinkLocal, IpAddr::V6(_)) => 10,
        }
    }
}

/// Whether it is the address of no single machine: unspecified ("this network", RFC 1122, section
/// 3.2.1.3), of many, or of all.
pub(super) fn is_nobody(ip: IpAddr) -> bool {
    let of_all = match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    of_all || ip.is_multicast()
}

/// One thing that a list of what is allowed names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// `loopback`: 127.0.0.0/8 and ::1.
    Loopback,
    /// `link-local`: 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// `unix`: Unix sockets.
    Unix,
    /// `10.0.0.0/8`: addresses that begin with these bits.
    Within(IpAddr, u8),
}

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is none of loopback, link-local, unix, and a network such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NoSuchNetwork(String);

impl FromStr for Network {
    type Err = NoSuchNetwork;

    fn from_str(text: &str) -> Result<Self, NoSuchNetwork> {
        let no_such = || NoSuchNetwork(text.chars().take(80).collect());
        match text {
            "loopback" => return Ok(Self::Loopback),
            "link-local" => return Ok(Self::LinkLocal),
            "unix" => return Ok(Self::Unix),
            _ => {}
        }
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| no_such())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(no_such)?,
            None => most,
        };
        // In IPv6's clothes it would match nothing: addresses are compared without.
        match (ip, ip.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(_)) => Err(no_such()),
            // Bits beyond the prefix are a mistake: which network was meant?
            (ip, _) if bits(ip) & !mask(ip, prefix) != 0 => Err(no_such()),
            (ip, _) => Ok(Self::Within(ip, prefix)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::LinkLocal => f.write_str("link-local"),
            Self::Unix => f.write_str("unix"),
            Self::Within(ip, prefix) => write!(f, "{ip}/{prefix}"),
        }
    }
}

/// The bits of an address, those of IPv4 in the highest places.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(Ipv4Addr::to_bits(ip)) << 96,
        IpAddr::V6(ip) => Ipv6Addr::to_bits(ip),
    }
}

/// The bits that count. A prefix of 32 in IPv4 leaves 96 bits that are never set.
fn mask(ip: IpAddr, prefix: u8) -> u128 {
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = u32::from(prefix.min(most));
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

fn contains(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && bits(ip) & mask(ip, prefix) == bits(network)
}

/// Which special addresses may be called, and which networks if not all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    list: Vec<Network>,
    /// Whether the list names networks of ordinary addresses, and so leaves out all others.
    restricts: bool,
}

/// What fits a process that serves its own machine.
impl Default for Allow {
    fn default() -> Self {
        Self::here()
    }
}

impl Allow {
    /// Just these.
    pub fn new(list: Vec<Network>) -> Self {
        let ordinary =
            |network: &Network| matches!(network, Network::Within(ip, prefix) if special(*ip, *prefix).is_none());
        let restricts = list.iter().any(ordinary);
        Self { list, restricts }
    }

    /// For callers of this machine alone: what they could reach without us.
    pub fn here() -> Self {
        Self::new(vec![Network::Loopback, Network::Unix])
    }

    /// For callers from elsewhere: nothing that means something else to them than to us.
    pub fn elsewhere() -> Self {
        Self::new(Vec::new())
    }

    /// The list.
    pub fn list(&self) -> &[Network] {
        &self.list
    }

    pub(super) fn unix(&self) -> bool {
        self.list.contains(&Network::Unix)
    }

    /// Whether a canonical address is allowed.
    pub(super) fn check(&self, ip: IpAddr) -> Result<(), ForbiddenAddress> {
        let within = |network: &Network| matches!(network, Network::Within(net, prefix) if contains(*net, *prefix, ip));
        let Some(kind) = Special::of(ip) else {
            let allowed = !self.restricts || self.list.iter().any(within);
            return if allowed { Ok(()) } else { Err(ForbiddenAddress::Elsewhere) };
        };
        // A network so large that it has special addresses among others does not mean those.
        let named = |network: &Network| match (network, kind) {
            (Network::Loopback, Special::Loopback) | (Network::LinkLocal, Special::LinkLocal) => true,
            (Network::Within(net, prefix), _) => special(*net, *prefix) == Some(kind) && within(network),
            _ => false,
        };
        match kind {
            _ if self.list.iter().any(named) => Ok(()),
            Special::Loopback => Err(ForbiddenAddress::Loopback),
            Special::LinkLocal => Err(ForbiddenAddress::LinkLocal),
        }
    }
}

/// The special range that a network lies in as a whole.
fn special(network: IpAddr, prefix: u8) -> Option<Special> {
    Special::of(network).filter(|kind| prefix >= kind.least_prefix(network))
}
