//! Requests with the same key to the same endpoint, by a hash ring: when one of n endpoints goes,
//! only its own keys move. Envoy's `ring_hash` and gRPC's (proposals A42 and A76), with their
//! points on the ring, hash function, field names and defaults; the limit of 4,096 points is that
//! of gRPC's clients. `Ring` of the SDK has the algorithm and its source.
//!
//! What of a request is its key is the service's `hash-key`, which the host hashes to 32 bits; so a
//! key is not on the same endpoint as in a proxy that hashes to 64. A request without the key goes
//! anywhere, as in A76. Shares are only roughly the weights: with 1,024 points for ten endpoints,
//! expect a tenth more or less. `maglev` is even, and moves a few more keys.
//!
//! A plan, not a choice for each request: the host looks the key up in a table of places on the
//! ring, 8 or more for each point. When an endpoint cannot be used, its keys go where the next
//! entries point, spread over all others and for each key the same way.

use waymark_plugin::{
    Config, Description, Endpoint, Field, HASH_KEY, Level, Plan, Policy, Ring, Scope, export_policy, hash_name,
    left_out, log,
};

/// The policy.
#[derive(Debug)]
pub struct RingHash;

/// The most points that can be asked for: 8 places and more for each are then no longer a plan than
/// the host takes.
const MOST_POINTS: u32 = 65_536;

/// Places in the table are at least 2 to this.
const LEAST_BITS: u32 = 16;

/// And at most 2 to this, the longest plan that the host takes.
const MOST_BITS: u32 = 20;

impl Policy for RingHash {
    const DESCRIPTION: Description = Description::new(
        "ring_hash",
        env!("CARGO_PKG_VERSION"),
        "Requests with the same key to the same endpoint, by a hash ring; a lost endpoint moves only its own keys.",
    )
    .with_fields(&[
        Field {
            name: "min_ring_size",
            default: "1024",
            doc: "how many points there are at least on the ring; more make shares more even; 1 to 65536",
        },
        Field {
            name: "max_ring_size",
            default: "4096",
            doc: "how many points there are at most on the ring, whatever the weights; min_ring_size to 65536",
        },
        HASH_KEY,
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let min_size = config.integer("min_ring_size", 1..=MOST_POINTS)?;
        let max_size = config.integer("max_ring_size", 1..=MOST_POINTS)?;
        if min_size > max_size {
            return Err(format!(
                "`min_ring_size` must be at most `max_ring_size`, which is {max_size}, not {min_size}"
            ));
        }
        let hash_key = config.text("hash_key")?;
        let named = endpoints.iter().map(|endpoint| (hash_name(endpoint, &hash_key), endpoint.weight));
        let ring = Ring::new(named, min_size, max_size);
        let bits = (ring.points().len() * 8).next_power_of_two().ilog2().clamp(LEAST_BITS, MOST_BITS);
        let table = ring.table(bits);
        let out = left_out(endpoints, &table);
        if out > 0 {
            log(
                Level::Warn,
                &format!("{out} endpoints have no place on the ring; raise `max_ring_size`, now {max_size}"),
            );
        }
        Ok(Plan::HashTable(table))
    }
}

export_policy!(RingHash);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{build, counts, endpoint, endpoints, logged, scope, with_metadata};

    use super::*;

    fn table(config: &str, endpoints: &[Endpoint]) -> Vec<u32> {
        match build::<RingHash>(config, &scope(""), endpoints).unwrap() {
            Plan::HashTable(table) => table,
            plan => panic!("not a hash table: {plan:?}"),
        }
    }

    #[test]
    fn the_table_is_the_ring_by_addresses() {
        let ten = endpoints(10, &[1, 2, 3, 4, 5]);
        let ring = Ring::new(ten.iter().map(|endpoint| (endpoint.address.as_str(), endpoint.weight)), 1024, 4096);
        let table = table("{}", &ten);
        assert_eq!(table.len(), 65_536);
        for (place, index) in (0u32..).zip(&table).step_by(97) {
            assert_eq!(Some(*index), ring.owner(u64::from(place.reverse_bits()) << 32));
        }
    }

    #[test]
    fn nobody_is_an_empty_table_and_a_large_ring_is_within_what_the_host_takes() {
        assert_eq!(table("{}", &[]), [0u32; 0]);
        assert_eq!(table("{}", &[endpoint(1, "", 0)]), [0u32; 0]);
        let config = r#"{"min_ring_size": 65536, "max_ring_size": 65536}"#;
        let length = table(config, &endpoints(3, &[1])).len();
        assert!((1 << 19..=1 << 20).contains(&length), "{length}");
    }

    #[test]
    fn a_ring_too_small_for_everybody_says_so() {
        let config = r#"{"min_ring_size": 5, "max_ring_size": 5}"#;
        assert!(table(config, &endpoints(5, &[1])).len() == 65_536 && logged().is_empty());
        table(config, &endpoints(9, &[1]));
        let message = "4 endpoints have no place on the ring; raise `max_ring_size`, now 5";
        assert_eq!(logged(), [(Level::Warn, message.to_owned())]);
    }

    #[test]
    fn a_successor_of_the_same_name_takes_over_the_keys() {
        let named = |n, name| with_metadata(endpoint(n, "", 1), &[("pod", name)]);
        let config = r#"{"hash_key": "pod"}"#;
        let before = table(config, &[named(1, "web-0"), named(2, "web-1"), endpoint(3, "", 1)]);
        let after = table(config, &[named(7, "web-0"), named(2, "web-1"), endpoint(3, "", 1)]);
        assert_eq!(before, after);
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<RingHash>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(refused(r#"{"min_ring_size": 0}"#), "`min_ring_size` must be a whole number from 1 to 65536, not 0");
        assert_eq!(
            refused(r#"{"max_ring_size": 8388608}"#),
            "`max_ring_size` must be a whole number from 1 to 65536, not 8388608"
        );
        assert_eq!(
            refused(r#"{"min_ring_size": 5000}"#),
            "`min_ring_size` must be at most `max_ring_size`, which is 4096, not 5000"
        );
        assert_eq!(refused(r#"{"hash_key": 1}"#), "`hash_key` must be a string, not 1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn shares_are_about_the_weights(weights in prop::collection::vec(1u32..5, 2..8)) {
            let config = r#"{"min_ring_size": 4096}"#;
            let table = table(config, &endpoints(weights.len() as u8, &weights));
            // A point more or less for rounding makes no longer table.
            prop_assert_eq!(table.len(), 65_536);
            let counts = counts(&table, weights.len());
            let sum: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let (share, due) = (f64::from(*count) / 65_536.0, f64::from(*weight) / f64::from(sum));
                // The lightest has over 100 points here: their arcs add up to within four standard
                // deviations.
                prop_assert!((share / due - 1.0).abs() < 0.4, "{counts:?} for {weights:?}");
            }
        }

        #[test]
        fn few_more_keys_than_its_own_move_when_one_goes_or_comes(n in 3u8..20, gone in 0u8..20) {
            let all = endpoints(n, &[1]);
            let gone = gone % n;
            let mut left = all.clone();
            left.remove(usize::from(gone));
            let names = |endpoints: &[Endpoint]| {
                table("{}", endpoints).into_iter().map(|i| endpoints[i as usize].id.clone()).collect::<Vec<_>>()
            };
            let lost = &all[usize::from(gone)].id;
            let moved = names(&all).iter().zip(&names(&left)).filter(|(old, new)| old != new && *old != lost).count();
            // The others have a few points more when they are fewer, because the ring has 1,024
            // whatever they are.
            let bound = 65_536.0 * 1.5 / f64::from(n);
            prop_assert!((moved as f64) < bound, "{moved} keys of others moved, {n} endpoints");
        }
    }
}
