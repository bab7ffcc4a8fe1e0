//! A service-discovery node whose load balancing and key naming are WebAssembly components.
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
//! One module a box; a module uses only the ones above it in this list. `host/ARCHITECTURE.md` has the whole story.
#![forbid(unsafe_code)]

pub mod model;
pub mod naming;
pub mod policy;
pub mod snapshot;

pub mod embedded;
pub mod health;
pub mod plugin;
pub mod registry;
pub mod traffic;

pub mod balancer;
pub mod conformance;
pub mod dataplane;

pub mod admin;

pub mod app;
pub mod cli;
pub mod config;

pub use app::Client;
pub use dataplane::Channel;
