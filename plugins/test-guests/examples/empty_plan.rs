//! Plans a rotation over nobody, whoever there is.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("empty_plan", "Plans a rotation over nobody, whoever there is.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let _ = endpoints;
        Ok(Plan::Rotation(Vec::new()))
    }
}

export_policy!(Guest);
