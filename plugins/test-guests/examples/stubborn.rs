//! Names the first endpoint whether it can be used or not, also when it is asked again and told
//! that it was tried.

use test_guests::plain;
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("stubborn", "Names the first endpoint, whether it can be used or not.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints }))
    }

    fn pick(&mut self, _: Context, host: &impl Host) -> Decision {
        let _ = host.tried(0);
        match self.endpoints {
            0 => Decision::Fail("there are no endpoints".to_owned()),
            _ => Decision::Endpoint(0),
        }
    }
}

export_policy!(Guest);
