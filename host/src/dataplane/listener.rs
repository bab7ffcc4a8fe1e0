//! Where clients connect: a TCP port, or a Unix socket.

use std::{
    fmt,
    fs::{self, Permissions},
    io,
    net::IpAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::socket::Socket;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// Who a client is, as far as its connection tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

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
        Self { kind: Kind::Tcp(listener) }
    }
}

impl Listener {
    /// Listens on a Unix socket of this path. What a process that is gone left there is taken away; a socket on which somebody listens
    /// and anything that is no socket are left alone. `mode`: the file's permission bits, instead of what the process's umask
    /// leaves; to connect, a client needs the right to write. The file goes with the listener.
    ///
    /// # Errors
    ///
    /// `AddrInUse`: somebody listens there. `AlreadyExists`: there is something else. Others are the system's.
    pub fn unix(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        let file = SocketFile::of(path)?;
        if let Some(mode) = mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        Ok(Self { kind: Kind::Unix { listener, _file: file } })
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Peer(Some(peer.ip().to_canonical()))))
            }
            Kind::Unix { listener, .. } => Ok((Socket::Unix(listener.accept().await?.0), Peer(None))),
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        // Nobody listens: whoever made it is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue is full, or it may not be asked: in use either way.
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a socket. It goes with this value, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)? })
    }
}

/// What tells a file from another of the same name.
fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // Gone already is as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_gives_way_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let kind = |result: io::Result<Listener>| result.map(drop).unwrap_err().kind();
        let first = Listener::unix(&path, Some(0o600)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(kind(Listener::unix(&path, None)), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists(), "the file goes with its listener");
        // As after a crash: the file without its listener.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Listener::unix(&path, None).unwrap();
        // Another has taken its place meanwhile: that one's file stays.
        fs::remove_file(&path).unwrap();
        let third = Listener::unix(&path, None).unwrap();
        drop(second);
        assert!(path.exists());
        drop(third);
        fs::write(&path, "precious").unwrap();
        assert_eq!(kind(Listener::unix(&path, None)), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
