//! Any endpoint, each as likely as the others, whatever its weight; only a weight of 0 is heeded,
//! which means "send it nothing". gRPC's and Envoy's `random`. Beside a rotation it has no rhythm:
//! nodes that start together do not walk over the endpoints in step, and nobody gets all the
//! requests of one that failed.
//!
//! Asked for each request, because a plan has no randomness: a shuffled list would be the same one
//! on every node. It asks the host nothing but, on a further attempt, what was tried.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, WeightedDraw, export_policy, receiving,
};

/// The policy: the endpoints to draw from.
#[derive(Debug)]
pub struct AtRandom {
    draw: WeightedDraw,
}

impl Policy for AtRandom {
    const DESCRIPTION: Description =
        Description::new("random", env!("CARGO_PKG_VERSION"), "Any endpoint, each as likely as the others.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = receiving(endpoints);
        // With one there is nothing to draw, and with nobody the host knows what to say.
        Ok(if endpoints.len() < 2 {
            Plan::Rotation(endpoints)
        } else {
            Plan::EachRequest(Self { draw: WeightedDraw::new(endpoints.into_iter().map(|index| (index, 1))) })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let drawn = self.draw.draw_without(context.random, |endpoint| again && host.tried(endpoint));
        // Where everything was tried, a second try is better than none.
        drawn.or_else(|| self.draw.draw(context.random)).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(AtRandom);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, build, context, endpoints, pick_shares, scope};

    use super::*;

    fn policy(weights: &[u32]) -> AtRandom {
        asked(build::<AtRandom>("{}", &scope(""), &endpoints(weights.len() as u8, weights)).unwrap())
    }

    #[test]
    fn nobody_and_one_are_a_plan() {
        let plan =
            |weights: &[u32]| build::<AtRandom>("{}", &scope(""), &endpoints(weights.len() as u8, weights)).unwrap();
        assert_eq!(plan(&[]).rotation(), Some(&[][..]));
        assert_eq!(plan(&[0, 7]).rotation(), Some(&[1][..]));
    }

    #[test]
    fn everybody_but_weight_0_gets_the_same() {
        let shares = pick_shares(&mut policy(&[1, 9, 0, 1, 1]), &FakeHost::default(), 5, 40_000);
        for (share, due) in shares.iter().zip([0.25, 0.25, 0.0, 0.25, 0.25]) {
            assert!((share - due).abs() < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn a_configuration_is_refused_because_there_is_nothing_to_configure() {
        let error = build::<AtRandom>(r#"{"seed": 1}"#, &scope(""), &[]).unwrap_err();
        assert_eq!(error, r#"`random` takes no configuration but {}, and was given {"seed": 1}"#);
    }

    proptest! {
        #[test]
        fn a_later_attempt_avoids_what_was_tried_while_anything_else_is_left(
            n in 2usize..12, random: (u32, u32), tried in prop::collection::btree_set(0u32..12, 0..12),
        ) {
            let host = FakeHost { tried: tried.clone(), ..FakeHost::default() };
            let again = Context { attempt: 1, ..context(random) };
            let Decision::Endpoint(index) = policy(&vec![1; n]).pick(again, &host) else {
                panic!("not an endpoint");
            };
            let left = (0..n as u32).any(|index| !tried.contains(&index));
            prop_assert!((index as usize) < n && (!left || !tried.contains(&index)));
        }
    }
}
