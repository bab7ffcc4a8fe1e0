//! An endpoint that answers no calls: it is passed over until it answers one.
//!
//! ```text
//!          so many calls in a row not answered in time      pause is over             a call begins
//!   Used ─────────────────────────────────────────▶ Out ──────────────────▶ Trial ────────────────▶ Out, and the pause doubles
//!    ▲                                                │                       │                        │
//!    └────────────────────────────────────────────────┴────── any answer ─────┴────────────────────────┘
//! ```
//!
//! A server whose connections live and whose handlers hang answers pings; nothing but its calls
//! tells. What counts is a call that had a second or more, whose time is over, and since whose
//! beginning the endpoint has answered no other: then it has answered nothing for that long. So an
//! endpoint that answers anybody is never taken out by those who give it too little time.
//!
//! Outlier ejection ([`super::ejection`]) is another thing: it compares endpoints by how calls went
//! and is asked for, while this is on from the beginning, looks for one fault, and cannot be wrong
//! about it for long. While an endpoint is out it gets one call a pause.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tracing::info;

use crate::endpoint::EndpointCell;

/// A call that had less time says nothing: its caller may have been in too much of a hurry.
const LONG: Duration = Duration::from_secs(1);

/// Its client's own clock may have ended it a little before this node's.
pub(super) const NEARLY: Duration = Duration::from_millis(50);

/// How long it gets no call at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// How often somebody looks whether it has answered: a call that was given to it before may be.
const LOOK: Duration = Duration::from_millis(250);

/// A call on this endpoint, which began then, was not answered in its time. As many in a row as the
/// service's settings say take the endpoint out.
pub(super) fn note(cell: &Arc<EndpointCell>, began: Instant) {
    let most = cell.most_unanswered();
    if most == 0 || began.elapsed() < LONG {
        return;
    }
    if cell.count_unanswered(began) >= most {
        take_out(cell);
    }
}

/// Takes an endpoint out, if it is not yet, and watches it until it answers or is gone.
#[cold]
fn take_out(cell: &Arc<EndpointCell>) {
    // Without a runtime nobody could take it in again.
    let Ok(runtime) = Handle::try_current() else { return };
    if cell.fall_unanswering() {
        info!("an endpoint answers no calls: it is passed over until it does");
        runtime.spawn(watch(Arc::downgrade(cell), Instant::now()));
    }
}

async fn watch(cell: Weak<EndpointCell>, since: Instant) {
    let (mut pause, longest) = PAUSE;
    let mut trial_at = since + pause;
    loop {
        sleep(LOOK).await;
        let Some(cell) = cell.upgrade() else { return };
        if cell.is_back_since(since) {
            info!("an endpoint answers calls again");
            return;
        }
        let now = Instant::now();
        if now >= trial_at {
            cell.put_on_trial();
            pause = (pause * 2).min(longest);
            trial_at = now + pause;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::time::advance;
    use waymark_core::traffic::Traffic;

    use super::*;
    use crate::{CallGuard, CallLimiter, EndpointStatus, Outcome};

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn cell() -> Arc<EndpointCell> {
        Arc::new(EndpointCell::new(Arc::new(CallLimiter::new(&Traffic { unanswered: 3, ..Traffic::default() }))))
    }

    fn begin(cell: &Arc<EndpointCell>, time: Duration) -> CallGuard {
        let mut call = cell.begin().unwrap();
        call.set_due(Some(Instant::now() + time));
        call
    }

    async fn times_out(cell: &Arc<EndpointCell>, calls: usize, time: Duration) {
        let calls: Vec<_> = (0..calls).map(|_| begin(cell, time)).collect();
        advance(time).await;
        for mut call in calls {
            call.set_outcome(Outcome::Errored);
        }
    }

    fn answers(cell: &Arc<EndpointCell>) {
        let mut call = begin(cell, TIMEOUT);
        call.answered();
        call.set_outcome(Outcome::Succeeded);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_a_row_take_it_out_and_a_trial_that_is_answered_takes_it_in() {
        let cell = cell();
        times_out(&cell, 2, TIMEOUT).await;
        assert!(cell.takes_calls());
        times_out(&cell, 1, TIMEOUT).await;
        assert!(!cell.takes_calls() && cell.is_reachable());
        assert_eq!(cell.status(), EndpointStatus::Silent);
        sleep(PAUSE.0 + LOOK).await;
        assert!(cell.takes_calls(), "one may try");
        let trial = begin(&cell, TIMEOUT);
        assert!(!cell.takes_calls(), "one, and no other beside it");
        advance(TIMEOUT).await;
        drop(trial);
        sleep(PAUSE.0 + LOOK).await;
        assert!(!cell.takes_calls(), "the pause has doubled");
        sleep(PAUSE.0 + LOOK).await;
        assert!(cell.takes_calls());
        advance(Duration::from_millis(5)).await;
        answers(&cell);
        sleep(LOOK * 2).await;
        assert!(cell.takes_calls() && !cell.is_silent());
        times_out(&cell, 2, TIMEOUT).await;
        assert!(cell.takes_calls(), "it is counted anew");
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_anybody_is_not_taken_out_by_those_in_a_hurry() {
        let cell = cell();
        // Less than a second each.
        for _ in 0..10 {
            times_out(&cell, 10, Duration::from_millis(900)).await;
        }
        assert!(!cell.is_silent());
        // Long enough, and others are answered meanwhile.
        for _ in 0..10 {
            let slow: Vec<_> = (0..10).map(|_| begin(&cell, TIMEOUT)).collect();
            advance(TIMEOUT / 2).await;
            answers(&cell);
            advance(TIMEOUT / 2).await;
            drop(slow);
        }
        assert!(!cell.is_silent());
        // Given up long before their time.
        for _ in 0..10 {
            let call = begin(&cell, Duration::from_secs(60));
            advance(TIMEOUT).await;
            drop(call);
        }
        assert!(!cell.is_silent());
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_turned_off_and_its_watch_ends_with_the_endpoint() {
        let off =
            Arc::new(EndpointCell::new(Arc::new(CallLimiter::new(&Traffic { unanswered: 0, ..Traffic::default() }))));
        times_out(&off, 20, TIMEOUT).await;
        assert!(!off.is_silent());
        let cell = cell();
        times_out(&cell, 3, TIMEOUT).await;
        assert!(cell.is_silent());
        let gone = Arc::downgrade(&cell);
        drop(cell);
        sleep(LOOK * 2).await;
        assert!(gone.upgrade().is_none());
    }
}
