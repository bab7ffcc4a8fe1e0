//! Runs what may block or compute for long (calls into key schemes), away from the threads that
//! serve requests.
//!
//! A thread's sleeping and waking costs more than reading a small service's entries, and all
//! services are read at once when a node starts. So work does not go to a thread of its own: it
//! waits in a queue that as many threads work off as there are cores, each going on until the queue
//! is empty.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
};

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    n_threads: usize,
}

/// A queue of work, for a bounded number of threads. Clones share it.
#[derive(Clone)]
pub(super) struct WorkQueue {
    queue: Arc<Mutex<Queue>>,
    width: usize,
}

/// The work panicked, or the runtime is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

impl WorkQueue {
    /// As many threads as there are cores.
    pub(super) fn per_core() -> Self {
        Self { queue: Arc::default(), width: available_parallelism().map_or(1, usize::from) }
    }

    /// One thread: for a disk.
    pub(super) fn single() -> Self {
        Self { width: 1, ..Self::per_core() }
    }

    /// Waits for its turn, and for what `work` answers. Must be called within a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Work that has not begun when the future is dropped is left out.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(move || {
            if !reply.is_closed() {
                // Whoever asked may have gone meanwhile.
                let _ = reply.send(work());
            }
        });
        self.push(work);
        answer.await.map_err(|_| NoAnswer)
    }

    fn push(&self, work: Work) {
        let mut queue = lock(&self.queue);
        queue.waiting.push_back(work);
        if queue.n_threads < self.width {
            queue.n_threads += 1;
            let queue = Arc::clone(&self.queue);
            tokio::task::spawn_blocking(move || work_off(&queue));
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing that runs under it can panic half-way.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work_off(queue: &Mutex<Queue>) {
    loop {
        let next = {
            let mut queue = lock(queue);
            let next = queue.waiting.pop_front();
            queue.n_threads -= usize::from(next.is_none());
            next
        };
        let Some(work) = next else { return };
        // Its answer is dropped with it, and tells; those behind it in the queue have nothing to do
        // with it.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn all_work_is_done_on_few_threads() {
        let queue = WorkQueue::per_core();
        let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let work = (0..500).map(|n| {
            let at_once = Arc::clone(&at_once);
            queue.run(move || {
                let now = at_once.0.fetch_add(1, SeqCst) + 1;
                at_once.1.fetch_max(now, SeqCst);
                std::thread::yield_now();
                at_once.0.fetch_sub(1, SeqCst);
                n
            })
        });
        let answers: Vec<_> = join_all(work).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, (0..500).collect::<Vec<_>>());
        assert!(at_once.1.load(SeqCst) <= queue.width);
    }

    #[tokio::test]
    async fn work_that_panics_harms_no_other() {
        let queue = WorkQueue::single();
        let (bad, good) = tokio::join!(queue.run(|| panic!("a panic for the test")), queue.run(|| 7));
        assert_eq!((bad, good), (Err::<(), _>(NoAnswer), Ok(7)));
        assert_eq!(queue.run(|| 8).await, Ok(8));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_left_out() {
        let queue = WorkQueue::single();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let done = Arc::new(AtomicUsize::new(0));
        let busy = tokio::spawn({
            let queue = queue.clone();
            async move { queue.run(move || held.recv()).await }
        });
        while lock(&queue.queue).n_threads == 0 || !lock(&queue.queue).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        let counting = Arc::clone(&done);
        let given_up = queue.run(move || counting.fetch_add(1, SeqCst));
        assert!(futures::FutureExt::now_or_never(given_up).is_none());
        hold.send(()).unwrap();
        busy.await.unwrap().unwrap().unwrap();
        queue.run(|| ()).await.unwrap();
        assert_eq!(done.load(SeqCst), 0);
    }
}
