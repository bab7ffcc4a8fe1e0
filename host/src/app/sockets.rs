//! The listening sockets of a node's frontends: taken from whoever has them already, else bound
//! here.
//!
//! ```text
//!   the service manager (LISTEN_FDS) ──┐
//!   the node before this one ──────────┼──▶ a frontend's socket ──▶ the node after this one (`take_over`)
//!   nobody: bind ──────────────────────┘
//! ```
//!
//! A socket that was bound by somebody else was never closed: whoever connected meanwhile waits in
//! its queue, and no connection is refused while one process goes and the next one comes.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};
use tokio::net::TcpListener;

use super::{AppError, frontends::Frontend};
use crate::dataplane::{Heir, Listener, UnixSocket};

/// A listening socket that somebody else bound.
pub(super) struct Passed {
    name: String,
    socket: Bound,
    by: By,
}

enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Who passed a socket on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The service manager, which keeps it.
    Manager,
    /// The node before this one, which ends.
    Predecessor,
}

impl Passed {
    pub(super) fn new(name: String, socket: OwnedFd, by: By) -> io::Result<Self> {
        if sockopt::socket_type(&socket)? != SocketType::STREAM || !is_listened_on(&socket)? {
            let reason = "nobody listens on it (systemd: Accept=no, ListenStream=)";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let socket = match getsockname(&socket)?.address_family() {
            AddressFamily::UNIX => Bound::Unix(socket.into()),
            _ => Bound::Tcp(socket.into()),
        };
        Ok(Self { name, socket, by })
    }

    fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    fn unix_path(&self) -> Option<PathBuf> {
        match &self.socket {
            Bound::Unix(listener) => listener.local_addr().ok()?.as_pathname().map(Path::to_owned),
            Bound::Tcp(_) => None,
        }
    }
}

/// Its name, and where it is.
impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on ", self.name)?;
        match (self.tcp_address(), self.unix_path()) {
            (Some(address), _) => address.fmt(f),
            (_, Some(path)) => write!(f, "unix:{}", path.display()),
            (None, None) => f.write_str("an address that has no name"),
        }
    }
}

/// Listening sockets from the process's service manager: socket activation as systemd has it
/// (sd_listen_fds(3)).
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<Passed>,
}

impl Inherited {
    /// What LISTEN_FDS says that this process was given, each under its name in LISTEN_FDNAMES. The
    /// variables are taken out of the environment, so this is to be called before the process has a
    /// second thread; a second call has nothing.
    ///
    /// # Errors
    ///
    /// [`AppError::Inherited`] where something was given that nobody can listen on.
    pub fn from_env() -> Result<Self, AppError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let mut names = names.split(':');
        let sockets = (0..given.len()).map(|index| {
            // What has no name is known by its address.
            let name = names.next().unwrap_or_default().to_owned();
            let socket = given.take_tcp_listener(index).map(|socket| socket.map(OwnedFd::from));
            let socket = socket.or_else(|_| given.take_unix_listener(index).map(|socket| socket.map(OwnedFd::from)));
            let passed = socket
                .and_then(|socket| Passed::new(name.clone(), socket.ok_or(io::ErrorKind::NotFound)?, By::Manager));
            passed.map_err(|source| AppError::Inherited { which: format!("{} ({name:?})", index + 1), source })
        });
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }
}

/// A socket of this node's, for the node after it.
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) socket: OwnedFd,
    /// To be told whether the node after this one goes on with the socket. None: somebody else
    /// keeps it anyway, or nobody asks.
    pub(super) heir: Option<Heir>,
}

/// These are this node's from here on: the one before it, if there was one, is not coming back.
pub(super) fn settle(sockets: &[Shared]) {
    sockets.iter().filter_map(|shared| shared.heir.as_ref()).for_each(|heir| heir.set(false));
}

/// Gives each frontend its socket.
pub(super) struct Sockets {
    passed: Vec<Passed>,
    /// None: nobody is to come after this node.
    shared: Option<Vec<Shared>>,
}

impl Sockets {
    /// `sharing`: whether another node may take them over later.
    pub(super) fn new(inherited: Inherited, predecessor: Vec<Passed>, sharing: bool) -> Self {
        let mut passed = inherited.sockets;
        passed.extend(predecessor);
        Self { passed, shared: sharing.then(Vec::new) }
    }

    /// A port, for whoever needs nothing else.
    pub(super) async fn tcp(&mut self, front: Frontend, address: SocketAddr) -> Result<TcpListener, AppError> {
        let (listener, _) = self.take_tcp(front, address).await?;
        self.share(front, &listener, None, address)?;
        Ok(listener)
    }

    /// A port for calls.
    pub(super) async fn proxy(&mut self, front: Frontend, address: SocketAddr) -> Result<Listener, AppError> {
        let (listener, kept) = self.take_tcp(front, address).await?;
        let listener = Listener::from(listener);
        listener.heir().set(kept);
        self.share(front, &listener, (!kept).then(|| listener.heir().clone()), address)?;
        Ok(listener)
    }

    /// A Unix socket, of this path or of the one that was passed on; none where neither is.
    pub(super) fn unix(
        &mut self,
        front: Frontend,
        path: Option<&Path>,
        mode: Option<u32>,
    ) -> Result<Option<(UnixSocket, PathBuf)>, AppError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AppError::ListenUnix { what: front.what, path, source }
        };
        let passed = self.take(front, |passed| passed.unix_path().is_some_and(|at| path.is_none_or(|path| at == path)));
        let (socket, path, by) = match (passed, path) {
            (Some(passed), _) => {
                let (path, by) = (passed.unix_path().unwrap_or_default(), passed.by);
                let Bound::Unix(listener) = passed.socket else { return Ok(None) };
                let socket = UnixSocket::adopt(listener, &path).map_err(failed(&path))?;
                (socket, path, Some(by))
            }
            (None, Some(path)) => (UnixSocket::bind(path, mode).map_err(failed(path))?, path.to_owned(), None),
            (None, None) => return Ok(None),
        };
        // Until this node serves, the file is for the one before: see `settle`.
        socket.heir().set(by.is_some());
        let kept = by == Some(By::Manager);
        if let Some(shared) = &mut self.shared {
            let heir = (!kept).then(|| socket.heir().clone());
            shared.push(Shared { name: front.name, socket: own(&socket).map_err(failed(&path))?, heir });
        }
        Ok(Some((socket, path)))
    }

    /// What another node may take over. Sockets of the node before this one that are for nothing
    /// here are closed; what the service manager passed on is refused then, since whoever connects
    /// there would wait for ever.
    pub(super) fn finish(self) -> Result<Vec<Shared>, AppError> {
        match self.passed.iter().find(|passed| passed.by == By::Manager) {
            Some(unused) => Err(AppError::NotOurs { socket: unused.to_string() }),
            None => Ok(self.shared.unwrap_or_default()),
        }
    }

    async fn take_tcp(&mut self, front: Frontend, address: SocketAddr) -> Result<(TcpListener, bool), AppError> {
        let failed = |source| AppError::Listen { what: front.what, address, flag: front.flag, source };
        let wanted = |at: SocketAddr| at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port());
        let passed = self.take(front, |passed| passed.tcp_address().is_some_and(wanted));
        if let Some(Passed { socket: Bound::Tcp(listener), by, .. }) = passed {
            listener.set_nonblocking(true).map_err(failed)?;
            return Ok((TcpListener::from_std(listener).map_err(failed)?, by == By::Manager));
        }
        Ok((TcpListener::bind(address).await.map_err(failed)?, false))
    }

    /// The service manager's socket of this name wherever it is, the other node's if it is where it
    /// is wanted; else what the service manager has there under a name that says nothing.
    fn take(&mut self, front: Frontend, wanted: impl Fn(&Passed) -> bool) -> Option<Passed> {
        let named = |passed: &Passed| {
            passed.name == front.name
                && matches!(passed.socket, Bound::Tcp(_)) == front.is_tcp()
                && (passed.by == By::Manager || wanted(passed))
        };
        let placed = |passed: &Passed| passed.by == By::Manager && !Frontend::is_name(&passed.name) && wanted(passed);
        let at = self.passed.iter().position(named).or_else(|| self.passed.iter().position(placed))?;
        Some(self.passed.swap_remove(at))
    }

    fn share(
        &mut self,
        front: Frontend,
        socket: &impl AsFd,
        heir: Option<Heir>,
        address: SocketAddr,
    ) -> Result<(), AppError> {
        if let Some(shared) = &mut self.shared {
            let failed = |source| AppError::Listen { what: front.what, address, flag: front.flag, source };
            shared.push(Shared { name: front.name, socket: own(socket).map_err(failed)?, heir });
        }
        Ok(())
    }
}

#[cfg(not(target_vendor = "apple"))]
fn is_listened_on(socket: &OwnedFd) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(socket)?)
}

/// The system does not tell; the first attempt to take a connection will.
#[cfg(target_vendor = "apple")]
fn is_listened_on(_: &OwnedFd) -> io::Result<bool> {
    Ok(true)
}

fn own(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const ANY: &str = "127.0.0.1:0";

    fn passed(name: &str, by: By) -> (Passed, SocketAddr) {
        let listener = StdTcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap();
        (Passed::new(name.into(), listener.into(), by).unwrap(), address)
    }

    fn sockets(passed: Vec<Passed>) -> Sockets {
        Sockets::new(Inherited::default(), passed, true)
    }

    #[tokio::test]
    async fn a_named_socket_goes_to_its_front_wherever_it_is() {
        let ((admin, at_admin), (proxy, at_proxy)) = (passed("admin", By::Manager), passed("proxy", By::Manager));
        let mut sockets = sockets(vec![admin, proxy]);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        let proxy = sockets.proxy(Frontend::PROXY, elsewhere).await.unwrap();
        let admin = sockets.tcp(Frontend::ADMIN, elsewhere).await.unwrap();
        assert_eq!(admin.local_addr().unwrap(), at_admin);
        assert_eq!(proxy.address().unwrap(), at_proxy);
        let shared = sockets.finish().unwrap();
        assert!(shared.iter().all(|shared| shared.heir.is_none()), "their manager keeps them anyway");
    }

    #[tokio::test]
    async fn a_socket_whose_name_says_nothing_goes_by_its_address_and_none_is_left_over() {
        let ((one, at), (other, left)) = (passed("waymark.socket", By::Manager), passed("waymark.socket", By::Manager));
        let mut sockets = sockets(vec![other, one]);
        assert_eq!(sockets.proxy(Frontend::PROXY, at).await.unwrap().address().unwrap(), at);
        let error = sockets.finish().map(drop).unwrap_err().to_string();
        assert!(error.contains(&left.to_string()) && error.contains("FileDescriptorName"), "{error}");
    }

    #[tokio::test]
    async fn the_node_before_has_only_what_this_one_wants() {
        let ((proxy, at), (admin, _)) = (passed("proxy", By::Predecessor), passed("admin", By::Predecessor));
        let mut sockets = sockets(vec![proxy, admin]);
        let taken = sockets.proxy(Frontend::PROXY, ANY.parse().unwrap()).await.unwrap();
        assert_eq!(taken.address().unwrap(), at, "any port of that address was asked for");
        let elsewhere: SocketAddr = "127.0.0.2:0".parse().unwrap();
        let bound = sockets.tcp(Frontend::ADMIN, elsewhere).await.unwrap();
        assert_eq!(bound.local_addr().unwrap().ip(), elsewhere.ip());
        assert_eq!(sockets.finish().unwrap().iter().map(|shared| shared.name).collect::<Vec<_>>(), ["proxy", "admin"]);
    }

    #[test]
    fn what_nobody_listens_on_is_refused() {
        let listener = StdTcpListener::bind(ANY).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = Passed::new("proxy".into(), client.into(), By::Manager).map(drop).unwrap_err();
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }
}
