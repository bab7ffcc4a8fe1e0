//! An etcd in the process: the etcd v3 protocol on a loopback port, in memory.
//!
//! The node always speaks to its registry through an etcd client. With no etcd given, it starts this server and connects to
//! it, so there is one code path and one set of semantics: revisions, leases, transactions, watches with resume and
//! compaction, error codes and their texts are those of etcd 3.5.
//!
//! What it is **not**: it runs in one process on one machine, replicates nothing and stores nothing. All data and leases are
//! gone when it exits. It serves on loopback unless told otherwise, without TLS and without authentication. It lacks the Lock
//! and Election services (clients that build them on KV, Lease and Watch, as `etcdctl` does, work), snapshots, downgrades,
//! membership changes, users and roles, and HTTP/JSON. Clients of etcd 3.4 that name an endpoint with its scheme
//! (`http://`) put that into `:authority`, which the HTTP/2 library here refuses: leave the scheme out for those.
//!
//! Anything past one machine uses a real etcd cluster.
//!
//! # Layers
//!
//! ```text
//!   server, incoming, api                  listen, stop, find the service
//!   kv  lease_api  watch_api  cluster  maintenance  auth      one gRPC service each
//!   shared                                 the lock, the time, the timers
//!   ─────────────────────────────────────  below: no I/O, no clock, no tasks
//!   machine                                requests and time in, answers and messages out
//!   txn  keyspace                          writes on an open revision
//!   query  watch  index                    reads; who is told what
//!   store  lease  span  refusal            versions, log; leases; key ranges; etcd's errors
//! ```
//!
//! # Where it differs from etcd
//!
//! - It starts at the unix time in microseconds instead of revision 1, with what lies before counted as compacted, and with
//!   a random cluster id, so that clients of an earlier life notice.
//! - Expired leases end within milliseconds; etcd looks every 500 ms.
//! - History is compacted by itself; see [`AutoCompaction`].
//! - Progress notifications come every 10 s rather than every 10 minutes.
//! - A message of replayed history ends at about a mebibyte, also without fragments, so that clients can read it.

mod api;
mod auth;
mod cluster;
mod incoming;
mod index;
mod keyspace;
mod kv;
mod lease;
mod lease_api;
mod machine;
mod maintenance;
mod query;
mod refusal;
mod server;
mod shared;
mod span;
mod store;
mod txn;
mod watch;
mod watch_api;

pub use self::{
    server::{EmbeddedError, Handle, Options, Server},
    store::AutoCompaction,
};

#[cfg(test)]
mod tests;
