//! Requests with the same key to the same endpoint, by Google's Maglev table: shares are the
//! weights to within a slot, and when one of n endpoints goes, its own keys move and about as many
//! again at most. Envoy's `maglev`, slot for slot, with its field names and defaults;
//! `maglev_table` of the SDK has the algorithm and its source.
//!
//! What of a request is its key is the service's `hash-key`, which the host hashes to 32 bits. A
//! request without the key goes anywhere, by weight.
//!
//! A plan, not a choice for each request: the table is the plan. When an endpoint cannot be used,
//! its keys go where the next entries point, spread over all others and for each key the same way.

use waymark_plugin::{
    Config, Description, Endpoint, Field, HASH_KEY, Level, Plan, Policy, Scope, export_policy, hash_name, left_out,
    log, maglev_table, next_prime,
};

/// The policy.
#[derive(Debug)]
pub struct Maglev;

/// The greatest prime that is not longer than the plans that the host takes.
const MOST_SLOTS: u32 = 1_048_573;

impl Policy for Maglev {
    const DESCRIPTION: Description = Description::new(
        "maglev",
        env!("CARGO_PKG_VERSION"),
        "Requests with the same key to the same endpoint, by a Maglev table; shares are exactly the weights.",
    )
    .with_fields(&[
        Field {
            name: "table_size",
            default: "65537",
            doc: "how many slots the table has, a prime from 2 to 1048573; at least a hundred for each endpoint",
        },
        HASH_KEY,
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let size = config.integer("table_size", 2..=MOST_SLOTS)?;
        if next_prime(size) != size {
            return Err(format!(
                "`table_size` must be a prime number, not {size}; the next one is {}",
                next_prime(size)
            ));
        }
        let hash_key = config.text("hash_key")?;
        let named = endpoints.iter().map(|endpoint| (hash_name(endpoint, &hash_key), endpoint.weight));
        let table = maglev_table(named, size);
        let out = left_out(endpoints, &table);
        if out > 0 {
            log(Level::Warn, &format!("{out} endpoints have no slot in the table; raise `table_size`, now {size}"));
        }
        Ok(Plan::HashTable(table))
    }
}

export_policy!(Maglev);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, endpoints, logged, scope, with_metadata};

    use super::*;

    fn table(config: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        match build::<Maglev>(config, &scope(""), endpoints).unwrap() {
            Plan::HashTable(table) => table,
            plan => panic!("not a hash table: {plan:?}"),
        }
    }

    #[test]
    fn nobody_is_an_empty_table_and_the_size_is_what_was_said() {
        assert_eq!(table("{}", &[endpoint(1, "", 0)]), [0u32; 0]);
        assert_eq!(table("{}", &endpoints(3, &[1])).len(), 65_537);
        assert_eq!(table(r#"{"table_size": 251}"#, &endpoints(3, &[1])).len(), 251);
        assert_eq!(next_prime(MOST_SLOTS), MOST_SLOTS);
    }

    #[test]
    fn a_table_too_small_for_everybody_says_so() {
        table(r#"{"table_size": 7}"#, &endpoints(9, &[1]));
        let message = "2 endpoints have no slot in the table; raise `table_size`, now 7";
        assert_eq!(logged(), [(Level::Warn, message.to_owned())]);
    }

    #[test]
    fn a_successor_of_the_same_name_takes_over_the_keys() {
        let named = |n, name| with_metadata(endpoint(n, "", 1), &[("pod", name)]);
        let config = r#"{"hash_key": "pod"}"#;
        let before = table(config, &[named(1, "web-0"), named(2, "web-1"), endpoint(3, "", 1)]);
        assert_eq!(before, table(config, &[named(7, "web-0"), named(2, "web-1"), endpoint(3, "", 1)]));
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<Maglev>(config, &scope(""), &[]).unwrap_err();
        let message = "`table_size` must be a prime number, not 65536; the next one is 65537";
        assert_eq!(refused(r#"{"table_size": 65536}"#), message);
        assert_eq!(refused(r#"{"table_size": 1}"#), "`table_size` must be a whole number from 2 to 1048573, not 1");
        assert_eq!(refused(r#"{"hash_key": 1}"#), "`hash_key` must be a string, not 1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn shares_are_the_weights_to_within_a_few_slots(weights in prop::collection::vec(0u32..9, 1..12)) {
            let sum: u32 = weights.iter().sum();
            prop_assume!(sum > 0);
            let counts = counts(&table("{}", &endpoints(weights.len() as u8, &weights)), weights.len());
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(*weight) / f64::from(sum) * 65_537.0;
                prop_assert!((f64::from(*count) - due).abs() < 12.0, "{counts:?} for {weights:?}");
            }
        }

        #[test]
        fn few_more_keys_than_its_own_move_when_one_goes_or_comes(n in 3u8..30, gone in 0u8..30) {
            let all = endpoints(n, &[1]);
            let gone = gone % n;
            let mut left = all.clone();
            left.remove(usize::from(gone));
            let names = |endpoints: &[Endpoint]| {
                table("{}", endpoints).into_iter().map(|i| endpoints[i as usize].id.clone()).collect::<Vec<_>>()
            };
            let lost = &all[usize::from(gone)].id;
            let moved = names(&all).iter().zip(&names(&left)).filter(|(old, new)| old != new && *old != lost).count();
            // The paper's figure 12 has less than 2 % of the table for 65,537 slots.
            prop_assert!(moved < 65_537 * 2 / 100, "{moved} keys of others moved, {n} endpoints");
        }
    }
}
