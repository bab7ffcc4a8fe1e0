//! Panics with a message, in build or in a pick: `{"in": "build"}` or `{"in": "pick"}`.

use test_guests::plain;
use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, Plan, Policy, Scope, export_policy,
};

struct Guest;

impl Policy for Guest {
    const DESCRIPTION: Description = plain("panics", "Panics with a message, in build or in a pick.")
        .with_fields(&[Field { name: "in", default: "\"pick\"", doc: "`build` or `pick`" }]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        assert!(config.text("in")? != "build", "the test guest panics over {} endpoints", endpoints.len());
        Ok(Plan::EachRequest(Self))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        panic!("the test guest panics at pick {}", context.sequence);
    }
}

export_policy!(Guest);
