//! Where plans are built: on few threads of low priority, the quick ones never behind the slow
//! ones.
//!
//! A build runs a plugin's code for as long as its deadline, at every change of the endpoints.
//! Eight services of 100 ms each took the processors from everybody's calls. So there are only half
//! as many builds at once as there are cores (two at least), on threads that stand behind those
//! that serve requests. Services take turns: a service builds one thing at a time, and who waits is
//! served in order. A policy that was slow to build last time may not have the last thread: a
//! service that is new, or quick, waits for no more than others of its kind.

use std::{
    any::Any,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use waymark_runtime::{processor_time, yield_to_others};

/// A build that used more of a processor than this is a slow one. A bundled policy builds for
/// 10,000 endpoints in 12 ms.
const SLOW: Duration = Duration::from_millis(20);

/// The threads that build, and who waits for them.
pub(super) struct Builders {
    all: Semaphore,
    /// All but one.
    slow: Semaphore,
    threads: Threads,
    waiting: AtomicU64,
}

/// A build that panicked, and what it said.
#[derive(Debug, Error)]
#[error("panicked: {0}")]
pub(super) struct Panicked(String);

impl Panicked {
    fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Self(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into()))
    }
}

/// What is known of the builds of one policy version.
#[derive(Default)]
pub(super) struct Pace {
    slow: AtomicBool,
}

impl Builders {
    /// For a machine with so many cores. No thread is started yet.
    pub(super) fn new(cores: usize) -> Self {
        let most = (cores / 2).max(2);
        let threads = Threads::new(most);
        Self { all: Semaphore::new(most), slow: Semaphore::new(most - 1), threads, waiting: AtomicU64::new(0) }
    }

    /// For this machine.
    pub(super) fn of_machine() -> Self {
        Self::new(thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// Builds that wait for a thread.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Runs a build when it is its turn.
    ///
    /// # Errors
    ///
    /// It panicked.
    ///
    /// # Cancel safety
    ///
    /// A build that runs goes on, and its outcome is lost; one that waits gives up its place.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        pace: &Arc<Pace>,
        build: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Panicked> {
        let waits = Waits::new(&self.waiting);
        // Neither is ever closed.
        let _slow = if pace.slow.load(Relaxed) { self.slow.acquire().await.ok() } else { None };
        let _place = self.all.acquire().await.ok();
        drop(waits);
        let pace = Arc::clone(pace);
        let timed = move || {
            let began = processor_time();
            let built = build();
            pace.slow.store(processor_time().saturating_sub(began) > SLOW, Relaxed);
            built
        };
        self.threads.run(timed).await
    }
}

/// Counts one who waits, for as long as it lives.
struct Waits<'a>(&'a AtomicU64);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads of low priority, started as they are needed and kept.
struct Threads {
    most: usize,
    started: AtomicUsize,
    /// Jobs that were handed over and are not done.
    busy: Arc<AtomicUsize>,
    jobs: mpsc::Sender<Job>,
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
}

impl Threads {
    fn new(most: usize) -> Self {
        let (jobs, queue) = mpsc::channel();
        let (started, queue) = (AtomicUsize::new(0), Arc::new(Mutex::new(queue)));
        Self { most, started, busy: Arc::default(), jobs, queue }
    }

    /// Runs this on one of them. Nothing of tokio's waits for it but the task that asked: its
    /// threads for blocking work serve others, too, and when they are all taken builds go on.
    async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Panicked> {
        if self.busy.fetch_add(1, Relaxed) >= self.started.load(Relaxed) {
            self.start_one();
        }
        let busy = Arc::clone(&self.busy);
        let (tell, told) = oneshot::channel();
        let job = move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            busy.fetch_sub(1, Relaxed);
            // Whoever asked may have gone.
            let _ = tell.send(done);
        };
        if self.started.load(Relaxed) == 0 {
            // The system gives no thread: better on this one than never.
            job();
        } else {
            // The queue's other end is ours, too.
            let _ = self.jobs.send(Box::new(job));
        }
        let done = told.await.expect("a thread that builds outlives its jobs");
        done.map_err(|panic| Panicked::new(&*panic))
    }

    fn start_one(&self) {
        let one_more = |started: usize| (started < self.most).then_some(started + 1);
        let Ok(number) = self.started.fetch_update(Relaxed, Relaxed, one_more) else { return };
        let queue = Arc::clone(&self.queue);
        let work = move || {
            yield_to_others();
            loop {
                // Whoever holds the lock takes the next job; the others wait for the lock.
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(job) => job(),
                    Err(mpsc::RecvError) => return,
                }
            }
        };
        if thread::Builder::new().name(format!("builder-{number}")).spawn(work).is_err() {
            // The next job tries again.
            self.started.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn a_builds_outcome_comes_back_and_so_does_its_panic() {
        let builders = Builders::new(1);
        let pace = Arc::default();
        assert_eq!(builders.run(&pace, || 7).await.unwrap(), 7);
        let panic = builders.run(&pace, || -> u8 { panic!("no such plan") }).await.unwrap_err();
        assert!(panic.to_string().contains("no such plan"), "{panic}");
        assert_eq!(builders.run(&pace, || 8).await.unwrap(), 8);
    }

    #[test]
    fn builds_go_on_while_every_thread_for_blocking_work_is_taken() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap();
        runtime.block_on(async {
            let hold = Arc::new(Barrier::new(2));
            let held = tokio::task::spawn_blocking({
                let hold = Arc::clone(&hold);
                move || _ = hold.wait()
            });
            let builders = Builders::new(1);
            let pace = Arc::default();
            let built = tokio::time::timeout(Duration::from_secs(10), builders.run(&pace, || 7));
            assert_eq!(built.await.expect("nothing keeps a build waiting").unwrap(), 7);
            hold.wait();
            held.await.unwrap();
        });
    }

    #[tokio::test]
    async fn no_more_run_at_once_than_may() {
        let builders = Arc::new(Builders::new(6));
        let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let builds = (0..40).map(|_| {
            let (builders, running, most) = (Arc::clone(&builders), Arc::clone(&running), Arc::clone(&most));
            tokio::spawn(async move {
                let build = move || {
                    most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                    thread::sleep(Duration::from_millis(1));
                    running.fetch_sub(1, Relaxed);
                };
                builders.run(&Arc::default(), build).await.unwrap();
            })
        });
        for build in builds.collect::<Vec<_>>() {
            build.await.unwrap();
        }
        assert!((1..=3).contains(&most.load(Relaxed)), "{most:?}");
        assert_eq!(builders.waiting(), 0);
    }

    #[tokio::test]
    async fn slow_builds_leave_a_thread_for_quick_ones() {
        let builders = Arc::new(Builders::new(1));
        let slow = Arc::new(Pace { slow: AtomicBool::new(true) });
        let hold = Arc::new(Barrier::new(2));
        let mut held = Vec::new();
        for _ in 0..8 {
            let (builders, slow, hold) = (Arc::clone(&builders), Arc::clone(&slow), Arc::clone(&hold));
            held.push(tokio::spawn(async move {
                let build = move || _ = hold.wait();
                builders.run(&slow, build).await.unwrap();
            }));
        }
        // All of them are there: one builds for as long as nobody meets it at the barrier, seven
        // wait.
        while builders.waiting() < 7 {
            tokio::task::yield_now().await;
        }
        let pace = Arc::default();
        assert_eq!(builders.run(&pace, || 1).await.unwrap(), 1);
        for _ in 0..8 {
            let hold = Arc::clone(&hold);
            tokio::task::spawn_blocking(move || hold.wait()).await.unwrap();
        }
        for build in held {
            build.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_slow_build_is_known_by_the_processor_time_it_used() {
        let builders = Builders::new(2);
        let pace = Arc::<Pace>::default();
        builders.run(&pace, || thread::sleep(SLOW * 2)).await.unwrap();
        assert!(!pace.slow.load(Relaxed), "it was merely kept waiting");
        let work = || {
            let began = processor_time();
            while processor_time().saturating_sub(began) < SLOW * 2 {
                std::hint::spin_loop();
            }
        };
        builders.run(&pace, work).await.unwrap();
        assert!(pace.slow.load(Relaxed));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn builds_run_at_low_priority_and_nothing_else_does() {
        let mine = || rustix::process::getpriority_process(None).unwrap();
        let before = mine();
        let there = Builders::new(2).run(&Arc::default(), mine).await.unwrap();
        assert!(there > before || there == 19, "{there} is not lower than {before}");
        assert_eq!(tokio::task::spawn_blocking(mine).await.unwrap(), before);
    }
}
