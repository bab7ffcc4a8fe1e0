//! What `build` costs, by the number of endpoints.

use std::{hint::black_box, sync::Arc, time::Duration};

use waymark_node::{
    model::ServiceName,
    plugin::Engine,
    policy::{Policy, Scope},
};

use super::harness::{
    Options, Samples, ThreadClock, calibrate,
    report::{Table, Unit},
    rounds,
    services::{Native, ZONE, bundled, endpoints},
};

/// Processor time of a build.
pub(super) fn measure(engine: &Engine, options: &Options) -> anyhow::Result<Table> {
    struct Build {
        policy: Arc<dyn Policy>,
        /// For each number of endpoints, how often to build for one sample, and the samples.
        samples: Vec<(u64, Samples)>,
    }
    let sizes: &[(usize, &str)] = if options.quick {
        &[(10, "10"), (1_000, "1,000")]
    } else {
        &[(10, "10"), (1_000, "1,000"), (10_000, "10,000")]
    };
    let target = Duration::from_millis(if options.quick { 1 } else { 20 });
    let scope = Scope { service: ServiceName::new("bench")?, zone: ZONE.into() };
    let lists: Vec<_> = sizes.iter().map(|(size, _)| endpoints(*size)).collect();
    let mut policies: Vec<Arc<dyn Policy>> = Vec::new();
    // The first one is the baseline: the least that a component does.
    for name in ["round_robin", "weighted", "zone_aware", "least_request"] {
        policies.push(Arc::new(bundled(engine, name)?));
    }
    policies.push(Arc::new(Native::Rotation));
    let mut contestants = Vec::new();
    for policy in policies {
        let mut samples = Vec::new();
        for list in &lists {
            policy.build(&scope, list)?;
            let times = calibrate(target, |times| {
                for _ in 0..times {
                    // That it builds was seen above.
                    let _ = black_box(policy.build(&scope, list));
                }
            });
            samples.push((times, Samples::default()));
        }
        contestants.push(Build { policy, samples });
    }
    rounds(options.rounds(15, 2), &mut contestants, |Build { policy, samples }| {
        for ((times, samples), list) in samples.iter_mut().zip(&lists) {
            let clock = ThreadClock::start();
            for _ in 0..*times {
                black_box(policy.build(&scope, black_box(list))?);
            }
            samples.push(clock.elapsed().as_nanos() as f64 / 1e3 / *times as f64);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let columns = sizes.iter().flat_map(|(_, name)| [(*name, Unit::Microseconds), ("to round_robin", Unit::Ratio)]);
    let mut table = Table::new("A build, by the number of endpoints (two metadata pairs each)", columns);
    let baseline: Vec<_> = contestants[0].samples.iter().map(|(_, samples)| samples.clone()).collect();
    for Build { policy, samples } in contestants {
        let figures = samples.into_iter().zip(&baseline).flat_map(|((_, samples), baseline)| {
            let ratio = samples.ratio(baseline);
            [samples, ratio]
        });
        table.row(policy.name(), figures.collect());
    }
    Ok(table)
}
