//! The node's own zone first. Traffic leaves it only when it is too small to carry what is sent from there, and then only the
//! part that is too much, spread over all other zones by weight.
//!
//! The idea is Envoy's zone aware routing ("Zone aware routing" in Envoy's architecture overview, load balancing): stay local,
//! and spill in proportion to what the own zone lacks. Envoy compares with the measured spread of the callers. A
//! Waymark node does not know its peers' traffic, so this policy compares with an even spread, and tolerates a zone that is
//! up to `min_share` percent of it. With the default of 50, an endpoint gets at most twice what it would get without zones.
//!
//! How much of the traffic stays is the least of
//!
//! ```text
//!   1      own endpoints / min_endpoints      own weight / (min_share % of (all weight / zones))
//! ```
//!
//! Within a zone, weights count as in `weighted`; a weight of 0 gets nothing, and does not make a zone larger. A node that
//! was not told its zone has no zone to prefer and spreads over all endpoints by weight.
//!
//! A plan, not a choice for each request: zones and weights are known before the first request comes.

use std::collections::BTreeSet;

use waymark_plugin::{
    Config, Description, Endpoint, Field, Level, Plan, Policy, Scope, export_policy, log, smooth_rotation,
};

/// The policy.
pub struct ZoneAware;

/// The part that stays is rounded to this many parts of the whole where it cannot be said exactly with fewer. It keeps
/// rotations short: two thirds is exact, 0.66667 would need a list of 100,000.
const PARTS: u64 = 1_000;

impl Policy for ZoneAware {
    const DESCRIPTION: Description = Description::new(
        "zone_aware",
        env!("CARGO_PKG_VERSION"),
        "The own zone first; what it is too small to carry goes to the others, by weight.",
    )
    .with_fields(&[
        Field {
            name: "min_endpoints",
            default: "1",
            doc: "with fewer endpoints than this in the own zone, it keeps only that fraction of the traffic",
        },
        Field {
            name: "min_share",
            default: "50",
            doc: "percent of an even share (all weight / zones) that the own zone must weigh to keep all traffic; 0 turns \
                  it off",
        },
    ]);

    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let min_endpoints = config.integer("min_endpoints", 1..=10_000)?;
        let min_share = config.integer("min_share", 0..=100)?;
        if scope.zone.is_empty() {
            log(Level::Warn, "this node was not told its zone, so it prefers none");
        }
        let weights = weights(endpoints, &scope.zone, u64::from(min_endpoints), u64::from(min_share));
        Ok(Plan::Rotation(smooth_rotation(weights)))
    }
}

export_policy!(ZoneAware);

/// What each endpoint is to get, relative to the others.
fn weights(endpoints: &[Endpoint], zone: &str, min_endpoints: u64, min_share: u64) -> Vec<u64> {
    let is_own = |endpoint: &Endpoint| !zone.is_empty() && endpoint.zone == zone;
    let weights = manageable(endpoints);
    let (mut own, mut others, mut own_endpoints, mut zones) = (0, 0, 0, BTreeSet::new());
    for (endpoint, weight) in endpoints.iter().zip(&weights).filter(|(_, weight)| **weight > 0) {
        zones.insert(endpoint.zone.as_str());
        if is_own(endpoint) {
            own += weight;
            own_endpoints += 1;
        } else {
            others += weight;
        }
    }
    if own == 0 || others == 0 {
        // One side only: by weight, wherever they stand.
        return weights;
    }

    let by_endpoints = Part::of(own_endpoints, min_endpoints);
    let by_weight = Part::of(own * 100 * zones.len() as u64, min_share * (own + others));
    let stays = if by_endpoints.is_less_than(&by_weight) { by_endpoints } else { by_weight };

    // Own endpoints share `part` of the whole by weight, the others the rest: weight / own * part, put over one
    // denominator.
    let shares = endpoints.iter().zip(weights).map(|(endpoint, weight)| {
        if is_own(endpoint) { weight * others * stays.part } else { weight * own * (stays.whole - stays.part) }
    });
    shares.collect()
}

/// The endpoints' weights, halved until their products fit into 64 bits. Nobody is halved away.
fn manageable(endpoints: &[Endpoint]) -> Vec<u64> {
    let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    let shift = (64 - sum.leading_zeros()).saturating_sub(24);
    endpoints.iter().map(|endpoint| (u64::from(endpoint.weight) >> shift).max(endpoint.weight.min(1).into())).collect()
}

/// A fraction between 0 and 1.
struct Part {
    part: u64,
    whole: u64,
}

impl Part {
    /// `part / whole`, at most 1. Exact when that takes no more than [`PARTS`] parts, else to the nearest of them, and then at
    /// least one: a zone that is there gets something.
    fn of(part: u64, whole: u64) -> Self {
        if part >= whole {
            return Self { part: 1, whole: 1 };
        }
        let common = gcd(part, whole);
        let (part, whole) = (part / common, whole / common);
        if whole <= PARTS {
            return Self { part, whole };
        }
        Self { part: ((part * PARTS + whole / 2) / whole).clamp(1, PARTS), whole: PARTS }
    }

    /// Both wholes are at most [`PARTS`], so the products are small.
    fn is_less_than(&self, other: &Self) -> bool {
        self.part * other.whole < other.part * self.whole
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, logged, scope};

    use super::*;

    /// The percentage that each endpoint gets.
    fn shares(config: &str, zone: &str, endpoints: &[Endpoint]) -> Vec<f64> {
        let Plan::Rotation(entries) = build::<ZoneAware>(config, &scope(zone), endpoints).unwrap() else {
            panic!("not a rotation");
        };
        let length = entries.len() as f64;
        counts(&entries, endpoints.len()).into_iter().map(|count| f64::from(count) / length * 100.0).collect()
    }

    fn assert_close(shares: &[f64], expected: &[f64]) {
        let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.2);
        assert!(close && shares.len() == expected.len(), "{shares:?} instead of {expected:?}");
    }

    #[test]
    fn everything_stays_in_a_zone_that_is_large_enough() {
        let five = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b")].map(|(n, zone)| endpoint(n, zone, 1));
        assert_close(&shares("{}", "a", &five), &[33.33, 33.33, 33.33, 0.0, 0.0]);
        assert_close(&shares("{}", "b", &five), &[0.0, 0.0, 0.0, 50.0, 50.0]);
    }

    #[test]
    fn within_a_zone_weights_count_and_0_gets_nothing() {
        let endpoints = [endpoint(1, "a", 3), endpoint(2, "a", 1), endpoint(3, "a", 0), endpoint(4, "b", 4)];
        assert_close(&shares("{}", "a", &endpoints), &[75.0, 25.0, 0.0, 0.0]);
    }

    #[test]
    fn a_zone_with_too_few_endpoints_keeps_its_fraction_and_the_rest_goes_by_weight() {
        let endpoints = [endpoint(1, "a", 1), endpoint(2, "a", 1), endpoint(3, "b", 1), endpoint(4, "c", 3)];
        let config = r#"{"min_endpoints": 3, "min_share": 0}"#;
        assert_close(&shares(config, "a", &endpoints), &[33.33, 33.33, 8.33, 25.0]);
    }

    #[test]
    fn a_zone_that_weighs_too_little_keeps_what_it_can_carry() {
        // An even share would be 10 of 20; the own zone weighs 2, so of 50 % of that it can carry 2/5.
        let endpoints = [endpoint(1, "a", 2), endpoint(2, "b", 18)];
        assert_close(&shares("{}", "a", &endpoints), &[40.0, 60.0]);
        assert_close(&shares(r#"{"min_share": 100}"#, "a", &endpoints), &[20.0, 80.0]);
        assert_close(&shares(r#"{"min_share": 0}"#, "a", &endpoints), &[100.0, 0.0]);
    }

    #[test]
    fn without_an_own_endpoint_everything_goes_by_weight() {
        let endpoints = [endpoint(1, "b", 1), endpoint(2, "c", 3), endpoint(3, "a", 0)];
        assert_close(&shares("{}", "a", &endpoints), &[25.0, 75.0, 0.0]);
        assert_close(&shares("{}", "a", &[endpoint(1, "a", 1)]), &[100.0]);
        assert_eq!(shares("{}", "a", &[]), [0.0f64; 0]);
    }

    #[test]
    fn a_node_without_a_zone_prefers_none_and_says_so() {
        let endpoints = [endpoint(1, "", 1), endpoint(2, "a", 1)];
        assert_close(&shares("{}", "", &endpoints), &[50.0, 50.0]);
        assert_eq!(logged().len(), 1);
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<ZoneAware>(config, &scope("a"), &[]).err().unwrap();
        assert_eq!(refused(r#"{"min_endpoints": 0}"#), "`min_endpoints` must be a whole number from 1 to 10000, not 0");
        assert_eq!(
            refused(r#"{"min_share": "all"}"#),
            r#"`min_share` must be a whole number from 0 to 100, not "all""#
        );
        assert_eq!(
            refused(r#"{"min_size": 6}"#),
            "unknown field `min_size`; `zone_aware` takes `min_endpoints`, `min_share`"
        );
    }

    fn zone() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c"), Just("")]
    }

    fn endpoints(weights: std::ops::Range<u32>) -> impl Strategy<Value = Vec<Endpoint>> {
        prop::collection::vec((zone(), weights), 1..12)
            .prop_map(|list| (1..).zip(list).map(|(n, (zone, weight))| endpoint(n, zone, weight)).collect())
    }

    proptest! {
        #[test]
        fn the_own_zone_gets_what_the_formula_says(
            list in endpoints(0..20), min_endpoints in 1u32..5, min_share in 0u32..=100,
        ) {
            let config = format!(r#"{{"min_endpoints": {min_endpoints}, "min_share": {min_share}}}"#);
            let shares = shares(&config, "a", &list);
            let sum = |own: bool| list.iter().filter(|e| (e.zone == "a") == own).map(|e| f64::from(e.weight)).sum::<f64>();
            let (own, others) = (sum(true), sum(false));
            prop_assume!(own > 0.0 && others > 0.0);
            let used = || list.iter().filter(|e| e.weight > 0);
            let zones = used().map(|e| &e.zone).collect::<BTreeSet<_>>().len() as f64;
            let n = used().filter(|e| e.zone == "a").count() as f64;
            let by_weight = own / (f64::from(min_share) / 100.0 * (own + others) / zones);
            let stays = 1f64.min(n / f64::from(min_endpoints)).min(by_weight);
            for (share, endpoint) in shares.iter().zip(&list) {
                let weight = f64::from(endpoint.weight);
                let expected = if endpoint.zone == "a" { weight / own * stays } else { weight / others * (1.0 - stays) };
                prop_assert!((share - expected * 100.0).abs() < 0.2, "{share} instead of {}", expected * 100.0);
            }
        }

    }

    proptest! {
        // Each case makes a list of 65,536.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_weight_is_too_large(list in endpoints(0..u32::MAX), min_share in 0u32..=100) {
            let shares = shares(&format!(r#"{{"min_share": {min_share}}}"#), "a", &list);
            for (share, endpoint) in shares.iter().zip(&list) {
                prop_assert!(endpoint.weight > 0 || *share == 0.0);
            }
        }
    }
}
