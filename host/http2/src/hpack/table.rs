//! The dynamic table (RFC 7541, section 2.3.2), of either side.
//!
//! ```text
//!   bytes    [ evicted │ oldest … │ … │ … newest ]   names that are known are not in it
//!   entries            front            back
//! ```
//!
//! The bytes of all entries lie one after the other. Those of evicted entries are moved out when
//! they are as many as the table may hold: a move a table's worth of insertions, and no allocation
//! an entry.

use std::collections::VecDeque;

use super::{Known, OVERHEAD};
use crate::fault::Fault;

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Where its bytes begin, counted from the first byte ever inserted, and wrapping.
    start: u32,
    /// Of the bytes; 0 for a known name.
    name_len: u32,
    value_len: u32,
    pub(super) hash: u32,
    pub(super) known: Known,
    /// What is wrong with it, so that it is not looked at again.
    pub(super) flaw: Option<Fault>,
}

impl Entry {
    fn size(&self) -> usize {
        let name = if self.known == Known::Other { self.name_len as usize } else { self.known.name().len() };
        name + self.value_len as usize + OVERHEAD
    }
}

#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    /// What `start` is of the first byte.
    base: u32,
    /// The oldest one first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// How many were ever inserted, wrapping. The newest one's number is one less.
    inserted: u32,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), base: 0, entries: VecDeque::new(), size: 0, max, inserted: 0 }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
    }

    /// Makes room for an entry of this size, if that can be.
    fn evict(&mut self, size: usize) {
        while self.size + size > self.max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.size -= oldest.size();
        }
    }

    /// Inserts an entry; one that is larger than the table empties it (RFC 7541, section 4.4).
    /// `name` is left out for a known name. Returns whether it is in.
    pub(super) fn insert(&mut self, known: Known, name: &[u8], value: &[u8], hash: u32, flaw: Option<Fault>) -> bool {
        let mut entry =
            Entry { start: 0, name_len: name.len() as u32, value_len: value.len() as u32, hash, known, flaw };
        let size = entry.size();
        self.evict(size);
        if size > self.max {
            return false;
        }
        let oldest = self.entries.front().map_or(self.bytes.len(), |entry| self.place(entry));
        if oldest >= self.max {
            self.bytes.drain(..oldest);
            self.base = self.base.wrapping_add(oldest as u32);
        }
        entry.start = self.base.wrapping_add(self.bytes.len() as u32);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += size;
        self.entries.push_back(entry);
        self.inserted = self.inserted.wrapping_add(1);
        true
    }

    /// The entry with this index; the newest one has 0.
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(self.entries.len().checked_sub(index + 1)?)
    }

    /// The index of the entry with this number, if it is still there.
    pub(super) fn index(&self, number: u32) -> Option<usize> {
        let age = self.inserted.wrapping_sub(number).wrapping_sub(1) as usize;
        (age < self.entries.len()).then_some(age)
    }

    fn place(&self, entry: &Entry) -> usize {
        entry.start.wrapping_sub(self.base) as usize
    }

    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        if entry.known == Known::Other {
            let start = self.place(entry);
            &self.bytes[start..start + entry.name_len as usize]
        } else {
            entry.known.name().as_bytes()
        }
    }

    pub(super) fn value(&self, entry: &Entry) -> &[u8] {
        let start = self.place(entry) + entry.name_len as usize;
        &self.bytes[start..start + entry.value_len as usize]
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}
