//! The less busy of a few endpoints chosen at random, by calls in flight: two choices already come
//! close to always taking the least busy one, without every node running to the same endpoint at
//! once (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996).
//! `choice_count` and its bounds are those of gRPC's `least_request` (proposal A48); unlike there,
//! a number out of bounds is refused instead of corrected in silence.
//!
//! Asked for each request, because load is not known before. The host compares the last two itself,
//! by the newest figures: with two choices this policy asks it nothing on a first attempt. A later
//! attempt leaves out the endpoints that the request has failed on while there are others. A weight
//! of 0 gets nothing; other weights are not heeded.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Random, Scope, export_policy,
    receiving,
};

/// The policy: the endpoints to choose from, and how many to look at.
#[derive(Debug)]
pub struct LeastRequest {
    endpoints: Vec<u32>,
    choice_count: usize,
}

impl Policy for LeastRequest {
    const DESCRIPTION: Description = Description::new(
        "least_request",
        env!("CARGO_PKG_VERSION"),
        "The endpoint with the fewest calls in flight among a few chosen at random.",
    )
    .with_fields(&[Field {
        name: "choice_count",
        default: "2",
        doc: "how many endpoints are compared for each request, 2 to 10",
    }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let choice_count = config.integer("choice_count", 2..=10)? as usize;
        let endpoints = receiving(endpoints);
        // With nobody to choose from there is nothing to ask for: an empty plan lets the host say
        // why.
        Ok(if endpoints.is_empty() {
            Plan::Rotation(endpoints)
        } else {
            Plan::EachRequest(Self { endpoints, choice_count })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let retried = context.attempt > 0;
        let chosen = self.choose(context.random, |endpoint| retried && host.tried(endpoint));
        // Where everything was tried, a second try is better than none.
        let chosen = if chosen.is_empty() { self.choose(context.random, |_| false) } else { chosen };
        match chosen[..] {
            [] => Decision::Queue,
            [only] => Decision::Endpoint(only),
            [a, b] => Decision::Either((a, b)),
            [a, b, ref more @ ..] => {
                let load = |endpoint| (host.in_flight(endpoint), endpoint);
                let (mut least, mut next) = (load(a), load(b));
                if next.0 < least.0 {
                    (least, next) = (next, least);
                }
                for other in more.iter().copied().map(load) {
                    if other.0 < least.0 {
                        (least, next) = (other, least);
                    } else if other.0 < next.0 {
                        next = other;
                    }
                }
                Decision::Either((least.1, next.1))
            }
        }
    }
}

export_policy!(LeastRequest);

impl LeastRequest {
    /// Up to `choice_count` different endpoints at random, without those to `skip`. A draw that
    /// falls on one of these, or on one drawn before, moves on to the next: they are few, so this
    /// asks little and favours hardly anybody.
    fn choose(&self, random: (u32, u32), skip: impl Fn(u32) -> bool) -> Vec<u32> {
        let n = self.endpoints.len();
        let mut more = Random::from_context(random);
        let mut chosen = Vec::with_capacity(self.choice_count);
        for draw in 0..self.choice_count.min(n) {
            let random = match draw {
                0 => random.0,
                1 => random.1,
                _ => more.next_u32(),
            };
            // The first draw is among all, the second among those after the first: so two draws are
            // uniform over pairs.
            let (from, among) = match chosen.first() {
                Some(first) if draw == 1 => (self.place(*first) + 1, n - 1),
                _ => (0, n),
            };
            let start = from + Random::scale(random, among as u32) as usize;
            let mut candidates = (start..start + n).map(|place| self.endpoints[place % n]);
            match candidates.find(|endpoint| !chosen.contains(endpoint) && !skip(*endpoint)) {
                Some(endpoint) => chosen.push(endpoint),
                None => break,
            }
        }
        chosen
    }

    /// Where an endpoint stands in the list, which is sorted.
    fn place(&self, endpoint: u32) -> usize {
        self.endpoints.binary_search(&endpoint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, build, context, endpoint, scope};

    use super::*;

    fn policy(config: &str, weights: &[u32]) -> LeastRequest {
        let endpoints: Vec<Endpoint> = (1..).zip(weights).map(|(n, weight)| endpoint(n, "", *weight)).collect();
        match build::<LeastRequest>(config, &scope(""), &endpoints).unwrap() {
            Plan::EachRequest(policy) => policy,
            plan => panic!("not asked for each request: {plan:?}"),
        }
    }

    #[test]
    fn nobody_is_an_empty_plan_and_one_needs_no_choice() {
        assert_eq!(build::<LeastRequest>("{}", &scope(""), &[]).unwrap().rotation(), Some(&[][..]));
        assert_eq!(build::<LeastRequest>("{}", &scope(""), &[endpoint(1, "", 0)]).unwrap().rotation(), Some(&[][..]));
        let decision = policy("{}", &[0, 1, 0]).pick(context((9, 9)), &FakeHost::default());
        assert_eq!(decision, Decision::Endpoint(1));
    }

    #[test]
    fn two_choices_are_uniform_over_pairs() {
        let mut policy = policy("{}", &[1; 4]);
        let mut random = Random::from_text("pairs");
        let mut pairs = std::collections::BTreeMap::new();
        for _ in 0..12_000 {
            match policy.pick(context((random.next_u32(), random.next_u32())), &FakeHost::default()) {
                Decision::Either(pair) => *pairs.entry(pair).or_insert(0) += 1,
                decision => panic!("{decision:?}"),
            }
        }
        assert_eq!(pairs.len(), 12);
        assert!(pairs.values().all(|count| (850..1_150).contains(count)), "{pairs:?}");
    }

    #[test]
    fn more_choices_leave_the_two_least_busy() {
        let mut policy = policy(r#"{"choice_count": 10}"#, &[1; 5]);
        let host = FakeHost { in_flight: [(0, 9), (1, 1), (2, 7), (3, 0), (4, 8)].into(), ..FakeHost::default() };
        assert_eq!(policy.pick(context((1 << 30, 5)), &host), Decision::Either((3, 1)));
    }

    #[test]
    fn whoever_is_drawn_first_the_two_least_busy_are_left() {
        let mut policy = policy(r#"{"choice_count": 5}"#, &[1; 5]);
        let mut random = Random::from_text("least");
        for _ in 0..500 {
            let in_flight: Vec<u32> = (0..5).map(|_| random.below(4)).collect();
            let host = FakeHost { in_flight: (0..).zip(in_flight.clone()).collect(), ..FakeHost::default() };
            let Decision::Either((a, b)) = policy.pick(context((random.next_u32(), random.next_u32())), &host) else {
                panic!("not a pair");
            };
            let mut sorted = in_flight.clone();
            sorted.sort_unstable();
            assert_eq!([in_flight[a as usize], in_flight[b as usize]], sorted[..2], "{in_flight:?}");
        }
    }

    #[test]
    fn a_later_attempt_avoids_what_was_tried_while_anything_else_is_left() {
        let mut policy = policy("{}", &[1; 3]);
        let again = |random| Context { attempt: 1, ..context(random) };
        let host = FakeHost { tried: [0, 2].into(), ..FakeHost::default() };
        for random in [0, 1 << 30, 2 << 30, 3 << 30] {
            assert_eq!(policy.pick(again((random, random)), &host), Decision::Endpoint(1));
        }
        let host = FakeHost { tried: [0, 1, 2].into(), ..FakeHost::default() };
        assert!(matches!(policy.pick(again((0, 0)), &host), Decision::Either(_)));
    }

    #[test]
    fn choice_counts_out_of_bounds_are_refused() {
        for count in ["1", "11", "2.5", "-2"] {
            let refused =
                build::<LeastRequest>(&format!(r#"{{"choice_count": {count}}}"#), &scope(""), &[]).unwrap_err();
            assert_eq!(refused, format!("`choice_count` must be a whole number from 2 to 10, not {count}"));
        }
    }

    proptest! {
        #[test]
        fn choices_are_different_and_may_receive(
            weights in prop::collection::vec(0u32..3, 1..20), count in 2usize..=10, random: (u32, u32),
            tried in prop::collection::btree_set(0u32..20, 0..20),
        ) {
            let usable = weights.iter().filter(|weight| **weight > 0).count();
            prop_assume!(usable > 0);
            let policy = policy(&format!(r#"{{"choice_count": {count}}}"#), &weights);
            let mut chosen = policy.choose(random, |endpoint| tried.contains(&endpoint));
            let left = policy.endpoints.iter().filter(|endpoint| !tried.contains(endpoint)).count();
            prop_assert_eq!(chosen.len(), count.min(left));
            prop_assert!(chosen.iter().all(|e| weights[*e as usize] > 0 && !tried.contains(e)));
            chosen.sort_unstable();
            chosen.dedup();
            prop_assert_eq!(chosen.len(), count.min(left));
        }
    }
}
