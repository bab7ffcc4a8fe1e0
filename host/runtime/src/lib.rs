//! The plugin runtime: loads WebAssembly components and makes policies and key schemes of them.
//!
//! ```text
//!   bytes ──▶ Engine::load ──▶ Plugin ──▶ into_policy(config)     ──▶ WasmPolicy     (policy::Policy)
//!             (what is it? does it ask   └▶ into_key_scheme(config) ──▶ WasmKeyScheme (naming::KeyScheme)
//!              for what we grant?)
//! ```
//!
//! Bundled components come through this same door. A plugin is untrusted: it gets the imports of
//! its world and nothing else, but for a WASI with nothing behind it where that is allowed
//! ([`Grants`]), and every call into it has a deadline and a memory limit ([`Limits`]). After any
//! failed call its whole store is dropped, because a trap leaves a component unusable, and a fresh
//! instance is made off the hot path.
//!
//! Its modules, each of which uses only those before it:
//!
//! ```text
//!   description   what a plugin is, in words: kind, grants, limits, why it is refused
//!   deadline      how long calls run, and the clock for it
//!   memory        what instances hold: one alone, all together
//!   call          what a plugin reaches from inside a call: the interface, WASI, the log
//!   compile       from bytes to machine code, in a queue, in another process, cached
//!   engine        one a process: all of the above, and the threads that make instances
//!   load          the door: examined, compiled, checked, asked what it is
//!   instance      policies with their pickers, and key schemes
//! ```
//!
//! Nothing outside this crate names wasmtime, and none of its types is in a public signature.
#![forbid(unsafe_code)]

mod call;
mod compile;
mod deadline;
mod description;
mod engine;
mod instance;
mod load;
mod memory;
#[cfg(test)]
mod tests;

pub use self::{
    compile::{Abandon, AbandonOnDrop, COMPILE_COMMAND, CompileLimits, Compiles, compile_for_parent},
    deadline::{processor_time, yield_to_others},
    description::{
        Access, ConfigField, Description, EngineError, Grant, Grants, Kind, Limits, LoadError, SUPPORTED_INTERFACES,
        UnknownGrant, bundled, digest,
    },
    engine::{Engine, EngineConfig, prepare_thread},
    instance::{WasmKeyScheme, WasmPolicy},
    load::{Import, Inspection, MemoryLimits, Plugin},
    memory::Usage,
};
