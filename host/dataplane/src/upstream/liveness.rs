//! Stall detection and keep-alive: whether the server at the other end of a connection still
//! answers.
//!
//! ```text
//!            calls begin, and nothing comes for QUIET     nothing comes for QUIET
//!   Heard ──────────────────────────────────▶ Pinged ─────────────────────────▶ Silent ── TIMEOUT after the ping ──▶ Lost
//!     ▲                                         │ anything comes                   │ anything comes
//!     └─────────────────────────────────────────┴──────────────────────────────────┘
//! ```
//!
//! A process that hangs (stopped, swapping, out of processor time) takes connections and bytes like
//! one that works: its kernel does. So a server is asked by a ping (RFC 9113, section 6.7), which
//! one that is merely slow answers at once. Until it has, other endpoints get the calls; that costs
//! nobody anything if the suspicion was wrong, so it may be a quick one. Only much later the
//! connection is ended.
//!
//! Servers of gRPC count pings as abuse: they end a connection at the third that comes within five
//! minutes of the one before and has no answer of theirs (headers or data) in between (grpc-go's
//! `EnforcementPolicy`, the core's `GRPC_ARG_HTTP2_MAX_PING_STRIKES`). So there are at most
//! [`SPARE`] from the beginning of one answer to that of the next, one less than they bear, besides
//! those of the keep-alive.
//!
//! All of it is decided by [`Liveness`], which is told what was counted and the time, and costs a
//! call nothing: while a connection is used, somebody looks at the counts once in QUIET.

use std::time::Duration;

use tokio::time::Instant;

use super::streams::Streams;
use crate::options::ConnectOptions;

/// How many pings a server gets from the beginning of one answer to that of the next, besides the
/// keep-alive's.
const SPARE: u32 = 2;

/// What was counted on a connection until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// How often something came.
    pub(crate) heard: u64,
    /// Calls begun.
    pub(crate) begun: u32,
    /// Calls that run.
    pub(crate) running: u32,
    /// The latest stream that was answered.
    pub(crate) answered: u32,
}

impl Activity {
    pub(crate) fn of(streams: &Streams) -> Self {
        let (begun, running) = streams.usage.counts();
        Self { heard: streams.heard(), begun, running, answered: streams.last_answered() }
    }
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Wait,
    /// The server is to be pinged, now: [`Liveness::pinged`].
    Ping,
    /// The server does not answer: others get its calls.
    Silent,
    /// It is there again.
    Back,
    /// It is given up.
    Lost,
}

/// Decides whether a server is there. Knows neither clock nor connection.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// None: only the keep-alive asks, and nobody is silent before it is lost.
    quiet: Option<Duration>,
    interval: Duration,
    timeout: Duration,
    /// When the counts are looked at next, while there is a reason to.
    look_at: Option<Instant>,
    /// When the keep-alive asks.
    keep_alive_at: Instant,
    /// What was counted at the last look.
    last: Activity,
    /// Calls begun before the look at which something had come for the last time.
    begun: u32,
    /// When something had come for the last time.
    heard_at: Instant,
    pinged_at: Option<Instant>,
    spare: u32,
    silent: bool,
}

impl Liveness {
    pub(crate) fn new(options: &ConnectOptions, now: Instant) -> Self {
        Self {
            quiet: options.quiet,
            interval: options.keep_alive_interval,
            timeout: options.keep_alive_timeout,
            look_at: None,
            keep_alive_at: now + options.keep_alive_interval,
            last: Activity::default(),
            begun: 0,
            heard_at: now,
            pinged_at: None,
            spare: SPARE,
            silent: false,
        }
    }

    /// When [`Self::look`] is to be called next.
    pub(crate) fn due(&self) -> Instant {
        self.look_at.map_or(self.keep_alive_at, |at| at.min(self.keep_alive_at))
    }

    /// Whether these counts are worth a look before that; asked whenever the connection does
    /// anything, without a clock.
    pub(crate) fn wants_a_look(&self, counts: &Activity) -> bool {
        (self.silent && counts.heard != self.last.heard)
            || (self.look_at.is_none() && self.quiet.is_some() && counts.begun != self.last.begun)
    }

    /// The ping was sent.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.pinged_at = Some(now);
        self.heard_at = now;
        self.keep_alive_at = now + self.interval;
        self.look_at = Some(now + self.pause());
    }

    /// Whether a ping waits for its answer.
    pub(crate) fn is_pinged(&self) -> bool {
        self.pinged_at.is_some()
    }

    /// The ping was answered.
    pub(crate) fn answered(&mut self) {
        self.pinged_at = None;
    }

    fn pause(&self) -> Duration {
        self.quiet.map_or(self.timeout, |quiet| quiet.min(self.timeout))
    }

    /// What follows from these counts at this time.
    pub(crate) fn look(&mut self, counts: Activity, now: Instant) -> Verdict {
        let before = std::mem::replace(&mut self.last, counts);
        if counts.answered != before.answered {
            self.spare = SPARE;
        }
        // Where nothing was looked at until now, what has just begun is the first that may be
        // waited for.
        if counts.heard != before.heard || self.look_at.is_none() {
            self.heard_at = now;
            self.begun = before.begun;
        }
        let waits = counts.running > 0 && counts.begun != self.begun;
        let quiet_for = now.duration_since(self.heard_at);
        let silent = self.pinged_at.is_some() && self.quiet.is_some_and(|quiet| quiet_for >= quiet);
        let lost = self.pinged_at.is_some() && quiet_for >= self.timeout;
        self.look_at = (self.pinged_at.is_some() || (waits && self.quiet.is_some())).then(|| now + self.pause());
        if lost {
            return Verdict::Lost;
        }
        if silent != self.silent {
            self.silent = silent;
            return if silent { Verdict::Silent } else { Verdict::Back };
        }
        if self.pinged_at.is_some() {
            return Verdict::Wait;
        }
        if waits && self.spare > 0 && self.quiet.is_some_and(|quiet| quiet_for >= quiet) {
            self.spare -= 1;
            return Verdict::Ping;
        }
        if now >= self.keep_alive_at {
            self.keep_alive_at = now + self.interval;
            if counts.running > 0 {
                return Verdict::Ping;
            }
        }
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const QUIET: Duration = Duration::from_millis(200);

    /// A connection whose server is what a test says.
    struct Bench {
        liveness: Liveness,
        counts: Activity,
        now: Instant,
        pings: u32,
        /// Whether pings are answered.
        answers_pings: bool,
    }

    impl Bench {
        fn new() -> Self {
            let options = ConnectOptions { quiet: Some(QUIET), ..ConnectOptions::default() };
            let now = Instant::now();
            Self {
                liveness: Liveness::new(&options, now),
                counts: Activity::default(),
                now,
                pings: 0,
                answers_pings: false,
            }
        }

        fn begin(&mut self) {
            self.counts.begun += 1;
            self.counts.running += 1;
            self.poll();
        }

        fn answer(&mut self) {
            self.counts.running -= 1;
            self.counts.answered += 2;
            self.counts.heard += 1;
            self.poll();
        }

        /// As the connection's task does whenever it is woken.
        fn poll(&mut self) -> Verdict {
            if self.liveness.wants_a_look(&self.counts) { self.look() } else { Verdict::Wait }
        }

        fn look(&mut self) -> Verdict {
            let step = self.liveness.look(self.counts, self.now);
            if step == Verdict::Ping {
                self.pings += 1;
                self.liveness.pinged(self.now);
                if self.answers_pings {
                    self.pong();
                }
            }
            step
        }

        /// Time passes with nothing happening. All that came of it but waiting.
        fn pass(&mut self, time: Duration) -> Vec<Verdict> {
            let until = self.now + time;
            let mut steps = Vec::new();
            while self.liveness.due() <= until && !steps.contains(&Verdict::Lost) {
                self.now = self.liveness.due();
                steps.push(self.look());
            }
            self.now = until;
            steps.retain(|step| *step != Verdict::Wait);
            steps
        }

        fn pong(&mut self) {
            self.counts.heard += 1;
            self.liveness.answered();
        }
    }

    #[test]
    fn one_that_hangs_under_load_is_silent_within_three_times_quiet_and_lost_after_the_timeout() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.begin();
            bench.answer();
            assert!(bench.pass(QUIET / 4).is_empty());
        }
        // From here on nothing comes.
        let hung = bench.now;
        let mut steps = Vec::new();
        while !steps.contains(&Verdict::Silent) {
            bench.begin();
            steps.extend(bench.pass(QUIET / 10));
            assert!(bench.now - hung <= QUIET * 3 + QUIET / 10, "{steps:?}");
        }
        assert_eq!(steps, [Verdict::Ping, Verdict::Silent]);
        assert_eq!(bench.pass(Duration::from_secs(20)), [Verdict::Lost]);
    }

    #[test]
    fn one_that_is_slow_answers_the_ping_and_is_not_silent() {
        let mut bench = Bench::new();
        bench.answers_pings = true;
        bench.begin();
        assert_eq!(bench.pass(Duration::from_secs(60)), [Verdict::Ping]);
        bench.answer();
        assert_eq!(bench.pings, 1);
    }

    #[test]
    fn whoever_comes_back_is_heard_at_once() {
        let mut bench = Bench::new();
        bench.begin();
        assert_eq!(bench.pass(QUIET * 2), [Verdict::Ping, Verdict::Silent]);
        bench.answer();
        bench.pong();
        assert!(!bench.liveness.silent);
        assert!(bench.pass(Duration::from_secs(60)).is_empty());
        bench.begin();
        assert_eq!(bench.pass(QUIET * 2), [Verdict::Ping, Verdict::Silent], "and pinged again when it hangs again");
    }

    #[test]
    fn without_answers_there_are_two_pings_and_the_keep_alive() {
        let mut bench = Bench::new();
        bench.answers_pings = true;
        // Calls that wait for what happens some day, one after the other.
        for _ in 0..100 {
            bench.begin();
            bench.pass(Duration::from_secs(2));
        }
        assert_eq!(bench.pings, SPARE);
        bench.pass(Duration::from_secs(306));
        assert_eq!(bench.pings, SPARE + 1);
        bench.answer();
        bench.begin();
        bench.pass(QUIET);
        assert_eq!(bench.pings, SPARE + 2, "an answer has begun since");
    }

    #[test]
    fn a_connection_that_is_not_used_is_not_looked_at() {
        let mut bench = Bench::new();
        // A stream that nothing comes on, as a watch of its health.
        bench.begin();
        bench.counts.heard += 1;
        bench.pass(QUIET * 3);
        assert_eq!(bench.liveness.look_at, None);
        let idle = bench.liveness.due();
        assert!(idle - bench.now > Duration::from_secs(300));
        for _ in 0..3 {
            bench.begin();
            bench.answer();
            bench.pass(QUIET * 3);
            assert_eq!(bench.liveness.look_at, None);
        }
        assert_eq!(bench.pings, 0);
    }

    #[test]
    fn where_nobody_is_to_be_silent_only_the_keep_alive_asks() {
        let mut bench = Bench::new();
        bench.liveness.quiet = None;
        bench.begin();
        assert!(bench.pass(Duration::from_secs(304)).is_empty());
        assert_eq!(bench.pass(Duration::from_secs(1)), [Verdict::Ping]);
        assert_eq!(bench.pass(Duration::from_secs(20)), [Verdict::Lost]);
    }
}
