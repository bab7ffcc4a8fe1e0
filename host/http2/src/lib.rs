//! HTTP/2 for a relay: frames, header blocks, streams and flow control, without I/O (RFC 9113 and
//! RFC 7541).
//!
//! ```text
//!   socket ─read─▶ BytesMut ──▶ Connection::receive ──▶ next_event ──▶ ┌───────┐
//!                                  │ frames where they lie             │ owner │
//!                                  │ header blocks: one buffer each    └───┬───┘
//!                                  │ data: parts of what was read          │
//!                                  ▼                                       ▼
//!   socket ◀─writev─ slices ◀── prepare ◀── output ◀── open, send_headers, send_data, reset, …
//! ```
//!
//! A [`Connection`] is the state of one connection. Its owner reads into a buffer and hands it to
//! [`receive`](Connection::receive), takes the [`Event`]s, answers with commands, and writes what
//! [`prepare`](Connection::prepare) and [`slices`](Connection::slices) give, best once a turn.
//! There is no lock, no task and no clock in it.
//!
//! It is made for passing on: a [`Block`] that came in is edited and goes out again, and nothing is
//! made of a field but what a relay asks for. Values are bytes, `:authority` too.
//!
//! **What is bounded** is in [`Limits`], each with its reason. What an honest peer may need a lot
//! of is counted by what it costs: a reset is paid for by a call that ended well, and frames with
//! data in them, however small, are no attack.
//!
//! **What a peer did wrong** is a [`Fault`] with one word. It ends the connection, as the error of
//! [`receive`](Connection::receive), or only its stream, as [`Event::StreamFault`]. A header block
//! above [`Limits::header_block`] ends only its stream, and a server can still answer it.
#![forbid(unsafe_code)]

mod bucket;
mod connection;
mod event;
mod fault;
mod flow;
mod frame;
pub mod hpack;
#[cfg(feature = "tokio")]
pub mod io;
mod limits;
mod message;
mod output;
mod settings;
mod stream;
mod streams;

pub use connection::{Backlog, Connection, NoRoom, NotOpen};
pub use event::Event;
pub use fault::{Code, Ends, Fault};
pub use hpack::{Block, Known};
pub use limits::{Allowance, Limits};
pub use settings::Settings;
pub use streams::StreamId;
