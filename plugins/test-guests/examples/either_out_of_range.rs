//! Answers two endpoints of which one does not exist.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description =
        periodic("either_out_of_range", "Answers two endpoints of which one does not exist.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() {
            return Decision::Either((0, self.0.endpoints()));
        }
        self.0.next(context)
    }
}

export_policy!(Guest);
