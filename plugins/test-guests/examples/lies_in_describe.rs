//! Calls itself `round_robin` with a version of its own, and traps at every real request.

use test_guests::{trap, turn};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = Description::new("round_robin", "99.0.0", "Every endpoint in turn, it says.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        if host.path() != "/waymark.Trial/Pick" {
            trap();
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
