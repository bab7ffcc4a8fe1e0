//! A hash ring: each endpoint stands on a circle at as many points as its weight says, and a key
//! belongs to the first point at or after it (Karger et al., "Consistent Hashing and Random Trees",
//! STOC 1997).
//!
//! How many points there are and where they stand is as in Envoy's `ring_hash` (`ring_hash_lb.cc`)
//! and gRPC's (proposal A42): point *i* of an endpoint is XXH64 of its name, `_`, and *i*; their
//! number is scaled so that the lightest endpoint has a whole number of them and there are at least
//! `min_size`, but not more than `max_size`.

use crate::prelude::*;
use crate::{host::push_decimal, xxh64};

/// The points of all endpoints, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring of the list of (name, weight). A weight of 0 gets no point.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = (&'a str, u32)>, min_size: u32, max_size: u32) -> Self {
        let mut named: Vec<(&str, u32, u32)> = (0u32..)
            .zip(endpoints)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(index, (name, weight))| (name, index, weight))
            .collect();
        // How the rounding below falls must not depend on the order of the list.
        named.sort_unstable();
        let sum = named.iter().map(|(_, _, weight)| u64::from(*weight)).sum::<u64>() as f64;
        let part = |weight: u32| f64::from(weight) / sum;
        let least = named.iter().map(|(_, _, weight)| part(*weight)).fold(1.0, f64::min);
        let scale = (ceil(least * f64::from(min_size)) / least).min(f64::from(max_size));

        let mut points = Vec::with_capacity(scale as usize + 1);
        // Running sums, so that what one endpoint loses by rounding the next one gains.
        let (mut placed, mut target) = (0.0, 0.0);
        for (name, index, weight) in named {
            target += scale * part(weight);
            let mut text = name.to_owned() + "_";
            let stem = text.len();
            let mut nth = 0;
            while placed < target {
                text.truncate(stem);
                push_decimal(&mut text, nth);
                points.push((xxh64(text.as_bytes(), 0), index));
                nth += 1;
                placed += 1.0;
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// The points: where each stands, and whose it is.
    pub fn points(&self) -> &[(u64, u32)] {
        &self.points
    }

    /// Whose a key is; none on an empty ring.
    pub fn owner(&self, key: u64) -> Option<u32> {
        let at = self.points.partition_point(|(point, _)| *point < key);
        self.points.get(at).or(self.points.first()).map(|(_, index)| *index)
    }

    /// The ring as a table for [`crate::Plan::HashTable`]: who owns each of `1 << bits` places that
    /// divide the circle evenly. An endpoint that goes moves only what it owned, as on the ring
    /// itself.
    ///
    /// Neighbours in the table stand far apart on the circle (at the reversed bits of their
    /// number): a host that finds an entry unusable takes the next one, which on the circle itself
    /// would mostly belong to the same endpoint.
    pub fn table(&self, bits: u32) -> Vec<u32> {
        (0u32..1 << bits).filter_map(|place| self.owner(u64::from(place.reverse_bits()) << 32)).collect()
    }
}

/// The least whole number that is not under `value`, which is from 0 to 2^32: the standard
/// library's is not in `core`.
fn ceil(value: f64) -> f64 {
    let whole = value as u64 as f64;
    if whole < value { whole + 1.0 } else { whole }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::hash::vectors;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("192.0.2.{n}:8080")).collect()
    }

    #[test]
    fn rings_are_those_of_the_published_algorithm() {
        for vector in vectors::of("ring") {
            let endpoints = vectors::endpoints(&vector);
            let named = endpoints.iter().map(|(name, weight)| (name.as_str(), *weight));
            let ring = Ring::new(named, vectors::number(&vector["min"]), vectors::number(&vector["max"]));
            assert_eq!(ring.points().len(), vectors::number(&vector["points"]) as usize, "{vector}");
            for (point, expected) in ring.points().iter().zip(vector["first"].as_array().unwrap()) {
                assert_eq!(*point, (vectors::hash(&expected[0]), vectors::number(&expected[1])), "{vector}");
            }
            let points = ring.points().iter().flat_map(|(point, index)| [*point, u64::from(*index)]);
            let bytes: Vec<u8> = points.flat_map(u64::to_le_bytes).collect();
            assert_eq!(xxh64(&bytes, 0), vectors::hash(&vector["digest"]), "{vector}");
            for key in vector["keys"].as_array().unwrap() {
                assert_eq!(ring.owner(vectors::hash(&key[0])), Some(vectors::number(&key[1])), "{key} of {vector}");
            }
        }
    }

    #[test]
    fn nobody_is_an_empty_ring_and_an_empty_table() {
        for endpoints in [&[][..], &[("a", 0)]] {
            let ring = Ring::new(endpoints.iter().copied(), 1024, 4096);
            assert_eq!((ring.points().len(), ring.owner(7), ring.table(4)), (0, None, vec![]));
        }
    }

    #[test]
    fn after_an_unusable_entry_the_next_ones_are_others() {
        let names = names(10);
        let ring = Ring::new(names.iter().map(|name| (name.as_str(), 1)), 1024, 4096);
        let table = ring.table(16);
        // Of ten endpoints, a look at 32 entries finds nobody else once in 10^32 places, not in
        // every other place.
        let stuck = (0..table.len()).filter(|at| (1..32).all(|next| table[(at + next) % table.len()] == table[*at]));
        assert_eq!(stuck.count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn an_endpoint_that_goes_moves_only_its_own_keys(n in 2usize..30, gone in 0usize..30) {
            // With points enough for each, so that the number of endpoints does not change how many
            // points one has.
            let (names, gone) = (names(n), gone % n);
            let ring = |keep: &dyn Fn(usize) -> bool| {
                let weights = (0..n).map(|at| u32::from(keep(at)));
                let kept = (0..n).filter(|at| keep(*at)).count() as u32;
                Ring::new(names.iter().map(String::as_str).zip(weights), kept * 100, kept * 100)
            };
            let (before, after) = (ring(&|_| true).table(14), ring(&|at| at != gone).table(14));
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(old == new || *old as usize == gone);
            }
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(n in 1usize..20, turn in 0usize..20) {
            let straight = names(n);
            let mut turned = straight.clone();
            turned.rotate_left(turn % n);
            let by_name = |names: &[String]| {
                let ring = Ring::new(names.iter().map(|name| (name.as_str(), 1)), 1024, 4096);
                ring.table(10).into_iter().map(|index| names[index as usize].clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(by_name(&straight), by_name(&turned));
        }
    }
}
