//! Whether memory stays where it is, however often policies are swapped and plans are rebuilt.

use std::hint::black_box;

use tokio::runtime::Runtime;
use waymark_node::{
    balancer::Candidate,
    model::ServiceName,
    plugin::{Engine, Kind, bundled::ALL},
    policy::{Policy as _, Scope},
};

use super::harness::{
    Options, Samples,
    report::{Table, Unit},
    resident,
    services::{Native, ZONE, bundled, endpoints, services, started},
};

/// Of the service that is balanced.
const ENDPOINTS: usize = 100;

/// Memory before, half-way and after: what is a leak goes on growing.
pub(super) fn measure(runtime: &Runtime, engine: &Engine, options: &Options) -> anyhow::Result<Table> {
    let [swaps, rebuilds] = if options.quick { [50, 50] } else { [1_000, 10_000] };
    let mut table = Table::new(
        format!("Memory in use (resident), {ENDPOINTS} endpoints"),
        [
            ("after the first tenth", Unit::KiB),
            ("at the end", Unit::KiB),
            ("growth in the first half", Unit::KiB),
            ("growth in the second half", Unit::KiB),
        ],
    );
    let handle = runtime.block_on(async {
        let services = services(endpoints(ENDPOINTS), None, |_| Native::Rotation.candidate());
        started(&services, "bench").await
    })?;
    let names: Vec<_> = ALL.iter().filter(|plugin| plugin.kind == Kind::Policy).map(|plugin| plugin.name).collect();
    let mut turn = names.iter().cycle();
    let figures = watched(swaps, || {
        let name = turn.next().expect("there are bundled policies");
        // Refused: one that has no default configuration. There is none such today, and it would
        // show here.
        runtime.block_on(handle.set_policy(Candidate::new(bundled(engine, name)?, "bench")))?;
        Ok(())
    })?;
    table.row(format!("{swaps} swaps, all {} bundled policies in turn", names.len()), figures);
    let (scope, list) = (Scope { service: ServiceName::new("bench")?, zone: ZONE.into() }, endpoints(ENDPOINTS));
    for name in ["round_robin", "maglev", "least_request"] {
        let policy = bundled(engine, name)?;
        let figures = watched(rebuilds, || {
            black_box(policy.build(&scope, &list)?);
            Ok(())
        })?;
        table.row(format!("{rebuilds} rebuilds, {name}"), figures);
    }
    Ok(table)
}

fn watched(times: u32, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<Samples>> {
    let mut memory = [0.0; 3];
    // A tenth to warm up; it is not counted among the times.
    for (part, memory) in [times / 10, times / 2, times - times / 2].into_iter().zip(&mut memory) {
        for _ in 0..part {
            run()?;
        }
        *memory = resident() / 1024.0;
    }
    let [first, half, end] = memory;
    Ok([first, end, half - first, end - half].map(Samples::one).into())
}
