//! Small pieces of a body that have arrived together go on as one.
//!
//! Peers count frames that carry little, because a frame costs them more than its bytes: servers
//! and clients on `h2` end a connection when so many are there that nobody has read, and to an
//! instance that is the connection of all clients. So when a small piece is read, what else has
//! arrived is put together with it; nothing is waited for, so a message that comes alone goes on as
//! soon as it would. A piece that comes alone, as nearly all do, costs one more look at its stream
//! and no copy.

use bytes::{Bytes, BytesMut};

/// What is smaller is put together with what follows it. Large pieces pay for themselves, and are
/// not copied.
const SMALL: usize = 1024;

/// What is put together is no longer than this, as HTTP/2 frames are by default at most 16 KiB (RFC
/// 9113, section 6.5.2).
const MOST: usize = 16 << 10;

/// Whether a piece is to be put together with what has arrived behind it.
pub(crate) fn is_small(data: &Bytes) -> bool {
    data.len() < SMALL
}

/// Small pieces, one behind the other.
pub(crate) enum Merged {
    One(Bytes),
    Many(BytesMut),
}

impl Merged {
    pub(crate) fn new(first: Bytes) -> Self {
        Self::One(first)
    }

    /// Whether this piece may be added.
    pub(crate) fn takes(&self, data: &Bytes) -> bool {
        is_small(data) && self.len() + data.len() <= MOST
    }

    fn len(&self) -> usize {
        match self {
            Self::One(data) => data.len(),
            Self::Many(data) => data.len(),
        }
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, data: &Bytes) {
        match self {
            _ if data.is_empty() => {}
            Self::One(first) if first.is_empty() => *first = data.clone(),
            Self::One(first) => {
                let mut many = BytesMut::with_capacity((first.len() + data.len()).max(SMALL));
                many.extend_from_slice(first);
                many.extend_from_slice(data);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.extend_from_slice(data),
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::One(data) => data,
            Self::Many(data) => data.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_put_together_up_to_a_frame_and_one_alone_is_not_copied() {
        let alone = Bytes::from(vec![1; 10]);
        let mut merged = Merged::new(alone.clone());
        merged.push(&Bytes::new());
        assert_eq!(merged.into_bytes().as_ptr(), alone.as_ptr());
        let piece = Bytes::from(vec![7; SMALL - 1]);
        let (mut merged, mut n) = (Merged::new(Bytes::new()), 0);
        while merged.takes(&piece) {
            merged.push(&piece);
            n += 1;
        }
        assert!(!merged.takes(&Bytes::from(vec![7; SMALL])));
        let bytes = merged.into_bytes();
        assert!(bytes.len() == n * (SMALL - 1) && bytes.len() <= MOST && bytes.len() + piece.len() > MOST);
    }
}
