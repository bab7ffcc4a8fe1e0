//! What a build and a pick cost, in processor time of the thread: waiting on a busy machine does not count. Printed, never required.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{
    Run, made_up,
    report::{Cost, Outcome, Spread},
};
use crate::policy::{PickContext, Plan};

const SECTION: &str = "cost";

/// Picks measured together: one alone is too short for the clock.
const BATCH: u32 = 500;

pub(super) fn check(run: &mut Run<'_>) {
    for n in [10, 1_000, 10_000] {
        if let Err(error) = measure(run, n) {
            // Builds of this size were required before.
            return run.note(SECTION, "build and pick", Outcome::Skipped, error);
        }
    }
    run.note(SECTION, "build and pick", Outcome::Observed, "see the figures");
}

/// Adds the cost of a build for so many endpoints, and of a pick if there are any.
pub(super) fn measure(run: &mut Run<'_>, n: usize) -> Result<(), String> {
    let endpoints = made_up::mixed(n);
    (run.subject.memory)();
    let mut samples = Samples::new(run);
    while samples.want_more() {
        samples.take(1, || run.build(&endpoints).map(drop))?;
    }
    let memory = (run.subject.memory)();
    run.report.cost.push(samples.finish("build", n, memory));
    let Plan::EachRequest(picker) = run.build(&endpoints)? else { return Ok(()) };
    let (mut random, mut sequence) = (run.random(50), 0);
    let mut samples = Samples::new(run);
    while samples.want_more() {
        let request = made_up::request(&mut random, n).1;
        samples.take(BATCH, || {
            for _ in 0..BATCH {
                sequence += 1;
                let random = (random.u32(..), random.u32(..));
                let context = PickContext { sequence, random, hash: Some(random.0), attempt: 0 };
                picker.pick(context, &request).map_err(|error| error.to_string())?;
            }
            Ok(())
        })?;
    }
    run.report.cost.push(samples.finish("pick", n, 0));
    Ok(())
}

/// Samples of one figure, bounded in number and in time.
pub(super) struct Samples {
    taken: Vec<f64>,
    most: usize,
    until: Instant,
}

impl Samples {
    /// At least this many, whatever they take.
    const LEAST: usize = 5;

    fn new(run: &Run<'_>) -> Self {
        Self::bounded(run.options.quick)
    }

    /// For a full run or a quick one.
    pub(super) fn bounded(quick: bool) -> Self {
        let (most, time) = if quick { (20, Duration::from_millis(200)) } else { (200, Duration::from_secs(2)) };
        Self { taken: Vec::new(), most, until: Instant::now() + time }
    }

    pub(super) fn want_more(&self) -> bool {
        self.taken.len() < Self::LEAST || (self.taken.len() < self.most && Instant::now() < self.until)
    }

    /// One sample of this many calls.
    pub(super) fn take(&mut self, calls: u32, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let began = processor_time();
        work()?;
        let took = processor_time().saturating_sub(began);
        self.taken.push(took.as_nanos() as f64 / f64::from(calls));
        Ok(())
    }

    pub(super) fn finish(self, call: &'static str, endpoints: usize, memory: usize) -> Cost {
        Cost { call, endpoints, samples: self.taken.len(), nanoseconds: Spread::of(self.taken), memory }
    }
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
