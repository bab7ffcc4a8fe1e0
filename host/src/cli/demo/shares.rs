//! What share of the calls each instance should get under a policy, and whether it did.
//!
//! The expectation is worked out here a second time, from each policy's documented rule, and not
//! asked of the plugin: a demo that believed the thing it shows would show nothing.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// How far a share may be off, as a part of the whole. The first and last calls of a phase belong
/// half to its neighbours: with at least [`super::load::ENOUGH`] calls and a dozen at once, that is
/// under 3 %.
pub(super) const TOLERANCE: f64 = 0.03;

/// What a share should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expected {
    /// This share, within the tolerance.
    About(f64),
    /// No more than this: the policy decides by load, call by call.
    AtMost(f64),
}

impl Expected {
    /// Whether the share of an instance that answered that part of so many calls is as expected.
    pub(super) fn is_met(self, share: f64, calls: u64) -> bool {
        match self {
            Self::About(expected) => (share - expected).abs() <= TOLERANCE,
            // Here chance is at work, too: four standard deviations, which it exceeds once in
            // 30,000 times.
            Self::AtMost(most) => {
                let deviation = (most * (1.0 - most) / calls.max(1) as f64).sqrt();
                share <= most + TOLERANCE.max(4.0 * deviation)
            }
        }
    }

    /// For a column of a table: `20.0 %` or `<= 40.0 %`.
    pub(super) fn text(self) -> String {
        match self {
            Self::About(share) => percent(share),
            Self::AtMost(share) => format!("<= {}", percent(share)),
        }
    }

    /// The number in it, for a mark on a bar.
    pub(super) fn share(self) -> f64 {
        match self {
            Self::About(share) | Self::AtMost(share) => share,
        }
    }
}

/// A share for people, with one digit.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What decides an instance's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its zone.
    pub(super) zone: String,
    /// Its weight.
    pub(super) weight: u32,
    /// Whether it was started to answer slowly.
    pub(super) slow: bool,
}

/// The share of each member under a bundled policy with that configuration, for a node in
/// `own_zone`. None: not a policy or not a configuration that this demo knows the rule of.
pub(super) fn expected(policy: &str, config: &str, own_zone: &str, members: &[Member]) -> Option<Vec<Expected>> {
    // As in a command, nothing means `{}`.
    let config: Map<String, Value> = if config.is_empty() { Map::new() } else { serde_json::from_str(config).ok()? };
    let weights: Vec<f64> = members.iter().map(|member| f64::from(member.weight)).collect();
    match (policy, config.len()) {
        ("round_robin", 0) => {
            let turns: Vec<f64> = members.iter().map(|member| if member.weight > 0 { 1.0 } else { 0.0 }).collect();
            Some(about(&turns))
        }
        ("weighted", 0) => Some(about(&weights)),
        ("zone_aware", 0) => Some(about(&zone_aware(members, own_zone, ZONE_AWARE_MIN))),
        ("zone_aware", 1) => Some(about(&zone_aware(members, own_zone, config.get("min_endpoints")?.as_u64()?))),
        ("least_request", 0) => {
            // Of two different ones drawn at random, each instance is among the drawn 2 times in n,
            // and no instance can get more than that. A slow one loses against whoever it is
            // compared with, so it gets less than an even share.
            let n = members.iter().filter(|member| member.weight > 0).count() as f64;
            let most = |member: &Member| match member {
                Member { weight: 0, .. } => 0.0,
                Member { slow: true, .. } if n > 1.0 => 1.0 / n,
                _ => (2.0 / n).min(1.0),
            };
            Some(members.iter().map(|member| Expected::AtMost(most(member))).collect())
        }
        _ => None,
    }
}

/// The whole divided in proportion.
fn about(parts: &[f64]) -> Vec<Expected> {
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| Expected::About(if sum > 0.0 { part / sum } else { 0.0 })).collect()
}

/// The `min_endpoints` of `zone_aware` when its configuration does not say.
const ZONE_AWARE_MIN: u64 = 6;

/// What each member gets under `zone_aware`: the own zone carries what it can of its callers' part,
/// which is as large as every other zone's; the rest goes to the zones that have more than they
/// need.
fn zone_aware(members: &[Member], own_zone: &str, min_endpoints: u64) -> Vec<f64> {
    let used = || members.iter().filter(|member| member.weight > 0);
    if own_zone.is_empty() || (used().count() as u64) < min_endpoints {
        return members.iter().map(|member| f64::from(member.weight)).collect();
    }
    let mut capacity = BTreeMap::from([(own_zone, 0.0)]);
    for member in used() {
        *capacity.entry(member.zone.as_str()).or_default() += f64::from(member.weight);
    }
    let even = capacity.values().sum::<f64>() / capacity.len() as f64;
    let stays = (capacity[own_zone] / even).min(1.0);
    let left = |zone: &str| if zone == own_zone { 0.0 } else { (capacity[zone] - even).max(0.0) };
    let all_left: f64 = capacity.keys().map(|zone| left(zone)).sum();
    let gets = |member: &Member| {
        let zone = member.zone.as_str();
        let part = if zone == own_zone { stays } else { (1.0 - stays) * left(zone) / all_left.max(f64::MIN_POSITIVE) };
        f64::from(member.weight) / capacity.get(zone).copied().unwrap_or(1.0).max(1.0) * part
    };
    members.iter().map(gets).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn member(zone: &str, weight: u32) -> Member {
        Member { zone: zone.into(), weight, slow: false }
    }

    fn five() -> Vec<Member> {
        let mut five = vec![member("a", 3), member("a", 2), member("a", 1), member("b", 3), member("b", 1)];
        five[4].slow = true;
        five
    }

    fn shares(policy: &str, zone: &str, members: &[Member]) -> Vec<f64> {
        shares_with(policy, "{}", zone, members)
    }

    fn shares_with(policy: &str, config: &str, zone: &str, members: &[Member]) -> Vec<f64> {
        let expected = expected(policy, config, zone, members).unwrap();
        // Rounded to a tenth of a percent, to be comparable.
        expected.into_iter().map(|expected| (expected.share() * 1000.0).round() / 10.0).collect()
    }

    #[test]
    fn round_robin_is_even_and_weight_0_gets_nothing() {
        assert_eq!(shares("round_robin", "a", &five()), [20.0, 20.0, 20.0, 20.0, 20.0]);
        assert_eq!(shares("round_robin", "a", &[member("a", 0), member("b", 7)]), [0.0, 100.0]);
    }

    #[test]
    fn weighted_follows_the_weights() {
        assert_eq!(shares("weighted", "a", &five()), [30.0, 20.0, 10.0, 30.0, 10.0]);
        assert_eq!(shares("weighted", "a", &[member("a", 0)]), [0.0]);
    }

    #[test]
    fn zone_aware_stays_where_the_zone_is_large_enough_and_spills_where_it_is_not() {
        let zone_aware = |zone, members: &[Member]| shares_with("zone_aware", r#"{"min_endpoints": 2}"#, zone, members);
        assert_eq!(zone_aware("a", &five()), [50.0, 33.3, 16.7, 0.0, 0.0]);
        // A third of the callers in each of a, b and c: 8 of 30 parts are left in a, and 2 in b.
        assert_eq!(zone_aware("c", &five()), [40.0, 26.7, 13.3, 15.0, 5.0]);
        assert_eq!(zone_aware("", &five()), [30.0, 20.0, 10.0, 30.0, 10.0]);
        // An even share would be 10 of 20, and the own zone weighs 2.
        assert_eq!(zone_aware("a", &[member("a", 2), member("b", 18)]), [20.0, 80.0]);
        // Five are fewer than the six below which no zone is preferred.
        assert_eq!(shares("zone_aware", "a", &five()), [30.0, 20.0, 10.0, 30.0, 10.0]);
    }

    #[test]
    fn least_request_has_bounds_and_a_slow_instance_gets_less_than_its_part() {
        assert_eq!(shares("least_request", "a", &five()), [40.0, 40.0, 40.0, 40.0, 20.0]);
        assert_eq!(shares("least_request", "a", &[member("a", 1)]), [100.0]);
    }

    #[test]
    fn an_unknown_policy_or_configuration_has_no_expectation() {
        assert_eq!(expected("mine", "{}", "a", &five()), None);
        assert_eq!(expected("zone_aware", r#"{"min_share": 0}"#, "a", &five()), None);
        assert_eq!(expected("least_request", r#"{"choice_count": 3}"#, "a", &five()), None);
    }

    #[test]
    fn a_share_is_met_within_the_tolerance() {
        assert!(Expected::About(0.2).is_met(0.22, 400));
        assert!(!Expected::About(0.2).is_met(0.24, 400));
        assert!(Expected::AtMost(0.2).is_met(0.0, 400));
        assert!(Expected::AtMost(0.2).is_met(0.24, 400));
        assert!(!Expected::AtMost(0.2).is_met(0.24, 10_000));
        assert_eq!(Expected::AtMost(0.4).text(), "<= 40.0 %");
    }
}
