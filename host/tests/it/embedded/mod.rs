//! The embedded registry over the wire, through the real `etcd-client`.
//!
//! What is a claim about etcd runs twice: on the embedded registry and on a real etcd, so that the
//! tests themselves are proved. The real one is the program named by `WAYMARK_TEST_ETCD`, else
//! `etcd` on the `PATH`; without it those tests say that they were skipped, and fail if
//! `REQUIRE_ETCD=1`.

mod accounts;
mod differential;
mod etcdctl;
pub(crate) mod fixture;
mod kv;
mod lease;
mod pages;
mod server;
mod snapshot;
mod turns;
mod txn;
mod watch;
