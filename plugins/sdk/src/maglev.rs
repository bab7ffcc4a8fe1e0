//! Maglev hashing: a table that spreads keys evenly over endpoints and changes little when one of them comes or goes
//! (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).

use crate::hash_text;

/// The table size that the paper and Envoy use for a few hundred endpoints: shares differ by about one percent.
pub const MAGLEV_TABLE_SIZE: u32 = 65_537;

/// A table of indexes into the list of (name, weight), for [`crate::Plan::HashTable`]. Name endpoints by their instance, not
/// by their place in the list, or a removal moves everything.
///
/// `size` is raised to the next prime; take at least a hundred times the number of endpoints. Endpoints take turns in filling
/// it, and an endpoint with half the greatest weight has every second turn. A weight of 0 gets nothing; no endpoint that
/// may get anything gives an empty table.
pub fn maglev_table<'a>(endpoints: impl IntoIterator<Item = (&'a str, u32)>, size: u32) -> Vec<u32> {
    let size = next_prime(size);
    let mut turns: Vec<Turn> = (0u32..)
        .zip(endpoints)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(index, (name, weight))| Turn {
            index,
            weight: u64::from(weight),
            credit: 0,
            slot: (hash_text(name, 0) % u64::from(size)) as u32,
            skip: (hash_text(name, 1) % u64::from(size - 1)) as u32 + 1,
        })
        .collect();
    // Equal preferences are settled by who comes first: let that not depend on the order of the list either.
    turns.sort_by_key(|turn| (turn.slot, turn.skip));
    let Some(greatest) = turns.iter().map(|turn| turn.weight).max() else {
        return Vec::new();
    };

    let mut table: Vec<Option<u32>> = vec![None; size as usize];
    let mut free = size;
    while free > 0 {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < greatest || free == 0 {
                continue;
            }
            turn.credit -= greatest;
            while table[turn.slot as usize].is_some() {
                turn.step(size);
            }
            table[turn.slot as usize] = Some(turn.index);
            turn.step(size);
            free -= 1;
        }
    }
    table.into_iter().flatten().collect()
}

/// One endpoint's order of preference: every slot once, because the step and the size have nothing in common.
struct Turn {
    index: u32,
    weight: u64,
    credit: u64,
    slot: u32,
    skip: u32,
}

impl Turn {
    fn step(&mut self, size: u32) {
        self.slot = ((u64::from(self.slot) + u64::from(self.skip)) % u64::from(size)) as u32;
    }
}

fn next_prime(from: u32) -> u32 {
    let is_prime = |n: u32| (2..=n.isqrt()).all(|divisor| !n.is_multiple_of(divisor));
    (from.max(2)..=u32::MAX).find(|n| is_prime(*n)).unwrap_or(MAGLEV_TABLE_SIZE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        // The paper finds such changes for about 2 % of the table at this ratio of table to endpoints (section 5.3).
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
