//! How a connection to an instance ended, and how one of its streams did.

use std::{io, sync::Arc};

use thiserror::Error;
use waymark_http2::{Code, Fault};

/// How a connection ended, or why it takes no more calls.
#[derive(Debug, Clone, Error)]
pub(crate) enum ConnectionError {
    #[error("the server closed it")]
    Closed,
    #[error("the server broke the rules of HTTP/2 ({0})")]
    Fault(Fault),
    /// The server sent GOAWAY.
    #[error("the server said goodbye: {} {debug}", code.name())]
    GoneAway { code: Code, debug: Arc<str> },
    #[error(transparent)]
    Io(Arc<io::Error>),
    #[error("the server gave no sign of life")]
    Silent,
    /// It is not used any more.
    #[error("this node ended it")]
    Ended,
}

impl ConnectionError {
    /// Whether it is how connections end in good order.
    pub(crate) fn is_good_order(&self) -> bool {
        matches!(self, Self::Closed | Self::Ended | Self::GoneAway { code: Code::NO_ERROR, .. })
    }
}

/// How a stream ended before its answer was whole.
#[derive(Debug, Clone, Error)]
pub(crate) enum StreamError {
    /// The server cannot have seen the request: it was not sent, or GOAWAY leaves it out.
    #[error("the connection was going away")]
    Unseen(#[source] Arc<ConnectionError>),
    /// The connection ended, and the server may have seen the request.
    #[error("the connection ended")]
    Lost(#[source] Arc<ConnectionError>),
    #[error("the server reset it: {}", .0.name())]
    Reset(Code),
    #[error("the server broke a rule of HTTP/2 on it ({0})")]
    Fault(Fault),
    /// Headers or trailers have so many bytes, more than this node takes.
    #[error("headers or trailers of {0} bytes are too large")]
    TooLarge(usize),
    /// This side reset it, because the rest of the request will not come.
    #[error("the rest of the request did not come")]
    GivenUp,
}
