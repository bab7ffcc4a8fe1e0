//! Retries: a call that a server failed is sent again, if its service's policy says so (gRFC A6).

use std::sync::Arc;

use tokio::time::Instant;
use waymark_balancer::{ServiceHandle, ServiceState};
use waymark_core::traffic::{Code, Pushback, RetryDecision, RetryPolicy};

use super::{Call, RequestBody, answered::Answered};
use crate::{errors::failure::Failure, observe::record::RequestRecord};

impl<B: RequestBody> Call<'_, B> {
    /// Attempts one after the other, until one does not fail or the policy has enough.
    pub(super) async fn retried(
        &mut self,
        handle: &ServiceHandle,
        state: &mut Arc<ServiceState>,
        policy: &RetryPolicy,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        // What a server said last. It is the call's answer if no other one can be had.
        let mut answer = None;
        let mut outcome = self.attempt_all(handle, state, record).await;
        while self.source.can_replay()
            && let Some((code, pushback)) = failed(&outcome).or_else(|| unreached(&outcome))
        {
            let wait = match self.retries.ended(policy, state.limiter.tokens(), code, pushback, fastrand::f64()) {
                RetryDecision::After(wait) => wait,
                RetryDecision::Final => break,
                RetryDecision::Withheld => {
                    record.withheld();
                    break;
                }
            };
            let at = Instant::now().checked_add(wait);
            // To wait past the deadline would only lose what the server said.
            if at.is_none_or(|at| self.deadline.at().is_some_and(|deadline| at >= deadline)) {
                break;
            }
            tokio::time::sleep(wait).await;
            self.carry_over(handle, state);
            let next = self.attempt_all(handle, state, record).await;
            let before = std::mem::replace(&mut outcome, next);
            if failed(&before).is_some() {
                answer = Some(before);
            }
        }
        match (&outcome, answer) {
            // Nobody could be asked any more: the last answer stands.
            (Err(failure), Some(answer)) if !failure.is_answer() && !matches!(failure, Failure::Deadline { .. }) => {
                answer
            }
            _ => outcome,
        }
    }

    /// Goes on with what is published by now.
    fn carry_over(&mut self, handle: &ServiceHandle, state: &mut Arc<ServiceState>) {
        let now = Arc::clone(&handle.state());
        if now.generation == state.generation {
            return;
        }
        let tried = std::mem::take(&mut self.tried);
        self.start_over();
        let same = |index: u32| {
            let cell = &state.endpoints[index as usize].cell;
            now.endpoints.iter().position(|other| Arc::ptr_eq(&other.cell, cell))
        };
        self.tried = tried.into_iter().filter_map(|index| Some(same(index)? as u32)).collect();
        *state = now;
    }
}

/// How an attempt failed for which no server could be reached, where a moment may change that.
/// gRPC's clients retry these as they do answers.
fn unreached(outcome: &Result<Answered, Failure>) -> Option<(Code, Pushback)> {
    outcome.as_ref().err().filter(|failure| failure.may_pass()).map(|failure| (failure.code(), Pushback::None))
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
