//! my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone
//! count several times.
//!
//! A plan: weights and zones are known before the first request comes, so no request costs a call
//! in here. The host keeps what `build` answers and walks it for ever; every change of the
//! endpoints is a new `build` in a fresh instance.

use waymark_plugin::{Config, Description, Endpoint, Field, Plan, Policy, Scope, export_policy};

/// A plan has at most so many entries, unless there are more endpoints than that.
const MAX_TURNS: u64 = 16_384;

#[derive(Debug)]
struct Weighted;

impl Policy for Weighted {
    const DESCRIPTION: Description =
        Description::new("my_policy", "0.1.0", "In turn by weight; endpoints of the own zone count several times.")
            .with_fields(&[Field {
                name: "zone_factor",
                default: "4",
                doc: "how many times its weight an endpoint of the node's own zone counts, 1 to 100",
            }]);

    fn build(config: &Config<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let zone_factor = u64::from(config.integer("zone_factor", 1..=100)?);

        // A weight of 0 means: send it nothing.
        let receiving = (0u32..).zip(endpoints).filter(|(_, endpoint)| endpoint.weight > 0);
        let is_home = |endpoint: &Endpoint| !scope.zone.is_empty() && endpoint.zone == scope.zone;
        let share = |endpoint: &Endpoint| u64::from(endpoint.weight) * if is_home(endpoint) { zone_factor } else { 1 };
        let (indexes, mut shares): (Vec<u32>, Vec<u64>) = receiving.map(|(index, e)| (index, share(e))).unzip();

        // Halved until the round is short enough, so that nobody falls to nothing.
        while shares.iter().sum::<u64>() > MAX_TURNS.max(shares.len() as u64) {
            shares.iter_mut().for_each(|share| *share = share.div_ceil(2));
        }

        // The turns of each are spread evenly over the round, and the endpoints begin one after the
        // other.
        let n = shares.len() as u64;
        let mut turns: Vec<(f64, u32)> = Vec::new();
        for ((i, index), share) in (0u64..).zip(indexes).zip(shares) {
            turns.extend((0..share).map(|k| ((2 * n * k + 2 * i + 1) as f64 / share as f64, index)));
        }
        turns.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(Plan::Rotation(turns.into_iter().map(|(_, index)| index).collect()))
    }
}

export_policy!(Weighted);

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_plugin::testing::{build, counts, endpoint, scope};

    fn rotation(config: &str, zone: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        match build::<Weighted>(config, &scope(zone), endpoints) {
            Ok(Plan::Rotation(entries)) => entries,
            other => panic!("not a rotation: {other:?}"),
        }
    }

    #[test]
    fn turns_follow_the_weights_and_are_spread_out() {
        let endpoints = [endpoint(1, "", 2), endpoint(2, "", 1), endpoint(3, "", 1), endpoint(4, "", 0)];
        assert_eq!(rotation("{}", "", &endpoints), [0, 1, 0, 2]);
        assert_eq!(rotation("{}", "", &[]), [0u32; 0]);
    }

    #[test]
    fn the_own_zone_counts_as_often_as_is_configured() {
        let endpoints = [endpoint(1, "here", 1), endpoint(2, "there", 1)];
        assert_eq!(counts(&rotation(r#"{"zone_factor": 3}"#, "here", &endpoints), 2), [3, 1]);
        assert_eq!(counts(&rotation(r#"{"zone_factor": 3}"#, "", &endpoints), 2), [1, 1]);
    }

    #[test]
    fn no_weight_is_too_large() {
        let endpoints = [endpoint(1, "", u32::MAX), endpoint(2, "", u32::MAX), endpoint(3, "", 1)];
        let counts = counts(&rotation("{}", "", &endpoints), 3);
        assert_eq!((counts[0], counts[2]), (counts[1], 1));
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = build::<Weighted>(r#"{"zone_factor": 0}"#, &scope(""), &[]).unwrap_err();
        assert_eq!(refused, "`zone_factor` must be a whole number from 1 to 100, not 0");
    }
}
