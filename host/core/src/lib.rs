//! What the parts of Waymark share: services and endpoints, snapshots, the two decisions as traits,
//! and what is set of calls.
//!
//! ```text
//!   backoff                 pauses between attempts
//!   secret                  passwords and tokens, which are never shown
//!   text  exposition        foreign text made printable; figures in the OpenMetrics format
//!   model                   names, addresses, endpoints, revisions, updates
//!   naming   policy         the two decisions that plugins take, as traits
//!   snapshot                the endpoints of a service at one revision, for many readers
//!   check    traffic        settings of health checks and of calls
//! ```
//!
//! Nothing here opens a socket, starts a task or knows a wire format.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod check;
pub mod exposition;
pub mod model;
pub mod naming;
pub mod policy;
pub mod secret;
pub mod snapshot;
pub mod text;
pub mod traffic;
