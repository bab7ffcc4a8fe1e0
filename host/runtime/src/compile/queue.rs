//! How many strangers' components are compiled at once: two, beside those that turned out to be
//! slow.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Abandon, CompileError, LOOK};

/// How many at once that are not slow.
const QUICK: usize = 2;

/// How many at once altogether: each may take its memory.
const ALL: usize = 6;

/// From then on a compile is a slow one, and the next one begins beside it.
pub(super) const SLOW: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    quick: usize,
    slow: usize,
}

impl Queue {
    /// Waits for a permit.
    pub(super) fn enter(self: &Arc<Self>, until: Instant, abandon: &Abandon) -> Result<Permit, CompileError> {
        let mut state = self.lock();
        loop {
            if abandon.is_abandoned() {
                return Err(CompileError::Abandoned);
            }
            if state.quick < QUICK && state.quick + state.slow < ALL {
                state.quick += 1;
                return Ok(Permit { queue: Arc::clone(self), slow: Mutex::new(false) });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let busy = state.quick + state.slow;
                return Err(CompileError::Host(format!(
                    "{busy} other components are being compiled and none of them is done; try again later"
                )));
            }
            state = self.changed.wait_timeout(state, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit; free again when it is dropped.
pub(super) struct Permit {
    queue: Arc<Queue>,
    slow: Mutex<bool>,
}

impl Permit {
    /// It takes long: another may begin beside it.
    pub(super) fn step_aside(&self) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        if !*slow {
            *slow = true;
            let mut state = self.queue.lock();
            (state.quick, state.slow) = (state.quick - 1, state.slow + 1);
            self.queue.changed.notify_all();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let slow = *self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.queue.lock();
        let counter = if slow { &mut state.slow } else { &mut state.quick };
        *counter -= 1;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_slow_one_makes_way_and_too_many_are_told() {
        let queue = Arc::<Queue>::default();
        let (past, nobody) = (Instant::now(), Abandon::default());
        let enter = || queue.enter(past, &nobody);
        let mut permits: Vec<_> = (0..QUICK).map(|_| enter().unwrap()).collect();
        assert!(matches!(enter(), Err(CompileError::Host(reason)) if reason.contains("2 other components")));
        while permits.len() < ALL {
            // Told twice is told once.
            permits[permits.len() - QUICK].step_aside();
            permits[permits.len() - QUICK].step_aside();
            permits.push(enter().unwrap());
        }
        permits.iter().for_each(Permit::step_aside);
        assert!(matches!(enter(), Err(CompileError::Host(reason)) if reason.contains("6 other components")));
        permits.clear();
        let state = queue.lock();
        assert_eq!((state.quick, state.slow), (0, 0));
    }

    #[test]
    fn who_has_gone_waits_no_longer() {
        let queue = Arc::<Queue>::default();
        let nobody = Abandon::default();
        let _permits: Vec<_> = (0..QUICK).map(|_| queue.enter(Instant::now(), &nobody).unwrap()).collect();
        let gone = Abandon::default();
        drop(gone.on_drop());
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(matches!(queue.enter(far, &gone), Err(CompileError::Abandoned)));
    }
}
