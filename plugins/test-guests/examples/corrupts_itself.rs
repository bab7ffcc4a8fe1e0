//! Answers in turn, until a number that it keeps between its picks has grown too far; from then on
//! it answers nonsense.

use test_guests::{plain, turn};
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest {
    endpoints: u32,
    after: u32,
    offset: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description = plain("corrupts_itself", "Answers nonsense from the thousand-and-first pick on.")
        .with_fields(&[Field { name: "after", default: "1000", doc: "how many picks of an instance are right" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints, after: config.integer("after", 0..=u32::MAX)?, offset: 0 }))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        self.offset = self.offset.wrapping_add(1);
        if self.offset > self.after {
            return Decision::Endpoint(self.endpoints.wrapping_mul(self.offset));
        }
        turn(context, self.endpoints)
    }
}

export_policy!(Guest);
