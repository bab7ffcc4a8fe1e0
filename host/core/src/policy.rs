//! The role of a balancing policy, seen from the host: a policy turns one set of endpoints into a
//! plan, and a plan (or the policy itself) answers picks.
//!
//! There is no native policy; `plugin` implements these traits for components. This module knows
//! neither tokio nor wasmtime, so that whatever picks can be tested without either.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    model::{Endpoint, ServiceName},
    text::{WORDS, shown},
};

/// What a policy balances for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The service.
    pub service: ServiceName,
    /// The zone this node stands in; empty when it was not told.
    pub zone: Arc<str>,
}

/// What a policy made of one set of endpoints. Every number is an index into that set, and was
/// checked to be in range.
pub enum Plan {
    /// Walk this list for ever, one entry a pick.
    Rotation(Box<[u32]>),
    /// The entry at (hash of the request's key) modulo the length.
    HashTable(Box<[u32]>),
    /// Ask for every request.
    EachRequest(Box<dyn Picker>),
}

impl Plan {
    /// The plan's kind, as the interface calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rotation(_) => "rotation",
            Self::HashTable(_) => "hash-table",
            Self::EachRequest(_) => "each-request",
        }
    }
}

/// What differs from one request to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickContext {
    /// Counts the requests of the service, modulo 2^32.
    pub sequence: u32,
    /// Two independent uniform random numbers.
    pub random: (u32, u32),
    /// The hash of the request's key, if it has one.
    pub hash: Option<u32>,
    /// 0 for the first attempt.
    pub attempt: u32,
}

/// What becomes of a request. Indexes are into the endpoints that the plan was built for, and in
/// range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send it there.
    Endpoint(u32),
    /// Send it to the one with less load.
    Either(u32, u32),
    /// Hold it until the next snapshot or policy.
    Queue,
    /// Unavailable, with this message; a call that waits for readiness goes on waiting.
    Fail(String),
    /// Unavailable, with this message, whatever the call says; never retried.
    Drop(String),
}

/// What an instance said last of its own load. A figure that it did not give is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadReport {
    /// The part of its processor time that is used; may be over 1.
    pub cpu_utilization: f64,
    /// The part of its memory that is used.
    pub memory_utilization: f64,
    /// How much it is used by its own measure; may be over 1.
    pub application_utilization: f64,
    /// Calls a second.
    pub rps: f64,
    /// Calls a second that fail.
    pub eps: f64,
    /// How long ago it was said; 0 as it comes.
    pub age: Duration,
}

/// Facts about one request, and the load of the endpoints, for a policy that asks per request.
/// Reached only while its `pick` runs.
pub trait RequestFacts {
    /// The gRPC path.
    fn path(&self) -> &str;
    /// The first value of a header, by its lower-case name.
    fn header(&self, name: &str) -> Option<&str>;
    /// Whether an earlier attempt of this request failed on this endpoint.
    fn tried(&self, endpoint: u32) -> bool;
    /// Calls in flight on this endpoint.
    fn in_flight(&self, endpoint: u32) -> u32;
    /// Latency of this endpoint in microseconds; 0 when unknown.
    fn latency_us(&self, endpoint: u32) -> u32;
    /// How many calls of this endpoint failed lately, from 0 to 1. Where nobody counts: 0.
    fn failure_rate(&self, _endpoint: u32) -> f64 {
        0.0
    }
    /// What the instance said last of its load. Where there is no instance: nothing.
    fn report(&self, _endpoint: u32) -> Option<LoadReport> {
        None
    }
    /// A metric that its last report named. Where there is no instance: nothing.
    fn metric(&self, _endpoint: u32, _name: &str) -> Option<f64> {
        None
    }
    /// Told by the picker what a pick for this request took, where it was measured. Where nobody
    /// counts: nothing comes of it.
    fn took(&self, _took: PickTook) {}
}

/// What a pick took. Only some picks are measured, so that a pick need not read a clock; those that
/// are stand for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickTook {
    /// Its processor time, where it was measured from its begin to its end.
    pub measured: Option<Duration>,
    /// What to count of it when all picks are added up: nothing of most short ones, and for some of
    /// them what their thread used since it last looked, which stands for the others.
    pub charged: Duration,
    /// The thread that it ran on, by a small number.
    pub thread: usize,
    /// How long that thread was ready to run and did not, since it began, where the system tells
    /// and something is charged: on a busy machine a thread has less time than passes.
    pub kept_waiting: Duration,
}

/// The facts of a request that nobody sent: a path, no headers, and no load anywhere. For trials,
/// tests and benchmarks.
#[derive(Debug, Clone, Copy)]
pub struct NoRequest(
    /// Its path.
    pub &'static str,
);

impl RequestFacts for NoRequest {
    fn path(&self) -> &str {
        self.0
    }
    fn header(&self, _: &str) -> Option<&str> {
        None
    }
    fn tried(&self, _: u32) -> bool {
        false
    }
    fn in_flight(&self, _: u32) -> u32 {
        0
    }
    fn latency_us(&self, _: u32) -> u32 {
        0
    }
}

/// Answers a pick for every request. Shared by all threads; a call must not block.
pub trait Picker: Send + Sync + 'static {
    /// Chooses for one request.
    ///
    /// # Errors
    ///
    /// The policy failed (it trapped, overran its deadline, or answered out of range). The caller
    /// answers from a fallback within the same call; the picker has already arranged for a fresh
    /// instance.
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError>;
}

/// A policy failed at pick time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PickError {
    /// It trapped: unreachable code, a panic, a bad memory access, or memory it was not granted.
    #[error("trapped: {}", shown(.0, WORDS))]
    Trapped(String),
    /// It ran longer than its deadline.
    #[error("ran over its deadline of {deadline_ms} ms")]
    DeadlineExceeded {
        /// The deadline in force.
        deadline_ms: u64,
    },
    /// It named an endpoint that does not exist.
    #[error("answered endpoint {index} of {len}")]
    OutOfRange {
        /// The index it answered.
        index: u32,
        /// How many endpoints there are.
        len: usize,
    },
    /// After a failure, its fresh instance is not there yet.
    #[error("is being restarted after a failure")]
    Restarting,
    /// All its instances were at work for longer than a pick waits. No failure of the policy's.
    #[error("is busy with other picks")]
    Busy,
    /// After a failure, no fresh instance could be had.
    #[error("cannot be restarted after a failure: {}", shown(.0, WORDS))]
    NotRestarted(String),
}

/// A policy failed to turn endpoints into a plan. Nothing was published; whatever ran goes on
/// running.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The policy refused, usually its configuration. Its own words.
    #[error("policy {policy} refused: {reason}", reason = shown(.reason, WORDS))]
    Refused {
        /// The policy's name.
        policy: String,
        /// What it said.
        reason: String,
    },
    /// The plan names an endpoint that does not exist.
    #[error("policy {policy} made a plan that names endpoint {index} of {len}")]
    OutOfRange {
        /// The policy's name.
        policy: String,
        /// The index in the plan.
        index: u32,
        /// How many endpoints there are.
        len: usize,
    },
    /// The plan is empty although there are endpoints with a weight.
    #[error("policy {policy} made an empty plan for {len} endpoints")]
    Empty {
        /// The policy's name.
        policy: String,
        /// How many endpoints there are.
        len: usize,
    },
    /// The plan is longer than the host takes.
    #[error("policy {policy} made a plan of {len} entries, over the limit of {limit}")]
    TooLong {
        /// The policy's name.
        policy: String,
        /// Its length.
        len: usize,
        /// The limit in force.
        limit: usize,
    },
    /// It trapped.
    #[error("policy {policy} trapped in build: {reason}", reason = shown(.reason, WORDS))]
    Trapped {
        /// The policy's name.
        policy: String,
        /// The trap.
        reason: String,
    },
    /// It failed a pick that it was given to try it out.
    #[error("policy {policy} failed a trial pick: it {reason}", reason = shown(.reason, WORDS))]
    FailedTrial {
        /// The policy's name.
        policy: String,
        /// How.
        reason: String,
    },
    /// The plugins of the node hold all that they may.
    #[error("policy {policy} cannot have an instance: {reason}")]
    NoRoom {
        /// The policy's name.
        policy: String,
        /// What is used up, and what to do about it.
        reason: String,
    },
    /// It ran longer than its deadline.
    #[error("policy {policy} was not done building after {deadline_ms} ms")]
    DeadlineExceeded {
        /// The policy's name.
        policy: String,
        /// The deadline in force.
        deadline_ms: u64,
    },
}

/// A loaded policy with its configuration. Building may take long: do it off the hot path and off
/// the async threads.
pub trait Policy: Send + Sync + 'static {
    /// Its name, for messages and metrics.
    fn name(&self) -> &str;

    /// Turns one set of endpoints into a plan, with fresh plugin instances: nothing is carried over
    /// from an earlier build.
    fn build(&self, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError>;
}
