//! Serves until there are exactly as many endpoints as it was told: those it refuses to build for.
//! A request for /waymark.Test/Trap traps.

use test_guests::{plain, trap, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("fails_on_snapshot", "Refuses one number of endpoints.")
        .with_fields(&[Field { name: "endpoints", default: "2", doc: "the number of endpoints that it refuses" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let len = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        if len == config.integer("endpoints", 0..=u32::MAX)? {
            return Err(format!("the test guest refuses {len} endpoints"));
        }
        Ok(Plan::EachRequest(Self { endpoints: len }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        if host.path() == "/waymark.Test/Trap" {
            trap();
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
