//! The clock of plugins' deadlines, which stands still while no plugin runs.
//!
//! ```text
//!   a plugin is called        no call for 200 ms, and none runs       a plugin is called
//!   ───────────────▶ ticking ───────────────────────────────▶ parked ───────────────▶ ticking
//! ```
//!
//! An idle node should not wake 500 times a second for nobody. Whether a call runs is kept by each
//! thread in a count of its own, so that a pick writes no memory that other threads write: two
//! stores, and one load of whether the ticker is parked.

use std::{
    cell::RefCell,
    io,
    marker::PhantomData,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread::{self, Thread},
    time::Duration,
};

use super::meter::Ticks;

/// How long a tick is. A deadline is armed by adding ticks to a counter, so that no call reads a
/// clock.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// How many ticks pass between two looks at whether plugins are still called: 200 ms.
const LOOK: u32 = 100;

/// The ticker of one engine.
pub(crate) struct Ticker {
    ticks: Ticks,
    id: u64,
    /// Of all threads that ever ran a plugin of this engine, and are still there.
    counts: Mutex<Vec<Arc<CallCount>>>,
    parked: AtomicBool,
    /// The engine has gone, and what is left of it ends soon: nobody would wake the thread for
    /// that.
    closing: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread. It ends when there is nobody left to tick for: when `tick` says no.
    pub(crate) fn start(tick: impl Fn() -> bool + Send + 'static) -> io::Result<Arc<Self>> {
        static TICKERS: AtomicU64 = AtomicU64::new(0);
        let ticker = Arc::new(Self {
            ticks: Ticks::new(),
            id: TICKERS.fetch_add(1, Relaxed),
            counts: Mutex::default(),
            parked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let its = Arc::clone(&ticker);
        let thread = thread::Builder::new().name("plugin-ticker".into()).spawn(move || its.work(tick))?;
        let _ = ticker.thread.set(thread.thread().clone());
        Ok(ticker)
    }

    /// What the time of picks is counted in.
    pub(crate) fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// Says that this thread runs a plugin from now on, until what it gets is dropped. The clock
    /// ticks meanwhile.
    pub(crate) fn run(&self) -> Running<'_> {
        let running = Running::begin(self);
        if self.parked.load(Relaxed) {
            self.wake();
        }
        running
    }

    /// What is left of the engine is ticked for to its end.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.wake();
    }

    #[cold]
    fn wake(&self) {
        self.parked.store(false, SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn work(&self, tick: impl Fn() -> bool) {
        let mut seen = None;
        loop {
            for _ in 0..LOOK {
                if !tick() {
                    return;
                }
                self.ticks.tick();
                thread::sleep(TICK);
            }
            let calls = self.calls();
            let is_idle = calls.is_some() && calls == mem::replace(&mut seen, calls);
            if is_idle && !self.closing.load(SeqCst) {
                self.park(calls);
            }
        }
    }

    #[cold]
    fn own_count(&self) -> OwnCount {
        let count = Arc::<CallCount>::default();
        self.counts().push(Arc::clone(&count));
        OwnCount { ticker: self.id, count, depth: 0 }
    }

    fn counts(&self) -> MutexGuard<'_, Vec<Arc<CallCount>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls have begun and ended in all threads; none while one runs.
    fn calls(&self) -> Option<u64> {
        let mut counts = self.counts();
        // A thread that has ended runs nothing any more.
        counts.retain(|count| Arc::strong_count(count) > 1);
        counts.iter().try_fold(0_u64, |sum, count| {
            let count = count.0.load(Acquire);
            count.is_multiple_of(2).then(|| sum.wrapping_add(count))
        })
    }

    /// Stands still until a plugin is called. A call that begins now either finds the ticker parked
    /// and wakes it, or it has said that it runs before the ticker was parked, which is seen a tick
    /// later: by then its store has long left its processor.
    fn park(&self, calls: Option<u64>) {
        self.parked.store(true, SeqCst);
        thread::sleep(TICK);
        if self.calls() != calls || self.closing.load(SeqCst) {
            self.parked.store(false, SeqCst);
        }
        while self.parked.load(SeqCst) {
            thread::park();
        }
    }
}

/// How often a thread has begun or ended to run a plugin of one engine: odd while it runs one. On
/// lines of its own: its thread writes it at each pick.
#[repr(align(128))]
#[derive(Default)]
struct CallCount(AtomicU64);

/// A thread's count with one ticker.
struct OwnCount {
    ticker: u64,
    count: Arc<CallCount>,
    /// How many calls run on this thread: one may be within another, where what a plugin asks for
    /// is asked of another one.
    depth: u32,
}

impl OwnCount {
    fn step(&self) {
        // Nobody else writes it.
        let count = self.count.0.load(Relaxed);
        self.count.0.store(count.wrapping_add(1), Release);
    }
}

// Almost always one: a process has one engine.
thread_local!(static OWN: RefCell<Vec<OwnCount>> = const { RefCell::new(Vec::new()) });

/// A plugin runs on this thread.
pub(crate) struct Running<'a> {
    ticker: &'a Ticker,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl<'a> Running<'a> {
    fn begin(ticker: &'a Ticker) -> Self {
        OWN.with_borrow_mut(|own| {
            let at = own.iter().position(|count| count.ticker == ticker.id).unwrap_or_else(|| {
                own.push(ticker.own_count());
                own.len() - 1
            });
            own[at].depth += 1;
            if own[at].depth == 1 {
                own[at].step();
            }
        });
        Self { ticker, _not_send: PhantomData }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        OWN.with_borrow_mut(|own| {
            if let Some(own) = own.iter_mut().find(|count| count.ticker == self.ticker.id) {
                own.depth -= 1;
                if own.depth == 0 {
                    own.step();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// A ticker that tells of each tick, and ends when nobody listens.
    fn ticker() -> (Arc<Ticker>, mpsc::Receiver<()>) {
        let (tell, ticks) = mpsc::channel();
        (Ticker::start(move || tell.send(()).is_ok()).unwrap(), ticks)
    }

    /// Waits for it to be parked.
    fn parked(ticker: &Ticker) {
        let until = Instant::now() + Duration::from_secs(60);
        while !ticker.parked.load(SeqCst) {
            assert!(Instant::now() < until, "it should stand still, since no plugin runs");
            thread::sleep(TICK);
        }
    }

    #[test]
    fn it_stands_still_while_no_plugin_runs_and_ticks_while_one_does() {
        let (ticker, ticks) = ticker();
        parked(&ticker);
        while ticks.try_recv().is_ok() {}
        let running = ticker.run();
        for _ in 0..3 * LOOK {
            ticks.recv().unwrap();
        }
        assert!(!ticker.parked.load(SeqCst), "it must not stand still while a plugin runs");
        drop(running);
        parked(&ticker);
    }

    #[test]
    fn it_ticks_to_the_end_once_its_engine_has_gone() {
        let (ticker, ticks) = ticker();
        parked(&ticker);
        ticker.close();
        while ticks.try_recv().is_ok() {}
        for _ in 0..3 * LOOK {
            ticks.recv().unwrap();
        }
    }

    #[test]
    fn threads_that_have_ended_are_forgotten() {
        let (ticker, _ticks) = ticker();
        let running = ticker.run();
        thread::scope(|scope| {
            // Joined one by one: the scope itself waits for what a thread does, and not for what it
            // drops as it ends.
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| drop(ticker.run()))).collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
        assert_eq!(ticker.calls(), None, "this thread runs one");
        drop(running);
        assert!(ticker.calls().is_some());
        assert_eq!(ticker.counts().len(), 1);
    }
}
