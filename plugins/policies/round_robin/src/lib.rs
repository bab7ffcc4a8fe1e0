//! Every endpoint in turn, whatever its weight; only a weight of 0 is heeded, which means "send it
//! nothing".
//!
//! A plan, not a choice for each request: the order is known before the first request comes.

use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy, receiving};

/// The policy.
pub struct RoundRobin;

impl Policy for RoundRobin {
    const DESCRIPTION: Description =
        Description::new("round_robin", env!("CARGO_PKG_VERSION"), "Every endpoint in turn.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::Rotation(receiving(endpoints)))
    }
}

export_policy!(RoundRobin);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use waymark_plugin::testing::{build, endpoint, scope};

    use super::*;

    fn rotation(endpoints: &[Endpoint]) -> Vec<u32> {
        match build::<RoundRobin>("{}", &scope(""), endpoints).unwrap() {
            Plan::Rotation(entries) => entries,
            _ => panic!("not a rotation"),
        }
    }

    #[test]
    fn everybody_comes_once_and_weight_0_never() {
        assert_eq!(rotation(&[endpoint(1, "a", 1), endpoint(2, "b", 0), endpoint(3, "a", 9)]), [0, 2]);
        assert_eq!(rotation(&[]), [0u32; 0]);
    }

    #[test]
    fn a_configuration_is_refused_because_there_is_nothing_to_configure() {
        let error = build::<RoundRobin>(r#"{"weights": true}"#, &scope(""), &[]).err().unwrap();
        assert_eq!(error, r#"`round_robin` takes no configuration but {}, and was given {"weights": true}"#);
    }
}
