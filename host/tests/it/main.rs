//! Integration tests: one binary, a module for each part of the node.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod admin;
mod catalogue;
mod certificates;
mod conformance;
mod dataplane;
mod demo;
mod embedded;
mod follow_file;
mod go_interop;
mod guests;
mod interface;
mod node;
mod register;
mod registry;
#[allow(dead_code, reason = "shared with the fault drills")]
mod relay;
mod tls_files;
