//! What a build and a pick cost, in processor time of the thread: waiting on a busy machine does
//! not count. Printed, never required.

use std::time::{Duration, Instant};

use super::{
    Run, made_up,
    report::{Cost, Outcome, Spread},
    time_limit::{self, TimeLimit},
};
use crate::{
    plugin::processor_time,
    policy::{PickContext, Plan},
};

const SECTION: &str = "cost";

/// Picks measured together: one alone is too short for the clock.
const BATCH: u32 = 500;

/// What a batch of slow picks may take: the smallest has one pick.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// Whether requests can bear it, by what a pick takes: none is a plan. A call through a node takes
/// some 30 µs of its processor time.
pub fn fitness(pick_ns: Option<f64>) -> &'static str {
    match pick_ns {
        None => "fit: it plans ahead, and no request runs it",
        Some(ns) if ns < 3e3 => "fit: a small part of what a call costs a node",
        Some(ns) if ns < UNFIT => "fit where calls take milliseconds: a pick costs as much as a call does otherwise",
        Some(_) => "NOT fit: a pick costs more than all else that a call costs a node",
    }
}

/// From how many nanoseconds on a pick is not fit for the path of requests.
const UNFIT: f64 = 30e3;

/// A warning for whoever has just chosen a policy whose picks take so long; none if they are fit.
pub fn slow_picks(pick: Duration) -> Option<String> {
    let ns = pick.as_nanos() as f64;
    (ns >= UNFIT)
        .then(|| format!("a pick takes {:.1} µs; on the path of requests it is {}", ns / 1e3, fitness(Some(ns))))
}

pub(super) fn check(run: &mut Run<'_>) {
    for n in [10, 1_000, 10_000] {
        if let Err(error) = measure(run, n) {
            // Builds of this size were required before.
            let outcome = if run.report.limit.has_cut() { Outcome::Cut } else { Outcome::Skipped };
            return run.note(SECTION, "build and pick", outcome, error);
        }
    }
    run.note(SECTION, "build and pick", Outcome::Observed, "see the figures");
}

/// Adds the cost of a build for so many endpoints, and of a pick if there are any.
pub(super) fn measure(run: &mut Run<'_>, n: usize) -> Result<(), String> {
    let endpoints = made_up::mixed(n);
    (run.subject.memory)();
    let mut samples = Samples::new(run);
    // What asks for the time at each call would be measured too.
    let build = || super::checked_build(&*run.subject.policy, &run.scope, &endpoints);
    while samples.want_more() {
        samples.take(1, || build().map(drop))?;
    }
    let memory = (run.subject.memory)();
    run.report.cost.push(samples.finish("build", n, memory));
    let Plan::EachRequest(picker) = super::checked_build(&*run.subject.policy, &run.scope, &endpoints)? else {
        return Ok(());
    };
    let (mut random, mut sequence) = (run.random(50), 0);
    let mut picks = |batch: u32| {
        let request = made_up::request(&mut random, n).1;
        for _ in 0..batch {
            sequence += 1;
            let random = (random.u32(..), random.u32(..));
            let context = PickContext { sequence, random, hash: Some(random.0), attempt: 0 };
            picker.pick(context, &request).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let began = Instant::now();
    picks(1)?;
    let batch = BATCH_TIME.as_nanos() / began.elapsed().as_nanos().max(1);
    let batch = batch.clamp(1, u128::from(BATCH)) as u32;
    let mut samples = Samples::new(run);
    while samples.want_more() {
        samples.take(batch, || picks(batch))?;
    }
    run.report.cost.push(samples.finish("pick", n, 0));
    Ok(())
}

/// Samples of one figure, bounded in number and in time.
pub(super) struct Samples {
    taken: Vec<f64>,
    most: usize,
    until: Instant,
    limit: TimeLimit,
}

impl Samples {
    /// At least this many, whatever they take.
    const LEAST: usize = 5;

    fn new(run: &Run<'_>) -> Self {
        Self::bounded(run.options.quick, &run.report.limit)
    }

    /// For a full run or a quick one.
    pub(super) fn bounded(quick: bool, limit: &TimeLimit) -> Self {
        let (most, time) = if quick { (20, Duration::from_millis(200)) } else { (200, Duration::from_secs(2)) };
        Self { taken: Vec::new(), most, until: Instant::now() + time, limit: limit.clone() }
    }

    pub(super) fn want_more(&self) -> bool {
        self.taken.len() < Self::LEAST || (self.taken.len() < self.most && Instant::now() < self.until)
    }

    /// One sample of this many calls.
    pub(super) fn take(&mut self, calls: u32, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        if self.limit.is_over() {
            return Err(time_limit::REASON.into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_picks_that_are_not_fit_are_warned_of() {
        assert_eq!(slow_picks(Duration::from_micros(29)), None);
        let warning = slow_picks(Duration::from_micros(1500)).unwrap_or_default();
        assert!(warning.starts_with("a pick takes 1500.0 µs") && warning.contains("NOT fit"), "{warning}");
    }
}
