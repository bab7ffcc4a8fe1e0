//! Traps in describe. Written against the bindings, because the SDK lets a plugin be described by a
//! constant only.

use test_guests::trap;
use waymark_plugin::{
    __private::balancer::{exports::waymark::plugin::balancer, waymark::plugin::types},
    Context, Decision, Endpoint, Scope,
};

/// The guest.
pub struct Guest;

impl balancer::Guest for Guest {
    fn describe() -> types::Description {
        trap()
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
