//! Some of the endpoints only, by weight among them: those registered with the metadata that is
//! asked for, and of these no more than `size`.
//!
//! By metadata it is Envoy's subset load balancer for one subset, with its answers to a subset that
//! is empty: `fail` (Envoy's `NO_FALLBACK`, its default too) or `any` (`ANY_ENDPOINT`). By size it
//! is gRPC's random subsetting (proposal A68): each node takes the endpoints that come first in an
//! order that rendezvous hashing makes of their addresses and the node's `seed`. One endpoint more
//! or less changes at most one entry of each node's subset. A68 draws its seed at the client's
//! start; a policy has no randomness at build, and with the same seed all nodes would burden the
//! same endpoints, so `size` cannot be given without one.
//!
//! A plan, not a choice for each request: what the subset depends on is known before the first
//! request comes. Only when nothing matches and `fallback` is `fail` is it asked for each request,
//! to say so.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Level, Plan, Policy, Scope, export_policy,
    has_metadata, log, rendezvous_order, smooth_rotation,
};

/// The policy where there is nobody to send to: what it says.
#[derive(Debug)]
pub struct Subset {
    nobody: String,
}

impl Policy for Subset {
    const DESCRIPTION: Description = Description::new(
        "subset",
        env!("CARGO_PKG_VERSION"),
        "Some of the endpoints only: those with certain metadata, and no more than a number of them.",
    )
    .with_fields(&[
        Field {
            name: "metadata",
            default: "{}",
            doc: "names and values that an endpoint must be registered with, for example {\"version\": \"2\"}",
        },
        Field {
            name: "fallback",
            default: r#""fail""#,
            doc: "when no endpoint matches: fail the request, or send it to any",
        },
        Field {
            name: "size",
            default: "0",
            doc: "the most endpoints that this node sends to; 0 is no limit, and gRPC's default is 20",
        },
        Field {
            name: "seed",
            default: r#""""#,
            doc: "what the choice of `size` endpoints depends on; give each node its own, its name for example",
        },
    ]);

    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let wanted = config.texts_by_name("metadata")?;
        let fallback = config.one_of("fallback", &["fail", "any"])?;
        let size = config.integer("size", 0..=1_000_000)? as usize;
        let seed = config.text("seed")?;
        if size > 0 && seed.is_empty() {
            return Err("`seed` must be given with `size`, and differ from node to node: with the same one all nodes \
                        send to the same endpoints"
                .to_owned());
        }

        let may_receive = endpoints.iter().any(|endpoint| endpoint.weight > 0);
        let matching = |endpoint: &Endpoint| endpoint.weight > 0 && has_metadata(endpoint, &wanted);
        let all = may_receive && !endpoints.iter().any(matching);
        if all {
            let nobody = nobody(&scope.service, &wanted);
            if fallback == "fail" {
                return Ok(Plan::EachRequest(Self { nobody }));
            }
            log(Level::Warn, &(nobody + "; requests go to any of its endpoints"));
        }
        let mut weights: Vec<u32> =
            endpoints.iter().map(|endpoint| if all || matching(endpoint) { endpoint.weight } else { 0 }).collect();
        if size > 0 {
            // Everybody is as likely to be in the subset as the others; the weight counts within
            // it.
            let named = endpoints.iter().zip(&weights).map(|(e, weight)| (e.address.as_str(), (*weight).min(1)));
            for index in rendezvous_order(named, &seed).into_iter().skip(size) {
                weights[index as usize] = 0;
            }
        }
        Ok(Plan::Rotation(smooth_rotation(weights)))
    }

    fn pick(&mut self, _: Context, _: &impl Host) -> Decision {
        Decision::Fail(self.nobody.clone())
    }
}

export_policy!(Subset);

/// Why there is nobody, for people.
fn nobody(service: &str, wanted: &[(String, String)]) -> String {
    let mut text = ["no endpoint of ", service, " is registered with "].concat();
    for (nth, (name, value)) in wanted.iter().enumerate() {
        text += if nth == 0 { "" } else { ", " };
        text += &[name, "=", value].concat();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use waymark_plugin::testing::{
        FakeHost, asked, build, context, counts, endpoint, endpoints, logged, scope, with_metadata,
    };

    use super::*;

    fn rotation(config: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        build::<Subset>(config, &scope(""), endpoints).unwrap().rotation().unwrap().to_vec()
    }

    fn versions() -> Vec<Endpoint> {
        vec![
            with_metadata(endpoint(1, "", 1), &[("team", "a"), ("version", "1")]),
            with_metadata(endpoint(2, "", 1), &[("team", "a"), ("version", "2")]),
            with_metadata(endpoint(3, "", 3), &[("team", "b"), ("version", "2")]),
            with_metadata(endpoint(4, "", 0), &[("team", "c"), ("version", "2")]),
        ]
    }

    /// The ids in a node's subset.
    fn subset(endpoints: &[Endpoint], size: usize, node: usize) -> BTreeSet<String> {
        let config = format!(r#"{{"size": {size}, "seed": "node-{node}"}}"#);
        rotation(&config, endpoints).into_iter().map(|index| endpoints[index as usize].id.clone()).collect()
    }

    #[test]
    fn without_configuration_everybody_gets_a_share_by_weight() {
        assert_eq!(counts(&rotation("{}", &versions()), 4), [1, 1, 3, 0]);
        assert_eq!(rotation("{}", &[]), [0u32; 0]);
        assert_eq!(rotation("{}", &[endpoint(1, "", 0)]), [0u32; 0]);
    }

    #[test]
    fn only_endpoints_with_all_of_the_metadata_are_in() {
        assert_eq!(counts(&rotation(r#"{"metadata": {"version": "2"}}"#, &versions()), 4), [0, 1, 3, 0]);
        assert_eq!(rotation(r#"{"metadata": {"version": "2", "team": "a"}}"#, &versions()), [1]);
    }

    #[test]
    fn when_nothing_matches_requests_fail_with_the_reason_or_go_anywhere() {
        // The only endpoint of team c has weight 0.
        let config = r#"{"metadata": {"version": "2", "team": "c"}}"#;
        let mut policy = asked(build::<Subset>(config, &scope(""), &versions()).unwrap());
        let message = "no endpoint of greeter is registered with version=2, team=c";
        assert_eq!(policy.pick(context((1, 1)), &FakeHost::default()), Decision::Fail(message.to_owned()));
        let config = r#"{"metadata": {"team": "c"}, "fallback": "any"}"#;
        assert_eq!(counts(&rotation(config, &versions()), 4), [1, 1, 3, 0]);
        assert_eq!(logged().len(), 1);
    }

    #[test]
    fn nodes_spread_over_all_endpoints() {
        let twenty = endpoints(20, &[1, 5]);
        let mut nodes = std::collections::BTreeMap::new();
        for node in 0..1_000 {
            for id in subset(&twenty, 5, node) {
                *nodes.entry(id).or_insert(0u32) += 1;
            }
        }
        // 250 each, whatever their weight.
        assert!(nodes.len() == 20 && nodes.values().all(|count| count.abs_diff(250) < 65), "{nodes:?}");
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<Subset>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(
            refused(r#"{"metadata": {"version": 2}}"#),
            r#"`metadata` must be an object of strings, each name once, not {"version": 2}"#
        );
        assert_eq!(refused(r#"{"fallback": "none"}"#), r#"`fallback` must be "fail" or "any", not "none""#);
        assert_eq!(refused(r#"{"size": -1}"#), "`size` must be a whole number from 0 to 1000000, not -1");
        assert!(
            refused(r#"{"size": 5}"#).starts_with("`seed` must be given with `size`"),
            "{}",
            refused(r#"{"size": 5}"#)
        );
    }

    proptest! {
        #[test]
        fn one_endpoint_less_changes_at_most_one_entry(n in 2u8..40, gone in 0u8..40, size in 1usize..10, node: usize) {
            let all = endpoints(n, &[1, 2]);
            let mut left = all.clone();
            let lost = left.remove(usize::from(gone % n)).id;
            let (before, after) = (subset(&all, size, node), subset(&left, size, node));
            prop_assert_eq!(before.len(), size.min(usize::from(n)));
            prop_assert_eq!(after.len(), size.min(usize::from(n) - 1));
            let kept = before.intersection(&after).count();
            prop_assert_eq!(kept, before.len() - usize::from(before.contains(&lost)));
        }
    }
}
