//! The generated bindings of interface 0.1.0: private to this module, named outside only through its own types.

/// The world of policies.
pub(super) mod balancer {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated from wit/0.1.0")]
    wasmtime::component::bindgen!({ path: "../wit/0.1.0", world: "balancer-plugin" });
}

/// The world of key schemes.
pub(super) mod key_scheme {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated from wit/0.1.0")]
    wasmtime::component::bindgen!({
        path: "../wit/0.1.0",
        world: "key-scheme-plugin",
        with: { "waymark:plugin/log": super::balancer::waymark::plugin::log },
    });
}
