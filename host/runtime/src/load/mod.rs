//! The door that every component comes through, bundled ones too: what it is and asks for is looked
//! at before it is compiled, and it tells its name before anything else is asked of it.

mod bundled;
mod examine;
mod inspect;
mod loader;
mod nesting;
mod plugin;

pub use self::{
    inspect::{Import, Inspection, MemoryLimits},
    plugin::Plugin,
};
