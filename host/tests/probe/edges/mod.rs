//! The edges: for each rule of etcd that a registry leans on, the calls that show it.

mod kv;
mod lease;
mod other;
mod txn;
mod watch;

use super::script::Script;

/// Adds all of them.
pub(crate) fn add(script: &mut Script) {
    kv::add(script);
    txn::add(script);
    lease::add(script);
    watch::add(script);
    other::add(script);
}
