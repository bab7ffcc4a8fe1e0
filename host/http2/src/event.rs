//! What a connection tells its owner.

use bytes::Bytes;

use crate::{
    fault::{Code, Fault},
    hpack::Block,
    streams::StreamId,
};

/// What came of the peer's frames, in their order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A request, to a server, or a response with a status from 200, to a client.
    Headers {
        /// The stream, which a server has not seen before.
        stream: StreamId,
        /// What [`Connection::recycle`](crate::Connection::recycle) takes back.
        block: Block,
        /// Whether it is the whole message.
        end: bool,
    },
    /// A response with a status from 100 to 199, after which others come.
    Informational {
        /// The stream.
        stream: StreamId,
        /// Its fields.
        block: Block,
    },
    /// Content. With no bytes it is only the end.
    Data {
        /// The stream.
        stream: StreamId,
        /// A part of the buffer that was read into.
        bytes: Bytes,
        /// What [`Connection::consumed`](crate::Connection::consumed) is to be told when it is done
        /// with: the bytes, and padding. It has to be told of each, or the stream be reset, or else
        /// the connection's window gets smaller for ever.
        flow_len: u32,
        /// Whether the message ends here, without trailers.
        end: bool,
    },
    /// What ends a message.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// Its fields, none of which is a pseudo-header field.
        block: Block,
    },
    /// The peer reset the stream, which is gone.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: Code,
    },
    /// The peer did something wrong on the stream, which was reset for it and is gone. Its owner
    /// may not have seen it before.
    StreamFault {
        /// The stream.
        stream: StreamId,
        /// What it was.
        fault: Fault,
    },
    /// The stream is gone before anything was done for it: one that a server does not take, and its
    /// owner has not seen, or one of a client that the peer's GOAWAY leaves out, which can be tried
    /// again.
    Refused {
        /// The stream.
        stream: StreamId,
        /// The limit's name in [`Limits`](crate::Limits), or "goaway".
        limit: &'static str,
    },
    /// A header block or trailers were too large. A server's stream can still be answered: what
    /// else comes is dropped, and it is reset with the end of the answer. A client's was reset and
    /// is gone.
    HeadersTooLarge {
        /// The stream, which a server has not seen before if it was the request.
        stream: StreamId,
        /// The limit's name in [`Limits`](crate::Limits).
        limit: &'static str,
    },
    /// There is room again after [`Backlog::full`](crate::Backlog), or all that waited is on its
    /// way.
    Writable {
        /// The stream.
        stream: StreamId,
    },
    /// The peer wants no more streams.
    GoAway {
        /// The last stream that it takes.
        last: u32,
        /// Why.
        code: Code,
        /// What it adds for people.
        debug: Bytes,
    },
    /// The peer's settings changed; a client may have more room for streams.
    Settings,
    /// The peer answered a [`Connection::ping`](crate::Connection::ping).
    Pong {
        /// What was sent with it.
        payload: [u8; 8],
    },
}
