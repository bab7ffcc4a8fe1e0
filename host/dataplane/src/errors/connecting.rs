//! Why an endpoint could not be connected to, and why a connection to one was lost.

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::time::error::Elapsed;
use waymark_net::address_filter::AddressError;

use super::http2::ConnectionError;
use crate::transport::tls::HandshakeError;

/// Why an endpoint could not be connected to.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("cannot connect")]
    Socket(#[source] io::Error),
    #[error("no connection within {} ms", .after.as_millis())]
    TimedOut {
        after: Duration,
        #[source]
        cause: Elapsed,
    },
    #[error("TLS with it failed")]
    Tls(#[source] HandshakeError),
    #[error(
        "what listens there does not speak HTTP/2 in cleartext (where it speaks TLS: `tls` of the [[service]] or [endpoints.tls])"
    )]
    NotHttp2(#[source] Option<Arc<ConnectionError>>),
    #[error("what listens there does not speak HTTP/2, although it agreed to")]
    NotHttp2InTls(#[source] Option<Arc<ConnectionError>>),
    #[error("the connection was lost after {} ms", .after.as_millis())]
    Lost {
        after: Duration,
        #[source]
        cause: LostError,
    },
}

/// How an established connection was lost.
#[derive(Debug, Error)]
pub(crate) enum LostError {
    #[error("HTTP/2 failed")]
    Http2(#[source] Arc<ConnectionError>),
    #[error("the server answered no ping within {} s", .0.as_secs())]
    KeepAlive(Duration),
}
