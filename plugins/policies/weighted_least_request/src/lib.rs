//! In proportion to the registered weights, and less where calls are in flight: an endpoint's
//! weight counts as `weight / (in flight + 1) ^ active_request_bias`, the formula of Envoy's
//! weighted least request, with its default of 1. Idle endpoints get exactly the shares of their
//! weights; an endpoint never drains completely, as it would with `least_request`.
//!
//! Envoy keeps a schedule that it corrects with each pick. A policy is a pure function, so chance
//! takes the schedule's place: with at most `choice_count` endpoints all of them are looked at and
//! one is drawn by the formula. With more, that many are drawn by weight first, and one of these by
//! `1 / (in flight + 1) ^ active_request_bias`: while calls in flight are equal that is exact as
//! well, and else it comes the closer the larger `choice_count` is. Its bounds are those of gRPC's
//! least request (proposal A48).
//!
//! Asked for each request, because load is not known before, with one question to the host for each
//! endpoint that it looks at. With a bias of 0 load does not count, and it is a plan: the rotation
//! of `weighted`. A later attempt leaves out the endpoints that the request has failed on while
//! there are others.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Random, Scope, WeightedDraw,
    export_policy, smooth_rotation,
};

/// The policy.
#[derive(Debug)]
pub struct WeightedLeastRequest {
    draw: WeightedDraw,
    /// Index and weight of all endpoints, where these are few enough to look at each.
    all: Vec<(u32, u32)>,
    choice_count: usize,
    bias: f64,
}

impl Policy for WeightedLeastRequest {
    const DESCRIPTION: Description = Description::new(
        "weighted_least_request",
        env!("CARGO_PKG_VERSION"),
        "In proportion to the weights, and less where calls are in flight.",
    )
    .with_fields(&[
        Field {
            name: "active_request_bias",
            default: "1",
            doc: "how much calls in flight count against the weight, as an exponent; 0, not at all, to 10",
        },
        Field { name: "choice_count", default: "4", doc: "how many endpoints are looked at for each request, 2 to 10" },
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let bias = config.number("active_request_bias", 0..=10)?;
        let choice_count = config.integer("choice_count", 2..=10)? as usize;
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight);
        let mut all: Vec<(u32, u32)> = (0..).zip(weights()).filter(|(_, weight)| *weight > 0).collect();
        if bias == 0.0 || all.len() < 2 {
            return Ok(Plan::Rotation(smooth_rotation(weights())));
        }
        let draw = WeightedDraw::new(all.iter().copied());
        if all.len() > choice_count {
            all.clear();
        }
        Ok(Plan::EachRequest(Self { draw, all, choice_count, bias }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let tried = |endpoint: u32| again && host.tried(endpoint);
        let mut random = Random::from_context(context.random);
        let mut looked_at: Vec<(u32, f64)> = Vec::with_capacity(self.choice_count);
        let mut sum = 0.0;
        let mut look_at = |endpoint: u32, weight: u32| {
            let calls = f64::from(host.in_flight(endpoint)) + 1.0;
            // Most leave the bias at 1, and a power is dear.
            let against = if (self.bias - 1.0).abs() < f64::EPSILON { calls } else { calls.powf(self.bias) };
            sum += f64::from(weight) / against;
            looked_at.push((endpoint, sum));
        };
        if self.all.is_empty() {
            for _ in 0..self.choice_count {
                let drawn = self.draw.draw_without((random.next_u32(), random.next_u32()), tried);
                if let Some(endpoint) = drawn {
                    look_at(endpoint, 1);
                }
            }
        } else {
            for (endpoint, weight) in self.all.iter().filter(|(endpoint, _)| !tried(*endpoint)) {
                look_at(*endpoint, *weight);
            }
        }
        let at = sum * (f64::from(random.next_u32()) / 4_294_967_296.0);
        let chosen =
            looked_at.iter().find(|(_, below)| at < *below).or(looked_at.last()).map(|(endpoint, _)| *endpoint);
        // Where everything was tried, a second try is better than none.
        chosen.or_else(|| self.draw.draw(context.random)).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(WeightedLeastRequest);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, assert_avoids_tried, build, counts, endpoints, pick_shares, scope};

    use super::*;

    fn policy(config: &str, weights: &[u32]) -> WeightedLeastRequest {
        asked(build(config, &scope(""), &endpoints(weights.len() as u8, weights)).unwrap())
    }

    fn in_flight(calls: &[u32]) -> FakeHost {
        FakeHost { in_flight: (0..).zip(calls.iter().copied()).collect(), ..FakeHost::default() }
    }

    fn assert_close(shares: &[f64], due: &[f64]) {
        let sum: f64 = due.iter().sum();
        let close = shares.iter().zip(due).all(|(share, due)| (share - due / sum).abs() < 0.012);
        assert!(close && shares.len() == due.len(), "{shares:?} instead of {due:?}");
    }

    #[test]
    fn few_endpoints_have_the_shares_of_envoy_s_formula() {
        let shares =
            |config, calls: &[u32]| pick_shares(&mut policy(config, &[2, 3, 0, 1]), &in_flight(calls), 4, 40_000);
        assert_close(&shares("{}", &[4, 0, 0, 1]), &[2.0 / 5.0, 3.0, 0.0, 1.0 / 2.0]);
        assert_close(&shares(r#"{"active_request_bias": 2}"#, &[4, 0, 0, 1]), &[2.0 / 25.0, 3.0, 0.0, 1.0 / 4.0]);
        assert_close(&shares(r#"{"active_request_bias": 0.5}"#, &[3, 0, 0, 8]), &[1.0, 3.0, 0.0, 1.0 / 3.0]);
    }

    #[test]
    fn many_endpoints_have_the_shares_of_their_weights_while_load_is_equal() {
        let weights = [5, 1, 1, 2, 0, 3, 1, 7];
        let due = weights.map(f64::from);
        assert_close(&pick_shares(&mut policy("{}", &weights), &FakeHost::default(), 8, 60_000), &due);
        assert_close(&pick_shares(&mut policy("{}", &weights), &in_flight(&[6; 8]), 8, 60_000), &due);
    }

    #[test]
    fn of_many_endpoints_a_busy_one_gets_less() {
        let shares = pick_shares(&mut policy("{}", &[1; 8]), &in_flight(&[9, 0, 0, 0, 0, 0, 0, 0]), 8, 40_000);
        // A tenth of the others' by the formula, 1/71; with four looked at about twice that.
        assert!(shares[0] < 0.04 && shares[0] > 0.01, "{shares:?}");
        assert!(shares[1..].iter().all(|share| (share - shares[1]).abs() < 0.02), "{shares:?}");
    }

    #[test]
    fn without_bias_it_is_the_rotation_of_the_weights() {
        let plan = |config, weights: &[u32]| {
            build::<WeightedLeastRequest>(config, &scope(""), &endpoints(weights.len() as u8, weights)).unwrap()
        };
        let plan_0 = plan(r#"{"active_request_bias": 0}"#, &[3, 0, 1]);
        assert_eq!(counts(plan_0.rotation().unwrap(), 3), [3, 0, 1]);
        assert_eq!(plan("{}", &[0, 5]).rotation(), Some(&[1][..]));
        assert_eq!(plan("{}", &[]).rotation(), Some(&[][..]));
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<WeightedLeastRequest>(config, &scope(""), &[]).unwrap_err();
        let message = "`active_request_bias` must be a number from 0 to 10, not -1";
        assert_eq!(refused(r#"{"active_request_bias": -1}"#), message);
        assert_eq!(refused(r#"{"choice_count": 1}"#), "`choice_count` must be a whole number from 2 to 10, not 1");
    }

    proptest! {
        #[test]
        fn what_was_tried_or_weighs_nothing_is_left_out(
            weights in prop::collection::vec(0u32..3, 2..12), random: (u32, u32),
            tried in prop::collection::btree_set(0u32..12, 0..12),
        ) {
            prop_assume!(weights.iter().filter(|weight| **weight > 0).count() > 1);
            assert_avoids_tried(&mut policy("{}", &weights), &weights, &tried, random);
        }
    }
}
