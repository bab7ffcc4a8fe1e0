//! Integration tests: one binary, a module for each part of the node.
#![allow(clippy::unwrap_used, reason = "tests")]

mod dataplane;
