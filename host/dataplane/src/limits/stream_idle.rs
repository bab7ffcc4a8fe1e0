//! The idle timeout of a call (`stream-idle-timeout-s`): notices one on which nothing moves any
//! more.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// How long nothing moved on one call. Without a limit it is nothing; with one, what moves is
/// counted, and looked at four times in the limit.
#[derive(Default)]
pub(crate) struct StreamIdle(Option<Box<State>>);

struct State {
    limit: Duration,
    /// What moves in the request, in bytes; told by whoever reads it.
    sent: Arc<AtomicU64>,
    /// What moves in the answer, in frames.
    answered: u64,
    seen: (u64, u64),
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl StreamIdle {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self(limit.map(|limit| {
            let since = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(since + limit / 4));
            Box::new(State { limit, sent: Arc::default(), answered: 0, seen: (0, 0), since, timer })
        }))
    }

    /// Where bytes of the request are to be counted. `counted`: where they are already.
    pub(crate) fn counter(&mut self, counted: Option<Arc<AtomicU64>>) -> Option<Arc<AtomicU64>> {
        let Some(state) = &mut self.0 else { return counted };
        if let Some(counted) = counted {
            state.sent = counted;
        }
        Some(Arc::clone(&state.sent))
    }

    /// A frame of the answer has come.
    pub(crate) fn moved(&mut self) {
        if let Some(state) = &mut self.0 {
            state.answered += 1;
        }
    }

    /// Ready with the limit when nothing moved for as long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(state) = &mut self.0 else { return Poll::Pending };
        loop {
            ready!(state.timer.as_mut().poll(cx));
            let now = Instant::now();
            let seen = (state.sent.load(Relaxed), state.answered);
            if std::mem::replace(&mut state.seen, seen) != seen {
                state.since = now;
            } else if now.duration_since(state.since) >= state.limit {
                return Poll::Ready(state.limit);
            }
            state.timer.as_mut().reset(now + state.limit / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn is_still(stream_idle: &mut StreamIdle) -> bool {
        poll_fn(|cx| stream_idle.poll(cx)).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_either_direction_begins_the_time_anew() {
        let mut stream_idle = StreamIdle::new(Some(LIMIT));
        let sent = stream_idle.counter(None).unwrap();
        for n in 0..20 {
            advance(LIMIT * 3 / 4).await;
            assert!(!is_still(&mut stream_idle));
            if n % 2 == 0 {
                sent.fetch_add(1, Relaxed);
            } else {
                stream_idle.moved();
            }
        }
        let mut quarters = 0;
        while !is_still(&mut stream_idle) {
            advance(LIMIT / 4).await;
            quarters += 1;
        }
        assert!((4..=6).contains(&quarters), "{quarters} quarters of the limit");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_is_nothing() {
        let mut stream_idle = StreamIdle::new(None);
        assert!(stream_idle.counter(None).is_none());
        let counted = Arc::<AtomicU64>::default();
        assert!(Arc::ptr_eq(&counted, &stream_idle.counter(Some(Arc::clone(&counted))).unwrap()));
        advance(LIMIT * 100).await;
        assert!(!is_still(&mut stream_idle));
    }
}
