//! What the benchmarks share: fair rounds, statistics that show their spread, and tables.
//!
//! - Contestants take turns, one short sample each a round, in an order that is drawn anew for
//!   every round: a busy spell of the machine falls on all of them, and so does what one leaves
//!   behind for the next.
//! - A ratio is taken within a round and only then summed up, so that what all contestants suffer
//!   cancels out.
//! - What is computed is measured in processor time, which waiting for a busy machine does not add
//!   to; only what waits by its nature (a swap, a call's latency) is measured in real time.
//! - A figure is a median with its quartiles. A benchmark takes no average: one interrupted sample
//!   would move it.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod callgrind;
pub(crate) mod child;
pub(crate) mod report;
pub(crate) mod services;

use std::{
    fs,
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Flags of every benchmark.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Run briefly, to see that everything works. The figures mean little.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// How many rounds to take.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Cargo says this to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

impl Options {
    /// As many rounds as asked for, else `full` of them, or `quick`.
    pub(crate) fn rounds(&self, full: usize, quick: usize) -> usize {
        self.rounds.map_or(if self.quick { quick } else { full }, usize::from)
    }
}

/// Lets each contestant run once a round, in an order drawn for each round.
pub(crate) fn rounds<C, E>(
    rounds: usize,
    contestants: &mut [C],
    mut run: impl FnMut(&mut C) -> Result<(), E>,
) -> Result<(), E> {
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    // The same in every run of the benchmark.
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for at in &order {
            run(&mut contestants[*at])?;
        }
    }
    Ok(())
}

/// One figure, measured once a round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// A figure that is taken once, over the whole run.
    pub(crate) fn one(sample: f64) -> Self {
        Self(vec![sample])
    }

    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// This figure over another one of the same rounds.
    pub(crate) fn ratio(&self, baseline: &Self) -> Self {
        Self(self.0.iter().zip(&baseline.0).map(|(sample, baseline)| sample / baseline).collect())
    }

    /// This figure less another one of the same rounds.
    pub(crate) fn minus(&self, baseline: &Self) -> Self {
        Self(self.0.iter().zip(&baseline.0).map(|(sample, baseline)| sample - baseline).collect())
    }

    /// What `f` makes of each sample.
    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().copied().map(f).collect())
    }

    /// None without a sample.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let quantile = |q| quantile(&sorted, q);
        Some(Summary {
            samples: sorted.len(),
            min,
            lower_quartile: quantile(0.25),
            median: quantile(0.5),
            upper_quartile: quantile(0.75),
            max,
        })
    }
}

/// The value below which a share `q` of the sorted values lies, between two of them where need be.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Summary {
    pub(crate) samples: usize,
    pub(crate) min: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    pub(crate) upper_quartile: f64,
    pub(crate) max: f64,
}

/// Measures this thread's processor time.
pub(crate) struct ThreadClock(Duration);

impl ThreadClock {
    pub(crate) fn start() -> Self {
        Self(clock(ClockId::ThreadCPUTime))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        clock(ClockId::ThreadCPUTime).saturating_sub(self.0)
    }
}

/// The processor time that this process has used, all its threads' and the kernel's on its behalf.
pub(crate) fn process_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// Bytes of memory that this process has in use, the allocator's slack included; 0 where the system
/// does not tell.
pub(crate) fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0.0) * 1024.0
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).expect("processor time is not negative")
}

/// Keeps this thread on the `n`th of the cores it may use, where the system allows it. Threads that
/// start together are otherwise left on one core for longer than a sample takes, and what they
/// share would seem to cost nothing.
pub(crate) fn stay_on_core(n: usize) {
    #[cfg(target_os = "linux")]
    if let Ok(allowed) = sched_getaffinity(None)
        && let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(n)
    {
        let mut only = CpuSet::new();
        only.set(core);
        // Where it is refused, the cores that the threads used tell.
        let _ = sched_setaffinity(None, &only);
    }
}

/// How often to run something so that it takes about `target`; running it this long warms it up.
pub(crate) fn calibrate(target: Duration, mut run: impl FnMut(u64)) -> u64 {
    let mut times = 1;
    loop {
        let began = Instant::now();
        run(times);
        let took = began.elapsed();
        if took * 2 >= target {
            return times;
        }
        times = if took * 100 < target { times * 10 } else { times * 2 };
    }
}
