//! Maglev hashing: a table that spreads keys evenly over endpoints and changes little when one of
//! them comes or goes (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4).
//!
//! Hashes and weights are those of Envoy's `maglev` (`maglev_lb.cc`), so that the table is slot for
//! slot the one that Envoy makes of the same names; `vectors/` has such tables.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use crate::prelude::*;
use crate::xxh64;

/// The table size that the paper and Envoy use for a few hundred endpoints: shares differ by about
/// one percent.
pub const MAGLEV_TABLE_SIZE: u32 = 65_537;

/// A table of indexes into the list of (name, weight), for [`crate::Plan::HashTable`]. Name
/// endpoints by what stays theirs, such as their address, not by their place in the list, or a
/// removal moves everything.
///
/// `size` is raised to the next prime; take at least a hundred times the number of endpoints.
/// Endpoints take turns in filling it, and an endpoint with half the greatest weight has every
/// second turn, but everybody one in the first round. A weight of 0 gets nothing; no endpoint that
/// may get anything gives an empty table.
pub fn maglev_table<'a>(endpoints: impl IntoIterator<Item = (&'a str, u32)>, size: u32) -> Vec<u32> {
    let size = next_prime(size);
    let mut named: Vec<(&str, u32, u32)> = (0u32..)
        .zip(endpoints)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(index, (name, weight))| (name, index, weight))
        .collect();
    // Whose turn comes first must not depend on the order of the list.
    named.sort_unstable();
    // Parts of the whole in floats, as in Envoy: where a turn is due at the very end of a round,
    // rounding decides.
    let sum = named.iter().map(|(_, _, weight)| u64::from(*weight)).sum::<u64>() as f64;
    let part = |weight: u32| f64::from(weight) / sum;
    let greatest = named.iter().map(|(_, _, weight)| part(*weight)).fold(0.0, f64::max);
    let mut turns: Vec<Turn> =
        named.into_iter().map(|(name, index, weight)| Turn::new(name, index, part(weight), size)).collect();

    // By the round in which a turn is due, then by name. A heap and not a walk over all endpoints
    // in each round: beside one heavy endpoint, thousands of light ones have no turn in most
    // rounds.
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = (0..turns.len()).map(|at| Reverse((1, at))).collect();
    let mut table: Vec<Option<u32>> = vec![None; size as usize];
    for _ in 0..size {
        let Some(Reverse((round, at))) = due.pop() else { break };
        let turn = &mut turns[at];
        while table[turn.slot as usize].is_some() {
            turn.step(size);
        }
        table[turn.slot as usize] = Some(turn.index);
        turn.step(size);
        turn.target += greatest;
        due.push(Reverse((turn.due_after(round), at)));
    }
    table.into_iter().flatten().collect()
}

/// One endpoint's order of preference: every slot once, because the step and the size have nothing
/// in common.
struct Turn {
    index: u32,
    /// Its part of the whole weight, gained in each round.
    weight: f64,
    /// What it must have gained for its next turn.
    target: f64,
    slot: u32,
    skip: u32,
}

impl Turn {
    fn new(name: &str, index: u32, weight: f64, size: u32) -> Self {
        let slot = (xxh64(name.as_bytes(), 0) % u64::from(size)) as u32;
        let skip = (xxh64(name.as_bytes(), 1) % u64::from(size - 1)) as u32 + 1;
        Self { index, weight, target: 0.0, slot, skip }
    }

    /// The first round after that one in which it has gained enough.
    fn due_after(&self, round: u64) -> u64 {
        let enough = |round: u64| round as f64 * self.weight >= self.target;
        let mut due = ((self.target / self.weight) as u64).max(round + 1);
        while !enough(due) {
            due += 1;
        }
        while due > round + 1 && enough(due - 1) {
            due -= 1;
        }
        due
    }

    fn step(&mut self, size: u32) {
        self.slot = ((u64::from(self.slot) + u64::from(self.skip)) % u64::from(size)) as u32;
    }
}

/// The least prime that is not below this number, as [`maglev_table`] uses it.
pub fn next_prime(from: u32) -> u32 {
    let is_prime = |n: u32| (2..=n.isqrt()).all(|divisor| !n.is_multiple_of(divisor));
    (from.max(2)..=u32::MAX).find(|n| is_prime(*n)).unwrap_or(MAGLEV_TABLE_SIZE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::vectors;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("192.0.2.{n}:8080")).collect()
    }

    fn table(names: &[String]) -> Vec<u32> {
        maglev_table(names.iter().map(|name| (name.as_str(), 1)), MAGLEV_TABLE_SIZE)
    }

    fn counts(table: &[u32], n: usize) -> Vec<u32> {
        let mut counts = vec![0; n];
        for index in table {
            counts[*index as usize] += 1;
        }
        counts
    }

    #[test]
    fn tables_are_those_of_the_published_algorithm() {
        for vector in vectors::of("maglev") {
            let endpoints = vectors::endpoints(&vector);
            let named = endpoints.iter().map(|(name, weight)| (name.as_str(), *weight));
            let table = maglev_table(named, vectors::number(&vector["size"]));
            assert!(table.starts_with(&vectors::numbers(&vector["first"])) || table.len() < 32, "{vector}");
            assert_eq!(counts(&table, endpoints.len()), vectors::numbers(&vector["counts"]), "{vector}");
            let bytes: Vec<u8> = table.iter().flat_map(|index| index.to_le_bytes()).collect();
            assert_eq!(xxh64(&bytes, 0), vectors::hash(&vector["digest"]), "{vector}");
        }
    }

    #[test]
    fn one_heavy_endpoint_among_thousands_costs_no_more_than_others() {
        // Walked round by round, this would be 65,537 rounds of 5,000 endpoints.
        let names = names(5_000);
        let weights = core::iter::once(u32::MAX).chain(core::iter::repeat(1));
        let table = maglev_table(names.iter().map(String::as_str).zip(weights), MAGLEV_TABLE_SIZE);
        let counts = counts(&table, 5_000);
        assert_eq!(counts[0], 65_537 - 4_999);
        assert!(counts[1..].iter().all(|count| *count == 1));
    }

    #[test]
    fn every_slot_is_filled_and_shares_differ_by_one() {
        let table = table(&names(10));
        assert_eq!(table.len(), 65_537);
        let counts = counts(&table, 10);
        assert!(counts.iter().all(|count| (6_553..=6_554).contains(count)), "{counts:?}");
    }

    #[test]
    fn shares_follow_weights_and_zero_gets_nothing() {
        let weights = [4u32, 2, 1, 0];
        let names = names(4);
        let table = maglev_table(names.iter().map(String::as_str).zip(weights), MAGLEV_TABLE_SIZE);
        let counts = counts(&table, 4);
        for (count, share) in counts.iter().zip([4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0, 0.0]) {
            assert!((f64::from(*count) - share * 65_537.0).abs() < 3.0, "{counts:?}");
        }
    }

    #[test]
    fn nobody_gives_an_empty_table_and_any_size_works() {
        assert!(maglev_table([], 7).is_empty());
        assert!(maglev_table([("a", 0)], 7).is_empty());
        assert_eq!(maglev_table([("a", 1)], 0), [0, 0]);
        assert_eq!(maglev_table([("a", 1), ("b", 1)], 100).len(), 101);
    }

    #[test]
    fn a_lost_endpoint_moves_its_own_keys_and_few_others() {
        let all = names(50);
        let before = table(&all);
        let after = table(&all[..49]);
        let others = before.iter().zip(&after).filter(|(old, new)| **old != 49 && old != new).count();
        // The paper finds such changes for about 2 % of the table at this ratio of table to
        // endpoints (section 5.3).
        assert!(others < 65_537 * 3 / 100, "{others} keys of others moved");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_order_of_the_list_does_not_matter(n in 1usize..20, turn in 0usize..20) {
            let straight = names(n);
            let mut turned = straight.clone();
            turned.rotate_left(turn % n);
            let by_name = |names: &[String]| table(names).iter().map(|i| names[*i as usize].clone()).collect::<Vec<_>>();
            prop_assert_eq!(by_name(&straight), by_name(&turned));
        }
    }
}
