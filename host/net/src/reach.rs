//! Which addresses may be called as endpoints.
//!
//! Whoever writes to the registry names addresses, and a node calls them for its callers: without a
//! rule, an entry `127.0.0.1:7001` gives every caller the node's own API, `unix:/run/docker.sock` a
//! machine, and the registry's address the registry. The rule, in the order in which it is asked:
//!
//! 1. Never: unspecified addresses (`0.0.0.0`, `[::]`), multicast, what this process listens on
//!    itself, and the registry.
//! 2. Loopback, link-local addresses and Unix sockets only where they are allowed, by their word or
//!    by a network within them.
//! 3. All others; but where the list of what is allowed names other networks, only those in them.
//!
//! It is asked twice: when an entry is read, so that it can be said and counted, and of each
//! address that a name comes to, before it is connected to. An IPv4 address is the same in IPv6's
//! clothes (`::ffff:127.0.0.1`).

mod network;

use std::{
    fmt,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::future::{join, join_all};
use thiserror::Error;
use tokio::time::timeout;
use waymark_core::model::Address;

pub use self::network::{Allow, Network, NoSuchNetwork};
use crate::resolve::{NotFound, Resolver};

/// How long it is waited for the registry's own address, to tell it from an endpoint's. What cannot
/// be looked up is where the registry is not.
const REGISTRY: Duration = Duration::from_secs(1);

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A wildcard, or an address of many.
    #[error("is the address of no single machine")]
    Nobody,
    /// This process listens there itself.
    #[error("is {0}, which is no endpoint")]
    Own(&'static str),
    /// The registry listens there.
    #[error("is the registry, which is no endpoint")]
    Registry,
    /// It is of this machine, and that is not allowed.
    #[error("is of loopback, which is not allowed here (`allow` of [endpoints])")]
    Loopback,
    /// It is of the local network segment, and that is not allowed.
    #[error("is link-local, which is not allowed here (`allow` of [endpoints])")]
    LinkLocal,
    /// It is a Unix socket, and those are not allowed.
    #[error("is a Unix socket, which is not allowed here (`allow` of [endpoints])")]
    Unix,
    /// Only some networks are allowed, and it is in none.
    #[error("is in none of the networks that are allowed here (`allow` of [endpoints])")]
    Elsewhere,
}

/// Why an address leads nowhere.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReachError {
    /// Its name has no address.
    #[error("cannot find the address of {host:?}")]
    Unknown {
        /// The name.
        host: String,
        /// What was said of it.
        #[source]
        cause: NotFound,
    },
    /// It is not to be called.
    #[error("{at} {refusal}")]
    Refused {
        /// What it came to.
        at: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Tells which addresses may be called. Cheap to clone; clones share what is added later.
#[derive(Clone, Default)]
pub struct Reach {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    allow: Allow,
    resolver: Resolver,
    taken: RwLock<Taken>,
}

/// What is never called.
#[derive(Default)]
struct Taken {
    sockets: Vec<(SocketAddr, Refusal)>,
    files: Vec<(PathBuf, Refusal)>,
    /// The registry's, where it is a name. What it comes to may change, so it is looked up when it
    /// matters.
    names: Vec<(String, u16)>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reach").field(&self.inner.allow).finish()
    }
}

impl Reach {
    /// As is allowed, with nothing taken yet.
    pub fn new(allow: Allow) -> Self {
        Self { inner: Arc::new(Inner { allow, ..Inner::default() }) }
    }

    /// This process listens there, as what: "the node's API". An unspecified address stands for all
    /// addresses of this machine.
    pub fn listens(&self, at: SocketAddr, what: &'static str) {
        self.take(|taken| taken.sockets.push((canonical(at), Refusal::Own(what))));
    }

    /// This process listens on this Unix socket, as what.
    pub fn listens_unix(&self, path: &Path, what: &'static str) {
        self.take(|taken| taken.files.push((path.to_owned(), Refusal::Own(what))));
    }

    /// The registry is there: a URL or `host:port`.
    pub fn registry(&self, endpoint: &str) {
        let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let text = rest.split('/').next().unwrap_or_default();
        let Ok(address) = text.parse::<Address>() else { return };
        let port = address.port();
        self.take(|taken| match address.host().parse::<IpAddr>() {
            Ok(ip) => taken.sockets.push((canonical((ip, port).into()), Refusal::Registry)),
            Err(_) => taken.names.push((address.host().to_ascii_lowercase(), port)),
        });
    }

    fn take(&self, add: impl FnOnce(&mut Taken)) {
        // A push that panics leaves the lists whole.
        add(&mut self.inner.taken.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether an endpoint may be there, as far as its text tells: a name is taken, whatever it
    /// comes to, but for `localhost` and the registry's own. It may ask the system, and does not
    /// block.
    ///
    /// # Errors
    ///
    /// It is not to be called, and why.
    pub fn check(&self, address: &Address) -> Result<(), Refusal> {
        if let Some(path) = address.unix_path() {
            return self.check_unix(Path::new(path));
        }
        if address.is_unspecified() {
            return Err(Refusal::Nobody);
        }
        let (host, port) = (address.host(), address.port());
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.check_socket((ip, port).into());
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let taken = self.inner.taken.read().unwrap_or_else(PoisonError::into_inner);
        if taken.names.iter().any(|(name, its_port)| *its_port == port && name.trim_end_matches('.') == host) {
            return Err(Refusal::Registry);
        }
        drop(taken);
        // RFC 6761, section 6.3.
        if host == "localhost" || host.ends_with(".localhost") {
            return self.check_socket(([127, 0, 0, 1], port).into());
        }
        Ok(())
    }

    /// Whether this may be connected to: what a name came to. Blocks not.
    ///
    /// # Errors
    ///
    /// It is not to be called, and why.
    pub fn check_socket(&self, socket: SocketAddr) -> Result<(), Refusal> {
        let socket = canonical(socket);
        let ip = socket.ip();
        if network::is_nobody(ip) {
            return Err(Refusal::Nobody);
        }
        let taken = self.inner.taken.read().unwrap_or_else(PoisonError::into_inner);
        let mut same_port = taken.sockets.iter().filter(|(at, _)| at.port() == socket.port());
        if let Some((_, refusal)) = same_port.find(|(at, refusal)| covers(at.ip(), *refusal, ip)) {
            return Err(*refusal);
        }
        drop(taken);
        self.inner.allow.check(ip)
    }

    /// Where an address of a host and a port leads: what may be connected to, in the order in which
    /// the system names it.
    ///
    /// # Errors
    ///
    /// Its name is not known, or none of what it comes to may be called.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn resolve(&self, address: &Address) -> Result<Vec<SocketAddr>, ReachError> {
        let refused = |at: &dyn fmt::Display, refusal| ReachError::Refused { at: at.to_string(), refusal };
        self.check(address).map_err(|refusal| refused(address, refusal))?;
        let port = address.port();
        let look_up = async |host: String| match self.inner.resolver.addresses(&host).await {
            Ok(found) => Ok(found.iter().map(|ip| SocketAddr::from((*ip, port))).collect::<Vec<_>>()),
            Err(cause) => Err(ReachError::Unknown { host, cause }),
        };
        let registry = join_all(self.registry_names(port).into_iter().map(|name| timeout(REGISTRY, look_up(name))));
        let (found, registry) = join(look_up(address.host().to_owned()), registry).await;
        let mut found = found?;
        let is_registry =
            |at: &SocketAddr| registry.iter().flatten().flatten().flatten().any(|it| canonical(*it) == canonical(*at));
        if let Some(at) = found.iter().find(|at| is_registry(at)) {
            return Err(refused(at, Refusal::Registry));
        }
        let mut last = None;
        found.retain(|at| match self.check_socket(*at) {
            Ok(()) => true,
            Err(refusal) => {
                last = Some(refused(at, refusal));
                false
            }
        });
        match last {
            Some(refused) if found.is_empty() => Err(refused),
            _ => Ok(found),
        }
    }

    /// The names that the registry has on this port.
    fn registry_names(&self, port: u16) -> Vec<String> {
        let taken = self.inner.taken.read().unwrap_or_else(PoisonError::into_inner);
        taken.names.iter().filter(|(_, its_port)| *its_port == port).map(|(name, _)| name.clone()).collect()
    }

    /// Whether this Unix socket may be connected to. It asks the file system which file that is.
    ///
    /// # Errors
    ///
    /// It is not to be called, and why.
    pub fn check_unix(&self, path: &Path) -> Result<(), Refusal> {
        let file = |path: &Path| path.metadata().ok().map(|data| (data.dev(), data.ino()));
        let taken = self.inner.taken.read().unwrap_or_else(PoisonError::into_inner);
        let own = taken.files.iter().find(|(own, _)| own == path || file(own).is_some_and(|id| file(path) == Some(id)));
        match own {
            Some((_, refusal)) => Err(*refusal),
            None if self.inner.allow.unix() => Ok(()),
            None => Err(Refusal::Unix),
        }
    }
}

/// Whether what is taken at `at` is reached by `ip` too, on the same port.
fn covers(at: IpAddr, refusal: Refusal, ip: IpAddr) -> bool {
    if at == ip {
        return true;
    }
    match refusal {
        // A registry that is reached at this machine may well listen on all of its addresses.
        Refusal::Registry => is_local(at) && is_local(ip),
        _ => at.is_unspecified() && is_local(ip),
    }
}

/// Whether it is an address of this machine: the system lets nobody else bind it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Without IPv6's clothes around an IPv4 address.
fn canonical(socket: SocketAddr) -> SocketAddr {
    (socket.ip().to_canonical(), socket.port()).into()
}

#[cfg(test)]
mod tests;
