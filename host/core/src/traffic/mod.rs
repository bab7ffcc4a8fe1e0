//! What whoever runs a service says of its calls: how many may run and wait, and what each method
//! may take.
//!
//! Here are settings and what can be decided from them alone: nothing here knows async, sockets or
//! a wire format. What is in force for a service is published with its endpoints
//! (`ServiceState::traffic` of the balancer); calls are carried out by
//! `dataplane`.

mod code;
mod methods;
mod outlier;
mod retry;
pub mod service_config;
mod slow_start;

use crate::check::CheckConfig;

pub use code::{Code, CodeSet, NoSuchCode};
pub use methods::{MethodConfig, Methods, NameError, check_grpc_service};
pub use outlier::{CallCounts, Detector, FailurePercentage, OutlierDetection, SuccessRate};
pub use retry::{
    HedgingPolicy, MOST_ATTEMPTS, Pushback, Repeat, Retries, RetryBudget, RetryDecision, RetryPolicy, Tokens,
};
pub use service_config::ServiceConfigError;
pub use slow_start::SlowStart;

/// What is said of the calls of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// How many calls may run and wait.
    pub limits: CallLimits,
    /// What each method may take.
    pub methods: Methods,
    /// How many retries and hedges the service bears.
    pub retry_budget: RetryBudget,
    /// How the share of an endpoint grows that joins. All of it at once when unset.
    pub slow_start: Option<SlowStart>,
    /// Who is ejected for failing. Nobody when unset.
    pub outlier: Option<OutlierDetection>,
    /// After how many calls in a row that an endpoint did not answer, each within its deadline of a
    /// second or more, it gets no calls until it answers one again, where others do. Default 5, as
    /// Envoy's consecutive failures; 0 for never.
    pub unanswered: u32,
    /// How each endpoint is checked before and while it gets calls; its own address is the one that
    /// is checked. gRPC's health service is watched over the connection that calls use: of the
    /// numbers only `timeout` matters then, for the first answer. No checks when unset.
    pub health: Option<CheckConfig>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            limits: CallLimits::default(),
            methods: Methods::default(),
            retry_budget: RetryBudget::default(),
            slow_start: None,
            outlier: None,
            unanswered: 5,
            health: None,
        }
    }
}

/// How many calls of a service may run and wait on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls of the service that run at once, from their first attempt to the end of their answer.
    /// No limit when unset.
    pub max_in_flight: Option<u32>,
    /// Calls that run at once on one endpoint. No limit when unset.
    pub max_in_flight_per_endpoint: Option<u32>,
    /// Calls that wait at once: for one of the places above, because the policy holds them back, or
    /// until an endpoint can be used. One more is refused at once. 0 refuses whatever would have to
    /// wait. Default 1024, as Envoy's circuit breakers have it.
    pub max_pending: u32,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { max_in_flight: None, max_in_flight_per_endpoint: None, max_pending: 1024 }
    }
}
