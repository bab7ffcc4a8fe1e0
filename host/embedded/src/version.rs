//! The etcd whose behaviour is followed, and who follows it.

/// What the server says of its own version.
pub(super) const VERSION: &str = concat!("3.5.30+waymark-", env!("CARGO_PKG_VERSION"));

/// The version of its cluster, and of what it stores.
pub(super) const STORAGE_VERSION: &str = "3.5.0";
