//! How long calls into plugins may run, and how long they ran.

mod meter;
mod priority;
mod ticker;

use std::time::Duration;

use wasmtime::{Store, Trap, UpdateDeadline};

use self::ticker::TICK;
pub use self::{meter::processor_time, priority::yield_to_others};
pub(crate) use self::{
    meter::thread_number,
    priority::lower_priority,
    ticker::{Running, Ticker},
};

/// What a store keeps the deadline of its call in.
pub(crate) trait Timed {
    /// The deadline of the call that it is in.
    fn deadline(&mut self) -> &mut Deadline;
}

/// How long a call may run.
///
/// A thread may be kept from running for longer than a pick's whole deadline when the machine is
/// busy, and a healthy pick must not pay for that. So the first half of a deadline is counted in
/// ticks; when it has passed, the thread's own processor time is noted, and from then on the call
/// ends as soon as it has *used* a quarter of the deadline. A loop ends after about its deadline, a
/// call that was merely kept waiting goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    half: u64,
    quarter: Duration,
    noted: Option<Duration>,
}

impl Deadline {
    pub(crate) fn new(deadline: Duration) -> Self {
        // One tick more than it takes, since the first may come at once.
        let half = (deadline / 2).as_nanos().div_ceil(TICK.as_nanos()) as u64 + 1;
        Self { half, quarter: deadline / 4, noted: None }
    }

    /// Begins a call on a store, for which the clock runs.
    pub(crate) fn arm<T: Timed>(self, store: &mut Store<T>, _: &Running<'_>) {
        *store.data_mut().deadline() = self;
        store.set_epoch_deadline(self.half);
    }

    /// A part of it has passed: ends the call, or says when to look again.
    pub(crate) fn passed(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let used = processor_time();
        match self.noted {
            None => self.noted = Some(used),
            Some(noted) if used.saturating_sub(noted) >= self.quarter => return Err(Trap::Interrupt.into()),
            Some(_) => {}
        }
        Ok(UpdateDeadline::Continue(self.half.div_ceil(2)))
    }
}
