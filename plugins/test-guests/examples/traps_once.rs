//! Traps in the pick of one sequence number, and in no other: once in the life of a node.

use test_guests::{plain, trap, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    at: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("traps_once", "Traps in the pick of one sequence number.")
        .with_fields(&[Field { name: "at", default: "0", doc: "the sequence number" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints, at: config.integer("at", 0..=u32::MAX)? }))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if context.sequence == self.at {
            trap();
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
