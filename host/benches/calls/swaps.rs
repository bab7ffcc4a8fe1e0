//! A thousand swaps in the node while calls run through it: how long one takes, and whether memory
//! comes back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use waymark_node::{
    balancer::{Candidate, ServiceHandle, Services},
    plugin::{Engine, EngineConfig},
};

use super::{
    Processes,
    harness::{
        Options, Samples,
        report::{Table, Unit},
        resident,
        services::bundled,
    },
    load::Contestant,
    parts::{EACH_REQUEST, PLAN},
};

/// What takes over, in turn: plans of different kinds and a policy that is asked for each request.
/// The last one is the service's own.
const POLICIES: [&str; 4] = ["zone_aware", EACH_REQUEST, "weighted", PLAN];

/// In the node: swaps the policy of a service that is called.
pub(crate) struct Swaps {
    engine: Engine,
    service: ServiceHandle,
}

/// What some swaps came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Swapped {
    /// Each swap's time in microseconds: from the wish to the moment when the next pick is by the
    /// new policy.
    took_us: Vec<f64>,
    /// Bytes in use before and after.
    memory: [f64; 2],
}

impl Swaps {
    pub(crate) fn new(services: &Services) -> anyhow::Result<Self> {
        let service = services.get(PLAN).context("the service was started")?;
        Ok(Self { engine: Engine::new(EngineConfig::default())?, service })
    }

    pub(crate) async fn run(&mut self, times: u32) -> anyhow::Result<Swapped> {
        let before = resident();
        let mut took_us = Vec::new();
        for policy in POLICIES.iter().cycle().take(times as usize) {
            let began = Instant::now();
            let candidate = Candidate::new(bundled(&self.engine, policy)?, "benchmark");
            let published = self.service.set_policy(candidate).await?;
            took_us.push(began.elapsed().as_nanos() as f64 / 1e3);
            anyhow::ensure!(self.service.state().generation >= published.generation, "the swap is not live");
            // Each policy serves for a moment.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Swapped { took_us, memory: [before, resident()] })
    }
}

/// Swaps while calls run. A call that fails ends the benchmark.
pub(crate) fn under_load(processes: &mut Processes, options: &Options) -> anyhow::Result<Table> {
    let (warm_up, times) = if options.quick { (8, 20) } else { (200, 1_000) };
    let mut table = Table::new(
        "Swaps in the node, components compiled before, while calls run through it: no call failed",
        [
            ("calls meanwhile", Unit::Count),
            ("a swap", Unit::Microseconds),
            ("p99", Unit::Microseconds),
            ("longest", Unit::Microseconds),
            ("memory before", Unit::KiB),
            ("growth", Unit::KiB),
        ],
    );
    run(processes, warm_up)?;
    let (calls, swapped) = run(processes, times)?;
    let mut took = Samples::default();
    for us in &swapped.took_us {
        took.push(*us);
    }
    let mut sorted = swapped.took_us;
    sorted.sort_unstable_by(f64::total_cmp);
    let (p99, longest) = (super::harness::quantile(&sorted, 0.99), super::harness::quantile(&sorted, 1.0));
    let [before, after] = swapped.memory.map(|bytes| bytes / 1024.0);
    let [calls, p99, longest, before, growth] = [calls as f64, p99, longest, before, after - before].map(Samples::one);
    table.row(format!("{times} swaps"), vec![calls, took, p99, longest, before, growth]);
    Ok(table)
}

/// Swaps so often, with calls from before the first swap to after the last one.
fn run(processes: &mut Processes, times: u32) -> anyhow::Result<(u64, Swapped)> {
    const PIECE: Duration = Duration::from_millis(200);
    let (node, client) = (&mut processes.node, &mut processes.plain);
    thread::scope(|scope| {
        let mut call = || -> anyhow::Result<u64> {
            let answer = client.ask(&format!("run {} {}", Contestant::Proxy(PLAN).name(), PIECE.as_millis()))?;
            let tally: super::streams::Tally =
                serde_json::from_str(&answer).with_context(|| format!("calls under swaps: {answer}"))?;
            Ok(tally.calls)
        };
        let mut calls = call()?;
        let swaps = scope.spawn(move || node.ask(&format!("swap {times}")));
        while !swaps.is_finished() {
            calls += call()?;
        }
        let answer = swaps.join().expect("asking does not panic")?;
        let swapped = serde_json::from_str(&answer).with_context(|| format!("swaps under calls: {answer}"))?;
        Ok((calls, swapped))
    })
}
