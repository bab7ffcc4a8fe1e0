//! Reads along the frames of a client for what hyper does not tell of it: how large the headers are
//! that it takes.
//!
//! Only the nine bytes at the head of each frame are looked at, and what SETTINGS frames carry;
//! nothing is held back, changed or copied. See `header_size` for why that is needed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// How a client of HTTP/2 begins (RFC 9113, section 3.4), in bytes.
const PREFACE: usize = 24;

/// The head of a frame (RFC 9113, section 4.1), in bytes.
const HEAD: usize = 9;

const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// What was seen of a peer.
#[derive(Debug)]
pub(crate) struct Observed {
    /// What it takes; the largest number where it has not said.
    takes: AtomicU32,
}

impl Default for Observed {
    fn default() -> Self {
        Self { takes: AtomicU32::new(u32::MAX) }
    }
}

impl Observed {
    /// The largest headers that the peer takes, if it has said.
    pub(crate) fn takes(&self) -> Option<u32> {
        Some(self.takes.load(Relaxed)).filter(|most| *most != u32::MAX)
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
}

impl Frames {
    fn new(left: usize) -> Self {
        Self { left, head: [0; HEAD], len: 0, settings: None }
    }

    fn read(&mut self, mut bytes: &[u8], seen: &Observed) {
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
                self.begin();
            }
        }
    }

    /// The head of a frame is there.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        // What is longer than any list of the settings there are is for HTTP/2 to refuse.
        if kind == SETTINGS && flags & ACK == 0 && (1..=4096).contains(&self.left) {
            self.settings = Some(Vec::with_capacity(self.left));
        }
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
    /// A client's connection, from its first byte on.
    pub(crate) fn client(socket: Socket) -> Self {
        Self { socket, frames: Frames::new(PREFACE), seen: Arc::default() }
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
        this.frames.read(&buf.filled()[before..], &this.seen);
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

    const HEADERS: u8 = 1;

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
            frame(HEADERS, 0, 1, &[0; 10]),
            frame(SETTINGS, 0, 0, &said),
            frame(SETTINGS, ACK, 0, &[]),
            frame(0, 1, 1, &[SETTINGS; 30]),
            frame(HEADERS, 0, 3, &[0; 8]),
        ]
        .concat();
        for piece in 1..=bytes.len() {
            let (mut frames, seen) = (Frames::new(PREFACE), Observed::default());
            assert_eq!(seen.takes(), None);
            bytes.chunks(piece).for_each(|piece| frames.read(piece, &seen));
            assert_eq!(seen.takes(), Some(8192), "in pieces of {piece}");
        }
    }
}
