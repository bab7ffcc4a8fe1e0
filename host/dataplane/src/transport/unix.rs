//! A Unix socket that is listened on, with the file that clients find it by.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::net::{UnixListener, UnixStream};

/// Whether somebody else goes on listening when this process is done with a socket: whoever gave
/// it, or who comes after. Then what waits in its queue is theirs, and so is its file. Cheap to
/// clone; all clones mean the same socket.
#[derive(Debug, Clone, Default)]
pub struct Heir(Arc<AtomicBool>);

impl Heir {
    /// Says whether there is one.
    pub fn set(&self, there_is: bool) {
        self.0.store(there_is, Relaxed);
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A Unix socket that is listened on. Its file goes with this value, unless the socket has an heir.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl UnixSocket {
    /// Listens on a Unix socket of this path. What a process that is gone left there is taken away;
    /// a socket on which somebody listens and anything that is no socket are left alone. `mode`:
    /// the file's permission bits, instead of what the process's umask leaves; to connect, a client
    /// needs the right to write.
    ///
    /// # Errors
    ///
    /// `AddrInUse`: somebody listens there. `AlreadyExists`: there is something else. Others are
    /// the system's.
    pub fn bind(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        remove_stale(path)?;
        let Some(mode) = mode else {
            return Ok(Self { listener: UnixListener::bind(path)?, file: SocketFile::of(path)? });
        };
        let listener = UnixListener::from_std(bind_closed(path, mode)?)?;
        let file = SocketFile::of(path)?;
        // What the umask has taken away.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self { listener, file })
    }

    /// Goes on listening on a socket that somebody else bound to this path.
    ///
    /// # Errors
    ///
    /// The system's; `NotFound` where the file is gone.
    pub fn adopt(listener: StdListener, path: &Path) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, file: SocketFile::of(path)? })
    }

    /// Takes a connection.
    ///
    /// # Cancel safety
    ///
    /// Safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Whether the socket has an heir.
    pub fn heir(&self) -> &Heir {
        &self.file.heir
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Binds a socket whose file never has more permission bits than these, not even before they are
/// set: on Linux a socket that is bound gives its file the bits that it has itself, less the
/// umask's. Elsewhere the file has what the umask leaves for a moment.
fn bind_closed(path: &Path, mode: u32) -> io::Result<StdListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    const QUEUE: i32 = 1024;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Systems that have no bits for a socket say so.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode as _));
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, QUEUE)?;
    Ok(StdListener::from(socket))
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

/// The file of a socket. It goes with this value, unless another has taken its place or the socket
/// has an heir.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    heir: Heir,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)?, heir: Heir::default() })
    }
}

/// What tells a file from another of the same name.
fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.heir.is_there() && id(&self.path).is_ok_and(|id| id == self.id) {
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
        let kind = |result: io::Result<UnixSocket>| result.map(drop).unwrap_err().kind();
        let first = UnixSocket::bind(&path, Some(0o600)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(kind(UnixSocket::bind(&path, None)), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists(), "the file goes with its listener");
        // As after a crash: the file without its listener.
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = UnixSocket::bind(&path, None).unwrap();
        // Another has taken its place meanwhile: that one's file stays.
        fs::remove_file(&path).unwrap();
        let third = UnixSocket::bind(&path, None).unwrap();
        drop(second);
        assert!(path.exists());
        drop(third);
        fs::write(&path, "precious").unwrap();
        assert_eq!(kind(UnixSocket::bind(&path, None)), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_is_never_open_to_more_than_it_shall_be() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = folder.path().join(format!("{mode:o}"));
            let _listener = bind_closed(&path, mode).unwrap();
            let is = fs::metadata(&path).unwrap().mode() & 0o777;
            assert_eq!(is & !mode, 0, "{is:o} for {mode:o}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_an_heir_keeps_its_file_and_the_heir_takes_it_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = UnixSocket::bind(&path, None).unwrap();
        let passed = StdListener::from(first.as_fd().try_clone_to_owned().unwrap());
        let second = UnixSocket::adopt(passed, &path).unwrap();
        first.heir().set(true);
        drop(first);
        let _client = UnixStream::connect(&path).await.unwrap();
        second.accept().await.unwrap();
        drop(second);
        assert!(!path.exists());
    }
}
