//! Describes itself with text that would move a terminal's cursor, and with a hundred thousand
//! fields. Written against the bindings, because the SDK lets a plugin be described by a constant
//! only.

use waymark_plugin::{
    __private::balancer::{exports::waymark::plugin::balancer, waymark::plugin::types},
    Context, Decision, Endpoint, Scope,
};

/// The guest.
pub struct Guest;

impl balancer::Guest for Guest {
    fn describe() -> types::Description {
        let field = |n: u32| types::ConfigField {
            name: format!("field_{n}\u{1b}[2J"),
            default: String::new(),
            doc: String::new(),
        };
        types::Description {
            name: "describes_badly".to_owned(),
            version: "1.0.0".to_owned(),
            summary: "Has a hundred thousand fields.".to_owned(),
            fields: (0..100_000).map(field).collect(),
            warning: String::new(),
        }
    }

    fn build(_: String, _: Scope, _: Vec<Endpoint>) -> Result<balancer::Plan, String> {
        Ok(balancer::Plan::Rotation(Vec::new()))
    }

    fn pick(_: Context) -> Decision {
        Decision::Queue
    }
}

#[cfg(target_arch = "wasm32")]
waymark_plugin::__private::balancer::export!(Guest with_types_in waymark_plugin::__private::balancer);
