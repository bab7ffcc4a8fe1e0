//! A call into a plugin from its inside: what it can reach, how its interface is bound, and why a
//! call failed.

pub(crate) mod bindings;
mod failure;
mod host;
mod log;
mod stdio;
pub(crate) mod wasi;

pub(crate) use self::{
    failure::CallFailure,
    host::{HostState, with_facts},
    log::PluginLog,
};
