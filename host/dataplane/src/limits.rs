//! What bounds the work that clients can cause: connections, calls that they give up, names that
//! nobody has, places at endpoints, lines in the log, and how long something may stay unused.
//!
//! Nothing in it knows of HTTP/2 or of a call. Whoever takes a connection or a call asks it first,
//! and says what to do with a no.

pub(crate) mod connection_limit;
pub(crate) mod lookups;
pub(crate) mod rate_limited_log;
pub(crate) mod share;
pub(crate) mod stream_idle;
pub(crate) mod token_bucket;
pub(crate) mod usage;

/// How many calls a connection may give up right after it began them, beside one for each that it
/// waited for, and how many more a second. The numbers are those of nghttp2 for resets
/// (`nghttp2_option_set_stream_reset_rate_limit`).
pub(crate) const GIVEN_UP: (u32, u32) = (1000, 33);
