//! What `proto/waymark/v1` compiles to, client and server.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated code; the proto has the documentation"
)]

tonic::include_proto!("waymark.v1");

/// The descriptors of the above, for reflection.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/waymark.bin"));
