//! What stands in requests and answers: headers and trailers and their size, timeouts, status
//! codes, the authority and the service that a request names, and pieces of bodies.
//!
//! Each file reads and writes one of these. None of them connects to anything or waits.

pub(crate) mod authority;
pub(crate) mod fields;
pub(crate) mod forwarded;
pub(crate) mod header_size;
pub(crate) mod hops;
pub(crate) mod merge;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod timeout;
