//! Any endpoint at random, as likely as its registered weight says. What `weighted` does in turn,
//! without its rhythm: nodes that start together do not walk over the endpoints in step. One draw
//! takes the same time for any number of endpoints (Walker's alias method; `WeightedDraw` of the
//! SDK has the source).
//!
//! Asked for each request, because a plan has no randomness: a shuffled list would be the same one
//! on every node. It asks the host nothing but, on a further attempt, what was tried.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Host, Level, Plan, Policy, Scope, WeightedDraw, export_policy,
    log, receiving,
};

/// The policy: the endpoints to draw from.
#[derive(Debug)]
pub struct WeightedRandom {
    draw: WeightedDraw,
}

impl Policy for WeightedRandom {
    const DESCRIPTION: Description = Description::new(
        "weighted_random",
        env!("CARGO_PKG_VERSION"),
        "Any endpoint at random, in proportion to the weights; 0 gets nothing.",
    );

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let may_receive = receiving(endpoints);
        if may_receive.is_empty() && !endpoints.is_empty() {
            log(Level::Warn, "every endpoint has weight 0: there is nobody to send to");
        }
        // With one there is nothing to draw, and with nobody the host knows what to say.
        Ok(if may_receive.len() < 2 {
            Plan::Rotation(may_receive)
        } else {
            let weights = (0..).zip(endpoints).map(|(index, endpoint)| (index, endpoint.weight));
            Plan::EachRequest(Self { draw: WeightedDraw::new(weights) })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let drawn = self.draw.draw_without(context.random, |endpoint| again && host.tried(endpoint));
        // Where everything was tried, a second try is better than none.
        drawn.or_else(|| self.draw.draw(context.random)).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(WeightedRandom);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, build, context, endpoints, logged, pick_shares, scope};

    use super::*;

    fn plan(weights: &[u32]) -> Plan<WeightedRandom> {
        build::<WeightedRandom>("{}", &scope(""), &endpoints(weights.len() as u8, weights)).unwrap()
    }

    #[test]
    fn nobody_and_one_are_a_plan() {
        assert_eq!(plan(&[]).rotation(), Some(&[][..]));
        assert_eq!(plan(&[0, 7]).rotation(), Some(&[1][..]));
        assert_eq!(logged(), []);
        assert_eq!(plan(&[0, 0]).rotation(), Some(&[][..]));
        assert_eq!(logged().len(), 1);
    }

    #[test]
    fn a_later_attempt_avoids_what_was_tried() {
        let host = FakeHost { tried: [0, 1].into(), ..FakeHost::default() };
        let again = Context { attempt: 2, ..context((0, 0)) };
        assert_eq!(asked(plan(&[50, 50, 1])).pick(again, &host), Decision::Endpoint(2));
        let host = FakeHost { tried: [0, 1, 2].into(), ..FakeHost::default() };
        assert!(matches!(asked(plan(&[50, 50, 1])).pick(again, &host), Decision::Endpoint(_)));
    }

    #[test]
    fn a_configuration_is_refused_because_there_is_nothing_to_configure() {
        let error = build::<WeightedRandom>(r#"{"seed": 1}"#, &scope(""), &[]).unwrap_err();
        assert_eq!(error, r#"`weighted_random` takes no configuration but {}, and was given {"seed": 1}"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0u32..20, 2..12)) {
            prop_assume!(weights.iter().filter(|weight| **weight > 0).count() > 1);
            let shares = pick_shares(&mut asked(plan(&weights)), &FakeHost::default(), weights.len(), 20_000);
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                // Five standard deviations.
                prop_assert!((share - f64::from(*weight) / sum).abs() < 0.018, "{shares:?} for {weights:?}");
                prop_assert!(*weight > 0 || *share == 0.0);
            }
        }
    }
}
