//! Memory over many rebuilds and many picks: what an instance has, and what the whole process has.

use std::time::{Duration, Instant};

use super::{Run, made_up, report::Outcome};
use crate::policy::Plan;

const SECTION: &str = "memory";

/// The process may grow by this much over the rebuilds, the first tenth not counted: what an
/// allocator keeps for itself, and other threads of the process take, is less; one page of linear
/// memory (64 KiB) lost at every rebuild is 600 MB.
pub(super) const MAY_GROW: usize = 16 << 20;

pub(super) fn check(run: &mut Run<'_>) {
    let (rebuilds, limit) = (run.tries(10_000, 500), Duration::from_secs(run.tries(60, 10) as u64));
    // Some of the time has to be left for the picks.
    let limit = run.report.limit.left().map_or(limit, |left| limit.min(left / 2));
    let endpoints = made_up::mixed(10);
    (run.subject.memory)();
    let (began, mut early, mut resident, mut done) = (Instant::now(), 0, None, 0);
    for nth in 0..rebuilds {
        if nth == rebuilds / 10 {
            early = (run.subject.memory)();
            resident = resident_memory();
        }
        if let Err(error) = run.build(&endpoints) {
            return run.note(SECTION, "linear memory", Outcome::Failed, format!("rebuild {nth}: {error}"));
        }
        done = nth + 1;
        if nth > rebuilds / 10 && began.elapsed() > limit {
            break;
        }
    }
    let late = (run.subject.memory)();
    let linear = if late > early {
        Err(format!(
            "an instance had {} KiB at first, and {} KiB later, for the same endpoints",
            early >> 10,
            late >> 10
        ))
    } else {
        Ok(format!("{} KiB an instance, over {done} rebuilds", late >> 10))
    };
    run.require(SECTION, "linear memory", linear);
    host(run, resident, done);
    picks(run);
}

fn host(run: &mut Run<'_>, before: Option<usize>, rebuilds: usize) {
    let (Some(before), Some(after)) = (before, resident_memory()) else {
        return run.note(SECTION, "the host's memory", Outcome::Skipped, "this system does not tell it");
    };
    let grown = after.saturating_sub(before);
    let detail =
        format!("grew by {} KiB over {rebuilds} rebuilds; at most {} are in bounds", grown >> 10, MAY_GROW >> 10);
    run.require(SECTION, "the host's memory", if grown <= MAY_GROW { Ok(detail) } else { Err(detail) });
}

/// A policy that keeps something of every pick: an instance may live for days.
fn picks(run: &mut Run<'_>) {
    const CHECK: &str = "linear memory over picks";
    let endpoints = made_up::mixed(10);
    let picker = match run.build(&endpoints) {
        Ok(Plan::EachRequest(picker)) => picker,
        Ok(_) => return,
        Err(error) => return run.note(SECTION, CHECK, Outcome::Failed, error),
    };
    let (mut random, picks) = (run.random(60), run.tries(200_000, 20_000));
    let mut grew = [false; 4];
    (run.subject.memory)();
    for grew in &mut grew {
        for _ in 0..picks / 4 {
            let (context, request) = made_up::request(&mut random, endpoints.len());
            if let Err(error) = picker.pick(context, &request) {
                return run.note(SECTION, CHECK, Outcome::Failed, error.to_string());
            }
        }
        // An instance that takes no more memory is not heard of.
        *grew = (run.subject.memory)() > 0;
    }
    let result = match grew {
        [_, _, false, false] => Ok(format!("no growth in the later half of {picks} picks")),
        [_, _, _, true] | [_, _, true, _] if grew.iter().filter(|grew| **grew).count() > 1 => {
            Err(format!("still grows after {picks} picks: an instance lives until the endpoints change"))
        }
        _ => Ok(format!("grew once in {picks} picks")),
    };
    run.require(SECTION, CHECK, result);
}

/// The process's resident memory in bytes, on Linux.
pub(super) fn resident_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}
