//! Header compression (RFC 7541).
//!
//! ```text
//!   wire ──Decoder──▶ Block: one buffer and an index of it ──edit──▶ Encoder ──▶ wire
//!            │          names known, values checked and hashed          │
//!          Table        once, where they come in                      Table + hash of it
//! ```
//!
//! What the decoder found out of a field stays with it: its [`Known`] name, whether it is an entry
//! of the static table, and its hash. So a field that came in as an index goes out as one for a
//! look-up and a comparison, though the indexes of the two connections have nothing in common.

mod block;
mod decoder;
mod encoder;
pub(crate) mod huffman;
mod known;
mod scan;
mod table;

pub use block::{Block, Field, Invalid};
pub use decoder::Decoder;
pub(crate) use decoder::Read;
pub use encoder::Encoder;
pub use known::Known;

/// What an entry counts beside the bytes of its name and value (RFC 7541, section 4.1).
pub(crate) const OVERHEAD: usize = 32;

/// When the encoder puts a field into its dynamic table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// At once: few values, and the same ones in every call.
    Once,
    /// When it has been seen lately, or when there is no entry with its name yet.
    Seen,
    /// Only when there is no entry with its name yet: the value is another one each time, and would
    /// push out what is of use.
    Volatile,
    /// Never, and nobody after us shall either (RFC 7541, section 7.1.3).
    Never,
}
