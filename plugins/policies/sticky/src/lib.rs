//! Equal values of a header to the same endpoint: a session stays where it is. The header's XXH64
//! is looked up in a Maglev table, so that shares are the weights, and few values move when an
//! endpoint comes or goes (`maglev_table` of the SDK has the algorithm and its source). What other
//! proxies call hashing on a header, for example Envoy's `hash_policy` with `header`.
//!
//! `maglev` does the same with the service's `hash-key` and costs a request nothing; this one is
//! for a header that a policy's configuration names, which can be changed and rolled back like any
//! policy. A request without the header goes by the service's `hash-key` if it has one, else
//! anywhere by weight.
//!
//! Asked for each request, because a plan's key is the service's and not the policy's: one question
//! to the host for the header. A later attempt goes on to the next entries of the table until one
//! is not tried, for each value in the same order.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, HASH_KEY, Host, MAGLEV_TABLE_SIZE, Plan, Policy, Scope,
    export_policy, hash_name, maglev_table, receiving, xxh64,
};

/// The policy: the header, and whose each slot is.
#[derive(Debug)]
pub struct Sticky {
    header: String,
    table: Vec<u32>,
}

/// How many entries a later attempt looks at, each for a question to the host. All of them belong
/// to tried endpoints only where nearly all endpoints were tried.
const LOOK_AHEAD: u64 = 32;

impl Policy for Sticky {
    const DESCRIPTION: Description = Description::new(
        "sticky",
        env!("CARGO_PKG_VERSION"),
        "Equal values of a header to the same endpoint; few move when an endpoint comes or goes.",
    )
    .with_fields(&[
        Field { name: "header", default: r#""x-session-id""#, doc: "the header whose value is the key" },
        HASH_KEY,
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let (header, hash_key) = (config.header_name("header")?, config.text("hash_key")?);
        let may_receive = receiving(endpoints);
        // With one there is nothing to choose, and with nobody the host knows what to say.
        Ok(if may_receive.len() < 2 {
            Plan::Rotation(may_receive)
        } else {
            let named = endpoints.iter().map(|endpoint| (hash_name(endpoint, &hash_key), endpoint.weight));
            Plan::EachRequest(Self { header, table: maglev_table(named, MAGLEV_TABLE_SIZE) })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let key = match host.header(&self.header) {
            Some(value) if !value.is_empty() => xxh64(value.as_bytes(), 0),
            _ => context.hash.unwrap_or(context.random.0).into(),
        };
        let len = self.table.len() as u64;
        let entry = |at: u64| self.table[((key % len + at) % len) as usize];
        let chosen = (0..LOOK_AHEAD).map(entry).find(|endpoint| !again || !host.tried(*endpoint));
        // Where everything was tried, a second try is better than none.
        Decision::Endpoint(chosen.unwrap_or_else(|| entry(0)))
    }
}

export_policy!(Sticky);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, build, context, endpoint, endpoints, pick_shares, scope};

    use super::*;

    fn policy(config: &str, endpoints: &[Endpoint]) -> Sticky {
        asked(build(config, &scope(""), endpoints).unwrap())
    }

    fn with(header: &str, value: &str, tried: &[u32]) -> FakeHost {
        let headers = [(header.to_owned(), value.to_owned())].into();
        FakeHost { headers, tried: tried.iter().copied().collect(), ..FakeHost::default() }
    }

    /// Where each of so many sessions goes.
    fn sessions(endpoints: &[Endpoint], n: usize) -> Vec<String> {
        let mut policy = policy("{}", endpoints);
        let go = |n| match policy.pick(context((n, 1)), &with("x-session-id", &format!("session {n}"), &[])) {
            Decision::Endpoint(index) => endpoints[index as usize].id.clone(),
            other => panic!("{other:?}"),
        };
        (0..n as u32).map(go).collect()
    }

    #[test]
    fn nobody_and_one_are_a_plan() {
        let plan = |endpoints: &[Endpoint]| build::<Sticky>("{}", &scope(""), endpoints).unwrap();
        assert_eq!(plan(&[]).rotation(), Some(&[][..]));
        assert_eq!(plan(&[endpoint(1, "", 0), endpoint(2, "", 1)]).rotation(), Some(&[1][..]));
    }

    #[test]
    fn a_session_is_where_the_maglev_table_has_its_hash() {
        let ten = endpoints(10, &[1, 2]);
        let table = maglev_table(ten.iter().map(|endpoint| (endpoint.address.as_str(), endpoint.weight)), 65_537);
        for value in ["a", "session 17", "Grüße"] {
            let decision = policy(r#"{"header": "X-User"}"#, &ten).pick(context((3, 4)), &with("x-user", value, &[]));
            let slot = xxh64(value.as_bytes(), 0) % 65_537;
            assert_eq!(decision, Decision::Endpoint(table[slot as usize]));
        }
    }

    #[test]
    fn without_the_header_the_service_s_key_counts_and_without_that_chance() {
        let mut policy = policy("{}", &endpoints(4, &[1, 3]));
        let keyed = |random| Context { hash: Some(77), ..context(random) };
        let first = policy.pick(keyed((1, 1)), &FakeHost::default());
        assert_eq!(first, policy.pick(keyed((9_999_999, 3)), &with("x-session-id", "", &[])));
        let shares = pick_shares(&mut policy, &FakeHost::default(), 4, 20_000);
        for (share, due) in shares.iter().zip([0.125, 0.375, 0.125, 0.375]) {
            assert!((share - due).abs() < 0.02, "{shares:?}");
        }
    }

    #[test]
    fn sessions_are_shared_by_weight() {
        let endpoints = endpoints(4, &[1, 2, 0, 5]);
        let gone_to = sessions(&endpoints, 16_000);
        for endpoint in &endpoints {
            let count = gone_to.iter().filter(|id| **id == endpoint.id).count();
            assert!(count.abs_diff(endpoint.weight as usize * 2_000) < 300, "{count} for {endpoint:?}");
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<Sticky>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(refused(r#"{"header": "a b"}"#), r#"`header` must be the name of a header, not "a b""#);
        assert_eq!(refused(r#"{"hash_key": []}"#), "`hash_key` must be a string, not []");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn few_more_sessions_than_its_own_move_when_an_endpoint_goes_or_comes(n in 3u8..20, gone in 0u8..20) {
            let all = endpoints(n, &[1]);
            let mut left = all.clone();
            let lost = left.remove(usize::from(gone % n)).id;
            let (before, after) = (sessions(&all, 2_000), sessions(&left, 2_000));
            let moved = before.iter().zip(&after).filter(|(old, new)| old != new && **old != lost).count();
            prop_assert!(moved < 2_000 * 4 / 100, "{moved} of 2,000 sessions of others moved, {n} endpoints");
        }

        #[test]
        fn a_later_attempt_goes_where_nothing_failed_and_always_to_the_same(
            n in 2u8..8, session: u16, tried in prop::collection::btree_set(0u32..8, 0..8),
        ) {
            let tried: Vec<u32> = tried.into_iter().collect();
            let mut policy = policy("{}", &endpoints(n, &[1]));
            let host = with("x-session-id", &session.to_string(), &tried);
            let mut go = |random| policy.pick(Context { attempt: 1, ..context(random) }, &host);
            let first = go((1, 1));
            prop_assert_eq!(&first, &go((1 << 31, 7)));
            let left = (0..u32::from(n)).any(|index| !tried.contains(&index));
            prop_assert!(matches!(first, Decision::Endpoint(index) if !left || !tried.contains(&index)));
        }
    }
}
