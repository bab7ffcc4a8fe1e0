//! Attempt after attempt, each at an endpoint that was not tried yet, while no server can have seen
//! the request.
//!
//! Two kinds of attempts go where the call was before, when nobody else takes it: one that a policy
//! asks for after an answer (gRFC A6 knows nothing of endpoints: with one, all attempts go there),
//! and, once a call, the one after a server refused it unseen (A6, "Transparent Retries").

use std::{error::Error, sync::Arc};

use waymark_balancer::{Health, Pick, ServiceHandle, ServiceState};

use super::{Call, RequestBody, answered::Answered, attempt::Unanswered};
use crate::{
    call::wait,
    errors::failure::{AttemptCause, AttemptError, Failure, UnfitError, Waiting},
    observe::record::RequestRecord,
    upstream::connection::Connection,
};

impl<B: RequestBody> Call<'_, B> {
    /// Attempt after attempt until a server answers.
    pub(super) async fn attempt_all(
        &mut self,
        handle: &ServiceHandle,
        state: &mut Arc<ServiceState>,
        record: &mut RequestRecord,
    ) -> Result<Answered, Failure> {
        // The first endpoint that was passed over because it was still being connected to.
        let mut slow: Option<u32> = None;
        let mut again = Again::of(self.retries.made());
        loop {
            self.idempotent = state.idempotent;
            let mut patient = state.endpoints.len() == 1;
            let index = match state.pick(&self.pick_request(state)) {
                Pick::Endpoint(index) => index,
                Pick::Queue | Pick::NoneUsable { .. } | Pick::Fail(_) if again.forgets(&mut self.tried) => continue,
                // A further attempt does not wait: there is an answer already.
                Pick::Queue if self.retries.made() == 0 => {
                    *state =
                        Box::pin(wait::generation(&self.shared.options, handle, state, self.deadline.at())).await?;
                    self.start_over();
                    slow = None;
                    continue;
                }
                Pick::Queue => {
                    let (known, backing_off) = counts(state);
                    return Err(self.none_usable(state, known, backing_off));
                }
                Pick::NoEndpoints { .. } => {
                    let failure = Failure::NoEndpoints { revision: state.revision.0, skips: state.skips.clone() };
                    *state = Box::pin(self.ready(handle, state, failure)).await?;
                    continue;
                }
                Pick::NoneUsable { known, backing_off, full, pending } => {
                    if let Some(index) = slow.take() {
                        // Better late than never.
                        patient = true;
                        index
                    } else if let Some(index) = self.asks_again() {
                        index
                    } else if (full > 0 || pending > 0) && self.tried.is_empty() {
                        let why = if full > 0 { Waiting::Endpoint } else { Waiting::Check };
                        *state = Box::pin(wait::endpoint(&self.shared.options, handle, state, why, self.deadline.at()))
                            .await?;
                        continue;
                    } else {
                        let failure = self.none_usable(state, known, backing_off);
                        *state = Box::pin(self.ready(handle, state, failure)).await?;
                        continue;
                    }
                }
                Pick::Fail(message) => {
                    let failure = Failure::PolicyFail { policy: Arc::clone(&state.policy_name), message };
                    *state = Box::pin(self.ready(handle, state, failure)).await?;
                    continue;
                }
                Pick::Drop(message) => {
                    return Err(Failure::PolicyDrop { policy: Arc::clone(&state.policy_name), message });
                }
            };
            let endpoint = &state.endpoints[index as usize];
            // Somebody else may have taken the last place there since the pick.
            let Some(guard) = endpoint.cell.begin() else { continue };
            record.attempt(self.attempts, &endpoint.endpoint.address);
            self.attempts += 1;
            let cause = match self.attempt(state, endpoint, guard, patient).await {
                Ok(answered) => {
                    if self.repeat.is_some() {
                        self.tried.push(index);
                    }
                    return Ok(answered);
                }
                Err(Unanswered::Unseen(cause)) => cause,
                Err(Unanswered::Closing(error)) => AttemptCause::Closing(error),
                Err(Unanswered::Failed(failure)) => {
                    self.tried.push(index);
                    return Err(failure);
                }
            };
            tracing::debug!(address = %endpoint.endpoint.address, error = &cause as &dyn Error, "attempt failed");
            match cause {
                AttemptCause::Slow => slow = slow.or(Some(index)),
                AttemptCause::Refused => self.refused = self.refused.or(Some(index)),
                _ => {}
            }
            if !self.tried.contains(&index) {
                self.tried.push(index);
            }
            self.last = Some(AttemptError { address: endpoint.endpoint.address.clone(), cause });
            if self.attempts >= self.shared.options.max_attempts || !self.source.can_replay() {
                return Err(self.all_tried(counts(state)));
            }
        }
    }

    /// The endpoint that refused it unseen, once a call.
    fn asks_again(&mut self) -> Option<u32> {
        let index = self.refused.filter(|_| !self.asked_again)?;
        self.asked_again = true;
        Some(index)
    }

    /// Nobody is left to send it to; of the endpoints so many are known, and so many are backing
    /// off.
    pub(super) fn all_tried(&mut self, (known, backing_off): (usize, usize)) -> Failure {
        Failure::AllTried { attempts: self.attempts, known, backing_off, last: self.last.take() }
    }

    fn none_usable(&mut self, state: &ServiceState, known: usize, backing_off: usize) -> Failure {
        if self.attempts > 0 {
            return self.all_tried((known, backing_off));
        }
        let unfit = state.endpoints.iter().filter(|endpoint| endpoint.cell.health() == Health::Unhealthy);
        let unhealthy = unfit.clone().count();
        if unhealthy > 0 {
            let last = unfit.filter_map(|endpoint| {
                let reason = Connection::of(endpoint, &state.service, &self.shared.connections).unfit()?;
                Some(UnfitError { address: endpoint.endpoint.address.clone(), reason })
            });
            return Failure::NoneHealthy { known, unhealthy, backing_off, last: { last }.next() };
        }
        if backing_off == 0 {
            return Failure::NoneUsable { known };
        }
        let last = state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).find_map(|endpoint| {
            let cause = Connection::of(endpoint, &state.service, &self.shared.connections).last_error()?;
            Some(AttemptError { address: endpoint.endpoint.address.clone(), cause: cause.into() })
        });
        Failure::NoneReachable { known, backing_off, last }
    }
}

/// How often an attempt that a policy asks for may forget where the call was before, once nobody
/// else takes it: first all but the last place, then that one, too.
pub(super) struct Again(u8);

impl Again {
    /// Of an attempt after so many that a server answered.
    pub(super) fn of(made: u32) -> Self {
        Self(if made > 0 { 2 } else { 0 })
    }

    /// Whether there was something to forget.
    pub(super) fn forgets(&mut self, tried: &mut Vec<u32>) -> bool {
        if self.0 == 0 || tried.is_empty() {
            return false;
        }
        let keeps = usize::from(self.0 == 2 && tried.len() > 1);
        tried.drain(..tried.len() - keeps);
        self.0 = u8::from(keeps > 0);
        true
    }
}

/// How many endpoints are known, and how many of them are backing off.
pub(super) fn counts(state: &ServiceState) -> (usize, usize) {
    let backing_off = state.endpoints.iter().filter(|endpoint| endpoint.cell.is_backing_off()).count();
    (state.endpoints.len(), backing_off)
}
