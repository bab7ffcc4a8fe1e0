//! The stages from the registry to the data plane, joined: what a node with ports and a client
//! without have in common.
//!
//! ```text
//!   ClientConfig ──▶ Stages::start ──▶ registry ──▶ balancer ──▶ dataplane
//!                          │              └ etcd, or one inside (feature `embedded`)
//!                          └ load, candidate, certificates, policy_file (files are followed), metrics
//! ```
#![forbid(unsafe_code)]

pub mod candidate;
mod certificates;
pub mod config;
mod defaults;
mod error;
mod expiry;
pub mod file_watch;
pub mod load;
pub mod metrics;
mod plugins;
mod policy_file;
mod stages;

pub use self::{certificates::CertificateError, error::StartError, stages::Stages};
