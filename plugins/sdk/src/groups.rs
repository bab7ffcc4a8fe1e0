//! Groups of endpoints (zones, tiers), each with its share of the whole, as one rotation.

use crate::prelude::*;
use crate::{rotation::gcd, smooth_rotation};

/// Endpoints that share one part of the requests by their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The group's share, relative to the other groups'.
    pub share: u128,
    /// Index and weight of each.
    pub members: Vec<(u32, u32)>,
}

impl Group {
    /// The weight of all members.
    pub fn weight(&self) -> u64 {
        self.members.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }
}

/// Shares are rounded to this many parts of the whole where they cannot be said exactly with fewer.
/// It keeps rotations short: two thirds is exact, 0.66667 would need a list of 100,000.
const PARTS: u128 = 1_000;

/// A rotation in which each group has its share and each member its part of that by weight, in the
/// order of [`smooth_rotation`]. A group without weight has no share; the others then have more.
pub fn grouped_rotation(groups: &[Group]) -> Vec<u32> {
    let groups: Vec<&Group> = groups.iter().filter(|group| group.share > 0 && group.weight() > 0).collect();
    let shares = parts(groups.iter().map(|group| group.share).collect());

    // A member gets share * weight / group weight. All of that over one denominator where it is
    // small; in 2^40ths else.
    let weights = || groups.iter().map(|group| u128::from(group.weight() / common(group)));
    let exact = weights().try_fold(1u128, |all, weight| {
        let least = all / gcd(all, weight) * weight;
        (least < 1 << 40).then_some(least)
    });
    let denominator = exact.unwrap_or(1 << 40);

    let len = groups.iter().flat_map(|group| &group.members).map(|(index, _)| index + 1).max().unwrap_or(0);
    let mut rotation = vec![0u64; len as usize];
    for ((group, share), whole) in groups.iter().zip(shares).zip(weights()) {
        for (index, weight) in group.members.iter().filter(|(_, weight)| *weight > 0) {
            let weight = u128::from(u64::from(*weight) / common(group));
            // At most 1,000 times 2^40: the shares add up to no more than that.
            rotation[*index as usize] = (share * weight * denominator / whole).max(1) as u64;
        }
    }
    smooth_rotation(rotation)
}

/// What the weights of a group have in common.
fn common(group: &Group) -> u64 {
    group.members.iter().map(|(_, weight)| u64::from(*weight)).fold(0, gcd)
}

/// Shares of the same proportions that add up to at most about [`PARTS`]. Nobody's vanishes.
fn parts(mut shares: Vec<u128>) -> Vec<u128> {
    let common = shares.iter().copied().fold(0, gcd).max(1);
    for share in &mut shares {
        *share /= common;
    }
    // So that a share times PARTS fits.
    while shares.iter().any(|share| *share >= 1 << 100) {
        for share in &mut shares {
            *share = (*share >> 1).max(1);
        }
    }
    let sum: u128 = shares.iter().sum();
    if sum > PARTS {
        for share in &mut shares {
            *share = ((*share * PARTS + sum / 2) / sum).max(1);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::counts;

    fn group(share: u128, members: &[(u32, u32)]) -> Group {
        Group { share, members: members.to_vec() }
    }

    #[test]
    fn members_have_their_part_of_their_group_s_share() {
        let groups = [group(3, &[(0, 1), (2, 2)]), group(1, &[(1, 5)])];
        assert_eq!(grouped_rotation(&groups), [2, 0, 1, 2]);
        assert_eq!(grouped_rotation(&[group(1, &[(0, 1), (1, 0)]), group(9, &[(2, 0)])]), [0]);
        assert_eq!(grouped_rotation(&[]), [0u32; 0]);
        assert_eq!(grouped_rotation(&[group(0, &[(0, 1)])]), [0u32; 0]);
    }

    #[test]
    fn shares_too_fine_for_a_list_are_rounded_and_nobody_vanishes() {
        let rotation = grouped_rotation(&[group(u128::MAX, &[(0, 1)]), group(1, &[(1, 1)])]);
        assert_eq!(counts(&rotation, 2), [1_000, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shares_are_within_a_thousandth(
            groups in prop::collection::vec((0u64..=u64::MAX, prop::collection::vec(0u32..50, 0..6)), 1..6),
        ) {
            let mut next = 0..;
            let groups: Vec<Group> = groups
                .into_iter()
                .map(|(share, weights)| Group {
                    share: share.into(),
                    members: next.by_ref().zip(weights).collect(),
                })
                .collect();
            let n = groups.iter().map(|group| group.members.len()).sum::<usize>() + groups.len() + 1;
            let rotation = grouped_rotation(&groups);
            let used = || groups.iter().filter(|group| group.weight() > 0);
            let sum: f64 = used().map(|group| group.share as f64).sum();
            prop_assert_eq!(rotation.is_empty(), sum == 0.0);
            let counts = counts(&rotation, n);
            for group in used().filter(|group| group.share > 0) {
                for (index, weight) in &group.members {
                    let due = group.share as f64 / sum * f64::from(*weight) / group.weight() as f64;
                    let got = f64::from(counts[*index as usize]) / rotation.len() as f64;
                    prop_assert!((got - due).abs() < 0.002, "{got} instead of {due}");
                }
            }
        }
    }
}
