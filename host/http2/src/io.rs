//! A connection on a socket: one task, which reads, lets the owner act, and writes once.
//!
//! ```text
//!            ┌───────────────── a turn ────────────────┐
//!   wake ──▶ │ read until there is nothing ─▶ receive   │
//!            │ Owner::turn: events in, commands out     │──▶ wait for the socket, or who wakes the owner
//!            │ write all that is ready, in one piece    │
//!            └─────────────────────────────────────────┘
//! ```
//!
//! However many frames came and whatever they led to, a turn makes one write, as long as the socket
//! takes it.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::{Connection, Fault};

/// What a read has room for at first: a frame of the usual largest size.
const READ: usize = 16_384 + 9;
/// What it has room for at most, while reads are filled.
const MOST: usize = 8 * READ;
/// With less room than this left, more is made before a read.
const ROOM: usize = 4096;
/// How many reads there are in a turn before others on the thread have theirs.
const READS: usize = 8;
/// How many pieces a write has at most.
const PIECES: usize = 32;

/// Who acts on a connection.
pub trait Owner {
    /// Takes all the events that there are, and gives the commands that it has. It is called in
    /// each turn, and gets one of its own by waking the task of `context`.
    ///
    /// When the connection ends it has its last turn before, and is dropped with the driver.
    fn turn(&mut self, context: &mut Context<'_>, connection: &mut Connection);
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// One of the sides ended it gracefully, and all streams were done.
    Finished,
    /// The peer closed it; streams may have been open.
    Closed,
    /// The peer did something wrong, and was told.
    Fault(Fault),
}

/// Drives a connection until it ends. An error is the socket's.
#[derive(Debug)]
pub struct Driver<S, O> {
    socket: S,
    connection: Connection,
    owner: O,
    input: BytesMut,
    /// What the next read has room for.
    room: usize,
    ended: Option<Ended>,
    /// Whether something was written and not flushed.
    unflushed: bool,
}

impl<S, O> Driver<S, O> {
    /// A driver of a connection that nothing has been read for.
    pub fn new(socket: S, connection: Connection, owner: O) -> Self {
        Self { socket, connection, owner, input: BytesMut::new(), room: READ, ended: None, unflushed: false }
    }

    /// Who acts on the connection.
    pub fn owner(&mut self) -> &mut O {
        &mut self.owner
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, O: Owner> Driver<S, O> {
    /// Reads what there is. Returns whether there may be more.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut now = None;
        for _ in 0..READS {
            if self.ended.is_some() {
                return Ok(false);
            }
            if self.input.capacity() - self.input.len() < ROOM {
                self.input.reserve(self.room);
            }
            let room = self.input.capacity() - self.input.len();
            match pin!(self.socket.read_buf(&mut self.input)).poll(context)? {
                Poll::Pending => {
                    // What it grew to in a busy time is not kept when that is over.
                    if self.room == READ && self.input.is_empty() && self.input.capacity() > 2 * READ {
                        self.input = BytesMut::new();
                    }
                    return Ok(false);
                }
                Poll::Ready(0) => self.ended = Some(Ended::Closed),
                Poll::Ready(count) => {
                    if count == room && room >= self.room {
                        self.room = (self.room * 2).min(MOST);
                    } else if count < READ / 4 {
                        self.room = READ;
                    }
                    if let Err(fault) = self.connection.receive(&mut self.input, *now.get_or_insert_with(Instant::now))
                    {
                        self.ended = Some(Ended::Fault(fault));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Reads what has come by now and drops it: a socket that is closed with something unread is
    /// reset, and the peer might not read why.
    fn drain(&mut self, context: &mut Context<'_>) {
        for _ in 0..READS {
            self.input.clear();
            self.input.reserve(READ);
            match pin!(self.socket.read_buf(&mut self.input)).poll(context) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                _ => break,
            }
        }
    }

    /// Writes what is ready. Pending means that the socket takes no more.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.prepare() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.connection.slices(&mut pieces);
            let socket = Pin::new(&mut self.socket);
            let written = ready!(match &pieces[..count] {
                [one] => socket.poll_write(context, one),
                more => socket.poll_write_vectored(context, more),
            })?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.connection.written(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, O: Owner + Unpin> Future for Driver<S, O> {
    type Output = io::Result<Ended>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let driver = self.get_mut();
        let read = driver.read(context);
        // An error, too, may come after what was read.
        driver.owner.turn(context, &mut driver.connection);
        let more = read?;
        let wrote = driver.write(context)?;
        // Writing made room, of which the owner may hear.
        if driver.connection.has_events() {
            context.waker().wake_by_ref();
        }
        if wrote.is_pending() {
            // A peer that closed, or broke the rules, and does not read is not waited for.
            if let Some(ended) = driver.ended {
                return Poll::Ready(Ok(ended));
            }
            return Poll::Pending;
        }
        if driver.ended.is_none() && driver.connection.is_finished() {
            driver.ended = Some(Ended::Finished);
        }
        if let Some(ended) = driver.ended {
            // Best effort: the other side may be gone.
            let _ = Pin::new(&mut driver.socket).poll_shutdown(context);
            driver.drain(context);
            return Poll::Ready(Ok(ended));
        }
        if more {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
