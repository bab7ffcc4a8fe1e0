//! The generated bindings of the newest interface: private to this module, named outside only
//! through its own types.
//!
//! 0.1.0 needs none of its own. Its track of versions is 0.1, and there the linker answers an
//! import of any version with what is linked, if that has all that the component asks for with the
//! same types; exports are found by the same rule. Which versions come that far is the loader's
//! word.

/// The world of policies.
pub(crate) mod balancer {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated from wit/0.1.1")]
    wasmtime::component::bindgen!({ path: "wit/0.1.1", world: "balancer-plugin" });
}

/// The world of key schemes.
pub(crate) mod key_scheme {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated from wit/0.1.1")]
    wasmtime::component::bindgen!({
        path: "wit/0.1.1",
        world: "key-scheme-plugin",
        with: { "waymark:plugin/log": super::balancer::waymark::plugin::log },
    });
}
