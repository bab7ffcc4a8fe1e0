//! Fills megabytes of memory in one instruction of each pick, past the trial or in it as well: no
//! deadline ends that before it is done.

use test_guests::{plain, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    times: u32,
    trial: bool,
    memory: Vec<u8>,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("fills_memory", "Fills megabytes of memory in each pick.").with_fields(&[
        Field { name: "mib", default: "32", doc: "how much is filled" },
        Field { name: "times", default: "1", doc: "how often" },
        Field { name: "trial", default: "false", doc: "in the trial as well" },
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        let mib = config.integer("mib", 1..=48)? as usize;
        let (times, trial) = (config.integer("times", 1..=1000)?, config.boolean("trial")?);
        Ok(Plan::EachRequest(Self { endpoints, times, trial, memory: vec![0; mib << 20] }))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.trial || context.sequence > 3 {
            for _ in 0..self.times {
                self.memory.fill(context.sequence as u8);
                std::hint::black_box(&self.memory);
            }
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
