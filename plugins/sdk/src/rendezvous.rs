//! Rendezvous hashing: every endpoint draws a number from its name and a seed, and the highest come
//! first (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
//! Transactions on Networking 1998).
//!
//! With weights the number is `weight / -ln(u)` for a `u` between 0 and 1, which puts an endpoint
//! first as often as its weight says (Efraimidis and Spirakis, "Weighted random sampling with a
//! reservoir", 2006). When an endpoint comes or goes, the order of the others stays as it was.

use crate::prelude::*;
use crate::xxh64;

/// The indexes of the list of (name, weight), in the order of their numbers for this seed. A weight
/// of 0 is left out.
pub fn rendezvous_order<'a>(endpoints: impl IntoIterator<Item = (&'a str, u32)>, seed: &str) -> Vec<u32> {
    let seed = xxh64(seed.as_bytes(), 0);
    let mut drawn: Vec<(f64, &str, u32)> = (0u32..)
        .zip(endpoints)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(index, (name, weight))| {
            // 53 bits, which a float holds, and never 0 or 1.
            let uniform = ((xxh64(name.as_bytes(), seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            (f64::from(weight) / -libm::log(uniform), name, index)
        })
        .collect();
    drawn.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    drawn.into_iter().map(|(_, _, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("192.0.2.{n}:8080")).collect()
    }

    #[test]
    fn who_comes_first_follows_the_weights() {
        let (names, weights) = (names(4), [4u32, 2, 1, 0]);
        let mut first = [0u32; 4];
        for seed in 0..7_000 {
            let order = rendezvous_order(names.iter().map(String::as_str).zip(weights), &format!("node {seed}"));
            assert_eq!(order.len(), 3);
            first[order[0] as usize] += 1;
        }
        for (count, weight) in first.iter().zip(weights) {
            assert!(count.abs_diff(weight * 1_000) < 150, "{first:?}");
        }
        assert_eq!(first[3], 0);
    }

    proptest! {
        #[test]
        fn the_others_stay_in_order_when_one_goes(n in 2usize..30, gone in 0usize..30, seed in "[a-z]{0,8}") {
            let (names, gone) = (names(n), (gone % n) as u32);
            let order = |without: Option<u32>| {
                let weight = |at: u32| if Some(at) == without { 0 } else { at % 3 + 1 };
                rendezvous_order(names.iter().zip(0..).map(|(name, at)| (name.as_str(), weight(at))), &seed)
            };
            let mut rest = order(None);
            rest.retain(|index| *index != gone);
            prop_assert_eq!(rest, order(Some(gone)));
        }
    }
}
