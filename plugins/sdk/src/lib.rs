//! Write a load-balancing policy or a key scheme for Waymark in plain Rust.
//!
//! A policy decides which endpoint gets a request; a key scheme decides what a service's keys in
//! etcd look like. Both are WebAssembly components, and this crate hides all of that: implement
//! [`Policy`] or [`KeyScheme`], name the type in [`export_policy!`] or [`export_key_scheme!`], and
//! build for `wasm32-unknown-unknown`. For any other target the macros expand to nothing, so the
//! same crate is plain Rust that ordinary unit tests can call; [`testing`] has the fakes.
//!
//! ```
//! use waymark_plugin::{Config, Description, Endpoint, Plan, Policy, Scope, export_policy, receiving};
//!
//! struct RoundRobin;
//!
//! impl Policy for RoundRobin {
//!     const DESCRIPTION: Description = Description::new("round_robin", "1.0.0", "Every endpoint in turn.");
//!
//!     fn build(_: &Config, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
//!         Ok(Plan::Rotation(receiving(endpoints)))
//!     }
//! }
//!
//! export_policy!(RoundRobin);
//! # fn main() {}
//! ```
//!
//! What is here: the two traits and their types; [`Config`], which reads a configuration and names
//! the field at fault; what plans are made of ([`smooth_rotation`], [`grouped_rotation`],
//! [`maglev_table`], [`Ring`], [`rendezvous_order`]) and what draws at random ([`Random`],
//! [`WeightedDraw`]); [`json`]. What is not: anything that touches a network, a clock or a file. A
//! plugin has none of these, and what it may ask of the host is [`Host`] and [`log`].

//! # Without the standard library
//!
//! With `default-features = false` only `alloc` is needed, for a component that brings its own
//! allocator and panic handler ([`log_panic`] hands the host what a panic said). [`testing`] is
//! part of the feature `std`, which is on by default.
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

// The examples of the guide compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Guide;

mod config;
mod description;
mod draw;
mod generated;
mod groups;
mod hash;
mod host;
pub mod json;
mod kept;
mod key_scheme;
mod maglev;
mod policy;
mod random;
mod rendezvous;
mod ring;
mod rotation;
mod slot;
#[cfg(all(not(target_arch = "wasm32"), feature = "std"))]
pub mod testing;

pub use config::Config;
pub use description::{Description, Field};
pub use draw::WeightedDraw;
pub use generated::{
    balancer::{
        exports::waymark::plugin::balancer::{Context, Decision},
        waymark::plugin::{
            load::LoadReport,
            log::Level,
            types::{Endpoint, Scope},
        },
    },
    key_scheme::exports::waymark::plugin::key_scheme::{Entry, Instance},
};
pub use groups::{Group, grouped_rotation};
pub use hash::xxh64;
pub use host::{Host, log, log_panic};
pub use key_scheme::{KeyScheme, Lease};
pub use maglev::{MAGLEV_TABLE_SIZE, maglev_table, next_prime};
pub use policy::{HASH_KEY, Plan, Policy, has_metadata, hash_name, left_out, metadata, receiving};
pub use random::{Random, hash_text};
pub use rendezvous::rendezvous_order;
pub use ring::Ring;
pub use rotation::{MAX_ROTATION, smooth_rotation};

/// What the standard library would have put in scope.
mod prelude {
    #[allow(unused_imports, reason = "not every module needs all of it")]
    pub(crate) use alloc::{
        borrow::ToOwned,
        boxed::Box,
        format,
        string::{String, ToString},
        vec,
        vec::Vec,
    };
}

/// What the export macros expand to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        generated::{balancer, key_scheme},
        host::{GrantedHost, report_panics},
        key_scheme::{decode, encode, is_key_scheme, prefixes},
        policy::{build, is_policy, pick, split},
        slot::Slot,
    };
    pub use alloc::{string::String, vec::Vec};
}
