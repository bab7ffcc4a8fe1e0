//! Takes all memory there is in a pick.

use test_guests::{Turns, hoard, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("hoards_in_pick", "Takes all memory there is in a pick.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() {
            hoard();
        }
        self.0.next(context)
    }
}

export_policy!(Guest);
