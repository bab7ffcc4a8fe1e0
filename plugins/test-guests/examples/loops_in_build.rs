//! Never comes back from build.

use test_guests::{plain, spin};
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("loops_in_build", "Never comes back from build.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let _ = endpoints;
        spin();
    }
}

export_policy!(Guest);
