//! What `proto/waymark/v1` compiles to, client and server; see `host/tests/generated.rs`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated code; the proto has the documentation"
)]

include!("generated/waymark.v1.rs");

/// The descriptors of the above, for reflection.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!("generated/waymark.bin");
