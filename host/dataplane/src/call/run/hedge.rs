//! Hedging: a call that takes long is sent to further endpoints as well, and the first good answer
//! is the call's (gRFC A6).
//!
//! ```text
//!   attempt 1 ──────────────────────▶ cancelled
//!      │ delay
//!   attempt 2 ────────▶ answered OK: the call's answer
//!      │ delay, or at once after a failure that is not fatal
//!   attempt 3 ──▶ cancelled
//! ```
//!
//! Each attempt goes to an endpoint that has none, and where there is none to one that has: gRFC A6
//! knows nothing of endpoints.
//!
//! The first attempt begins at once and sends the request as it comes. Further ones need a request
//! that is whole and fits into the replay buffer: each sends the same bytes from the beginning
//! (`shared_body`). One that is not whole when it is their turn is a stream, and stays with its
//! first attempt. All attempts run in the caller's task; the answer drops the others, which resets
//! their streams.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};
use waymark_balancer::{Pick, ServiceState};
use waymark_core::{
    model::Address,
    traffic::{HedgingPolicy, MOST_ATTEMPTS, Pushback, Retries, Tokens},
};

use super::{
    Call, RequestBody,
    answered::{Answered, rest},
    attempt::Unanswered,
    retry::failed,
    tries::{Again, counts},
};
use crate::{
    call::{
        body::Deadline,
        shared_body::{SharedBody, SharedBodyReader},
        upload::Source,
    },
    errors::failure::{AttemptCause, AttemptError, Failure},
    limits::stream_idle::StreamIdle,
    observe::record::RequestRecord,
};

/// How long a request is given at least to come in whole where the delay is shorter. The end of a
/// unary one comes with its beginning.
const READ_PATIENCE: Duration = Duration::from_millis(100);

/// What becomes of the hedges still to come after one attempt has ended.
enum After {
    /// This is the call's answer.
    Won(Result<Answered, Failure>),
    /// The next attempt may begin, after the server's word.
    Next(Option<Result<Answered, Failure>>, Pushback),
}

impl<'a, B: RequestBody> Call<'a, B> {
    /// Carries the call out by attempts beside one another. None where it is to be carried out as
    /// any other, because no server has seen it.
    pub(super) async fn hedged(
        &mut self,
        state: &ServiceState,
        policy: &HedgingPolicy,
        record: &mut RequestRecord,
    ) -> Option<Result<Answered, Failure>> {
        let shared_body = SharedBody::new(self.source.take());
        if let Some(answered) = self.attempts_beside(&shared_body, state, policy, record).await {
            return Some(answered);
        }
        self.source = shared_body.into_source().expect("attempts alone read it, and all have ended");
        (!self.source.can_replay()).then(|| Err(self.all_tried(counts(state))))
    }

    async fn attempts_beside(
        &mut self,
        shared_body: &SharedBody<B>,
        state: &ServiceState,
        policy: &HedgingPolicy,
        record: &mut RequestRecord,
    ) -> Option<Result<Answered, Failure>> {
        let tokens = state.limiter.tokens();
        let mut running = FuturesUnordered::new();
        let mut last = None;
        let mut left = policy.max_attempts.min(MOST_ATTEMPTS);
        let mut next = Instant::now();
        let patience = next + READ_PATIENCE;
        loop {
            while left > 0 && Instant::now() >= next && (self.attempts == 0 || shared_body.is_whole()) {
                if self.attempts > 0 && !tokens.allow() {
                    record.withheld();
                    left = 0;
                    break;
                }
                let mut again = Again::of(self.attempts as u32);
                let index = loop {
                    match state.pick(&self.pick_request(state)) {
                        Pick::Endpoint(index) => break Some(index),
                        Pick::Drop(_) | Pick::NoEndpoints { .. } => break None,
                        _ if again.forgets(&mut self.tried) => {}
                        _ => break None,
                    }
                };
                let Some(index) = index else {
                    left = 0;
                    break;
                };
                let endpoint = &state.endpoints[index as usize];
                let Some(guard) = endpoint.cell.begin() else { continue };
                record.attempt(self.attempts, &endpoint.endpoint.address);
                let mut copy = self.copy(shared_body);
                running.push(async move {
                    let answered = copy.attempt(state, endpoint, guard, true).await;
                    (index, answered.map(|answered| copy.detached(answered)))
                });
                self.tried.push(index);
                self.attempts += 1;
                left -= 1;
                next = Instant::now() + policy.delay;
            }
            let whole = shared_body.is_whole();
            let (index, ended) = tokio::select! {
                // The attempts first: it is they who read the request, and nothing else tells that
                // it is whole now.
                biased;
                ended = running.next() => match ended {
                    Some(ended) => ended,
                    // Nothing runs, and nothing more will: the last answer is the call's, if there
                    // was any.
                    None if left == 0 => return last,
                    None if !whole => {
                        // No server has seen it: it can go on at once. One that answered may have
                        // done so before the request's end came.
                        if last.is_none() || timeout_at(patience, shared_body.read()).await.is_err() || !shared_body.is_whole() {
                            return last;
                        }
                        continue;
                    }
                    None => {
                        sleep_until(next).await;
                        continue;
                    }
                },
                () = becomes_whole(shared_body), if left > 0 && !whole => {
                    // Until now no server could have answered it.
                    next = Instant::now() + policy.delay;
                    continue;
                }
                () = sleep_until(if whole { next } else { next.max(patience) }), if left > 0 => {
                    if !shared_body.is_whole() {
                        left = 0;
                    }
                    continue;
                }
            };
            let address = &state.endpoints[index as usize].endpoint.address;
            match self.after(ended, policy, tokens, address) {
                After::Won(answer) => {
                    shared_body.commit();
                    record.answered_by(address);
                    return Some(answer);
                }
                After::Next(answer, pushback) => {
                    last = answer.or(last);
                    match pushback {
                        Pushback::None => next = Instant::now(),
                        Pushback::After(wait) => next = Instant::now() + wait,
                        Pushback::Never => left = 0,
                    }
                }
            }
        }
    }

    fn after(
        &mut self,
        ended: Result<Answered, Unanswered>,
        policy: &HedgingPolicy,
        tokens: &Arc<Tokens>,
        address: &Address,
    ) -> After {
        let outcome = match ended {
            Ok(answered) => Ok(answered),
            Err(Unanswered::Failed(failure)) => Err(failure),
            Err(Unanswered::Unseen(cause)) => {
                self.last = Some(AttemptError { address: address.clone(), cause });
                return After::Next(None, Pushback::None);
            }
            Err(Unanswered::Closing(error)) => {
                let cause = AttemptCause::Closing(error);
                self.last = Some(AttemptError { address: address.clone(), cause });
                return After::Next(None, Pushback::None);
            }
        };
        match failed(&outcome) {
            Some((code, pushback)) if policy.non_fatal.contains(code) => {
                tokens.failed();
                After::Next(Some(outcome), pushback)
            }
            _ => After::Won(outcome),
        }
    }

    /// The same call once more.
    fn copy(&self, shared_body: &SharedBody<B>) -> Call<'a, SharedBodyReader<B>> {
        Call {
            shared: self.shared,
            head: self.head.clone(),
            source: Source::new(shared_body.body(), self.shared.options.replay_bytes),
            origin: self.origin,
            deadline: Deadline::new(self.deadline.at()),
            // The call itself is watched once one of its attempts is answered.
            stream_idle: StreamIdle::default(),
            has_timeout: self.has_timeout,
            idempotent: false,
            sequence: self.sequence,
            tried: Vec::new(),
            refused: None,
            asked_again: false,
            attempts: 0,
            last: None,
            repeat: self.repeat.clone(),
            retries: Retries::after(self.attempts as u32),
        }
    }

    /// An answer that needs its call no more: what is left of the request is sent beside it.
    fn detached(self, answered: Answered) -> Answered {
        match answered {
            Answered::Begun(mut begun) => {
                begun.rest = begun.upload.take().and_then(|upload| rest(upload, self.source));
                Answered::Begun(begun)
            }
            whole @ Answered::Whole { .. } => whole,
        }
    }
}

/// Ready when all of the request is there. Whoever reads it wakes this.
async fn becomes_whole<B: RequestBody>(shared_body: &SharedBody<B>) {
    poll_fn(|_| if shared_body.is_whole() { Poll::Ready(()) } else { Poll::Pending }).await;
}
