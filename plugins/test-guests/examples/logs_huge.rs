//! Logs eight megabytes in one message of a pick, which is no failure, and costs one short line.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("logs_huge", "Logs eight megabytes in a pick.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() {
            waymark_plugin::log(waymark_plugin::Level::Warn, &"\u{1b}[2J".repeat(2 << 20));
        }
        self.0.next(context)
    }
}

export_policy!(Guest);
