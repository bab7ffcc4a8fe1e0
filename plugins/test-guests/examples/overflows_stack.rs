//! Calls itself in a pick until the stack is full.

use test_guests::{Turns, periodic};
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest(Turns);

impl Policy for Guest {
    const DESCRIPTION: Description = periodic("overflows_stack", "Calls itself in a pick until the stack is full.");

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        Ok(Plan::EachRequest(Self(Turns::new(config, endpoints)?)))
    }

    fn pick(&mut self, context: Context, _: &impl Host) -> Decision {
        if self.0.misbehave() {
            return Decision::Endpoint(deep(context.sequence));
        }
        self.0.next(context)
    }
}

export_policy!(Guest);

/// Written so that no compiler can make a loop of it.
#[allow(unconditional_recursion, reason = "that is what this guest is for")]
fn deep(n: u32) -> u32 {
    let frame = std::hint::black_box([n; 64]);
    deep(n.wrapping_add(1)).wrapping_add(frame[(n % 64) as usize])
}
