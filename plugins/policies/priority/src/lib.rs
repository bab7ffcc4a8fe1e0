//! Tiers of endpoints: everything to the first one while it is whole or nearly so, and what it is
//! too small to carry to the next. As Envoy describes it ("Priority levels" in its architecture
//! overview), with its overprovisioning factor of 1.4:
//!
//! ```text
//! health of a tier = its endpoints / its size * 1.4, in whole percent, at most 100
//! load of a tier   = its health, or what the tiers before it leave of 100, if that is less
//! ```
//!
//! When all healths together are less than 100, the loads are in proportion to them. So a tier with
//! 8 of 10 endpoints still gets everything, and one with 5 of 10 gets 70 percent.
//!
//! An endpoint's tier is a whole number in its metadata, 0 (the first) when it is not there. A
//! policy sees the endpoints that can be used and not how many there should be: that is what
//! `sizes` says. A tier of which it says nothing is whole as long as anybody is in it, so that
//! without `sizes` the next tier gets something only when the one before is gone altogether.
//!
//! Within a tier, weights count as in `weighted`; an endpoint of weight 0 gets nothing, and does
//! not make its tier whole. A plan, not a choice for each request: all of that is known before the
//! first request comes.

use std::collections::BTreeMap;

use waymark_plugin::{
    Config, Description, Endpoint, Field, Group, Level, Plan, Policy, Scope, export_policy, grouped_rotation, log,
    metadata,
};

/// The policy.
#[derive(Debug)]
pub struct Priority;

impl Policy for Priority {
    const DESCRIPTION: Description = Description::new(
        "priority",
        env!("CARGO_PKG_VERSION"),
        "The first tier of endpoints while it is whole; what it is too small to carry goes to the next.",
    )
    .with_fields(&[
        Field {
            name: "sizes",
            default: "{}",
            doc: "how many endpoints each tier has when it is whole, for example {\"0\": 10, \"1\": 4}; a tier that is not \
                  named is whole while anybody is in it",
        },
        Field {
            name: "overprovisioning",
            default: "140",
            doc: "percent of its load that a whole tier can carry, 100 to 1000; a tier overflows when less than 100 of it is left",
        },
        Field {
            name: "metadata",
            default: r#""priority""#,
            doc: "the metadata that holds an endpoint's tier, a whole number of which 0 is the first",
        },
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let sizes = sizes(config)?;
        let factor = u64::from(config.integer("overprovisioning", 100..=1_000)?);
        let name = config.text("metadata")?;

        let mut tiers: BTreeMap<u32, Group> = BTreeMap::new();
        let mut unreadable = 0;
        for (index, endpoint) in (0..).zip(endpoints).filter(|(_, endpoint)| endpoint.weight > 0) {
            let tier = metadata(endpoint, &name).map_or(Some(0), |text| text.parse().ok());
            unreadable += u32::from(tier.is_none());
            tiers.entry(tier.unwrap_or(0)).or_default().members.push((index, endpoint.weight));
        }
        if unreadable > 0 {
            let message = format!("{unreadable} endpoints have a `{name}` that is no whole number; they are in tier 0");
            log(Level::Warn, &message);
        }

        let mut left = 100;
        for (tier, group) in &mut tiers {
            let there = group.members.len() as u64;
            let size = sizes.get(tier).copied().map_or(there, u64::from).max(there);
            // A tier with anybody in it has some health: alone, it gets everything.
            let health = (factor * there / size).clamp(1, 100);
            let load = health.min(left);
            left -= load;
            group.share = load.into();
        }
        Ok(Plan::Rotation(grouped_rotation(&tiers.into_values().collect::<Vec<_>>())))
    }
}

export_policy!(Priority);

/// How many endpoints each tier has when it is whole.
fn sizes(config: &Config<'_>) -> Result<BTreeMap<u32, u32>, String> {
    let size = |(tier, size): (String, u32)| match tier.parse() {
        Ok(tier) => Ok((tier, size)),
        Err(_) => Err(format!("`sizes` must name tiers by their whole numbers, not \"{tier}\"")),
    };
    config.integers_by_name("sizes", 1..=1_000_000)?.into_iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, logged, scope, with_metadata};

    use super::*;

    /// So many endpoints in each tier, all of weight 1.
    fn tiers(counts: &[u8]) -> Vec<Endpoint> {
        let mut tiers = Vec::new();
        for (tier, count) in counts.iter().enumerate() {
            let tier = tier.to_string();
            tiers.extend((0..*count).map(|n| with_metadata(endpoint(n, &tier, 1), &[("priority", &tier)])));
        }
        tiers
    }

    fn rotation(config: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        build::<Priority>(config, &scope(""), endpoints).unwrap().rotation().unwrap().to_vec()
    }

    /// The percentage of each tier, which stands in the zone of `tiers`.
    fn loads(config: &str, endpoints: &[Endpoint], n: usize) -> Vec<f64> {
        let rotation = rotation(config, endpoints);
        let mut loads = vec![0.0; n];
        for (endpoint, count) in endpoints.iter().zip(counts(&rotation, endpoints.len())) {
            loads[endpoint.zone.parse::<usize>().unwrap()] += f64::from(count) / rotation.len() as f64 * 100.0;
        }
        loads
    }

    #[test]
    fn loads_are_those_of_envoy_s_tables() {
        let two = r#"{"sizes": {"0": 100, "1": 100}}"#;
        let three = r#"{"sizes": {"0": 100, "1": 100, "2": 100}}"#;
        let table: [(&str, &[u8], &[f64]); 15] = [
            (two, &[100, 100], &[100.0, 0.0]),
            (two, &[72, 100], &[100.0, 0.0]),
            (two, &[71, 100], &[99.0, 1.0]),
            (two, &[50, 100], &[70.0, 30.0]),
            (two, &[25, 100], &[35.0, 65.0]),
            (two, &[0, 100], &[0.0, 100.0]),
            (two, &[72, 72], &[100.0, 0.0]),
            (two, &[71, 71], &[99.0, 1.0]),
            (two, &[50, 50], &[70.0, 30.0]),
            (two, &[25, 25], &[50.0, 50.0]),
            (three, &[71, 71, 100], &[99.0, 1.0, 0.0]),
            (three, &[50, 50, 100], &[70.0, 30.0, 0.0]),
            (three, &[25, 100, 100], &[35.0, 65.0, 0.0]),
            (three, &[25, 25, 100], &[35.0, 35.0, 30.0]),
            (three, &[25, 25, 20], &[36.0, 36.0, 28.0]),
        ];
        for (config, there, due) in table {
            let loads = loads(config, &tiers(there), due.len());
            // Envoy's table is rounded to whole percents.
            assert!(loads.iter().zip(due).all(|(load, due)| (load - due).abs() < 0.6), "{there:?}: {loads:?}");
        }
    }

    #[test]
    fn without_sizes_the_next_tier_waits_until_the_first_is_gone() {
        assert_eq!(loads("{}", &tiers(&[1, 9, 1]), 3), [100.0, 0.0, 0.0]);
        assert_eq!(loads("{}", &tiers(&[0, 2, 5]), 3), [0.0, 100.0, 0.0]);
        assert_eq!(rotation("{}", &[]), [0u32; 0]);
        assert_eq!(rotation("{}", &[endpoint(1, "", 0)]), [0u32; 0]);
    }

    #[test]
    fn within_a_tier_weights_count_and_0_does_not_make_it_whole() {
        let mut endpoints = tiers(&[3, 1]);
        endpoints[0].weight = 3;
        endpoints[1].weight = 0;
        assert_eq!(counts(&rotation("{}", &endpoints), 4), [3, 0, 1, 0]);
        // 2 of 4 are 70 percent: three quarters of them to the heavy one.
        let rotation = rotation(r#"{"sizes": {"0": 4}}"#, &endpoints);
        let share = |index: usize| f64::from(counts(&rotation, 4)[index]) / rotation.len() as f64;
        assert!((share(0) - 0.525).abs() < 1e-9 && (share(3) - 0.3).abs() < 1e-9, "{rotation:?}");
    }

    #[test]
    fn a_tier_that_cannot_be_read_is_the_first_and_the_log_says_so() {
        let odd = [with_metadata(endpoint(1, "", 1), &[("tier", "low")]), endpoint(2, "", 1)];
        assert_eq!(rotation(r#"{"metadata": "tier"}"#, &odd), [0, 1]);
        assert_eq!(logged().len(), 1);
        assert_eq!(rotation("{}", &odd), [0, 1]);
        assert_eq!(logged(), []);
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<Priority>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(
            refused(r#"{"sizes": {"0": 0}}"#),
            r#"`sizes` must be an object of whole numbers from 1 to 1000000, each name once, not {"0": 0}"#
        );
        let message = r#"`sizes` must name tiers by their whole numbers, not "first""#;
        assert_eq!(refused(r#"{"sizes": {"first": 3}}"#), message);
        assert_eq!(
            refused(r#"{"overprovisioning": 99}"#),
            "`overprovisioning` must be a whole number from 100 to 1000, not 99"
        );
        assert_eq!(refused(r#"{"metadata": 1}"#), "`metadata` must be a string, not 1");
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_its_health_unless_all_are_short(there in prop::collection::vec(0u8..=20, 1..5)) {
            let sizes: Vec<String> = (0..there.len()).map(|tier| format!(r#""{tier}": 20"#)).collect();
            let config = format!(r#"{{"sizes": {{{}}}}}"#, sizes.join(", "));
            let health: Vec<f64> = there.iter().map(|n| (f64::from(*n) * 7.0).min(100.0)).collect();
            let all = health.iter().sum::<f64>().min(100.0);
            prop_assume!(all > 0.0);
            let loads = loads(&config, &tiers(&there), there.len());
            let mut left = 100.0f64;
            for (load, health) in loads.iter().zip(&health) {
                let due = left.min(health * 100.0 / all);
                left -= due;
                prop_assert!((load - due).abs() < 0.01, "{loads:?} for {there:?}");
            }
        }
    }
}
