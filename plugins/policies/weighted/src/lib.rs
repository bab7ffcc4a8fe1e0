//! In turn, in proportion to the registered weights, and spread evenly: an endpoint of weight 5
//! beside two of weight 1 gets five of seven requests, but never five in a row. The order is
//! nginx's smooth weighted round robin; `smooth_rotation` of the SDK has the source and the bounds.
//!
//! A plan, not a choice for each request: static weights are known before the first request comes.

use waymark_plugin::{
    Config, Description, Endpoint, Level, Plan, Policy, Scope, export_policy, log, receiving, smooth_rotation,
};

/// The policy.
pub struct Weighted;

impl Policy for Weighted {
    const DESCRIPTION: Description = Description::new(
        "weighted",
        env!("CARGO_PKG_VERSION"),
        "In turn, in proportion to the endpoints' weights; 0 gets nothing.",
    );

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        if receiving(endpoints).is_empty() && !endpoints.is_empty() {
            log(Level::Warn, "every endpoint has weight 0: there is nobody to send to");
        }
        Ok(Plan::Rotation(smooth_rotation(endpoints.iter().map(|endpoint| endpoint.weight))))
    }
}

export_policy!(Weighted);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, logged, scope};

    use super::*;

    fn rotation(weights: &[u32]) -> Vec<u32> {
        let endpoints: Vec<Endpoint> = (1..).zip(weights).map(|(n, weight)| endpoint(n, "", *weight)).collect();
        match build::<Weighted>("{}", &scope(""), &endpoints).unwrap() {
            Plan::Rotation(entries) => entries,
            _ => panic!("not a rotation"),
        }
    }

    #[test]
    fn a_heavy_endpoint_is_spread_out() {
        assert_eq!(rotation(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weight_0_gets_nothing_even_when_nobody_else_is_left() {
        assert_eq!(rotation(&[0, 2]), [1]);
        assert_eq!(logged(), []);
        assert_eq!(rotation(&[0, 0]), [0u32; 0]);
        assert_eq!(logged().len(), 1);
        assert_eq!(rotation(&[]), [0u32; 0]);
        assert_eq!(logged(), []);
    }

    proptest! {
        #[test]
        fn shares_match_weights_over_one_rotation(weights in prop::collection::vec(0u32..100, 1..30)) {
            let rotation = rotation(&weights);
            let sum: usize = weights.iter().map(|weight| *weight as usize).sum();
            for (count, weight) in counts(&rotation, weights.len()).into_iter().zip(&weights) {
                prop_assert_eq!(count as usize * sum, *weight as usize * rotation.len());
            }
        }

        #[test]
        fn nobody_runs_ahead_of_its_share(weights in prop::collection::vec(1u32..40, 2..10)) {
            // Smooth means that at no time anybody is a whole request for each other endpoint ahead
            // or behind.
            let rotation = rotation(&weights);
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            let mut seen = vec![0.0f64; weights.len()];
            for (nth, index) in rotation.iter().enumerate() {
                seen[*index as usize] += 1.0;
                for (seen, weight) in seen.iter().zip(&weights) {
                    let due = f64::from(*weight) / sum * (nth + 1) as f64;
                    prop_assert!((seen - due).abs() < weights.len() as f64, "{seen} seen, {due} due");
                }
            }
        }
    }
}
