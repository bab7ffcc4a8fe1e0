//! Following services and registering instances, over the wire.
//!
//! As in `embedded`, what is a claim about etcd runs twice: on the embedded registry and on a real
//! etcd. Between us and it stands a gate that can be shut, so that losing the connection needs no
//! process to be killed.

mod diagnosis;
mod etcd_only;
mod fixture;
mod healing;
mod start;
mod tls;
