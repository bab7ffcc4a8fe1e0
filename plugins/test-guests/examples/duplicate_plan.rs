//! Plans for the last endpoint only, a thousand times.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("duplicate_plan", "Plans for the last endpoint only, a thousand times.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let last = u32::try_from(endpoints.len()).ok().and_then(|len| len.checked_sub(1));
        Ok(Plan::Rotation(last.into_iter().flat_map(|last| [last; 1000]).collect()))
    }
}

export_policy!(Guest);
