//! The node as a program: its API, its configuration and its command line around the stages that
//! the crates below it are.
//!
//! ```text
//!       register, keep alive (lease)             built per snapshot, off the hot path     once per request
//!      ┌───────────────────────────┐                          │                                 │
//!      ▼                           │                          ▼                                 ▼
//!    etcd ── watch@revision ──▶ registry ──Update──▶ snapshot ──▶ balancer ──Arc<ServiceState>──▶ dataplane ──▶ instance
//!                                  ▲                (immutable)      │  ▲                           │
//!                               naming                               ▼  └──────── load, outcome ────┘
//!                                  └────────────── plugin (wasmtime) ┘
//! ```
//!
//! One crate a box; a module uses only the ones above it in this list. `host/ARCHITECTURE.md` has
//! the whole story.
#![forbid(unsafe_code)]

// The crates and their modules under the names that this crate's modules, tests and benchmarks know
// them by.
#[doc(no_inline)]
pub use waymark_balancer as balancer;
#[doc(no_inline)]
pub use waymark_core::{check, exposition, model, naming, policy, secret, snapshot, text, traffic};
#[doc(no_inline)]
pub use waymark_dataplane as dataplane;
#[doc(no_inline)]
pub use waymark_embedded as embedded;
#[doc(no_inline)]
pub use waymark_net::{address_filter, health, resolve};
#[doc(no_inline)]
pub use waymark_registry as registry;
#[doc(no_inline)]
pub use waymark_runtime as plugin;
#[doc(no_inline)]
pub use waymark_stages as stages;

pub mod conformance;

pub mod admin;

pub mod app;
pub mod cli;
pub mod config;
