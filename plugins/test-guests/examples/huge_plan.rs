//! Plans a rotation of as many entries as it is told.

use test_guests::plain;
use waymark_plugin::{Config, Description, Endpoint, Field, Plan, Policy, Scope, export_policy};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("huge_plan", "Plans a rotation of as many entries as it is told.")
        .with_fields(&[Field { name: "entries", default: "2000000", doc: "how many entries" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let entries = config.integer("entries", 1..=u32::MAX)?;
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        if endpoints == 0 {
            return Ok(Plan::Rotation(Vec::new()));
        }
        Ok(Plan::Rotation((0..entries).map(|entry| entry % endpoints).collect()))
    }
}

export_policy!(Guest);
