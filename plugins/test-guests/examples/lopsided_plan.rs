//! Plans 9,999 of 10,000 requests for one endpoint.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("lopsided_plan", "Plans 9,999 of 10,000 requests for one endpoint.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let len = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        let last = len.saturating_sub(1);
        Ok(Plan::Rotation((0..10_000 * len.min(1)).map(|entry| if entry == 0 { last } else { 0 }).collect()))
    }
}

export_policy!(Guest);
