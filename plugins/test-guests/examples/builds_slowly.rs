//! Goes round for as long as it is told in each build, then plans for everybody in turn, or asks to
//! be asked.

use test_guests::{plain, spin_for, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("builds_slowly", "Goes round for as long as it is told in each build.")
        .with_fields(&[
            Field { name: "thousands", default: "100", doc: "thousands of rounds" },
            Field { name: "asked", default: "false", doc: "it is asked for every request" },
        ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        spin_for(config.integer("thousands", 0..=10_000_000)?);
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(if config.boolean("asked")? {
            Plan::EachRequest(Self { endpoints })
        } else {
            Plan::Rotation((0..endpoints).collect())
        })
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
