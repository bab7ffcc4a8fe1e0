//! Integration tests: one binary, a module for each part of the node.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod address_filter;
mod admin;
#[path = "../drills/belief.rs"]
#[allow(dead_code, reason = "what the fault drills compare by, tested here")]
mod belief;
mod catalogue;
mod certificates;
mod compiling;
mod conformance;
mod control;
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
mod settings;
mod signals;
mod text;
mod tls_files;
