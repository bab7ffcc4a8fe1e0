//! HTTP/2 for a relay.
#![forbid(unsafe_code)]

pub mod fault;
pub mod hpack;

/// Bounds
pub struct Limits;
