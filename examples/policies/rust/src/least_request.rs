//! my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//!
//! Asked for each request, because load is not known before. The host compares the last two itself,
//! by the newest figures.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Random, Scope, export_policy,
    receiving,
};

/// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to
/// look at.
#[derive(Debug)]
struct LeastRequest {
    receiving: Vec<u32>,
    choices: u32,
}

impl Policy for LeastRequest {
    const DESCRIPTION: Description = Description::new(
        "my_policy",
        "0.1.0",
        "The endpoint with the fewest calls in flight among a few chosen at random.",
    )
    .with_fields(&[Field {
        name: "choices",
        default: "2",
        doc: "how many endpoints are compared for each request, 2 to 10",
    }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let choices = config.integer("choices", 2..=10)?;
        let receiving = receiving(endpoints);
        // Nobody to choose from: an empty plan lets the host say why.
        Ok(if receiving.is_empty() {
            Plan::Rotation(receiving)
        } else {
            Plan::EachRequest(Self { receiving, choices })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let n = self.receiving.len() as u32;
        // Places at equal distances: two of them are any pair.
        let first = Random::scale(context.random.0, n);
        let step = if n > 1 { 1 + Random::scale(context.random.1, n - 1) } else { 0 };
        let mut chosen: Vec<u32> = Vec::with_capacity(10);
        for nth in 0..self.choices.min(n) {
            // Whoever was chosen already, or failed this same request, is passed over for the next.
            let mut candidates = (0..n).map(|offset| self.receiving[((first + nth * step + offset) % n) as usize]);
            let fits = |e: &u32| !(chosen.contains(e) || context.attempt > 0 && host.tried(*e));
            let found = candidates.find(fits);
            chosen.extend(found);
        }
        match chosen[..] {
            // Where everything was tried, a second try is better than none.
            [] => Decision::Endpoint(self.receiving[first as usize]),
            [only] => Decision::Endpoint(only),
            [a, b] => Decision::Either((a, b)),
            _ => {
                // Stable: among equals the first drawn.
                chosen.sort_by_cached_key(|endpoint| host.in_flight(*endpoint));
                Decision::Either((chosen[0], chosen[1]))
            }
        }
    }
}

export_policy!(LeastRequest);

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_plugin::testing::{FakeHost, build, context, endpoint, scope};

    fn policy(config: &str, weights: &[u32]) -> LeastRequest {
        let endpoints: Vec<_> = (1..).zip(weights).map(|(n, weight)| endpoint(n, "", *weight)).collect();
        match build(config, &scope(""), &endpoints) {
            Ok(Plan::EachRequest(policy)) => policy,
            other => panic!("not asked for each request: {other:?}"),
        }
    }

    #[test]
    fn two_are_drawn_and_the_host_compares_them() {
        let mut policy = policy("{}", &[1; 4]);
        let decision = policy.pick(context((0, u32::MAX)), &FakeHost::default());
        assert_eq!(decision, Decision::Either((0, 3)));
    }

    #[test]
    fn of_more_the_two_least_busy_are_left() {
        let mut policy = policy(r#"{"choices": 4}"#, &[1; 4]);
        let host = FakeHost { in_flight: [(0, 9), (1, 1), (2, 7), (3, 0)].into(), ..FakeHost::default() };
        assert_eq!(policy.pick(context((1 << 30, 5)), &host), Decision::Either((3, 1)));
    }

    #[test]
    fn a_further_attempt_goes_elsewhere_while_there_is_anybody() {
        let mut policy = policy("{}", &[1, 0, 1]);
        let again = Context { attempt: 1, ..context((0, 0)) };
        let host = FakeHost { tried: [0].into(), ..FakeHost::default() };
        assert_eq!(policy.pick(again, &host), Decision::Endpoint(2));
        let host = FakeHost { tried: [0, 2].into(), ..FakeHost::default() };
        assert_eq!(policy.pick(again, &host), Decision::Endpoint(0));
    }

    #[test]
    fn nobody_is_an_empty_plan() {
        let plan = build::<LeastRequest>("{}", &scope(""), &[endpoint(1, "", 0)]).unwrap();
        assert_eq!(plan.rotation(), Some(&[][..]));
    }
}
