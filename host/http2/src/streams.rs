//! The streams of a connection, by number and by place, and what is remembered of those that are
//! gone.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::stream::Stream;

/// A stream of a connection: its number, and where it is kept, so that it need not be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(crate) number: u32,
    pub(crate) place: u32,
}

impl StreamId {
    /// Its number in frames.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Where it is kept: a small number that no other open stream has, for a table of the owner's.
    /// It is used again when the stream is gone, of which the owner may have events to take still.
    pub fn place(self) -> usize {
        self.place as usize
    }
}

/// Spreads the numbers, which are consecutive.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // The low bits choose the place, and would be those of the number alone.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
    places: HashMap<u32, u32, BuildHasherDefault<Spread>>,
    /// The one that was looked for last: frames of a stream often come one after the other.
    last: (u32, u32),
}

impl Streams {
    pub(crate) fn insert(&mut self, stream: Stream) -> StreamId {
        let number = stream.number;
        let place = if let Some(place) = self.free.pop() {
            self.slots[place as usize] = Some(stream);
            place
        } else {
            self.slots.push(Some(stream));
            self.slots.len() as u32 - 1
        };
        self.places.insert(number, place);
        self.last = (number, place);
        StreamId { number, place }
    }

    pub(crate) fn find(&mut self, number: u32) -> Option<StreamId> {
        if self.last.0 != number {
            self.last = (number, *self.places.get(&number)?);
        }
        Some(StreamId { number, place: self.last.1 })
    }

    pub(crate) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.slots.get_mut(id.place as usize)?.as_mut().filter(|stream| stream.number == id.number)
    }

    /// The stream at this place, whatever its number.
    pub(crate) fn at(&mut self, place: u32) -> Option<&mut Stream> {
        self.slots.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        self.get(id)?;
        self.places.remove(&id.number);
        self.last = (0, 0);
        self.free.push(id.place);
        self.slots[id.place as usize].take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.places.iter().map(|(&number, &place)| StreamId { number, place }).collect();
        ids.sort_unstable_by_key(|id| id.number);
        ids
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }
}

/// How a stream ended that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// By our reset: the peer may not know yet.
    Reset,
    /// Otherwise: the peer knows.
    Ended,
    /// It is too long ago to know.
    Forgotten,
}

/// Of the last streams, whether we reset them: a bit each.
#[derive(Debug)]
pub(crate) struct Remembered {
    bits: Vec<u64>,
    last: u32,
    streams: u32,
}

impl Remembered {
    /// Of so many streams, a multiple of 64.
    pub(crate) fn new(streams: u32) -> Self {
        Self { bits: Vec::new(), last: 0, streams }
    }

    /// Notes that a stream with this number, higher than all before, is there.
    pub(crate) fn began(&mut self, number: u32) {
        if !self.bits.is_empty() {
            let end = number / 2 + 1;
            let past = (end - (self.last / 2 + 1).min(end)).min(self.streams);
            let mut at = end - past;
            while at < end {
                // By words, so that numbers that are left out cost nothing.
                let word = &mut self.bits[(at % self.streams) as usize / 64];
                if at.is_multiple_of(64) && end - at >= 64 {
                    *word = 0;
                    at += 64;
                } else {
                    *word &= !(1 << (at % 64));
                    at += 1;
                }
            }
        }
        self.last = number;
    }

    pub(crate) fn reset(&mut self, number: u32) {
        if self.bits.is_empty() {
            self.bits = vec![0; self.streams as usize / 64];
        }
        if (self.last.saturating_sub(number)) / 2 < self.streams {
            let at = (number / 2) % self.streams;
            self.bits[at as usize / 64] |= 1 << (at % 64);
        }
    }

    pub(crate) fn how(&self, number: u32) -> Gone {
        if self.last.saturating_sub(number) / 2 >= self.streams {
            return Gone::Forgotten;
        }
        let at = (number / 2) % self.streams;
        let reset = self.bits.get(at as usize / 64).is_some_and(|bits| bits & 1 << (at % 64) != 0);
        if reset { Gone::Reset } else { Gone::Ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{ReceiveWindow, SendWindow};

    #[test]
    fn a_place_that_is_used_again_is_another_stream() {
        let mut streams = Streams::default();
        let stream = |number| Stream::new(number, SendWindow::new(0), ReceiveWindow::new(0));
        let first = streams.insert(stream(1));
        assert_eq!(streams.find(1), Some(first));
        assert!(streams.remove(first).is_some());
        let second = streams.insert(stream(3));
        assert_eq!(second.place, first.place);
        assert!(streams.get(first).is_none() && streams.find(1).is_none());
        assert!(streams.remove(first).is_none());
        assert_eq!(streams.ids(), [second]);
    }

    #[test]
    fn resets_are_remembered_for_a_while() {
        let mut remembered = Remembered::new(64);
        remembered.began(1);
        remembered.reset(1);
        assert_eq!(remembered.how(1), Gone::Reset);
        remembered.began(3);
        assert_eq!(remembered.how(3), Gone::Ended);
        assert_eq!(remembered.how(1), Gone::Reset);
        remembered.began(1 + 128);
        assert_eq!(remembered.how(1), Gone::Forgotten);
        assert_eq!(remembered.how(3), Gone::Ended);
        for number in (131..).step_by(2).take(300) {
            remembered.began(number);
            assert_eq!(remembered.how(number), Gone::Ended);
            remembered.reset(number);
            if number > 131 + 2 * 63 {
                assert_eq!(remembered.how(number - 2 * 63), Gone::Reset);
            }
        }
        remembered.reset(129);
        remembered.began(1_000_001);
        assert_eq!(remembered.how(1_000_001), Gone::Ended);
        assert_eq!(remembered.how(129), Gone::Forgotten);
    }
}
