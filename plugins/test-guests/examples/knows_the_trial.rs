//! Behaves while it is tried out, and traps at every real request: it knows the path of the host's
//! trial picks.

use test_guests::{plain, trap, turn};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description =
        plain("knows_the_trial", "Behaves while it is tried out, and traps at every real request.");

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
