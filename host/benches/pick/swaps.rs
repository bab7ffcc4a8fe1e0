//! What a swap costs on a live service, with its component compiled before and not; and how soon a
//! policy that fails is taken out.

use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::runtime::Runtime;
use waymark_node::{
    balancer::{Candidate, PickRequest, ServiceHandle},
    plugin::{Engine, EngineConfig, Limits},
};

use super::harness::{
    Options, Samples,
    report::{Table, Unit},
    rounds,
    services::{Native, bundled, endpoints, services, started, test_guest},
};

const NATIVE: &str = "native_rotation";

/// What takes over.
#[derive(Clone, Copy)]
struct Swap {
    policy: &'static str,
    anew: bool,
}

/// Real time of a swap, as whoever asked for it waits for it. When it is over, the next pick is by
/// the new policy.
pub(super) fn measure(runtime: &Runtime, engine: &Engine, options: &Options) -> anyhow::Result<Table> {
    let precompiled = [NATIVE, "round_robin", "weighted", "zone_aware", "least_request"];
    let swaps = precompiled.map(|policy| Swap { policy, anew: false }).into_iter();
    let swaps: Vec<_> = swaps.chain([Swap { policy: "least_request", anew: true }]).collect();
    let mut rows = Vec::new();
    for size in [10, 1_000] {
        let handle = service(runtime, size)?;
        let mut contestants: Vec<(Swap, [Samples; 4])> = swaps.iter().map(|swap| (*swap, Default::default())).collect();
        rounds(options.rounds(25, 2), &mut contestants, |(swap, samples)| {
            // Who has seen no component yet. Starting it is not part of a swap.
            let fresh = if swap.anew { Some(Engine::new(EngineConfig::default())?) } else { None };
            let began = Instant::now();
            let candidate = match swap.policy {
                NATIVE => Native::Rotation.candidate(),
                name => Candidate::new(bundled(fresh.as_ref().unwrap_or(engine), name)?, "bench"),
            };
            let load = (swap.policy != NATIVE).then_some(candidate.load_time);
            let published = runtime.block_on(handle.set_policy(candidate))?;
            let took = began.elapsed();
            anyhow::ensure!(handle.state().generation == published.generation, "the swap is not live");
            let parts = [load, Some(published.times.build), Some(published.times.publish), Some(took)];
            for (samples, part) in samples.iter_mut().zip(parts) {
                if let Some(part) = part {
                    samples.push(part.as_nanos() as f64 / 1e3);
                }
            }
            anyhow::Ok(())
        })?;
        let baseline = contestants[0].1[3].clone();
        for (Swap { policy, anew }, [load, build, publish, whole]) in contestants {
            let ratio = whole.ratio(&baseline);
            let anew = if anew { ", compiled anew" } else { "" };
            rows.push((format!("{policy}{anew}, {size} endpoints"), vec![load, build, publish, whole, ratio]));
        }
    }
    let mut table = Table::new(
        "A swap on a live service, the component compiled before unless it says otherwise",
        [
            ("load", Unit::Microseconds),
            ("build and try", Unit::Microseconds),
            ("publish", Unit::Microseconds),
            ("all, as its caller sees it", Unit::Microseconds),
            ("all, to native", Unit::Ratio),
        ],
    );
    for (name, figures) in rows {
        table.row(name, figures);
    }
    Ok(table)
}

/// Real time from a policy's last failure, the one that is too many, to the moment when another
/// policy serves; every pick on the way is answered.
pub(super) fn quarantine(runtime: &Runtime, options: &Options) -> anyhow::Result<Table> {
    let engine = Engine::new(EngineConfig::default())?;
    let mut table = Table::new(
        "A policy that traps is taken out of service",
        [("from its last pick to another policy", Unit::Microseconds), ("picks meanwhile", Unit::Count)],
    );
    for size in [10, 1_000] {
        let handle = service(runtime, size)?;
        let mut samples: [Samples; 2] = Default::default();
        let limits = Limits { quarantine_failures: 1, ..Limits::default() };
        rounds(options.rounds(25, 2), &mut [()], |()| {
            // Four picks try it out; the sixth that an instance is asked for fails.
            let policy = test_guest(&engine, "traps_in_pick", r#"{"every": 6}"#, limits.clone())?;
            let candidate = Candidate::new(policy, "bench");
            runtime.block_on(handle.set_policy(candidate))?;
            let generation = handle.state().generation;
            let headers = HeaderMap::new();
            let request =
                PickRequest { path: "/bench.Echo/Echo", headers: &headers, peer: None, sequence: 0, tried: &[] };
            let failed = handle.state().counters().fallback_picks();
            let mut last = Instant::now();
            while handle.state().counters().fallback_picks() == failed {
                last = Instant::now();
                handle.state().pick(&request);
            }
            let mut picks = 0;
            while handle.state().generation == generation {
                handle.state().pick(&request);
                picks += 1;
                anyhow::ensure!(last.elapsed() < Duration::from_secs(60), "it was not taken out of service");
            }
            samples[0].push(last.elapsed().as_nanos() as f64 / 1e3);
            samples[1].push(f64::from(picks));
            Ok(())
        })?;
        table.row(format!("{size} endpoints"), samples.into());
    }
    Ok(table)
}

fn service(runtime: &Runtime, size: usize) -> anyhow::Result<ServiceHandle> {
    runtime.block_on(async {
        let services = services(endpoints(size), None, |_| Native::Rotation.candidate());
        started(&services, "bench").await
    })
}
