//! An etcd in the process: the etcd v3 protocol on a loopback port, in memory.
//!
//! The node always speaks to its registry through an etcd client. With no etcd given, it starts
//! this server and connects to it, so there is one code path and one set of semantics: revisions,
//! leases, transactions, watches with resume and compaction, error codes and their texts are those
//! of etcd 3.5.
//!
//! What it is **not**: it runs in one process on one machine, replicates nothing and stores
//! nothing. All data and leases are gone when it exits. It serves on loopback unless told
//! otherwise, without TLS and without authentication: users and roles are kept and asked for
//! nothing, and cannot be enabled. It lacks downgrades, membership changes and the JSON gateway
//! (`/v3/...`); `/health`, `/livez`, `/readyz`, `/version` and `/metrics` are there. Clients of
//! etcd 3.4 that name an endpoint with its scheme (`http://`) put that into `:authority`, which the
//! HTTP/2 library here refuses: leave the scheme out for those.
//!
//! Anything past one machine uses a real etcd cluster.
//!
//! # Layers
//!
//! ```text
//!   server, incoming, api    listen, stop, find the service
//!   pages, call_metrics      pages without gRPC; how many calls there were
//!   kv  lease_api  watch_api  cluster  maintenance  auth  lock_api  election_api      one gRPC service each
//!   concurrency, rpc         what locks and elections share; services without stubs
//!   snapshot, bolt           the data as a file of etcd's
//!   shared                   the lock, the time, the timers
//!   ───────────────────────  below: no I/O, no clock, no tasks
//!   state_machine            requests and time in, answers and messages out
//!   txn  keyspace            writes on an open revision
//!   query  watch  index      reads; who is told what
//!   store  lease             versions, log; leases
//!   auth_store  key_range  error     users, roles; ranges of keys; etcd's errors
//! ```
//!
//! # Where it differs from etcd
//!
//! - It starts at the unix time in microseconds instead of revision 1, with what lies before
//!   counted as compacted, and with a random cluster id, so that clients of an earlier life notice.
//! - Expired leases end within milliseconds; etcd looks every 500 ms.
//! - History is compacted by itself; see [`AutoCompaction`].
//! - Progress notifications come every 10 s rather than every 10 minutes.
//! - A message of replayed history ends at about a mebibyte, also without fragments, so that
//!   clients can read it.
//! - Who observes an election is answered at once, and not when there is a leader.
//! - A waiter for a lock or an election holds its place in line by the lease alone, which its
//!   client keeps alive.
//!
//! # What others' suites say
//!
//! Run on an etcd 3.6.x and on this one (`.ci/suites`, and by hand where the tests are in no
//! package registry):
//!
//! | suite | etcd 3.6 | here | what differs |
//! |---|---|---|---|
//! | Node `etcd3` 1.1.2, its mocha tests without TLS | 155 | 149 | six need authentication (password auth, and a watch that is denied) |
//! | Python `etcd3` 0.12.0, its tests on one member | 77 of 82 | 76 | `test_compact` compacts revision 3, which lies before the start here |
//! | Rust `etcd-client` 0.21.1, its own tests | 25 | 22 | three need authentication (`test_auth*`) |
#![forbid(unsafe_code)]

mod api;
mod auth;
mod auth_store;
mod bolt;
mod call_metrics;
mod cluster;
mod concurrency;
mod election_api;
mod error;
mod incoming;
mod index;
mod key_range;
mod keyspace;
mod kv;
mod lease;
mod lease_api;
mod lock_api;
mod maintenance;
mod pages;
mod query;
mod rpc;
mod server;
mod shared;
mod snapshot;
mod state_machine;
mod store;
mod txn;
mod version;
mod watch;
mod watch_api;

pub use self::{
    server::{EmbeddedError, Handle, Options, Server},
    store::AutoCompaction,
};

#[cfg(test)]
mod tests;
