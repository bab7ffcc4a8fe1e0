//! Logs a megabyte in one message and then ten thousand short ones in build, and rotates.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Level, Plan, Policy, Scope, export_policy, log, receiving};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description =
        plain("floods_log", "Logs a megabyte in one message and then ten thousand short ones in build, and rotates.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        log(Level::Warn, &"x".repeat(1 << 20));
        for nth in 0..10_000 {
            log(Level::Info, &format!("message {nth}"));
        }
        Ok(Plan::Rotation(receiving(endpoints)))
    }
}

export_policy!(Guest);
