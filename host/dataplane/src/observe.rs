//! What can be seen of calls from outside: `metrics` counts them, `access` logs them, and `orca`
//! reads what servers report of their load.
//!
//! A call holds one `record::RequestRecord`, which tells the metrics and the access log how it
//! went.

pub(crate) mod access;
pub(crate) mod metrics;
pub(crate) mod orca;
pub(crate) mod record;
