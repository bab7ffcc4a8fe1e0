//! Retries: a call that a server failed is sent again, if its service's policy says so (gRFC A6).

use std::sync::Arc;

use tokio::time::Instant;

use super::{Call, RequestBody, answered::Answered};
use crate::{
    balancer::{ServiceHandle, ServiceState},
    dataplane::{errors::Failure, metrics::RequestRecord},
    traffic::{Code, Pushback, RetryPolicy, Verdict},
};

impl<B: RequestBody> Call<'_, B> {
    /// Attempts one after the other, until one does not fail or the policy has enough.
    pub(super) async fn retried(
        &mut self,
        handle: &ServiceHandle,
        state: &mut Arc<ServiceState>,
        policy: &RetryPolicy,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        let mut outcome = self.attempt_all(handle, state, record).await;
        while self.source.can_replay()
            && let Some((code, pushback)) = failed(&outcome)
        {
            let wait = match self.retries.ended(policy, state.gate.tokens(), code, pushback, fastrand::f64()) {
                Verdict::After(wait) => wait,
                Verdict::Final => return outcome,
                Verdict::Withheld => {
                    record.withheld();
                    return outcome;
                }
            };
            let at = Instant::now().checked_add(wait);
            // To wait past the deadline would only lose what the server said.
            if at.is_none_or(|at| self.deadline.at().is_some_and(|deadline| at >= deadline)) {
                return outcome;
            }
            tokio::time::sleep(wait).await;
            match self.attempt_all(handle, state, record).await {
                // No other endpoint could be asked: the last answer stands.
                Err(failure) if !failure.is_answer() && !matches!(failure, Failure::Deadline { .. }) => return outcome,
                next => outcome = next,
            }
        }
        outcome
    }
}

/// How an attempt failed that a server may have seen.
pub(super) fn failed(outcome: &Result<Answered, Failure>) -> Option<(Code, Pushback)> {
    match outcome {
        Ok(Answered::Whole { code: Code::Ok, .. } | Answered::Begun(_)) => None,
        Ok(Answered::Whole { head, code }) => {
            let pushback = head.headers.get("grpc-retry-pushback-ms").map(http::HeaderValue::as_bytes);
            Some((*code, Pushback::parse(pushback)))
        }
        Err(failure) => failure.is_answer().then(|| (failure.code(), Pushback::None)),
    }
}
