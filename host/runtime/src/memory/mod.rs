//! What instances hold: one alone, and all of a node together.

mod budget;
mod limiter;

pub use self::budget::Usage;
pub(crate) use self::{
    budget::{Budget, available_memory, default_mappings, default_memory},
    limiter::{HANDLES, MemoryLimiter},
};
