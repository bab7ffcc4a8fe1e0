//! Goes round for as long as it is told in each pick, then answers in turn: just under a deadline
//! or just over it.

use test_guests::{plain, spin_for, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    thousands: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("spins", "Goes round for as long as it is told in each pick.")
        .with_fields(&[Field { name: "thousands", default: "1", doc: "thousands of rounds" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints, thousands: config.integer("thousands", 0..=1_000_000)? }))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        // So that the trial, whose numbers are small, is passed whatever comes after.
        if context.sequence > 3 {
            spin_for(self.thousands);
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
