//! Takes all memory there is in build.

use test_guests::{hoard, plain};
use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("hoards_in_build", "Takes all memory there is in build.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let _ = endpoints;
        hoard();
    }
}

export_policy!(Guest);
