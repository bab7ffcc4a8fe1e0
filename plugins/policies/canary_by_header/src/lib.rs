//! Certain requests to canaries, all others to the rest: a header decides, and where it does not, a
//! percentage. After ingress-nginx's annotations `canary-by-header`, `canary-by-header-value` and
//! `canary-weight`, in that order of precedence.
//!
//! ```text
//! `value` empty:    header "always" -> canary    header "never" -> the rest    else -> by `percent`
//! `value` given:    header equal to it -> canary                               else -> by `percent`
//! ```
//!
//! A canary is an endpoint registered with the `metadata`. Within either side an endpoint is drawn
//! at random by weight, and not in turn: with a turn common to all requests, a pattern in their
//! headers would fall on the same endpoints again and again. A side that has nobody, or nobody left
//! to try, is stood in for by the other.
//!
//! Asked for each request, because the header is not known before: one question to the host for the
//! header. When all endpoints are on one side there is nothing to decide, and it is a plan: the
//! rotation of `weighted`.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Random, Scope, WeightedDraw,
    export_policy, has_metadata, smooth_rotation,
};

/// The policy.
#[derive(Debug)]
pub struct CanaryByHeader {
    header: String,
    value: String,
    /// Below which random number a request that the header does not decide goes to a canary; 2^32
    /// is always.
    canary_below: u64,
    canaries: WeightedDraw,
    rest: WeightedDraw,
}

impl Policy for CanaryByHeader {
    const DESCRIPTION: Description = Description::new(
        "canary_by_header",
        env!("CARGO_PKG_VERSION"),
        "Requests with a certain header, and a part of the others, to endpoints with certain metadata.",
    )
    .with_fields(&[
        Field { name: "header", default: r#""x-canary""#, doc: "the header that decides" },
        Field {
            name: "value",
            default: r#""""#,
            doc: "the header's value that means canary; empty: `always` means canary, and `never` the rest",
        },
        Field {
            name: "percent",
            default: "0",
            doc: "percent of the requests that the header does not decide that go to a canary, 0 to 100",
        },
        Field {
            name: "metadata",
            default: r#"{"canary": "true"}"#,
            doc: "names and values that a canary is registered with; at least one",
        },
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let (header, value) = (config.header_name("header")?, config.text("value")?);
        let percent = config.number("percent", 0..=100)?;
        let wanted = config.texts_by_name("metadata")?;
        if wanted.is_empty() {
            return Err("`metadata` must name at least one thing that tells a canary from the rest, not {}".to_owned());
        }
        let side = |canary: bool| {
            let weights = (0..).zip(endpoints).filter(|(_, endpoint)| has_metadata(endpoint, &wanted) == canary);
            WeightedDraw::new(weights.map(|(index, endpoint)| (index, endpoint.weight)))
        };
        let (canaries, rest) = (side(true), side(false));
        Ok(if canaries.is_empty() || rest.is_empty() {
            Plan::Rotation(smooth_rotation(endpoints.iter().map(|endpoint| endpoint.weight)))
        } else {
            let canary_below = (percent / 100.0 * 4_294_967_296.0) as u64;
            Plan::EachRequest(Self { header, value, canary_below, canaries, rest })
        })
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let again = context.attempt > 0;
        let mut random = Random::from_context(context.random);
        let by_chance = u64::from(random.next_u32()) < self.canary_below;
        let canary = match host.header(&self.header) {
            Some(value) if self.value.is_empty() && value == "always" => true,
            Some(value) if self.value.is_empty() && value == "never" => false,
            Some(value) if !self.value.is_empty() && value == self.value => true,
            _ => by_chance,
        };
        let (side, other) = if canary { (&self.canaries, &self.rest) } else { (&self.rest, &self.canaries) };
        let numbers = (random.next_u32(), random.next_u32());
        let tried = |endpoint| again && host.tried(endpoint);
        let drawn = side.draw_without(numbers, tried).or_else(|| other.draw_without(numbers, tried));
        // Where everything was tried, a second try is better than none.
        drawn.or_else(|| side.draw(numbers)).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(CanaryByHeader);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{
        FakeHost, asked, build, context, counts, endpoint, pick_shares, scope, with_metadata,
    };

    use super::*;

    /// Two of the rest, weights 1 and 3, and two canaries, weights 1 and 1; one more canary has
    /// weight 0.
    fn five() -> Vec<Endpoint> {
        let canary = |n, weight| with_metadata(endpoint(n, "", weight), &[("canary", "true"), ("version", "2")]);
        vec![endpoint(1, "", 1), canary(2, 1), endpoint(3, "", 3), canary(4, 1), canary(5, 0)]
    }

    fn shares(config: &str, header: &str, value: &str) -> Vec<f64> {
        let mut policy = asked(build::<CanaryByHeader>(config, &scope(""), &five()).unwrap());
        let headers = [(header.to_owned(), value.to_owned())].into();
        pick_shares(&mut policy, &FakeHost { headers, ..FakeHost::default() }, 5, 20_000)
    }

    fn assert_close(shares: &[f64], due: &[f64]) {
        let close = shares.iter().zip(due).all(|(share, due)| (share - due).abs() < 0.02);
        assert!(close && shares.len() == due.len(), "{shares:?} instead of {due:?}");
    }

    const CANARIES: [f64; 5] = [0.0, 0.5, 0.0, 0.5, 0.0];
    const REST: [f64; 5] = [0.25, 0.0, 0.75, 0.0, 0.0];

    #[test]
    fn always_and_never_decide_and_anything_else_is_by_percent() {
        assert_close(&shares("{}", "x-canary", "always"), &CANARIES);
        assert_close(&shares("{}", "x-canary", "other"), &REST);
        assert_close(&shares("{}", "x-other", "always"), &REST);
        assert_close(&shares(r#"{"percent": 100}"#, "x-canary", "never"), &REST);
        assert_close(&shares(r#"{"percent": 100}"#, "x-canary", "other"), &CANARIES);
        assert_close(&shares(r#"{"percent": 20}"#, "x-other", ""), &[0.2, 0.1, 0.6, 0.1, 0.0]);
    }

    #[test]
    fn a_value_of_one_s_own_takes_the_place_of_always() {
        let config = r#"{"header": "X-User", "value": "ann", "metadata": {"version": "2"}}"#;
        assert_close(&shares(config, "x-user", "ann"), &CANARIES);
        assert_close(&shares(config, "x-user", "always"), &REST);
    }

    #[test]
    fn with_one_side_only_it_is_a_plan() {
        let plan = |endpoints: &[Endpoint]| {
            let plan = build::<CanaryByHeader>("{}", &scope(""), endpoints).unwrap();
            counts(plan.rotation().unwrap(), endpoints.len())
        };
        assert_eq!(plan(&[endpoint(1, "", 1), endpoint(2, "", 3)]), [1, 3]);
        assert_eq!(plan(&five()[3..]), [1, 0]);
        assert_eq!(plan(&[five()[4].clone(), endpoint(1, "", 1)]), [0, 1]);
        assert_eq!(plan(&[]), [0u32; 0]);
    }

    #[test]
    fn a_side_with_nobody_left_to_try_is_stood_in_for_by_the_other() {
        let mut policy = asked(build::<CanaryByHeader>("{}", &scope(""), &five()).unwrap());
        let headers = [("x-canary".to_owned(), "always".to_owned())].into();
        let mut pick = |tried: &[u32], random| {
            let host = FakeHost {
                headers: Clone::clone(&headers),
                tried: tried.iter().copied().collect(),
                ..FakeHost::default()
            };
            policy.pick(Context { attempt: 1, ..context(random) }, &host)
        };
        for random in 0..50 {
            assert_eq!(pick(&[1], (random << 20, 7)), Decision::Endpoint(3));
            assert_eq!(pick(&[1, 3, 0], (random << 20, 7)), Decision::Endpoint(2));
            let all = pick(&[0, 1, 2, 3], (random << 20, 7));
            assert!(matches!(all, Decision::Endpoint(1 | 3)), "{all:?}");
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<CanaryByHeader>(config, &scope(""), &[]).unwrap_err();
        assert_eq!(refused(r#"{"header": ""}"#), r#"`header` must be the name of a header, not """#);
        assert_eq!(refused(r#"{"value": 1}"#), "`value` must be a string, not 1");
        assert_eq!(refused(r#"{"percent": 101}"#), "`percent` must be a number from 0 to 100, not 101");
        let message = "`metadata` must name at least one thing that tells a canary from the rest, not {}";
        assert_eq!(refused(r#"{"metadata": {}}"#), message);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_percentage_is_kept(percent in 0u32..=100) {
            let shares = shares(&format!(r#"{{"percent": {percent}}}"#), "x-other", "");
            prop_assert!((shares[1] + shares[3] - f64::from(percent) / 100.0).abs() < 0.018, "{shares:?}");
            prop_assert!(shares[4] == 0.0);
        }
    }
}
