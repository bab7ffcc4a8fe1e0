//! Asks the host a number of things in each pick and rotates: shows what an import costs.

use test_guests::{plain, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    asks: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description =
        plain("asks_host", "Asks the host a number of things in each pick and rotates: shows what an import costs.")
            .with_fields(&[Field { name: "asks", default: "1", doc: "how many things it asks, at most 16" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints, asks: config.integer("asks", 0..=16)? }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        let busy: u32 = (0..self.asks).map(|n| host.in_flight(n)).fold(0, u32::wrapping_add);
        // The answers have to matter, or they would not be asked for.
        if busy == u32::MAX { Decision::Queue } else { turn(context, self.endpoints) }
    }
}

export_policy!(Guest);
