//! What picks take, on a path that reads no clock.
//!
//! ```text
//!   ticks     |           |           |           |
//!   picks      M . . . . .  M . . ---C---  M . .     M measured, C charged, . neither
//! ```
//!
//! The engine's ticker counts; a pick compares two readings of the count, which costs two loads.
//! The clock is read
//!
//! - where a pick is the first of its thread within a tick: that one is *measured*, from its begin
//!   to its end, and
//! - where a tick came during a pick: what its thread used since its last look at the clock is
//!   *charged*. So is a measured pick that was long.
//!
//! So a thread reads the clock a thousand times a second at most, of which it notices nothing.
//! Ticks fall into picks as often as picks fill the thread's time, so that charges add up to about
//! what all picks take, long ones and short ones; and because it is processor time that is charged,
//! a pick that was merely kept waiting by a busy machine costs its policy nothing. A plugin has no
//! clock that tells it when it is measured.

use std::{
    cell::Cell,
    fs::File,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use waymark_core::policy::PickTook;

/// A measured pick from here on is charged as it is. Short ones are charged by the ticks that fall
/// into them: to charge each that is measured would take longer than they do.
const LONG: Duration = Duration::from_micros(100);

/// Counts the ticks of one engine. On a line of its own: all threads that pick read it, and one
/// writes it now and then.
#[repr(align(128))]
pub(crate) struct Ticks(AtomicU64);

impl Ticks {
    /// Each engine counts from another number, because threads remember the last one they saw, of
    /// whichever engine.
    pub(crate) fn new() -> Self {
        static ENGINES: AtomicU64 = AtomicU64::new(1);
        Self(AtomicU64::new(ENGINES.fetch_add(1, Relaxed) << 40))
    }

    pub(crate) fn tick(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Begins a pick on this thread.
    pub(crate) fn begin(&self) -> Began {
        let tick = self.now();
        LAST.with(|last| {
            let measured = last.get().tick != tick;
            if measured {
                last.set(Look { tick, used: processor_time() });
            }
            Began { tick, measured }
        })
    }

    /// Ends it; tells what it took where that was looked at.
    pub(crate) fn end(&self, began: Began) -> Option<PickTook> {
        let tick = self.now();
        if tick == began.tick && !began.measured {
            return None;
        }
        let used = processor_time();
        let since = LAST.with(|last| {
            let since = used.saturating_sub(last.get().used);
            // What follows a long pick is measured, whether a tick has come between them or not:
            // else the first of a row would be the only one.
            let tick = if tick == began.tick { tick } else { 0 };
            last.set(Look { tick, used });
            since
        });
        let charged = tick != began.tick || (began.measured && since >= LONG);
        Some(PickTook {
            measured: began.measured.then_some(since),
            charged: if charged { since } else { Duration::ZERO },
            thread: thread_number(),
            kept_waiting: if charged { kept_waiting() } else { Duration::ZERO },
        })
    }
}

/// A pick that runs.
#[derive(Clone, Copy)]
pub(crate) struct Began {
    tick: u64,
    measured: bool,
}

/// A thread's last look at its clock.
#[derive(Clone, Copy)]
struct Look {
    tick: u64,
    used: Duration,
}

thread_local!(static LAST: Cell<Look> = const { Cell::new(Look { tick: 0, used: Duration::ZERO }) });

/// What this thread has used of a processor since it began.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How long this thread was ready to run and did not, as Linux counts it (the second number of
/// `schedstat`, nanoseconds). A microsecond or two, and only where a tick fell into a pick.
fn kept_waiting() -> Duration {
    // Kept open: a thread that picks is there for long.
    thread_local!(static STATISTICS: Option<File> = File::open("/proc/thread-self/schedstat").ok());
    let read = |file: &Option<File>| {
        let mut text = [0; 64];
        let len = rustix::io::pread(file.as_ref()?, &mut text, 0).ok()?;
        std::str::from_utf8(&text[..len]).ok()?.split_whitespace().nth(1)?.parse().ok()
    };
    Duration::from_nanos(STATISTICS.with(read).unwrap_or(0))
}

/// A small number for each thread.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Uses a processor for so long.
    fn work(time: Duration) {
        let began = processor_time();
        while processor_time().saturating_sub(began) < time {
            std::hint::spin_loop();
        }
    }

    fn pick(ticks: &Ticks, within: impl FnOnce()) -> Option<PickTook> {
        let began = ticks.begin();
        within();
        ticks.end(began)
    }

    #[test]
    fn one_pick_a_tick_is_measured_and_charged_if_it_was_long() {
        let ticks = Ticks::new();
        let first = pick(&ticks, || work(Duration::from_millis(1))).unwrap();
        assert!(first.charged >= Duration::from_millis(1) && first.measured == Some(first.charged), "{first:?}");
        assert!((0..100).all(|_| pick(&ticks, || {}).is_none()));
        // One that finds the processor's caches cold may be long enough to be charged.
        let short = (0..100).find_map(|_| {
            ticks.tick();
            pick(&ticks, || {}).filter(|took| took.charged.is_zero())
        });
        assert!(short.unwrap().measured.unwrap() < LONG);
    }

    #[test]
    fn what_a_tick_falls_into_is_charged_and_what_follows_it_is_measured() {
        let ticks = Ticks::new();
        pick(&ticks, || {});
        let long = pick(&ticks, || {
            work(Duration::from_millis(3));
            ticks.tick();
        });
        let long = long.unwrap();
        assert!(long.measured.is_none() && long.charged >= Duration::from_millis(3), "{long:?}");
        let next = pick(&ticks, || ticks.tick()).unwrap();
        assert!(next.measured == Some(next.charged) && next.charged < Duration::from_millis(3), "{next:?}");
    }

    #[test]
    fn waiting_is_no_work() {
        let ticks = Ticks::new();
        pick(&ticks, || {});
        // However many ticks pass: the thread does not run.
        let (tell, told) = std::sync::mpsc::channel();
        let waited = std::thread::scope(|scope| {
            scope.spawn(|| {
                work(Duration::from_millis(30));
                (0..15).for_each(|_| ticks.tick());
                tell.send(()).unwrap();
            });
            pick(&ticks, || told.recv().unwrap()).unwrap()
        });
        assert!(waited.charged < Duration::from_millis(20), "{waited:?}");
    }

    #[test]
    fn engines_do_not_take_each_others_ticks_for_their_own() {
        let (one, other) = (Ticks::new(), Ticks::new());
        assert!(pick(&one, || {}).is_some() && pick(&other, || {}).is_some() && pick(&one, || {}).is_some());
    }
}
