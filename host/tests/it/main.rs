//! Tests of the node's parts together, over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admin;
