//! Notices a call on which nothing moves any more, where that has a limit.

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
pub(crate) struct Stillness(Option<Box<Watched>>);

struct Watched {
    limit: Duration,
    /// What moves in the request, in bytes; told by whoever reads it.
    sent: Arc<AtomicU64>,
    /// What moves in the answer, in frames.
    answered: u64,
    seen: (u64, u64),
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Stillness {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self(limit.map(|limit| {
            let since = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(since + limit / 4));
            Box::new(Watched { limit, sent: Arc::default(), answered: 0, seen: (0, 0), since, timer })
        }))
    }

    /// Where bytes of the request are to be counted. `counted`: where they are already.
    pub(crate) fn counter(&mut self, counted: Option<Arc<AtomicU64>>) -> Option<Arc<AtomicU64>> {
        let Some(watched) = &mut self.0 else { return counted };
        if let Some(counted) = counted {
            watched.sent = counted;
        }
        Some(Arc::clone(&watched.sent))
    }

    /// A frame of the answer has come.
    pub(crate) fn moved(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.answered += 1;
        }
    }

    /// Ready with the limit when nothing moved for as long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(watched) = &mut self.0 else { return Poll::Pending };
        loop {
            ready!(watched.timer.as_mut().poll(cx));
            let now = Instant::now();
            let seen = (watched.sent.load(Relaxed), watched.answered);
            if std::mem::replace(&mut watched.seen, seen) != seen {
                watched.since = now;
            } else if now.duration_since(watched.since) >= watched.limit {
                return Poll::Ready(watched.limit);
            }
            watched.timer.as_mut().reset(now + watched.limit / 4);
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

    fn is_still(stillness: &mut Stillness) -> bool {
        poll_fn(|cx| stillness.poll(cx)).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_either_direction_begins_the_time_anew() {
        let mut stillness = Stillness::new(Some(LIMIT));
        let sent = stillness.counter(None).unwrap();
        for n in 0..20 {
            advance(LIMIT * 3 / 4).await;
            assert!(!is_still(&mut stillness));
            if n % 2 == 0 {
                sent.fetch_add(1, Relaxed);
            } else {
                stillness.moved();
            }
        }
        let mut quarters = 0;
        while !is_still(&mut stillness) {
            advance(LIMIT / 4).await;
            quarters += 1;
        }
        assert!((4..=6).contains(&quarters), "{quarters} quarters of the limit");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_is_nothing() {
        let mut stillness = Stillness::new(None);
        assert!(stillness.counter(None).is_none());
        let counted = Arc::<AtomicU64>::default();
        assert!(Arc::ptr_eq(&counted, &stillness.counter(Some(Arc::clone(&counted))).unwrap()));
        advance(LIMIT * 100).await;
        assert!(!is_still(&mut stillness));
    }
}
