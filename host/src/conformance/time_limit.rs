//! How long a run may take in all. A guest that takes its whole deadline at every call would keep
//! the kit busy for many minutes.
//!
//! What is tried out is called through a [`Limited`], which refuses once the time is up: whatever
//! step runs then ends by itself, with an error that the report shows as cut and not as failed.
//! What a call itself may take, its deadline bounds.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    model::{Endpoint, LeaseId, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    policy::{BuildError, Decision, PickContext, PickError, Picker, Plan, Policy, RequestFacts, Scope},
};

/// What is said of a part that the time did not suffice for.
pub(super) const REASON: &str = "the time limit was reached";

/// When a run has to end, and whether that ended anything. Clones are one limit.
#[derive(Debug, Clone, Default)]
pub(super) struct TimeLimit {
    until: Option<Instant>,
    cut: Arc<AtomicBool>,
}

impl TimeLimit {
    pub(super) fn new(until: Option<Instant>) -> Self {
        Self { until, cut: Arc::default() }
    }

    /// Whether the time is up. Whoever asks and hears so leaves something out.
    pub(super) fn is_over(&self) -> bool {
        let over = self.has_cut() || self.until.is_some_and(|until| Instant::now() >= until);
        if over {
            self.end();
        }
        over
    }

    /// From now on it is up.
    pub(super) fn end(&self) {
        self.cut.store(true, Relaxed);
    }

    /// Whether anything was left out.
    pub(super) fn has_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// What is left of it, if there is one.
    pub(super) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

/// A policy, a picker or a key scheme that is asked no more when the time is up.
pub(super) struct Limited<T> {
    inner: T,
    limit: TimeLimit,
}

impl<T> Limited<T> {
    pub(super) fn new(inner: T, limit: &TimeLimit) -> Self {
        Self { inner, limit: limit.clone() }
    }
}

impl<T> fmt::Debug for Limited<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Policy for Limited<Arc<dyn Policy>> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn build(&self, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        if self.limit.is_over() {
            return Err(BuildError::Trapped { policy: self.name().to_owned(), reason: REASON.into() });
        }
        Ok(match self.inner.build(scope, endpoints)? {
            Plan::EachRequest(picker) => Plan::EachRequest(Box::new(Limited::new(picker, &self.limit))),
            plan => plan,
        })
    }
}

impl Picker for Limited<Box<dyn Picker>> {
    fn pick(&self, context: PickContext, facts: &dyn RequestFacts) -> Result<Decision, PickError> {
        if self.limit.is_over() { Err(PickError::Trapped(REASON.into())) } else { self.inner.pick(context, facts) }
    }
}

impl<T: KeyScheme> Limited<T> {
    fn go_on(&self, call: &'static str) -> Result<(), NamingError> {
        if self.limit.is_over() {
            let scheme = self.inner.name().to_owned();
            return Err(NamingError::Failed { scheme, call, reason: REASON.into(), overran: false });
        }
        Ok(())
    }
}

impl<T: KeyScheme> KeyScheme for Limited<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn warning(&self) -> Option<&str> {
        self.inner.warning()
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        self.go_on("prefixes")?;
        self.inner.prefixes(service)
    }

    fn encode(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
        lease: LeaseId,
        ttl: Ttl,
    ) -> Result<Vec<Entry>, NamingError> {
        self.go_on("encode")?;
        self.inner.encode(service, endpoint, lease, ttl)
    }

    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        self.go_on("decode")?;
        self.inner.decode(service, entry)
    }
}
