//! The node's own zone first, and no more to other zones than keeps all endpoints equally busy:
//! Envoy's zone aware routing ("Zone aware routing" in its architecture overview, load balancing).
//!
//! Two shares of each zone count: what part of all weight stands there (its capacity), and what
//! part of all callers. Where the own zone's capacity is at least its callers' part, everything
//! stays. Where it is less, only that much stays, and the rest goes to the zones that have capacity
//! left when their own callers are served, in proportion to what is left (their residual capacity).
//!
//! ```text
//!              part of capacity   part of callers   from here stays   goes to
//! a (own)            1/6               1/3                1/2
//! b                  1/2               1/3                            b: 1/2   (all residual capacity is there)
//! c                  1/3               1/3                            nothing
//! ```
//!
//! **What it can know.** Envoy sees its peers as a cluster of their own. A Waymark node knows the
//! endpoints' zones and its own, and nothing of other nodes. So callers are taken to be spread
//! evenly over the zones that have endpoints and the own one, unless `callers` says how they are.
//!
//! **How much it minds.** With `min_share` 100, the default, every endpoint gets the same, as in
//! Envoy. Less tolerates that the own zone's endpoints get more: at 50, everything stays where the
//! zone can carry half of its part, so they get up to twice the mean; 0 is plain zone preference,
//! where everything stays as long as anybody is there. With fewer than `min_endpoints` in all zones
//! together, no zone is preferred: one endpoint more or less would move too much (Envoy's
//! `min_cluster_size`, 6).
//!
//! Within a zone, weights count as in `weighted`; a weight of 0 gets nothing, and does not make a
//! zone larger. A node that was not told its zone has no zone to prefer and spreads over all
//! endpoints by weight.
//!
//! A plan, not a choice for each request: zones and weights are known before the first request
//! comes.

use std::collections::BTreeMap;

use waymark_plugin::{
    Config, Description, Endpoint, Field, Group, Level, Plan, Policy, Scope, export_policy, grouped_rotation, log,
    smooth_rotation,
};

/// The policy.
#[derive(Debug)]
pub struct ZoneAware;

impl Policy for ZoneAware {
    const DESCRIPTION: Description = Description::new(
        "zone_aware",
        env!("CARGO_PKG_VERSION"),
        "The own zone first; what it is too small to carry goes to the zones that have capacity left.",
    )
    .with_fields(&[
        Field {
            name: "min_endpoints",
            default: "6",
            doc: "with fewer endpoints than this in all zones together, no zone is preferred; 1 to 10000",
        },
        Field {
            name: "min_share",
            default: "100",
            doc: "percent of its callers' part of the load that the own zone must be able to carry to keep all of it; 0 is \
                  plain zone preference",
        },
        Field {
            name: "callers",
            default: "{}",
            doc: "how many callers there are in each zone, relative to the others, for example {\"a\": 2, \"b\": 1}; left out, as \
                  many in each",
        },
    ]);

    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let min_endpoints = config.integer("min_endpoints", 1..=10_000)? as usize;
        let min_share = config.integer("min_share", 0..=100)?;
        let callers = config.integers_by_name("callers", 0..=1_000_000)?;
        if scope.zone.is_empty() {
            log(Level::Warn, "this node was not told its zone, so it prefers none");
        }
        let receiving = endpoints.iter().filter(|endpoint| endpoint.weight > 0).count();
        if scope.zone.is_empty() || receiving < min_endpoints {
            return Ok(Plan::Rotation(smooth_rotation(endpoints.iter().map(|endpoint| endpoint.weight))));
        }

        let mut zones: BTreeMap<&str, Zone> = BTreeMap::new();
        zones.entry(&scope.zone).or_default();
        for (index, endpoint) in (0..).zip(endpoints).filter(|(_, endpoint)| endpoint.weight > 0) {
            zones.entry(&endpoint.zone).or_default().group.members.push((index, endpoint.weight));
        }
        for (name, zone) in &mut zones {
            zone.callers = u128::from(callers.is_empty());
            if let Some((_, number)) = callers.iter().find(|(caller, _)| caller == name) {
                zone.callers = u128::from(*number);
            }
            zone.capacity = u128::from(zone.group.weight());
        }
        // Callers in zones without endpoints are served by the others' residual capacity as well.
        let elsewhere = callers.iter().filter(|(name, _)| !zones.contains_key(name.as_str()));
        let elsewhere = elsewhere.map(|(_, number)| u128::from(*number)).sum();
        share_out(&mut zones, &scope.zone, elsewhere, u128::from(min_share));
        let groups: Vec<Group> = zones.into_values().map(|zone| zone.group).collect();
        Ok(Plan::Rotation(grouped_rotation(&groups)))
    }
}

export_policy!(ZoneAware);

/// One zone.
#[derive(Default)]
struct Zone {
    group: Group,
    capacity: u128,
    callers: u128,
}

/// Give each zone its share of what is sent from `own`. `elsewhere` are the callers in zones that
/// have no endpoints.
fn share_out(zones: &mut BTreeMap<&str, Zone>, own: &str, elsewhere: u128, min_share: u128) {
    let capacity: u128 = zones.values().map(|zone| zone.capacity).sum();
    let callers = zones.values().map(|zone| zone.callers).sum::<u128>() + elsewhere;

    // A zone's part of the capacity and of the callers, both over one denominator, capacity *
    // callers.
    let able = |zone: &Zone| zone.capacity * callers;
    let wanted = |zone: &Zone| zone.callers * capacity;
    let (stays, whole) = match zones.get(own).map(|here| (able(here) * 100, wanted(here) * min_share)) {
        None | Some((0, _)) => (0, 1),
        Some((able, wanted)) if able >= wanted => (1, 1),
        Some((able, wanted)) => bounded(able, wanted),
    };
    let residuals: Vec<u128> = zones
        .iter()
        .map(|(name, zone)| if *name == own { 0 } else { able(zone).saturating_sub(wanted(zone)) })
        .collect();
    let all: u128 = residuals.iter().sum();
    for ((name, zone), residual) in zones.iter_mut().zip(residuals) {
        zone.group.share = match all {
            _ if *name == own => stays * all.max(1),
            // Where no zone has capacity left, which takes callers that the node itself does not
            // belong to: by capacity.
            0 => (whole - stays) * zone.capacity,
            _ => (whole - stays) * residual,
        };
    }
}

/// The fraction with parts small enough to be multiplied: exact where a million is enough, else in
/// millionths, and then at least one.
fn bounded(part: u128, whole: u128) -> (u128, u128) {
    const MOST: u128 = 1_000_000;
    let (mut a, mut common) = (part, whole);
    while a != 0 {
        (a, common) = (common % a, a);
    }
    let (part, whole) = (part / common, whole / common);
    if whole <= MOST { (part, whole) } else { ((part * MOST / whole).max(1), MOST) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, logged, scope};

    use super::*;

    /// The percentage that each endpoint gets.
    fn shares(config: &str, zone: &str, endpoints: &[Endpoint]) -> Vec<f64> {
        let plan = build::<ZoneAware>(config, &scope(zone), endpoints).unwrap();
        let entries = plan.rotation().unwrap();
        let length = entries.len() as f64;
        counts(entries, endpoints.len()).into_iter().map(|count| f64::from(count) / length * 100.0).collect()
    }

    /// The percentage that each of these zones gets.
    fn zone_shares<const N: usize>(config: &str, zone: &str, endpoints: &[Endpoint], zones: [&str; N]) -> [f64; N] {
        let shares = shares(config, zone, endpoints);
        let of = |name| endpoints.iter().zip(&shares).filter(|(e, _)| e.zone == name).map(|(_, share)| share).sum();
        zones.map(of)
    }

    fn assert_close(shares: &[f64], expected: &[f64]) {
        let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.2);
        assert!(close && shares.len() == expected.len(), "{shares:?} instead of {expected:?}");
    }

    /// So many endpoints of weight 1 in each zone.
    fn zones(counts: &[(&str, u8)]) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (zone, count) in counts {
            endpoints.extend((1..=*count).map(|n| endpoint(n, zone, 1)));
        }
        endpoints
    }

    #[test]
    fn everything_stays_in_a_zone_that_is_large_enough() {
        let seven = zones(&[("a", 4), ("b", 3)]);
        assert_close(&zone_shares("{}", "a", &seven, ["a", "b"]), &[100.0, 0.0]);
        // Half of the callers stand in b, and three sevenths of the capacity.
        assert_close(&zone_shares("{}", "b", &seven, ["a", "b"]), &[14.29, 85.71]);
    }

    #[test]
    fn what_is_too_much_goes_where_capacity_is_left() {
        // The example of the module's documentation.
        let six = zones(&[("a", 1), ("b", 3), ("c", 2)]);
        assert_close(&zone_shares("{}", "a", &six, ["a", "b", "c"]), &[50.0, 50.0, 0.0]);
        let twelve = zones(&[("a", 1), ("b", 6), ("c", 5)]);
        // A third of the callers each; 1/12 stays of 4/12, and 2/12 and 1/12 are left in b and c.
        assert_close(&zone_shares("{}", "a", &twelve, ["a", "b", "c"]), &[25.0, 50.0, 25.0]);
    }

    #[test]
    fn callers_can_be_told() {
        let six = zones(&[("a", 2), ("b", 4)]);
        let config = r#"{"callers": {"a": 1, "b": 2}}"#;
        assert_close(&zone_shares(config, "a", &six, ["a", "b"]), &[100.0, 0.0]);
        let config = r#"{"callers": {"a": 2, "b": 1}}"#;
        assert_close(&zone_shares(config, "a", &six, ["a", "b"]), &[50.0, 50.0]);
        // Callers in a zone without endpoints take from what is left in b: 1/2 of all in a, 1/4
        // each in b and c.
        let config = r#"{"callers": {"a": 2, "b": 1, "c": 1}}"#;
        assert_close(&zone_shares(config, "c", &six, ["a", "b"]), &[0.0, 100.0]);
        // Nobody is said to call from a: whoever does stays.
        assert_close(&zone_shares(r#"{"callers": {"b": 1}}"#, "a", &six, ["a", "b"]), &[100.0, 0.0]);
        // Nor from d, where there is nobody to stay with, and b's callers leave nothing there: by
        // capacity left in a.
        assert_close(&zone_shares(r#"{"callers": {"b": 1}}"#, "d", &six, ["a", "b"]), &[100.0, 0.0]);
        let config = r#"{"callers": {"a": 1, "b": 2}}"#;
        assert_close(&zone_shares(config, "d", &six, ["a", "b"]), &[33.33, 66.67]);
    }

    #[test]
    fn a_smaller_share_can_be_tolerated_down_to_plain_preference() {
        let endpoints = zones(&[("a", 2), ("b", 18)]);
        assert_close(&zone_shares("{}", "a", &endpoints, ["a", "b"]), &[20.0, 80.0]);
        assert_close(&zone_shares(r#"{"min_share": 50}"#, "a", &endpoints, ["a", "b"]), &[40.0, 60.0]);
        assert_close(&zone_shares(r#"{"min_share": 0}"#, "a", &endpoints, ["a", "b"]), &[100.0, 0.0]);
        // Plain preference leaves a zone only when nobody is there.
        assert_close(&zone_shares(r#"{"min_share": 0}"#, "c", &endpoints, ["a", "b"]), &[0.0, 100.0]);
    }

    #[test]
    fn with_few_endpoints_no_zone_is_preferred() {
        let five = zones(&[("a", 3), ("b", 2)]);
        assert_close(&zone_shares("{}", "a", &five, ["a", "b"]), &[60.0, 40.0]);
        assert_close(&zone_shares(r#"{"min_endpoints": 5}"#, "a", &five, ["a", "b"]), &[100.0, 0.0]);
        // One that receives nothing does not count.
        let mut six = five;
        six.push(endpoint(9, "a", 0));
        assert_close(&zone_shares("{}", "a", &six, ["a", "b"]), &[60.0, 40.0]);
    }

    #[test]
    fn within_a_zone_weights_count_and_0_gets_nothing() {
        let endpoints = [endpoint(1, "a", 3), endpoint(2, "a", 1), endpoint(3, "a", 0), endpoint(4, "b", 4)];
        assert_close(&shares(r#"{"min_endpoints": 1}"#, "a", &endpoints), &[75.0, 25.0, 0.0, 0.0]);
        assert_eq!(shares("{}", "a", &[]), [0.0f64; 0]);
        assert_close(&shares(r#"{"min_endpoints": 1}"#, "a", &[endpoint(1, "b", 5)]), &[100.0]);
    }

    #[test]
    fn a_node_without_a_zone_prefers_none_and_says_so() {
        let mut endpoints = zones(&[("", 1), ("a", 7)]);
        endpoints[0].weight = 7;
        assert_close(&zone_shares("{}", "", &endpoints, ["", "a"]), &[50.0, 50.0]);
        assert_eq!(logged().len(), 1);
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<ZoneAware>(config, &scope("a"), &[]).unwrap_err();
        assert_eq!(refused(r#"{"min_endpoints": 0}"#), "`min_endpoints` must be a whole number from 1 to 10000, not 0");
        let message = r#"`min_share` must be a whole number from 0 to 100, not "all""#;
        assert_eq!(refused(r#"{"min_share": "all"}"#), message);
        assert_eq!(
            refused(r#"{"callers": {"a": -1}}"#),
            r#"`callers` must be an object of whole numbers from 0 to 1000000, each name once, not {"a": -1}"#
        );
        assert_eq!(
            refused(r#"{"min_size": 6}"#),
            "unknown field `min_size`; `zone_aware` takes `min_endpoints`, `min_share`, `callers`"
        );
    }

    fn list(weights: std::ops::Range<u32>) -> impl Strategy<Value = Vec<Endpoint>> {
        prop::collection::vec((prop::sample::select(vec!["a", "b", "c", "d"]), weights), 6..16)
            .prop_map(|list| (1..).zip(list).map(|(n, (zone, weight))| endpoint(n, zone, weight)).collect())
    }

    proptest! {
        #[test]
        fn with_a_node_in_every_zone_all_endpoints_are_equally_busy(list in list(1..20)) {
            // What zone aware routing is for. One caller in each zone that has endpoints, as the
            // policy assumes.
            let mut names: Vec<&str> = list.iter().map(|endpoint| endpoint.zone.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let mut busy = vec![0.0; list.len()];
            for name in &names {
                for (sum, share) in busy.iter_mut().zip(shares("{}", name, &list)) {
                    *sum += share / names.len() as f64;
                }
            }
            let sum: f64 = list.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
            for (busy, endpoint) in busy.iter().zip(&list) {
                let due = f64::from(endpoint.weight) / sum * 100.0;
                prop_assert!((busy - due).abs() < 0.3, "{busy} instead of {due}");
            }
        }

        #[test]
        fn as_much_stays_as_the_formula_says(list in list(0..20), min_share in 1u32..=100) {
            prop_assume!(list.iter().filter(|endpoint| endpoint.weight > 0).count() >= 6);
            let shares = shares(&format!(r#"{{"min_share": {min_share}}}"#), "a", &list);
            let sum = |own: bool| list.iter().filter(|e| (e.zone == "a") == own).map(|e| f64::from(e.weight)).sum::<f64>();
            let mut names: Vec<&str> = list.iter().filter(|e| e.weight > 0).map(|e| e.zone.as_str()).chain(["a"]).collect();
            names.sort_unstable();
            names.dedup();
            let part = sum(true) / (sum(true) + sum(false)) * names.len() as f64;
            let stays = (part / f64::from(min_share) * 100.0).min(1.0) * 100.0;
            let stayed: f64 = list.iter().zip(&shares).filter(|(e, _)| e.zone == "a").map(|(_, share)| share).sum();
            prop_assert!((stayed - stays).abs() < 0.3, "{stayed} stayed instead of {stays}");
        }
    }

    proptest! {
        // Each case makes a list of 65,536.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_weight_is_too_large(list in list(0..u32::MAX), min_share in 0u32..=100, callers in 0u32..=1_000_000) {
            let config = format!(r#"{{"min_share": {min_share}, "callers": {{"a": 999999, "b": {callers}, "x": 7}}}}"#);
            let shares = shares(&config, "a", &list);
            for (share, endpoint) in shares.iter().zip(&list) {
                prop_assert!(endpoint.weight > 0 || *share == 0.0);
            }
            prop_assert!((shares.iter().sum::<f64>() - 100.0).abs() < 1e-6);
        }
    }
}
