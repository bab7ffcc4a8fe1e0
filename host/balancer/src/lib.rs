//! One task a service: snapshot and policy in, published [`ServiceState`] out.
//!
//! A change of endpoints, of the policy, of its configuration and a rollback are the same
//! operation: build a new generation from (policy, endpoints), check it, swap one `Arc`. Requests
//! in flight keep the generation they began with. Building runs on threads of its own (`builders`);
//! nothing here runs on a request's thread but [`ServiceState::pick`].
//!
//! Where endpoints come from is the registry's business, how a request reaches one is the data
//! plane's.
#![forbid(unsafe_code)]

mod builders;
mod call_guard;
mod call_limiter;
mod capacity;
mod changes;
mod cpu_budget;
mod discovery;
mod duplicates;
mod ejection;
mod endpoint;
mod hash;
mod history;
mod pick_times;
mod report;
mod service;
mod services;
mod slow_start;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod unresponsive;
mod upstream;

pub use call_guard::CallGuard;
pub use call_limiter::{CallLimiter, CallPermit, Overloaded, PendingCall};
pub use capacity::Census;
pub use changes::{ServiceChange, ServiceChanges};
pub use discovery::{Discoverable, Pattern};
pub use endpoint::{EndpointCell, EndpointState, Outcome};
pub use hash::{HashKey, HashKeyError};
pub use history::{PolicyInfo, PolicyOutcome, PolicyVersion};
pub use pick_times::PickTimes;
pub use service::{Candidate, Published, ServiceClosed, ServiceHandle, StateReader, SwapError, SwapTimes};
pub use services::{DiscoverError, Following, ServiceDefaults, Services, ServicesConfig};
pub use state::{FailureSink, GRACE, Pick, PickRequest, ServiceCounters, ServiceState};
pub use status::{Connectivity, EndpointStatus, Health};
pub use upstream::Upstream;
