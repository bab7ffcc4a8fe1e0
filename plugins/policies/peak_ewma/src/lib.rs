//! The endpoint with the lower cost of two drawn at random, where the cost is its latency times the
//! calls in flight and one more: about how long this call will take there. Finagle's and Linkerd's
//! default (twitter/finagle, `PeakEwma.scala`); the latency is the host's peak-sensitive moving
//! average with Finagle's decay time of 10 s, which jumps up to a slow answer at once.
//!
//! As in Finagle, an endpoint that has calls in flight and has never answered is the dearer of any
//! two, one that has neither the cheaper. Finagle also lets an idle endpoint's latency decay; the
//! host's changes only when a call has been answered. So that one slow answer does not shut an
//! endpoint out for ever, `explore` percent of the requests go to the dearer of the two.
//!
//! Asked for each request, because load is not known before. It answers which of the two itself,
//! with four questions to the host: the host's own comparison (`either`) is by calls in flight
//! first and by latency only among equals. A later attempt leaves out the endpoints that the
//! request has failed on. A weight of 0 gets nothing; other weights are not heeded.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Random, Scope, WeightedDraw,
    export_policy, receiving,
};

/// The policy: the endpoints to draw from, and below which random number the dearer one is taken.
#[derive(Debug)]
pub struct PeakEwma {
    draw: WeightedDraw,
    explore_below: u32,
}

impl Policy for PeakEwma {
    const DESCRIPTION: Description = Description::new(
        "peak_ewma",
        env!("CARGO_PKG_VERSION"),
        "The quicker of two endpoints at random, by latency times calls in flight.",
    )
    .with_fields(&[Field {
        name: "explore",
        default: "1",
        doc: "percent of the requests that go to the dearer of the two, so that its latency is measured again; 0 to 50",
    }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let explore = config.number("explore", 0..=50)?;
        let endpoints = receiving(endpoints);
        // With one there is nothing to compare, and with nobody the host knows what to say.
        Ok(if endpoints.len() < 2 {
            Plan::Rotation(endpoints)
        } else {
            let draw = WeightedDraw::new(endpoints.into_iter().map(|index| (index, 1)));
            Plan::EachRequest(Self { draw, explore_below: (explore / 100.0 * 4_294_967_296.0) as u32 })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let mut random = Random::from_context(context.random);
        let tried = |endpoint| again && host.tried(endpoint);
        let Some(a) = self.draw.draw_without(context.random, tried) else {
            // Everything was tried: a second try is better than none.
            return self.draw.draw(context.random).map_or(Decision::Queue, Decision::Endpoint);
        };
        let other = (random.next_u32(), random.next_u32());
        let Some(b) = self.draw.draw_without(other, |endpoint| endpoint == a || tried(endpoint)) else {
            return Decision::Endpoint(a);
        };
        let (cheaper, dearer) = if cost(b, host) < cost(a, host) { (b, a) } else { (a, b) };
        Decision::Endpoint(if random.next_u32() < self.explore_below { dearer } else { cheaper })
    }
}

export_policy!(PeakEwma);

/// Latency times calls in flight and one more. Finagle's penalty for one that has calls and no
/// latency is a number that no latency reaches.
fn cost(endpoint: u32, host: &impl Host) -> u64 {
    const PENALTY: u64 = u64::MAX >> 1;
    let (latency, calls) = (u64::from(host.latency_us(endpoint)), u64::from(host.in_flight(endpoint)));
    if latency == 0 && calls > 0 { PENALTY + calls } else { latency * (calls + 1) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, build, context, endpoints, pick_shares, scope};

    use super::*;

    fn policy(config: &str, weights: &[u32]) -> PeakEwma {
        asked(build::<PeakEwma>(config, &scope(""), &endpoints(weights.len() as u8, weights)).unwrap())
    }

    fn host(figures: &[(u32, u32)]) -> FakeHost {
        FakeHost {
            latency_us: (0..).zip(figures.iter().map(|figure| figure.0)).collect(),
            in_flight: (0..).zip(figures.iter().map(|figure| figure.1)).collect(),
            ..FakeHost::default()
        }
    }

    #[test]
    fn nobody_and_one_are_a_plan() {
        let plan =
            |weights: &[u32]| build::<PeakEwma>("{}", &scope(""), &endpoints(weights.len() as u8, weights)).unwrap();
        assert_eq!(plan(&[]).rotation(), Some(&[][..]));
        assert_eq!(plan(&[0, 7]).rotation(), Some(&[1][..]));
    }

    #[test]
    fn the_cost_is_latency_times_calls_and_one() {
        // 100 * 4 against 350 * 1, and 100 * 3 against it.
        let shares =
            |calls| pick_shares(&mut policy(r#"{"explore": 0}"#, &[1, 1]), &host(&[(100, calls), (350, 0)]), 2, 200);
        assert_eq!(shares(3), [0.0, 1.0]);
        assert_eq!(shares(2), [1.0, 0.0]);
    }

    #[test]
    fn one_that_never_answered_is_tried_once_and_then_waited_for() {
        let shares =
            |calls| pick_shares(&mut policy(r#"{"explore": 0}"#, &[1, 1]), &host(&[(100, 9), (0, calls)]), 2, 200);
        assert_eq!(shares(0), [0.0, 1.0]);
        assert_eq!(shares(1), [1.0, 0.0]);
    }

    #[test]
    fn a_slow_one_is_measured_again_as_often_as_was_said() {
        let host = host(&[(100, 0), (1_000_000, 0)]);
        let share = |config| pick_shares(&mut policy(config, &[1, 1]), &host, 2, 50_000)[1];
        assert!((share("{}") - 0.01).abs() < 0.003, "{}", share("{}"));
        assert!((share(r#"{"explore": 25}"#) - 0.25).abs() < 0.01, "{}", share(r#"{"explore": 25}"#));
    }

    #[test]
    fn among_equals_everybody_gets_the_same() {
        let shares = pick_shares(&mut policy("{}", &[1, 5, 0, 1]), &FakeHost::default(), 4, 40_000);
        for (share, due) in shares.iter().zip([1.0 / 3.0, 1.0 / 3.0, 0.0, 1.0 / 3.0]) {
            assert!((share - due).abs() < 0.015, "{shares:?}");
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = build::<PeakEwma>(r#"{"explore": 51}"#, &scope(""), &[]).unwrap_err();
        assert_eq!(refused, "`explore` must be a number from 0 to 50, not 51");
    }

    proptest! {
        #[test]
        fn what_was_tried_is_left_out_while_anything_else_is_left(
            n in 2usize..10, random: (u32, u32), tried in prop::collection::btree_set(0u32..10, 0..10),
        ) {
            let host = FakeHost { tried: tried.clone(), ..FakeHost::default() };
            let again = Context { attempt: 1, ..context(random) };
            let Decision::Endpoint(index) = policy("{}", &vec![1; n]).pick(again, &host) else {
                panic!("not an endpoint");
            };
            let left = (0..n as u32).any(|index| !tried.contains(&index));
            prop_assert!((index as usize) < n && (!left || !tried.contains(&index)));
        }

        #[test]
        fn costs_do_not_overflow(latency: u32, calls: u32) {
            let host = host(&[(latency, calls)]);
            prop_assert!(cost(0, &host) >= u64::from(latency));
        }
    }
}
