//! Fails or drops every n-th call past the trial, with a message of many kilobytes.

use test_guests::{plain, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    every: u32,
    drops: bool,
    message: String,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("talks_at_length", "Fails or drops calls, and says why at length.")
        .with_fields(&[
            Field { name: "kib", default: "1024", doc: "how long its message is" },
            Field { name: "every", default: "1", doc: "every n-th call" },
            Field { name: "drops", default: "false", doc: "it drops them" },
        ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        let message = "so much to say, ".repeat(64 * config.integer("kib", 1..=8192)? as usize);
        let (every, drops) = (config.integer("every", 1..=u32::MAX)?, config.boolean("drops")?);
        Ok(Plan::EachRequest(Self { endpoints, every, drops, message }))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        match context.sequence {
            sequence if sequence > 3 && sequence % self.every == 0 && self.drops => {
                Decision::Drop(self.message.clone())
            }
            sequence if sequence > 3 && sequence % self.every == 0 => Decision::Fail(self.message.clone()),
            _ => turn(context, self.endpoints),
        }
    }
}

export_policy!(Guest);
