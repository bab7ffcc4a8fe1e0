//! What is to be written next, as few pieces.
//!
//! ```text
//!   small   [ SETTINGS HEADERS DATA │ DATA-head │ WINDOW_UPDATE … ]
//!                                   ▲           ▲
//!   large                       (after …, Bytes) (after …, Bytes)
//! ```
//!
//! Frames and small data are written one after the other into one buffer, which is used again when
//! all of it is gone. Large data stays where it is, and only its place between them is noted. So a
//! call's frames make one piece, and no data of any size is copied that costs more than a piece
//! does.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Up to here copying is cheaper than one more piece in a write.
const SMALL: usize = 4096;
/// What is written of the small buffer is moved out when it is as much as this.
const STALE: usize = 64 << 10;
/// A buffer that grew above this is not kept.
const KEPT: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Output {
    small: Vec<u8>,
    /// How much of `small` is written.
    written: usize,
    /// After how many bytes of `small` each comes.
    large: VecDeque<(usize, Bytes)>,
    large_len: usize,
    /// How much was ever written.
    total: u64,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.small.len() - self.written + self.large_len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much was ever written.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The buffer, to write frames to its end.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL {
            self.small.extend_from_slice(&bytes);
        } else {
            self.large_len += bytes.len();
            self.large.push_back((self.small.len(), bytes));
        }
    }

    /// The pieces in their order, as many as fit. Returns how many.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut places = into.iter_mut();
        let mut count = 0;
        let mut at = self.written;
        let mut put = |piece: &'a [u8]| {
            if piece.is_empty() {
                return true;
            }
            let Some(place) = places.next() else { return false };
            *place = IoSlice::new(piece);
            count += 1;
            true
        };
        let all = self.large.iter().all(|(after, bytes)| {
            let before = &self.small[at..*after];
            at = *after;
            put(before) && put(bytes)
        });
        if all {
            put(&self.small[at..]);
        }
        count
    }

    /// Takes out what was written.
    pub(crate) fn written(&mut self, mut count: usize) {
        self.total += count as u64;
        while let Some((after, bytes)) = self.large.front_mut() {
            let before = (*after - self.written).min(count);
            self.written += before;
            count -= before;
            if self.written < *after || count == 0 {
                break;
            }
            let part = bytes.len().min(count);
            bytes.advance(part);
            count -= part;
            self.large_len -= part;
            if !bytes.is_empty() {
                break;
            }
            self.large.pop_front();
        }
        self.written = (self.written + count).min(self.small.len());
        if self.written == self.small.len() && self.large.is_empty() {
            self.small.clear();
            self.written = 0;
            if self.small.capacity() > KEPT {
                self.small = Vec::new();
            }
        } else if self.written >= STALE {
            self.small.drain(..self.written);
            for (after, _) in &mut self.large {
                *after -= self.written;
            }
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_comes_out_in_order(
            pieces in prop::collection::vec((0..3_usize, 0..9000_usize), 1..30),
            writes in prop::collection::vec((1..5_usize, 1..40_000_usize), 1..30),
        ) {
            let mut output = Output::default();
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            let mut writes = writes.iter().cycle();
            let mut write = |output: &mut Output, seen: &mut Vec<u8>| {
                let &(places, most) = writes.next().expect("a cycle");
                let mut slices = [IoSlice::new(&[]); 5];
                let count = output.slices(&mut slices[..places]);
                let mut wrote: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                wrote.truncate(most);
                output.written(wrote.len());
                seen.extend(wrote);
            };
            for (at, (kind, length)) in pieces.into_iter().enumerate() {
                let piece = vec![at as u8; length];
                expected.extend_from_slice(&piece);
                match kind {
                    0 => output.buffer().extend_from_slice(&piece),
                    _ => output.push(piece.into()),
                }
                if kind == 2 {
                    write(&mut output, &mut seen);
                }
                prop_assert_eq!(output.len(), expected.len() - seen.len());
            }
            while !output.is_empty() {
                write(&mut output, &mut seen);
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
