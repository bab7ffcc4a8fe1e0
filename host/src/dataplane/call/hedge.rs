//! Hedging: a call that takes long is sent to further endpoints as well, and the first good answer is the call's (gRFC A6).
//!
//! ```text
//!   attempt 1 ──────────────────────▶ cancelled
//!      │ delay
//!   attempt 2 ────────▶ answered OK: the call's answer
//!      │ delay, or at once after a failure that is not fatal
//!   attempt 3 ──▶ cancelled
//! ```
//!
//! Only a request that fits into the replay buffer is hedged: it is read whole first, and each attempt sends a copy of it (the bytes
//! are shared). All attempts run in the caller's task; the answer drops the others, which resets their streams.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Empty;
use tokio::time::{Instant, sleep_until};

use super::{
    Answered, AttemptCause, AttemptError, Call, Deadline, Failure, RequestBody, RequestRecord, Unanswered, rest,
};
use crate::{
    balancer::{Pick, ServiceState},
    model::Address,
    traffic::{HedgingPolicy, MOST_ATTEMPTS, Pushback, Retries, Tokens},
};

/// How long a request is given at least to come in whole, before it is sent as any other. The end of a unary one comes with its
/// beginning; a stream, whose caller may wait for answers before it goes on, is held back by this once.
const READ_PATIENCE: Duration = Duration::from_millis(100);

/// What becomes of the hedges still to come after one attempt has ended.
enum After {
    /// This is the call's answer.
    Won(Result<Answered, Failure>),
    /// The next attempt may begin, after the server's word.
    Next(Option<Result<Answered, Failure>>, Pushback),
}

impl<'a, B: RequestBody> Call<'a, B> {
    /// Carries the call out by attempts beside one another. None where it is to be carried out as any other: because its request is not
    /// whole yet or too long, or because no server has seen it.
    pub(super) async fn hedged(
        &mut self,
        state: &ServiceState,
        policy: &HedgingPolicy,
        record: &mut RequestRecord,
    ) -> Option<Result<Answered, Failure>> {
        let source = &mut self.source;
        let read = tokio::time::timeout(policy.delay.max(READ_PATIENCE), poll_fn(|cx| source.poll_whole(cx)));
        match read.await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return None,
            Ok(Err(error)) => return Some(Err(Failure::RequestBody(error))),
        }
        let tokens = state.gate.tokens();
        let mut running = FuturesUnordered::new();
        let mut last = None;
        let mut left = policy.max_attempts.min(MOST_ATTEMPTS);
        let mut next = Instant::now();
        loop {
            while left > 0 && Instant::now() >= next {
                if self.attempts > 0 && !tokens.allow() {
                    record.withheld();
                    left = 0;
                    break;
                }
                let Pick::Endpoint(index) = state.pick(&self.pick_request()) else {
                    left = 0;
                    break;
                };
                let endpoint = &state.endpoints[index as usize];
                let Some(guard) = endpoint.cell.begin() else { continue };
                record.attempt(self.attempts, &endpoint.endpoint.address);
                let mut copy = self.copy();
                running.push(async move {
                    let answered = copy.attempt(&state.service, endpoint, guard, true).await;
                    (index, answered.map(|answered| copy.detached(answered)))
                });
                self.tried.push(index);
                self.attempts += 1;
                left -= 1;
                next = Instant::now() + policy.delay;
            }
            let (index, ended) = tokio::select! {
                ended = running.next() => match ended {
                    Some(ended) => ended,
                    // Nothing runs, and nothing more will: the last answer is the call's, if there was any.
                    None if left == 0 => return last,
                    None => {
                        sleep_until(next).await;
                        continue;
                    }
                },
                () = sleep_until(next), if left > 0 => continue,
            };
            let address = &state.endpoints[index as usize].endpoint.address;
            match self.after(ended, policy, tokens, address) {
                After::Won(answer) => {
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
        match self.failed(&outcome) {
            Some((code, pushback)) if policy.non_fatal.contains(code) => {
                tokens.failed();
                After::Next(Some(outcome), pushback)
            }
            _ => After::Won(outcome),
        }
    }

    /// The same call once more, with a request that is whole.
    fn copy(&self) -> Call<'a, Empty<Bytes>> {
        Call {
            shared: self.shared,
            head: self.head.clone(),
            source: self.source.copy(),
            peer: self.peer,
            deadline: Deadline::new(self.deadline.at()),
            has_timeout: self.has_timeout,
            idempotent: false,
            tried: Vec::new(),
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
