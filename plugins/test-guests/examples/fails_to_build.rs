//! Refuses every set of endpoints.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("fails_to_build", "Refuses every set of endpoints.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Err(format!("the test guest refuses {} endpoints, as it always does", endpoints.len()))
    }
}

export_policy!(Guest);
