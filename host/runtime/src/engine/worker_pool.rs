//! Makes fresh instances of policies, off the path of picks, on a few threads of low priority.
//!
//! ```text
//!   quick ──▶ ┐
//!             ├─ threads (WORKERS) ──▶ store, build
//!   slow  ──▶ ┘   at most WORKERS − 1 of them
//! ```
//!
//! One thread made the instances of all services in turn, so that a policy whose build takes its
//! whole deadline delayed every other service's recovery. What took long the last time takes all
//! threads but one.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::deadline::yield_to_others;

/// How many are made at once.
const WORKERS: usize = 3;

/// One instance to be made.
type Job = Box<dyn FnOnce() + Send>;

/// The threads, which end with this value.
pub(super) struct WorkerPool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    quick: VecDeque<Job>,
    slow: VecDeque<Job>,
    slow_running: usize,
    closed: bool,
}

impl Queue {
    /// The next one that may begin, and whether it is slow.
    fn next(&mut self) -> Option<(Job, bool)> {
        if let Some(job) = self.quick.pop_front() {
            return Some((job, false));
        }
        if self.slow_running == WORKERS - 1 {
            return None;
        }
        self.slow.pop_front().map(|job| (job, true))
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            let Some((job, is_slow)) = queue.next() else {
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.slow_running += usize::from(is_slow);
            drop(queue);
            // A panic is a fault of the host: whoever waits for this instance goes without, and the
            // thread goes on.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            queue = self.queue();
            queue.slow_running -= usize::from(is_slow);
            if is_slow && !queue.slow.is_empty() {
                self.more.notify_one();
            }
        }
    }
}

impl WorkerPool {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        for n in 0..WORKERS {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("plugin-restart-{n}")).spawn(move || {
                yield_to_others();
                shared.work();
            })?;
        }
        Ok(Self(shared))
    }

    /// Has this done. `is_slow`: it took long the last time.
    pub(super) fn push(&self, is_slow: bool, job: Job) {
        let mut queue = self.0.queue();
        if is_slow { &mut queue.slow } else { &mut queue.quick }.push_back(job);
        self.0.more.notify_one();
    }
}

#[cfg(test)]
impl WorkerPool {
    /// Returns when all quick jobs are done: when each thread has come to one more.
    pub(super) fn finish(&self) {
        let all = Arc::new(std::sync::Barrier::new(WORKERS + 1));
        for _ in 0..WORKERS {
            let all = Arc::clone(&all);
            self.push(
                false,
                Box::new(move || {
                    all.wait();
                }),
            );
        }
        all.wait();
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn slow_ones_leave_a_place_to_the_quick() {
        let pool = WorkerPool::start().unwrap();
        let (began, begins) = mpsc::channel();
        let hold = Arc::new(Mutex::new(()));
        let held = hold.lock().unwrap();
        for n in 0..2 * WORKERS {
            let (began, hold) = (began.clone(), Arc::clone(&hold));
            let slow = move || {
                began.send(n).unwrap();
                drop(hold.lock());
            };
            pool.push(true, Box::new(slow));
        }
        for _ in 0..WORKERS - 1 {
            begins.recv().unwrap();
        }
        let (done, quick) = mpsc::channel();
        pool.push(false, Box::new(move || done.send(()).unwrap()));
        quick.recv().unwrap();
        assert!(begins.try_recv().is_err(), "all places but one are taken");
        drop(held);
        for _ in 0..=WORKERS {
            begins.recv().unwrap();
        }
    }

    #[test]
    fn a_panic_takes_no_place_away() {
        let pool = WorkerPool::start().unwrap();
        for is_slow in [true, false] {
            for _ in 0..2 * WORKERS {
                pool.push(is_slow, Box::new(|| panic!("a fault, for a test")));
            }
            let (done, said) = mpsc::channel();
            pool.push(is_slow, Box::new(move || done.send(()).unwrap()));
            said.recv().unwrap();
        }
    }
}
