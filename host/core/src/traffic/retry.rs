//! Retries and hedges by policy: gRFC A6, decided without a clock, sockets or random numbers of
//! their own.
//!
//! ```text
//!   answer ─▶ OK ─▶ a token's share comes back ─▶ done
//!      │
//!      └────▶ a code that may be tried again ─▶ a token goes ─▶ budget? attempts? server says no? ─▶ wait, and once more
//! ```

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use super::code::{Code, CodeSet};

/// The most attempts of one call that any policy gets (A6, "Limits on Retries and Hedges"); more
/// are taken for this many.
pub const MOST_ATTEMPTS: u32 = 5;

/// What is done about a call that fails, or takes long.
#[derive(Debug, Clone, PartialEq)]
pub enum Repeat {
    /// It is sent again after it failed.
    Retry(RetryPolicy),
    /// It is sent again before it failed.
    Hedge(HedgingPolicy),
}

/// When a failed call is sent again, to another endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included: 2 to [`MOST_ATTEMPTS`].
    pub max_attempts: u32,
    /// The longest wait before the first retry; the wait is drawn from 0 to it.
    pub initial_backoff: Duration,
    /// The longest wait before any.
    pub max_backoff: Duration,
    /// How much longer each further wait may be.
    pub multiplier: f64,
    /// The codes after which it is sent again.
    pub codes: CodeSet,
}

impl Default for RetryPolicy {
    /// A6's own example: UNAVAILABLE alone, because it says that the server did not process the
    /// call.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            multiplier: 2.0,
            codes: CodeSet::from_iter([Code::Unavailable]),
        }
    }
}

/// When a call is sent to a second endpoint although the first has not answered. Only for methods
/// that may be carried out twice.
#[derive(Debug, Clone, PartialEq)]
pub struct HedgingPolicy {
    /// Attempts in all, the first one included: 2 to [`MOST_ATTEMPTS`].
    pub max_attempts: u32,
    /// How long each attempt may take before the next one begins. 0 sends all at once.
    pub delay: Duration,
    /// Codes after which the next attempt begins at once. Any other answer is the call's.
    pub non_fatal: CodeSet,
}

/// How many retries a service bears: A6's `retryThrottling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Tokens at most, and in the beginning. A failed attempt takes one; with half of them or fewer
    /// left, nothing is retried.
    pub max_tokens: u32,
    /// What a call that ends well gives back, in thousandths of a token.
    pub ratio_thousandths: u32,
}

impl Default for RetryBudget {
    /// 100 tokens and a tenth. A6 knows no budget by default, and its example has 10 tokens: meant
    /// for one client, where a node carries the calls of many.
    fn default() -> Self {
        Self { max_tokens: 100, ratio_thousandths: 100 }
    }
}

/// What is left of a service's budget.
#[derive(Debug)]
pub struct Tokens {
    most: u32,
    ratio: u32,
    /// Thousandths of a token.
    left: AtomicU32,
}

impl Tokens {
    /// All of it.
    pub fn new(budget: RetryBudget) -> Self {
        let most = budget.max_tokens.saturating_mul(1000);
        Self { most, ratio: budget.ratio_thousandths, left: AtomicU32::new(most) }
    }

    /// A call ended well.
    pub fn succeeded(&self) {
        // Full, as it mostly is: nothing is written.
        if self.left.load(Relaxed) < self.most {
            let add = |left: u32| Some(left.saturating_add(self.ratio).min(self.most));
            // It always adds something.
            let _ = self.left.fetch_update(Relaxed, Relaxed, add);
        }
    }

    /// An attempt failed in a way that would let it be retried. Whether it may be.
    pub fn failed(&self) -> bool {
        let take = |left: u32| Some(left.saturating_sub(1000));
        let before = self.left.fetch_update(Relaxed, Relaxed, take).unwrap_or(0);
        before.saturating_sub(1000) > self.most / 2
    }

    /// Whether more attempts may be made.
    pub fn allow(&self) -> bool {
        self.left.load(Relaxed) > self.most / 2
    }
}

/// What a server says about trying again: `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// After this long.
    After(Duration),
    /// Not at all.
    Never,
}

impl Pushback {
    /// Reads the header's value. What is negative or no number means "not at all" (A6, "Pushback").
    pub fn parse(value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Self::None };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i32>().ok());
        match number.map(u64::try_from) {
            Some(Ok(millis)) => Self::After(Duration::from_millis(millis)),
            _ => Self::Never,
        }
    }
}

/// Where one call stands with its retry policy.
#[derive(Debug, Default)]
pub struct Retries {
    /// Retries made.
    made: u32,
    /// Of these, how many since the wait was reset by a server.
    since_reset: i32,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Its answer is the call's.
    Final,
    /// It would have been retried, and the budget is used up.
    Withheld,
    /// Once more, after this long.
    After(Duration),
}

impl Retries {
    /// Of a call of which so many attempts were made.
    pub fn after(made: u32) -> Self {
        Self { made, since_reset: 0 }
    }

    /// Retries made so far: what `grpc-previous-rpc-attempts` tells.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// An attempt ended with this code. `random` is uniform in 0..1.
    pub fn ended(
        &mut self,
        policy: &RetryPolicy,
        tokens: &Tokens,
        code: Code,
        pushback: Pushback,
        random: f64,
    ) -> RetryDecision {
        if !policy.codes.contains(code) {
            return RetryDecision::Final;
        }
        let allowed = tokens.failed();
        if self.made + 1 >= policy.max_attempts.min(MOST_ATTEMPTS) || pushback == Pushback::Never {
            return RetryDecision::Final;
        }
        if !allowed {
            return RetryDecision::Withheld;
        }
        self.made += 1;
        if let Pushback::After(wait) = pushback {
            self.since_reset = 0;
            return RetryDecision::After(wait);
        }
        let grown = policy.initial_backoff.as_secs_f64() * policy.multiplier.powi(self.since_reset);
        self.since_reset += 1;
        RetryDecision::After(Duration::from_secs_f64(grown.min(policy.max_backoff.as_secs_f64()).max(0.0) * random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(millis: u64) -> RetryDecision {
        RetryDecision::After(Duration::from_millis(millis))
    }

    #[test]
    fn waits_grow_to_the_longest_and_attempts_end() {
        let (policy, tokens) =
            (RetryPolicy { max_attempts: 9, ..RetryPolicy::default() }, Tokens::new(RetryBudget::default()));
        let mut retries = Retries::default();
        let mut next = |pushback| retries.ended(&policy, &tokens, Code::Unavailable, pushback, 1.0);
        assert_eq!((next(Pushback::None), next(Pushback::None)), (after(100), after(200)));
        assert_eq!(next(Pushback::After(Duration::from_millis(7))), after(7));
        // A server's word starts the waits over; and nine attempts are taken for five.
        assert_eq!(next(Pushback::None), after(100));
        assert_eq!(next(Pushback::None), RetryDecision::Final);
        assert_eq!(retries.made(), 4);
        let long = RetryPolicy { initial_backoff: Duration::from_secs(3), ..policy };
        assert_eq!(Retries::default().ended(&long, &tokens, Code::Unavailable, Pushback::None, 0.5), after(500));
    }

    #[test]
    fn other_codes_and_a_server_s_no_are_final() {
        let (policy, tokens) = (RetryPolicy::default(), Tokens::new(RetryBudget::default()));
        let ended = |code, pushback| Retries::default().ended(&policy, &tokens, code, pushback, 1.0);
        assert_eq!(ended(Code::Internal, Pushback::None), RetryDecision::Final);
        assert_eq!(ended(Code::Unavailable, Pushback::Never), RetryDecision::Final);
        assert_eq!(ended(Code::Unavailable, Pushback::None), after(100));
    }

    #[test]
    fn a_budget_is_used_up_at_half_and_comes_back_with_what_ends_well() {
        let tokens = Tokens::new(RetryBudget { max_tokens: 4, ratio_thousandths: 500 });
        assert!(tokens.failed() && tokens.allow(), "3 of 4");
        assert!(!tokens.failed() && !tokens.allow(), "2 of 4");
        tokens.succeeded();
        assert!(tokens.allow());
        for _ in 0..10 {
            tokens.succeeded();
        }
        assert!(tokens.failed(), "never more than all of them");
        assert!(!tokens.failed());
        for _ in 0..9 {
            assert!(!tokens.failed(), "never less than none");
        }
        let policy = RetryPolicy::default();
        let withheld = Retries::default().ended(&policy, &tokens, Code::Unavailable, Pushback::None, 1.0);
        assert_eq!(withheld, RetryDecision::Withheld);
    }

    #[test]
    fn a_pushback_is_a_number_of_milliseconds_or_a_no() {
        assert_eq!(Pushback::parse(None), Pushback::None);
        assert_eq!(Pushback::parse(Some(b"25")), Pushback::After(Duration::from_millis(25)));
        for no in [&b"-1"[..], b"", b"soon", b"99999999999", b"1.5", b"\xff"] {
            assert_eq!(Pushback::parse(Some(no)), Pushback::Never, "{no:?}");
        }
    }
}
