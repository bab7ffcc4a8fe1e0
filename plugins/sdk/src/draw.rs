//! Draws at random, in proportion to weights, in constant time: Walker's alias method, with the
//! table made as Vose does (Vose, "A Linear Algorithm for Generating Random Numbers with a Given
//! Distribution", IEEE Transactions on Software Engineering 1991).

use crate::Random;
use crate::prelude::*;

/// Endpoints to draw from. Built once; a draw is one look-up and one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDraw {
    columns: Vec<Column>,
}

/// One column of the table: as wide as all others, and shared by at most two endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// Below this random number the column's own endpoint is drawn, else the other one.
    own_below: u32,
    own: u32,
    other: u32,
}

/// How often a draw that fell on somebody to skip is made again before the next in the list is
/// taken.
const DRAWS: u32 = 4;

impl WeightedDraw {
    /// From pairs of index and weight. A weight of 0 is never drawn.
    pub fn new(weights: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut columns = Vec::new();
        // Each weight times the number of columns, so that the mean, which is what a column holds,
        // is a whole number.
        let mut parts: Vec<u64> = Vec::new();
        for (index, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0) {
            columns.push(Column { own_below: u32::MAX, own: index, other: index });
            parts.push(weight.into());
        }
        let mean: u64 = parts.iter().sum();
        for part in &mut parts {
            *part *= columns.len() as u64;
        }
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..parts.len()).filter(|at| parts[*at] != mean).partition(|at| parts[*at] < mean);
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            let other = columns[high].own;
            let own_below = ((u128::from(parts[low]) << 32) / u128::from(mean)) as u32;
            columns[low] = Column { own_below, other, ..columns[low] };
            parts[high] -= mean - parts[low];
            match parts[high].cmp(&mean) {
                core::cmp::Ordering::Less => small.push(high),
                core::cmp::Ordering::Equal => {}
                core::cmp::Ordering::Greater => large.push(high),
            }
        }
        Self { columns }
    }

    /// Whether there is nobody to draw.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// One draw with the two random numbers of a pick's context; none when there is nobody.
    pub fn draw(&self, random: (u32, u32)) -> Option<u32> {
        let column = self.columns.get(Random::scale(random.0, self.columns.len() as u32) as usize)?;
        Some(if random.1 < column.own_below { column.own } else { column.other })
    }

    /// A draw that leaves out those to skip: it is made again a few times, so that everybody else
    /// is drawn by weight, and then goes on to the next in the list. None when all are to be
    /// skipped.
    pub fn draw_without(&self, random: (u32, u32), skip: impl Fn(u32) -> bool) -> Option<u32> {
        let first = self.draw(random)?;
        if !skip(first) {
            return Some(first);
        }
        let mut more = Random::from_context(random);
        for _ in 1..DRAWS {
            let again = self.draw((more.next_u32(), more.next_u32()))?;
            if !skip(again) {
                return Some(again);
            }
        }
        let (n, start) = (self.columns.len(), more.below(self.columns.len() as u32) as usize);
        (start..start + n).map(|at| self.columns[at % n].own).find(|index| !skip(*index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The exact chance of each, from the table: what a column gives its own, and what it gives the
    /// other.
    fn chances(draw: &WeightedDraw, n: usize) -> Vec<f64> {
        let mut chances = vec![0.0; n];
        for column in &draw.columns {
            let own = f64::from(column.own_below) / 2f64.powi(32);
            chances[column.own as usize] += own / draw.columns.len() as f64;
            chances[column.other as usize] += (1.0 - own) / draw.columns.len() as f64;
        }
        chances
    }

    #[test]
    fn nobody_is_drawn_from_nobody() {
        for draw in [WeightedDraw::new([]), WeightedDraw::new([(0, 0), (1, 0)])] {
            assert!(draw.is_empty());
            assert_eq!((draw.draw((1, 2)), draw.draw_without((1, 2), |_| false)), (None, None));
        }
        assert_eq!(WeightedDraw::new([(5, 1)]).draw_without((1, 2), |_| true), None);
    }

    #[test]
    fn those_to_skip_leave_their_part_to_all_others() {
        let draw = WeightedDraw::new([(0, 5), (1, 3), (2, 1), (3, 1)]);
        let mut random = Random::from_text("skip");
        let mut counts = [0u32; 4];
        for _ in 0..50_000 {
            let drawn = draw.draw_without((random.next_u32(), random.next_u32()), |index| index == 0);
            counts[drawn.expect("three are left") as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        // Three in five, but for the one draw in sixteen that goes on to the next in the list.
        assert!(counts[1].abs_diff(30_000) < 2_000, "{counts:?}");
        assert!(counts[2].abs_diff(10_000) < 2_000 && counts[3].abs_diff(10_000) < 2_000, "{counts:?}");
    }

    proptest! {
        #[test]
        fn chances_are_the_weights(weights in prop::collection::vec(prop_oneof![0u32..5, 0u32..=u32::MAX], 1..40)) {
            let draw = WeightedDraw::new((0..).zip(weights.iter().copied()));
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            prop_assume!(sum > 0.0);
            for (chance, weight) in chances(&draw, weights.len()).into_iter().zip(&weights) {
                prop_assert!((chance - f64::from(*weight) / sum).abs() < 1e-8, "{chance} for {weight}");
            }
        }

        #[test]
        fn weight_0_is_never_drawn(weights in prop::collection::vec(0u32..3, 1..20), random: (u32, u32)) {
            let draw = WeightedDraw::new((0..).zip(weights.iter().copied()));
            prop_assert!(draw.draw(random).is_none_or(|index| weights[index as usize] > 0));
        }
    }
}
