//! Reads along the frames of HTTP/2 for what `h2` does not tell of its peer: that it says anything
//! (see `liveness`), how large the headers are that it takes, and which of those that it sends are
//! too large for us.
//!
//! Only the nine bytes at the head of each frame are looked at, and what SETTINGS frames carry;
//! nothing is held back, changed or copied. See `header_size` for why that is needed.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// How a client of HTTP/2 begins (RFC 9113, section 3.4), in bytes.
const PREFACE: usize = 24;

/// The head of a frame (RFC 9113, section 4.1), in bytes.
const HEAD: usize = 9;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// How much of headers that are too large may lie unread on one connection, in bytes. Who sends
/// more of them loses it: they would fill our memory.
const MOST_UNREAD: usize = 32 << 20;

/// What was seen of a peer.
#[derive(Debug)]
pub(crate) struct Observed {
    /// What it takes; the largest number where it has not said.
    takes: AtomicU32,
    /// Streams with headers or trailers that are too large, and how large they were on the wire.
    large: Mutex<HashMap<u32, usize>>,
    /// How many these are: looked at for each call, which are mostly none.
    n_large: AtomicUsize,
    /// How often something came.
    heard: AtomicU64,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            takes: AtomicU32::new(u32::MAX),
            large: Mutex::default(),
            n_large: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
        }
    }
}

impl Observed {
    /// The largest headers that the peer takes, if it has said.
    pub(crate) fn takes(&self) -> Option<u32> {
        Some(self.takes.load(Relaxed)).filter(|most| *most != u32::MAX)
    }

    /// How often something came.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// How large headers or trailers of this stream were on the wire, where they were too large.
    /// Forgets it.
    pub(crate) fn take_large(&self, stream: u32) -> Option<usize> {
        if self.n_large.load(Relaxed) == 0 {
            return None;
        }
        let mut large = self.large();
        let size = large.remove(&stream);
        self.n_large.store(large.len(), Relaxed);
        size
    }

    fn add_large(&self, stream: u32, size: usize) -> io::Result<()> {
        let mut large = self.large();
        large.insert(stream, size);
        self.n_large.store(large.len(), Relaxed);
        if large.values().sum::<usize>() > MOST_UNREAD {
            return Err(io::Error::other("it sent more than 32 MiB of headers that are too large"));
        }
        Ok(())
    }

    fn large(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // Nothing that runs under it can panic half-way.
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the frames of one direction.
#[derive(Debug)]
struct Frames {
    /// Bytes of the preface, or of a frame's payload, that are passed over.
    left: usize,
    /// What has come of a frame's head.
    head: [u8; HEAD],
    len: usize,
    /// A SETTINGS frame whose payload is being read.
    settings: Option<Vec<u8>>,
    /// The stream whose headers come, and how large they are so far.
    block: (u32, usize),
    /// What is larger is noted.
    most: usize,
}

impl Frames {
    fn new(left: usize, most: usize) -> Self {
        Self { left, head: [0; HEAD], len: 0, settings: None, block: (0, 0), most }
    }

    fn read(&mut self, mut bytes: &[u8], seen: &Observed) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= payload.len();
                bytes = rest;
                if let Some(settings) = &mut self.settings {
                    settings.extend_from_slice(payload);
                    if self.left == 0 {
                        heed(settings, seen);
                        self.settings = None;
                    }
                }
                continue;
            }
            let (part, rest) = bytes.split_at((HEAD - self.len).min(bytes.len()));
            self.head[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
            bytes = rest;
            if self.len == HEAD {
                self.len = 0;
                self.begin(seen)?;
            }
        }
        Ok(())
    }

    /// The head of a frame is there.
    fn begin(&mut self, seen: &Observed) -> io::Result<()> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        match kind {
            HEADERS => self.block = (stream, self.left),
            CONTINUATION if stream == self.block.0 => self.block.1 += self.left,
            // What is longer than any list of the settings there are is for HTTP/2 to refuse.
            SETTINGS if flags & ACK == 0 && (1..=4096).contains(&self.left) => {
                self.settings = Some(Vec::with_capacity(self.left));
                return Ok(());
            }
            _ => return Ok(()),
        }
        if flags & END_HEADERS != 0 && self.block.1 > self.most {
            return seen.add_large(stream, self.block.1);
        }
        Ok(())
    }
}

/// Notes what SETTINGS say (RFC 9113, section 6.5.1).
fn heed(settings: &[u8], seen: &Observed) {
    for setting in settings.chunks_exact(6) {
        let [a, b, value @ ..] = setting else { continue };
        if u16::from_be_bytes([*a, *b]) == MAX_HEADER_LIST_SIZE
            && let Ok(value) = value.try_into()
        {
            seen.takes.store(u32::from_be_bytes(value), Relaxed);
        }
    }
}

/// A socket whose peer is watched.
pub(crate) struct FrameTap {
    socket: Socket,
    frames: Frames,
    seen: Arc<Observed>,
}

impl FrameTap {
    /// A client's connection, from its first byte on. How large its headers are shows in its
    /// requests.
    pub(crate) fn client(socket: Socket) -> Self {
        Self { socket, frames: Frames::new(PREFACE, usize::MAX), seen: Arc::default() }
    }

    /// A connection to an instance, from its first byte on; headers of more bytes than this are
    /// noted.
    pub(crate) fn instance(socket: Socket, most: u32) -> Self {
        Self { socket, frames: Frames::new(0, most as usize), seen: Arc::default() }
    }

    /// What is seen of the peer.
    pub(crate) fn seen(&self) -> Arc<Observed> {
        Arc::clone(&self.seen)
    }
}

impl AsyncRead for FrameTap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        let this = &mut *self;
        if buf.filled().len() > before {
            // One task reads the socket, so that counting is a plain store.
            this.seen.heard.store(this.seen.heard() + 1, Relaxed);
        }
        this.frames.read(&buf.filled()[before..], &this.seen)?;
        read
    }
}

impl AsyncWrite for FrameTap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let head = &(payload.len() as u32).to_be_bytes()[1..];
        [head, &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn what_matters_is_seen_however_the_bytes_are_cut() {
        let said = [setting(3, 100), setting(MAX_HEADER_LIST_SIZE, 8192)].concat();
        let bytes = [
            vec![b'P'; PREFACE],
            frame(SETTINGS, 0, 0, &said),
            frame(SETTINGS, ACK, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &[0; 10]),
            frame(0, 1, 1, &[HEADERS; 30]),
            frame(HEADERS, 0, 3, &[0; 8]),
            frame(CONTINUATION, 0, 3, &[0; 0]),
            frame(CONTINUATION, END_HEADERS, 3, &[0; 3]),
            frame(HEADERS, END_HEADERS, 5, &[0; 11]),
        ]
        .concat();
        for piece in 1..=bytes.len() {
            let (mut frames, seen) = (Frames::new(PREFACE, 10), Observed::default());
            assert_eq!(seen.takes(), None);
            bytes.chunks(piece).for_each(|piece| frames.read(piece, &seen).unwrap());
            assert_eq!(seen.takes(), Some(8192), "in pieces of {piece}");
            let large: Vec<_> = [1, 3, 5, 7].map(|stream| seen.take_large(stream)).into();
            assert_eq!(large, [None, Some(11), Some(11), None], "in pieces of {piece}");
            assert_eq!((seen.n_large.load(Relaxed), seen.take_large(3)), (0, None));
        }
    }

    #[test]
    fn who_fills_our_memory_with_what_is_too_large_loses_the_connection() {
        let seen = Observed::default();
        seen.add_large(1, MOST_UNREAD).unwrap();
        assert!(seen.add_large(3, 1).is_err());
        seen.take_large(1);
        assert!(seen.add_large(5, 1).is_ok());
    }
}
