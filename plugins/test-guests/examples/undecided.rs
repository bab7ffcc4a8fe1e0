//! Answers the same question differently each time, by a number of its own that no context holds.

use test_guests::plain;
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest {
    endpoints: u32,
    state: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("undecided", "Answers the same question differently each time.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints, state: 1 }))
    }

    fn pick(&mut self, _: Context, _: &impl Host) -> Decision {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (self.state >> 16).checked_rem(self.endpoints) {
            Some(endpoint) => Decision::Endpoint(endpoint),
            None => Decision::Fail("there are no endpoints".to_owned()),
        }
    }
}

export_policy!(Guest);
