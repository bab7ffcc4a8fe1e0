//! Why the demo could not go on. What it finds out about calls and shares is no error: that is in
//! its report.

use std::{io, net::SocketAddr};

use thiserror::Error;

use crate::{admin::ClientError, app::AppError, registry::RegistryError};

/// Why the demo could not go on. Everything it had started has been stopped.
#[derive(Debug, Error)]
pub(super) enum DemoError {
    /// The node does not start.
    #[error("the demo's node does not start")]
    Node(#[from] AppError),
    /// The node's API refused or failed.
    #[error("the demo's node did not {what}")]
    Api {
        /// What it was asked to do.
        what: String,
        /// Its answer.
        #[source]
        source: ClientError,
    },
    /// The registry did not do what it was asked.
    #[error("the demo cannot use the registry")]
    Registry(#[from] RegistryError),
    /// Somebody else's instances stand where the demo wants to put its own.
    #[error(
        "the registry has instances under the demo's keys that do not go away: {keys}. Another demo may be running against \
         this registry; wait for its end, or take another registry"
    )]
    Occupied {
        /// Their keys.
        keys: String,
    },
    /// An instance does not start.
    #[error("the instance of {service} on {listen} {problem}; it said:\n  {said}")]
    Instance {
        /// The service.
        service: String,
        /// Where it was to listen.
        listen: SocketAddr,
        /// What happened.
        problem: String,
        /// The end of its standard error.
        said: String,
    },
    /// A client cannot connect to the node.
    #[error("a client of the demo cannot connect to {address}")]
    Dial {
        /// The node's proxy.
        address: SocketAddr,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something that had to happen did not.
    #[error("{what} did not happen within {seconds} s")]
    Overdue {
        /// What.
        what: String,
        /// How long the demo waited.
        seconds: u64,
    },
    /// The bundled component that is put into a file is not there.
    #[error("this build has no bundled policy {0:?}")]
    NoPolicy(&'static str),
    /// A name that no header can hold.
    #[error("the service name {0:?} does not fit into a header")]
    Header(String),
}
