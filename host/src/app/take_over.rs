//! One node takes over from another on the same machine, without a moment in which nobody listens.
//!
//! ```text
//!   the node before                              the node after
//!     listens at PATH ◀───────────────────────── connects
//!     is it of my user? ── offer ──────────────▶ has the sockets, and starts everything else
//!     serves on                                  serves too: both take from the same queues
//!     drains and ends ◀──────────────── ready ── names those that it took
//! ```
//!
//! The sockets themselves are handed over (SCM_RIGHTS, unix(7)), so their queues are too: nobody
//! who connected is refused or reset. Nothing is given up before the other node is ready: one that
//! does not start, for example because its configuration is wrong, leaves the old one as it was,
//! the files of Unix sockets included. The socket at PATH is handed over like the others, for the
//! node after the next.
//!
//! SO_REUSEPORT was the other way. There each process has a queue of its own, and who waits in the
//! old one's queue is reset when it closes; and two nodes that are given the same port by mistake
//! would share it without a word.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    AppError,
    sockets::{By, Passed, Shared},
};
use crate::dataplane::UnixSocket;

/// What the two say to each other. Another number: they do not understand each other.
const VERSION: u32 = 1;

/// The most sockets that are handed over.
const MOST: usize = 16;

/// The longest message.
const LONGEST: usize = 4096;

/// Programs that this process runs shall not have the sockets.
#[cfg(target_os = "linux")]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

/// How long the node before may take to its offer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the node before has; its sockets come beside it, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    version: u32,
    sockets: Vec<String>,
}

/// The node after serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    took: Vec<String>,
}

/// The node before this one, which serves until it is told.
pub(super) struct Predecessor {
    stream: UnixStream,
}

/// Asks the node that listens at this path for its sockets. None: there is none.
pub(super) async fn ask(path: &Path) -> Result<Option<(Predecessor, Vec<Passed>)>, AppError> {
    let failed = |source| AppError::TakeOver { path: path.to_owned(), source };
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    if !is_of_our_user(&stream).map_err(failed)? {
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, "who listens there is another user's")));
    }
    let offer = timeout(PATIENCE, receive(&stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let (offer, sockets) = offer.map_err(failed)?;
    if offer.version != VERSION || offer.sockets.len() != sockets.len() {
        let other =
            format!("that node speaks version {} of this, and this one {VERSION}; stop it first", offer.version);
        return Err(failed(io::Error::other(other)));
    }
    let passed = offer.sockets.into_iter().zip(sockets);
    let passed = passed.map(|(name, socket)| Passed::new(name, socket, By::Predecessor)).collect::<Result<_, _>>();
    Ok(Some((Predecessor { stream }, passed.map_err(failed)?)))
}

impl Predecessor {
    /// Says that this node serves, on these sockets among others: the other one drains and ends.
    pub(super) async fn release(mut self, took: impl IntoIterator<Item = &'static str>) {
        let ready = Ready { took: took.into_iter().map(str::to_owned).collect() };
        if let Err(error) = say(&mut self.stream, &ready).await {
            // Somebody has told it to end meanwhile.
            warn!(%error, "the node before this one is gone already");
        }
    }
}

/// Offers these sockets to whoever connects, one after the other, until one of them serves; then
/// `succeeded` is cancelled.
pub(super) async fn offer(socket: UnixSocket, sockets: Vec<Shared>, succeeded: CancellationToken) {
    loop {
        let stream = match socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "cannot be taken over from at the moment");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        match hand_over(stream, &sockets).await {
            Ok(ready) => {
                info!(pid, took = ready.took.join(","), "another node has taken over");
                for shared in &sockets {
                    set_heir(shared, ready.took.iter().any(|took| took == shared.name));
                }
                succeeded.cancel();
                return;
            }
            Err(error) => {
                for shared in &sockets {
                    set_heir(shared, false);
                }
                warn!(pid, %error, "a node that was to take over did not; this one goes on");
            }
        }
    }
}

fn set_heir(shared: &Shared, there_is: bool) {
    if let Some(heir) = &shared.heir {
        heir.set(there_is);
    }
}

/// Gives the sockets to one that asks for them, and waits for as long as it takes to start: it may
/// compile plugins and list a registry.
async fn hand_over(mut stream: UnixStream, sockets: &[Shared]) -> io::Result<Ready> {
    if !is_of_our_user(&stream)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
    }
    // From here on it may be the heir: if this node is ended now, the other one has the sockets and
    // goes on with them.
    for shared in sockets {
        set_heir(shared, true);
    }
    let offer = Offer { version: VERSION, sockets: sockets.iter().map(|shared| shared.name.to_owned()).collect() };
    send(&stream, &offer, &sockets.iter().map(|shared| shared.socket.as_fd()).collect::<Vec<_>>()).await?;
    hear(&mut stream, Vec::new()).await
}

/// Who may have everything that this process may: its user, and the system's own.
fn is_of_our_user(stream: &UnixStream) -> io::Result<bool> {
    let uid = stream.peer_cred()?.uid();
    Ok(uid == 0 || uid == rustix::process::geteuid().as_raw())
}

async fn send(stream: &UnixStream, offer: &Offer, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let line = line(offer)?;
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(sendmsg(stream, &[IoSlice::new(&line)], &mut beside, SendFlags::empty())?)
    });
    // A message this short goes into an empty buffer whole.
    if sent.await? == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

async fn receive(stream: &UnixStream) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut begun = vec![0; LONGEST];
    let received = stream.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(stream, &mut [IoSliceMut::new(&mut begun)], &mut beside, CLOSED_ON_EXEC)?;
        let mut sockets = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                sockets.extend(received);
            }
        }
        Ok((got.bytes, sockets))
    });
    let (len, sockets) = received.await?;
    begun.truncate(len);
    // It was sent in one piece, and the first byte brings the sockets.
    parse(&begun).map(|offer| (offer, sockets))
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > LONGEST { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(line) }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> io::Result<T> {
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(serde_json::from_slice(line)?),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn say(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&line(message)?).await
}

async fn hear<T: DeserializeOwned>(stream: &mut UnixStream, mut line: Vec<u8>) -> io::Result<T> {
    while !line.ends_with(b"\n") {
        if line.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    parse(&line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::TcpListener;

    use super::*;
    use crate::dataplane::Heir;

    fn shared(name: &'static str) -> (Shared, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Shared { name, socket: listener.into(), heir: Some(Heir::default()) }, address)
    }

    #[tokio::test]
    async fn nobody_there_is_no_error_and_what_is_no_node_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(ask(&path).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ask(&path).await.unwrap().is_none(), "left behind");
        std::fs::remove_file(&path).unwrap();
        let other = UnixSocket::bind(&path, None).unwrap();
        let (asked, ()) = tokio::join!(ask(&path), async { drop(other.accept().await) });
        let error = asked.map(drop).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[tokio::test]
    async fn one_that_does_not_start_leaves_everything_as_it_was_and_the_next_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (proxy, at_proxy) = shared("proxy");
        let (admin, _) = shared("admin");
        let heirs = [proxy.heir.clone().unwrap(), admin.heir.clone().unwrap()];
        let succeeded = CancellationToken::new();
        let offering =
            tokio::spawn(offer(UnixSocket::bind(&path, None).unwrap(), vec![proxy, admin], succeeded.clone()));
        let (fails, passed) = ask(&path).await.unwrap().unwrap();
        assert_eq!(passed.len(), 2);
        drop((fails, passed));
        let (takes, mut passed) = ask(&path).await.unwrap().unwrap();
        assert!(!succeeded.is_cancelled());
        assert!(passed[0].to_string().contains(&at_proxy.to_string()), "{}", passed[0]);
        passed.truncate(1);
        takes.release(["proxy"]).await;
        succeeded.cancelled().await;
        offering.await.unwrap();
        assert_eq!(heirs.map(|heir| heir.is_there()), [true, false]);
    }
}
