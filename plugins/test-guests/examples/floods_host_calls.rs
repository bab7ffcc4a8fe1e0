//! Asks the host a hundred million things in a pick.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("floods_host_calls", "Asks the host a hundred million things in a pick.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        if self.0.misbehave() {
            return Decision::Endpoint((0..100_000_000u32).map(|n| host.in_flight(n % 7)).sum());
        }
        self.0.next(context)
    }
}

export_policy!(Guest);
