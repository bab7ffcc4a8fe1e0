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
//! Nothing outside this crate names wasmtime, and none of its types is in a public signature.
#![forbid(unsafe_code)]

mod bindings;
mod budget;
pub mod bundled;
mod compile;
mod engine;
mod error;
mod grants;
mod host;
mod inspect;
mod key_scheme;
mod limits;
mod loader;
mod memory;
mod meter;
mod picker;
mod policy;
mod restarts;
#[cfg(test)]
mod tests;
mod ticker;
mod wasi;

pub use budget::Usage;
pub use compile::{Abandon, AbandonOnDrop, COMPILE_COMMAND, CompileLimits, Compiles, compile_for_parent};
pub use engine::{Engine, EngineConfig, digest, prepare_thread, yield_to_others};
pub use error::{EngineError, LoadError};
pub use grants::{Access, Grant, Grants, UnknownGrant};
pub use inspect::{Import, Inspection, MemoryLimits};
pub use key_scheme::WasmKeyScheme;
pub use limits::Limits;
pub use loader::{ConfigField, Description, Kind, Plugin, SUPPORTED_INTERFACES};
pub use meter::processor_time;
pub use policy::WasmPolicy;
