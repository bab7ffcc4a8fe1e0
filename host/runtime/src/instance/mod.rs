//! Instances that run: policies with their pickers, and key schemes.

mod factory;
mod key_scheme;
mod picker;
mod policy;

pub use self::{key_scheme::WasmKeyScheme, policy::WasmPolicy};
