//! The canonical ABI, generated from `wit/` by `cargo run -p waymark-plugins-builder -- bindings`. Not for reading, and not
//! part of this crate's interface: what a plugin may use of it is exported by name from the modules above.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated code"
)]

pub mod balancer;
pub mod key_scheme;
