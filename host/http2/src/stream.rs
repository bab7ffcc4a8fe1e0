//! One stream: its state, and what of it waits.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{
    fault::Fault,
    flow::{ReceiveWindow, SendWindow},
    hpack::Block,
};

/// Up to this length data that has to wait is put together, so that a flood of small frames holds
/// little more than its data.
const MERGED: usize = 1024;
const MERGED_INTO: usize = 8192;

/// Where a stream is (RFC 9113, section 5.1). What is not here is idle if its number is higher than
/// all that were used, and otherwise closed; nothing is ever reserved, since pushing is switched
/// off.
///
/// ```text
///                         HEADERS, sent or received
///                                    │
///          END_STREAM sent      ┌────▼────┐     END_STREAM received
///        ┌──────────────────────│  Open   │──────────────────────┐
///        ▼                      └────┬────┘                      ▼
///  HalfClosedLocal                   │                   HalfClosedRemote
///        │                           │ RST_STREAM,               │
///        │ END_STREAM received,      │ sent or received          │ END_STREAM sent,
///        │ RST_STREAM                ▼                           │ RST_STREAM
///        └─────────────────────▶  Closed  ◀──────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Both may send.
    Open,
    /// We have sent all, and the peer may go on.
    HalfClosedLocal,
    /// The peer has sent all, and we may go on.
    HalfClosedRemote,
    /// Both have sent all. It stays until all data is consumed.
    Closed,
}

impl State {
    pub(crate) fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedRemote)
    }

    pub(crate) fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal)
    }

    pub(crate) fn end_sent(self) -> Self {
        match self {
            Self::Open => Self::HalfClosedLocal,
            Self::HalfClosedRemote => Self::Closed,
            ended => ended,
        }
    }

    pub(crate) fn end_received(self) -> Self {
        match self {
            Self::Open => Self::HalfClosedRemote,
            Self::HalfClosedLocal => Self::Closed,
            ended => ended,
        }
    }

    /// What it is to the peer to send DATA or HEADERS now.
    pub(crate) fn check(self) -> Result<(), Fault> {
        match self {
            Self::Open | Self::HalfClosedLocal => Ok(()),
            Self::HalfClosedRemote => Err(Fault::AfterEnd),
            Self::Closed => Err(Fault::ClosedStream),
        }
    }
}

/// What comes after the data that waits.
#[derive(Debug, Default)]
pub(crate) enum Ending {
    /// More may come.
    #[default]
    Open,
    /// Nothing.
    End,
    /// These trailers.
    Trailers(Block),
}

#[derive(Debug)]
enum Piece {
    Shared(Bytes),
    Merged(BytesMut),
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) number: u32,
    pub(crate) state: State,
    /// Whether the header block of the peer's message is here, and DATA may come.
    pub(crate) headed: bool,
    /// Whether what the peer sends is not wanted: its header block was too large.
    pub(crate) discard: bool,
    /// Whether the response has no content though its header block may tell a length.
    pub(crate) bare: bool,
    /// How much content is still to come, if the peer said.
    pub(crate) expected: Option<u64>,
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    /// What was handed on and not consumed yet.
    pub(crate) unconsumed: u32,
    waiting: VecDeque<Piece>,
    /// How many bytes wait.
    pub(crate) backlog: usize,
    pub(crate) ending: Ending,
    /// Whether it is among those that take turns.
    pub(crate) in_turn: bool,
    /// Whether its owner was asked to wait.
    pub(crate) told_full: bool,
}

impl Stream {
    pub(crate) fn new(number: u32, send: SendWindow, receive: ReceiveWindow) -> Self {
        Self {
            number,
            state: State::Open,
            headed: false,
            discard: false,
            bare: false,
            expected: None,
            send,
            receive,
            unconsumed: 0,
            waiting: VecDeque::new(),
            backlog: 0,
            ending: Ending::Open,
            in_turn: false,
            told_full: false,
        }
    }

    /// Counts content, which ends the message or not.
    pub(crate) fn count(&mut self, length: u64, end: bool) -> Result<(), Fault> {
        let Some(expected) = &mut self.expected else { return Ok(()) };
        *expected = expected.checked_sub(length).ok_or(Fault::ContentLength)?;
        if end && *expected > 0 { Err(Fault::ContentLength) } else { Ok(()) }
    }

    /// Whether something waits, be it only the end.
    pub(crate) fn waits(&self) -> bool {
        self.backlog > 0 || !matches!(self.ending, Ending::Open)
    }

    /// Whether it could send something if the connection can.
    pub(crate) fn ready(&self) -> bool {
        if self.backlog > 0 { self.send.room() > 0 } else { self.waits() }
    }

    pub(crate) fn queue(&mut self, bytes: Bytes) {
        self.backlog += bytes.len();
        if bytes.len() > MERGED {
            self.waiting.push_back(Piece::Shared(bytes));
        } else if let Some(Piece::Merged(last)) = self.waiting.back_mut()
            && last.len() + bytes.len() <= MERGED_INTO
        {
            last.extend_from_slice(&bytes);
        } else if !bytes.is_empty() {
            self.waiting.push_back(Piece::Merged(BytesMut::from(&bytes[..])));
        }
    }

    /// Up to `most` bytes of what waits first.
    pub(crate) fn take(&mut self, most: usize) -> Bytes {
        let bytes = match self.waiting.front_mut() {
            None => return Bytes::new(),
            Some(Piece::Shared(bytes)) if bytes.len() > most => bytes.split_to(most),
            Some(Piece::Merged(bytes)) if bytes.len() > most => bytes.split_to(most).freeze(),
            Some(_) => match self.waiting.pop_front() {
                Some(Piece::Shared(bytes)) => bytes,
                Some(Piece::Merged(bytes)) => bytes.freeze(),
                None => Bytes::new(),
            },
        };
        self.backlog -= bytes.len();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(1, SendWindow::new(10), ReceiveWindow::new(10))
    }

    #[test]
    fn both_ends_close_it_in_either_order() {
        assert_eq!(State::Open.end_sent().end_received(), State::Closed);
        assert_eq!(State::Open.end_received().end_sent(), State::Closed);
        assert_eq!(State::Open.end_received().check(), Err(Fault::AfterEnd));
        assert_eq!(State::Closed.check(), Err(Fault::ClosedStream));
        assert!(State::Open.end_sent().can_receive() && !State::Open.end_sent().can_send());
    }

    #[test]
    fn small_pieces_that_wait_are_one() {
        let mut stream = stream();
        for _ in 0..100 {
            stream.queue(Bytes::from_static(b"abc"));
        }
        assert_eq!(stream.waiting.len(), 1);
        assert_eq!(stream.take(4), "abca");
        assert_eq!(stream.take(1000).len(), 296);
        assert!(!stream.waits());
        stream.queue(Bytes::from(vec![0; 5000]));
        assert_eq!(stream.take(1000).len(), 1000);
        assert_eq!(stream.backlog, 4000);
    }

    #[test]
    fn content_is_counted() {
        let mut stream = stream();
        stream.expected = Some(3);
        assert_eq!(stream.count(2, false), Ok(()));
        assert_eq!(stream.count(0, true), Err(Fault::ContentLength));
        assert_eq!(stream.count(1, true), Ok(()));
        assert_eq!(stream.count(1, false), Err(Fault::ContentLength));
    }
}
