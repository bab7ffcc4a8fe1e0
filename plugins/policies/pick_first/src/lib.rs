//! Everything to one endpoint, and to the next in order when that one fails: an active one with
//! stand-bys. gRPC's `pick_first`, with its `shuffleAddressList` (proposal A62), here `shuffle`,
//! which gives every node another order.
//!
//! Without `shuffle`, the order is that of the registry, by the instance's id. With it, it is a
//! random one by weight (proposal A113) that depends on the endpoints and on `seed` only, and in
//! which the others stay where they are when one comes or goes: nodes with different seeds spread
//! over the endpoints, and each keeps its endpoint while that is there. A policy has no randomness
//! at build, so nodes of one zone with the same seed choose the same endpoint.
//!
//! gRPC stays with an endpoint that it is connected to when another one appears before it in the
//! list; a policy here keeps nothing from one list to the next, so the first in order gets the
//! requests as soon as it is there.
//!
//! A plan with one entry, for one or two endpoints: what the host does when that entry fails is to
//! take the other. From three on it is asked for each request, because a plan names no order of
//! stand-bys: the host would spread over all of them. A first attempt asks the host nothing.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy, receiving,
    rendezvous_order,
};

/// The policy: all endpoints, in the order of preference.
#[derive(Debug)]
pub struct PickFirst {
    order: Vec<u32>,
}

impl Policy for PickFirst {
    const DESCRIPTION: Description = Description::new(
        "pick_first",
        env!("CARGO_PKG_VERSION"),
        "Everything to one endpoint, and to the next in order when that one fails.",
    )
    .with_fields(&[
        Field {
            name: "shuffle",
            default: "false",
            doc: "whether the order is a random one by weight, different for each seed, instead of that of the registry",
        },
        Field { name: "seed", default: r#""""#, doc: "what the shuffled order depends on: the node's name, for example" },
    ]);

    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let seed = config.text("seed")?;
        let mut order = if config.boolean("shuffle")? {
            // The zone tells at least the nodes of different zones apart.
            let seed = [&scope.service, "/", &scope.zone, "/", &seed].concat();
            rendezvous_order(endpoints.iter().map(|endpoint| (endpoint.address.as_str(), endpoint.weight)), &seed)
        } else {
            receiving(endpoints)
        };
        Ok(if order.len() <= 2 {
            order.truncate(1);
            Plan::Rotation(order)
        } else {
            Plan::EachRequest(Self { order })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let first = self.order.iter().copied().find(|endpoint| context.attempt == 0 || !host.tried(*endpoint));
        // Where everything was tried, a second try is better than none.
        first.or(self.order.first().copied()).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(PickFirst);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, build, context, endpoints, scope};

    use super::*;

    fn order(config: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        asked(build::<PickFirst>(config, &scope("a"), endpoints).unwrap()).order
    }

    fn shuffled(seed: usize) -> String {
        format!(r#"{{"shuffle": true, "seed": "node-{seed}"}}"#)
    }

    #[test]
    fn one_or_two_endpoints_are_a_plan() {
        let plan = |weights: &[u32]| {
            let endpoints = endpoints(weights.len() as u8, weights);
            build::<PickFirst>("{}", &scope(""), &endpoints).unwrap().rotation().map(<[u32]>::to_vec)
        };
        assert_eq!(plan(&[]), Some(vec![]));
        assert_eq!(plan(&[0, 0, 0]), Some(vec![]));
        assert_eq!(plan(&[0, 1]), Some(vec![1]));
        assert_eq!(plan(&[1, 1]), Some(vec![0]));
        assert_eq!(plan(&[1, 1, 1]), None);
    }

    #[test]
    fn the_first_gets_everything_and_the_next_what_failed_there() {
        let mut policy = asked(build::<PickFirst>("{}", &scope(""), &endpoints(5, &[0, 1, 1, 1, 1])).unwrap());
        assert_eq!(policy.pick(context((7, 7)), &FakeHost::default()), Decision::Endpoint(1));
        let host = FakeHost { tried: [1, 2].into(), ..FakeHost::default() };
        let again = Context { attempt: 2, ..context((7, 7)) };
        assert_eq!(policy.pick(again, &host), Decision::Endpoint(3));
        let host = FakeHost { tried: [1, 2, 3, 4].into(), ..FakeHost::default() };
        assert_eq!(policy.pick(again, &host), Decision::Endpoint(1));
    }

    #[test]
    fn seeds_spread_over_the_endpoints_by_weight() {
        let five = endpoints(5, &[1, 1, 2, 0, 1]);
        let mut first = [0u32; 5];
        for seed in 0..2_000 {
            first[order(&shuffled(seed), &five)[0] as usize] += 1;
        }
        for (count, weight) in first.iter().zip([1u32, 1, 2, 0, 1]) {
            assert!(count.abs_diff(weight * 400) < 100, "{first:?}");
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<PickFirst>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(refused(r#"{"shuffle": 1}"#), "`shuffle` must be true or false, not 1");
        assert_eq!(refused(r#"{"seed": 1}"#), "`seed` must be a string, not 1");
    }

    proptest! {
        #[test]
        fn a_shuffled_first_stays_while_it_is_there(n in 4u8..20, gone in 0u8..20, seed in 0usize..1000) {
            let all = endpoints(n, &[1]);
            let mut left = all.clone();
            let lost = left.remove(usize::from(gone % n)).id;
            let first = |endpoints: &[Endpoint]| endpoints[order(&shuffled(seed), endpoints)[0] as usize].id.clone();
            prop_assert!(first(&left) == first(&all) || first(&all) == lost);
        }
    }
}
