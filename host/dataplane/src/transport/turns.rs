//! When a connection is polled after it was woken.
//!
//! A runtime polls a task that was woken by the one it just polled next, before all others. A
//! connection that is woken by the first call of many that have something to send would so write
//! that call's frames alone, and be woken by the next call: a system call each.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

pin_project_lite::pin_project! {
    /// A future that is polled one turn of the run queue after its task was woken. What was ready
    /// when it was woken has run by then, and what it had to send is sent by one write.
    ///
    /// Costs a turn of the queue a wake, in which nothing is looked at. Where nothing else is ready
    /// the next turn comes at once.
    pub(crate) struct AfterOthers<F> {
        #[pin]
        future: F,
        // Whether the others had their turn since the task was woken.
        had_turn: bool,
    }
}

impl<F> AfterOthers<F> {
    pub(crate) fn new(future: F) -> Self {
        // Nobody woke it for its first poll.
        Self { future, had_turn: true }
    }
}

impl<F: Future> Future for AfterOthers<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !*this.had_turn {
            *this.had_turn = true;
            // A task that wakes itself while it is polled goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *this.had_turn = false;
        this.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{
        mem,
        sync::{Arc, Mutex},
    };

    use tokio::{runtime::Builder, sync::Notify};

    use super::*;

    const CALLS: usize = 8;

    /// How many writes take away what eight calls have to send that are woken at once.
    fn writes(late: bool) -> usize {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (frames, written) = (Arc::new(Mutex::new(0)), Arc::new(Notify::new()));
        let (answers, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        for _ in 0..CALLS {
            let (frames, written) = (Arc::clone(&frames), Arc::clone(&written));
            let (answers, begins) = (Arc::clone(&answers), Arc::clone(&begun));
            runtime.spawn(async move {
                let answer = answers.notified();
                begins.notify_one();
                answer.await;
                *frames.lock().unwrap() += 1;
                written.notify_one();
            });
            runtime.block_on(begun.notified());
        }
        let connection = async move {
            let (mut all, mut writes) = (0, 0);
            while all < CALLS {
                written.notified().await;
                all += mem::take(&mut *frames.lock().unwrap());
                writes += 1;
            }
            writes
        };
        let connection = if late { runtime.spawn(AfterOthers::new(connection)) } else { runtime.spawn(connection) };
        runtime.spawn(async move { answers.notify_waiters() });
        runtime.block_on(connection).unwrap()
    }

    #[test]
    fn what_many_calls_have_to_send_is_sent_by_one_write() {
        assert_eq!(writes(true), 1);
        // Or this shows nothing: the runtime would have done it by itself.
        assert!(writes(false) > 1);
    }
}
