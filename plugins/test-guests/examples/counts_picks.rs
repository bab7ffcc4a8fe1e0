//! Says in its answer how often this very instance was asked: the decision is "fail" with the
//! number for a message. A host's tests see by it when an instance is fresh.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("counts_picks", "Every n-th pick fails with the number of picks so far.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() { Decision::Fail(self.0.picks().to_string()) } else { self.0.next(context) }
    }
}

export_policy!(Guest);
