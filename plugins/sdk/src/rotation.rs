//! Smooth weighted rotation: a list in which every endpoint stands as often as its weight says,
//! spread as evenly as can be.
//!
//! It is the order of nginx's smooth weighted round robin (commit 52327e0627f4, "Upstream: smooth
//! weighted round-robin balancing", 2012): in each step every endpoint gains its weight, the one
//! that has most is taken and pays the sum of all weights; among equals the first. Weights 5, 1, 1
//! give `a a b a c a a` and not `a a a a a b c`.

use crate::prelude::*;

use alloc::collections::BTreeMap;
use core::ops::Rem;

/// The most entries a rotation has, unless there are more endpoints than that.
///
/// 65,536 entries are 256 KiB, and show a share to within a thousandth of a percent of the whole.
pub const MAX_ROTATION: usize = 65_536;

/// A rotation over the endpoints whose weights are given, in the order of `build`'s list. A weight
/// of 0 means "send it nothing": when all of them are 0, the rotation is empty, because that is
/// what was asked for.
///
/// The list is as short as the weights allow: they are divided by what they have in common. Where
/// their sum would still be more than [`MAX_ROTATION`], they are scaled down to about that; a share
/// is then off by at most half an entry, except that nobody's share falls below one entry.
///
/// ```
/// use waymark_plugin::smooth_rotation;
/// assert_eq!(smooth_rotation([5u32, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
/// assert_eq!(smooth_rotation([20u32, 0, 10]), [0, 2, 0]);
/// ```
pub fn smooth_rotation<W: Into<u64>>(weights: impl IntoIterator<Item = W>) -> Vec<u32> {
    let weights = bounded(weights.into_iter().map(Into::into).collect());
    let sum: u64 = weights.iter().sum();

    // Endpoints of one weight take turns: the one that was taken least often has most. So it is
    // enough to look at one endpoint for each distinct weight, which makes the work (entries x
    // distinct weights) and not (entries x endpoints).
    let mut by_weight: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (index, weight) in (0u32..).zip(weights) {
        if weight > 0 {
            by_weight.entry(weight).or_default().push(index);
        }
    }
    let mut groups: Vec<Group> = by_weight.into_iter().map(|(weight, members)| Group::new(weight, members)).collect();
    (0..sum)
        .map(|_| {
            for group in &mut groups {
                group.gained += group.weight;
            }
            let best = groups.iter_mut().reduce(|best, group| if group.beats(best, sum) { group } else { best });
            best.map_or(0, Group::take)
        })
        .collect()
}

/// The endpoints of one weight.
struct Group {
    weight: u64,
    members: Vec<u32>,
    /// What each of them has gained so far.
    gained: u64,
    /// The member whose turn it is, and how often everybody was taken before.
    next: usize,
    rounds: u64,
}

impl Group {
    fn new(weight: u64, members: Vec<u32>) -> Self {
        Self { weight, members, gained: 0, next: 0, rounds: 0 }
    }

    /// Whether the member whose turn it is goes before that of `other`. Gained less paid may be
    /// negative, so what either paid stands on the other's side.
    fn beats(&self, other: &Self, sum: u64) -> bool {
        let (own, others) = (self.gained + other.rounds * sum, other.gained + self.rounds * sum);
        own > others || (own == others && self.members[self.next] < other.members[other.next])
    }

    fn take(&mut self) -> u32 {
        let member = self.members[self.next];
        self.next += 1;
        if self.next == self.members.len() {
            self.next = 0;
            self.rounds += 1;
        }
        member
    }
}

/// Weights of the same proportions whose sum is bounded.
fn bounded(mut weights: Vec<u64>) -> Vec<u64> {
    reduce(&mut weights);
    let total = |weights: &[u64]| weights.iter().fold(0u64, |sum, weight| sum.saturating_add(*weight));
    let entries = weights.iter().filter(|weight| **weight > 0).count().max(MAX_ROTATION) as u64;
    if total(&weights) <= entries {
        return weights;
    }
    // So that a weight times the number of entries fits into 64 bits.
    while total(&weights) >= 1 << 40 {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight >> 1).max(1);
        }
    }
    let sum = total(&weights);
    for weight in weights.iter_mut().filter(|weight| **weight > 0) {
        *weight = ((*weight * entries + sum / 2) / sum).max(1);
    }
    reduce(&mut weights);
    weights
}

/// Divide by what all weights have in common.
fn reduce(weights: &mut [u64]) {
    let common = weights.iter().copied().fold(0, gcd);
    if common > 1 {
        for weight in weights {
            *weight /= common;
        }
    }
}

/// The greatest number that divides both.
pub(crate) fn gcd<N: Copy + PartialEq + From<u8> + Rem<Output = N>>(a: N, b: N) -> N {
    if b == N::from(0) { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The algorithm as nginx states it, looking at every endpoint in every step.
    fn by_definition(weights: &[u64]) -> Vec<u32> {
        let sum: u64 = weights.iter().sum();
        let mut current = vec![0i64; weights.len()];
        (0..sum)
            .map(|_| {
                let mut best: Option<usize> = None;
                for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
                    current[index] += i64::try_from(*weight).expect("small weights");
                    if best.is_none_or(|best| current[index] > current[best]) {
                        best = Some(index);
                    }
                }
                let best = best.expect("the sum is not 0");
                current[best] -= i64::try_from(sum).expect("small weights");
                u32::try_from(best).expect("few endpoints")
            })
            .collect()
    }

    fn counts(rotation: &[u32], n: usize) -> Vec<u64> {
        let mut counts = vec![0; n];
        for index in rotation {
            counts[*index as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_order_is_that_of_the_published_example() {
        assert_eq!(smooth_rotation([5u32, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_take_turns_and_zero_gets_nothing() {
        assert_eq!(smooth_rotation([7u32, 7, 7]), [0, 1, 2]);
        assert_eq!(smooth_rotation([0u32, 3, 0]), [1]);
        assert_eq!(smooth_rotation([0u32, 0]), [0u32; 0]);
        assert_eq!(smooth_rotation([0u32; 0]), [0u32; 0]);
    }

    #[test]
    fn weights_too_large_for_a_list_are_scaled_and_nobody_vanishes() {
        let rotation = smooth_rotation([u64::MAX, u64::MAX, 1, 0]);
        let counts = counts(&rotation, 4);
        assert!(rotation.len() <= MAX_ROTATION + 2, "{}", rotation.len());
        assert_eq!((counts[2], counts[3]), (1, 0));
        assert_eq!(counts[0], counts[1]);
    }

    #[test]
    fn a_hundred_thousand_endpoints_all_have_a_place() {
        let rotation = smooth_rotation((0..100_000u32).map(|n| 1 + n % 7));
        assert!(counts(&rotation, 100_000).iter().all(|count| *count > 0));
        assert!(rotation.len() <= 200_000, "{}", rotation.len());
    }

    proptest! {
        #[test]
        fn it_is_smooth_weighted_round_robin(weights in prop::collection::vec(0u64..30, 0..12)) {
            let mut reduced = weights.clone();
            reduce(&mut reduced);
            prop_assert_eq!(smooth_rotation(weights), by_definition(&reduced));
        }

        #[test]
        fn over_one_rotation_shares_are_the_weights(weights in prop::collection::vec(0u64..200, 1..20)) {
            let rotation = smooth_rotation(weights.clone());
            let (sum, length) = (weights.iter().sum::<u64>(), rotation.len() as u64);
            for (count, weight) in counts(&rotation, weights.len()).into_iter().zip(weights) {
                prop_assert_eq!(count * sum, weight * length);
            }
        }

    }

    proptest! {
        // Each case makes a list of 65,536.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn scaled_shares_are_off_by_half_an_entry(weights in prop::collection::vec(1u32.., 2..40)) {
            let rotation = smooth_rotation(weights.clone());
            prop_assume!(rotation.len() > MAX_ROTATION / 2);
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (count, weight) in counts(&rotation, weights.len()).into_iter().zip(weights) {
                let exact = f64::from(weight) / sum * MAX_ROTATION as f64;
                prop_assert!((count as f64 - exact.max(1.0)).abs() <= 0.51, "{count} for {exact}");
            }
        }
    }
}
