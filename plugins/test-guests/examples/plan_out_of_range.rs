//! Plans a rotation whose last entry is one too high.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("plan_out_of_range", "Plans a rotation whose last entry is one too high.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::Rotation((0..=u32::try_from(endpoints.len()).unwrap_or(u32::MAX)).collect()))
    }
}

export_policy!(Guest);
