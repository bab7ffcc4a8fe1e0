//! Picks the endpoint after the last one.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("pick_out_of_range", "Picks the endpoint after the last one.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() {
            return Decision::Endpoint(self.0.endpoints());
        }
        self.0.next(context)
    }
}

export_policy!(Guest);
