//! Which watchers a key concerns, without asking each of them.
//!
//! Three tables, by what the watcher watches: single keys (a hash map), prefixes (a hash map, asked
//! once per prefix length in use), and every other range (a sorted map of segments). Registry
//! watchers are of the first two kinds, so a change costs as many look-ups as there are prefix
//! lengths, however many watchers there are.
//!
//! ```text
//!   ranges [b, f) by x and [d, ..) by y, as segments:      b:{x}   d:{x,y}   f:{y}
//!   a key belongs to the last segment at or before it:    "a" none   "c" x   "e" x,y   "z" y
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use bytes::Bytes;

use super::key_range::KeyRange;

/// Values of type `T` by the range of keys each of them is about.
#[derive(Debug)]
pub(super) struct SpanIndex<T> {
    keys: HashMap<Bytes, BTreeSet<T>>,
    prefixes: HashMap<Bytes, BTreeSet<T>>,
    /// How many distinct prefixes of each length there are.
    prefix_lengths: BTreeMap<usize, usize>,
    segments: BTreeMap<Bytes, BTreeSet<T>>,
}

impl<T> Default for SpanIndex<T> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            prefix_lengths: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Copy> SpanIndex<T> {
    pub(super) fn insert(&mut self, range: &KeyRange, value: T) {
        if let KeyRange::Key(key) = range {
            self.keys.entry(key.clone()).or_default().insert(value);
        } else if let Some(prefix) = range.prefix() {
            let values = self.prefixes.entry(prefix.clone()).or_default();
            if values.is_empty() {
                *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
            }
            values.insert(value);
        } else if let Some((start, end)) = segment_bounds(range) {
            self.split(start);
            if let Some(end) = end {
                self.split(end);
            }
            for values in self.covered(start, end) {
                values.insert(value);
            }
        }
    }

    /// Undoes [`Self::insert`] with the same range and value.
    pub(super) fn remove(&mut self, range: &KeyRange, value: T) {
        if let KeyRange::Key(key) = range {
            remove_from(&mut self.keys, key, &value);
        } else if let Some(prefix) = range.prefix() {
            if remove_from(&mut self.prefixes, prefix, &value)
                && let Some(count) = self.prefix_lengths.get_mut(&prefix.len())
            {
                *count -= 1;
                if *count == 0 {
                    self.prefix_lengths.remove(&prefix.len());
                }
            }
        } else if let Some((start, end)) = segment_bounds(range) {
            for values in self.covered(start, end) {
                values.remove(&value);
            }
            self.join(start);
            if let Some(end) = end {
                self.join(end);
            }
        }
    }

    /// The values whose range contains `key`, each once.
    pub(super) fn at<'i>(&'i self, key: &'i [u8]) -> impl Iterator<Item = T> + 'i {
        let single = self.keys.get(key).into_iter().flatten();
        let prefixes = self
            .prefix_lengths
            .range(..=key.len())
            .filter_map(|(length, _)| self.prefixes.get(&key[..*length]))
            .flatten();
        let segment = self
            .segments
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .into_iter()
            .flat_map(|(_, values)| values);
        single.chain(prefixes).chain(segment).copied()
    }

    fn covered(&mut self, start: &[u8], end: Option<&Bytes>) -> impl Iterator<Item = &mut BTreeSet<T>> {
        let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        self.segments.range_mut::<[u8], _>((Bound::Included(start), end)).map(|(_, values)| values)
    }

    /// What holds just before `boundary`.
    fn before(&self, boundary: &[u8]) -> Option<&BTreeSet<T>> {
        let earlier = (Bound::Unbounded, Bound::Excluded(boundary));
        self.segments.range::<[u8], _>(earlier).next_back().map(|(_, values)| values)
    }

    /// Makes sure a segment begins at `boundary`.
    fn split(&mut self, boundary: &Bytes) {
        if !self.segments.contains_key(boundary) {
            let values = self.before(boundary).cloned().unwrap_or_default();
            self.segments.insert(boundary.clone(), values);
        }
    }

    /// Drops the boundary if nothing changes there any more.
    fn join(&mut self, boundary: &Bytes) {
        let before = self.before(boundary);
        let same = match self.segments.get(boundary) {
            Some(values) => before.map_or(values.is_empty(), |before| before == values),
            None => false,
        };
        if same {
            self.segments.remove(boundary);
        }
    }
}

fn segment_bounds(range: &KeyRange) -> Option<(&Bytes, Option<&Bytes>)> {
    match range {
        KeyRange::Range { start, end } if !range.is_empty() => Some((start, Some(end))),
        KeyRange::From(start) => Some((start, None)),
        _ => None,
    }
}

/// Removes a value, and its key with the last one. Whether the key is gone.
fn remove_from<T: Ord>(table: &mut HashMap<Bytes, BTreeSet<T>>, key: &Bytes, value: &T) -> bool {
    let Some(values) = table.get_mut(key) else { return false };
    values.remove(value);
    let gone = values.is_empty();
    if gone {
        table.remove(key);
    }
    gone
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, b'a', b'b', u8::MAX]), 1..4)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        let end = prop_oneof![Just(vec![]), Just(vec![0]), any_key()];
        let prefix = any_key().prop_map(|key| {
            let mut end = key.clone();
            let last = end.len() - 1;
            end[last] = end[last].saturating_add(1);
            KeyRange::new(&key, &end)
        });
        prop_oneof![(any_key(), end).prop_map(|(key, end)| KeyRange::new(&key, &end)), prefix]
    }

    proptest! {
        #[test]
        fn it_finds_what_a_scan_of_all_spans_finds(
            ranges in prop::collection::vec((any_range(), any::<bool>()), 0..12),
            keys in prop::collection::vec(any_key(), 1..12),
        ) {
            let mut index = SpanIndex::default();
            for (id, (range, _)) in ranges.iter().enumerate() {
                index.insert(range, id);
            }
            for (id, (range, _)) in ranges.iter().enumerate().filter(|(_, (_, removed))| *removed) {
                index.remove(range, id);
            }
            for key in &keys {
                let mut found: Vec<_> = index.at(key).collect();
                found.sort_unstable();
                let scanned: Vec<_> = ranges
                    .iter()
                    .enumerate()
                    .filter(|(_, (range, removed))| !removed && range.contains(key))
                    .map(|(id, _)| id)
                    .collect();
                prop_assert_eq!(found, scanned);
            }
            for (id, (range, _)) in ranges.iter().enumerate().filter(|(_, (_, removed))| !removed) {
                index.remove(range, id);
            }
            prop_assert!(index.keys.is_empty() && index.prefixes.is_empty() && index.prefix_lengths.is_empty());
            prop_assert!(index.segments.is_empty(), "left: {:?}", index.segments);
        }
    }
}
