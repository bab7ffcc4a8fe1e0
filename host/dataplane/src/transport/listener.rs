//! Where clients connect: a TCP port, or a Unix socket.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    path::Path,
};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use waymark_core::model::ServiceName;

use super::{
    socket::Socket,
    unix::{Heir, UnixSocket},
};

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    default: Option<ServiceName>,
}

#[derive(Debug)]
enum Kind {
    Tcp { listener: TcpListener, heir: Heir },
    Unix(UnixSocket),
}

/// Who a client is, as far as its connection tells.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<IpAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { kind: Kind::Tcp { listener, heir: Heir::default() }, default: None }
    }
}

impl From<UnixSocket> for Listener {
    fn from(socket: UnixSocket) -> Self {
        Self { kind: Kind::Unix(socket), default: None }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp { listener, .. } => listener.as_fd(),
            Kind::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    /// Listens on a Unix socket of this path, see [`UnixSocket::bind`].
    pub fn unix(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        UnixSocket::bind(path, mode).map(Self::from)
    }

    /// The same where calls that name no service are for this one.
    #[must_use]
    pub fn for_service(self, default: Option<ServiceName>) -> Self {
        Self { default, ..self }
    }

    /// What calls are for that name no service.
    pub(crate) fn default_service(&self) -> Option<&ServiceName> {
        self.default.as_ref()
    }

    /// Its port's address; `Unsupported` for a Unix socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.kind {
            Kind::Tcp { listener, .. } => listener.local_addr(),
            Kind::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether its socket has an heir. One that has leaves what waits in its queue, and its file,
    /// when serving ends.
    pub fn heir(&self) -> &Heir {
        match &self.kind {
            Kind::Tcp { heir, .. } => heir,
            Kind::Unix(socket) => socket.heir(),
        }
    }

    /// The next connection.
    ///
    /// # Cancel safety
    ///
    /// Safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.kind {
            Kind::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Peer(Some(peer.ip().to_canonical()))))
            }
            Kind::Unix(socket) => Ok((Socket::Unix(socket.accept().await?), Peer(None))),
        }
    }

    /// A connection that waits in its queue, if one does. For when it is about to close, which the
    /// kernel would tell all who wait by a reset.
    pub(crate) fn accept_waiting(&self) -> io::Result<Option<(Socket, Peer)>> {
        let none_waits = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
        match &self.kind {
            Kind::Tcp { listener, .. } => {
                let listener = StdTcpListener::from(own(listener)?);
                let (stream, peer) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) => return none_waits(error),
                };
                stream.set_nonblocking(true)?;
                Ok(Some((Socket::Tcp(TcpStream::from_std(stream)?), Peer(Some(peer.ip().to_canonical())))))
            }
            Kind::Unix(socket) => {
                let listener = StdUnixListener::from(own(socket)?);
                let stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) => return none_waits(error),
                };
                stream.set_nonblocking(true)?;
                Ok(Some((Socket::Unix(UnixStream::from_std(stream)?), Peer(None))))
            }
        }
    }
}

fn own(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}
