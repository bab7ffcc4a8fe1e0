//! One task a service: snapshot and policy in, published [`ServiceState`] out.
//!
//! A change of endpoints, of the policy, of its configuration and a rollback are the same operation: build a new generation from
//! (policy, endpoints), check it, swap one `Arc`. Requests in flight keep the generation they began with. Building runs on a
//! blocking thread; nothing here runs on a request's thread but [`ServiceState::pick`].
//!
//! Where endpoints come from is the registry's business, how a request reaches one is the data plane's.

mod ejection;
mod endpoint;
mod gate;
mod hash;
mod history;
mod report;
mod service;
mod services;
mod standing;
mod state;
#[cfg(test)]
mod tests;
mod youth;

pub use endpoint::{CallGuard, EndpointCell, Outcome};
pub use gate::{Gate, Overloaded, Pending, Place};
pub use hash::{HashKey, HashKeyError};
pub use history::{PolicyInfo, PolicyOutcome, PolicyVersion};
pub use service::{Candidate, Published, ServiceClosed, ServiceHandle, StateReader, SwapError, SwapTimes};
pub use services::{Checker, DiscoverError, Following, Forgetter, ServiceDefaults, Services, ServicesConfig};
pub use standing::{Connectivity, Fitness, Standing};
pub use state::{EndpointState, FailureSink, Pick, PickRequest, ServiceCounters, ServiceState};
