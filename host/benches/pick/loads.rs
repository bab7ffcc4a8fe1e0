//! What it costs to load a component: the first time, after a restart, and again.

use std::{hint::black_box, time::Instant};

use waymark_node::plugin::{Engine, EngineConfig};

use super::harness::{
    Options, Samples,
    report::{Table, Unit},
    rounds,
    services::bundled,
};

/// Real time of a load.
pub(super) fn measure(options: &Options) -> anyhow::Result<Table> {
    enum From {
        Memory(Engine),
        Folder(tempfile::TempDir),
        Nothing,
    }
    struct Load {
        from: From,
        samples: Vec<Samples>,
    }
    const POLICIES: [&str; 2] = ["round_robin", "least_request"];
    let with_folder = |folder: &tempfile::TempDir| {
        Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()), ..EngineConfig::default() })
    };
    let (memory, folder) = (Engine::new(EngineConfig::default())?, tempfile::tempdir()?);
    let warm = with_folder(&folder)?;
    for name in POLICIES {
        bundled(&memory, name)?;
        bundled(&warm, name)?;
    }
    let new = |from| Load { from, samples: vec![Samples::default(); POLICIES.len()] };
    let mut contestants = [new(From::Memory(memory)), new(From::Folder(folder)), new(From::Nothing)];
    rounds(options.rounds(9, 1), &mut contestants, |Load { from, samples }| {
        for (name, samples) in POLICIES.iter().zip(samples) {
            let engine = match from {
                From::Memory(engine) => engine.clone(),
                From::Folder(folder) => with_folder(folder)?,
                From::Nothing => Engine::new(EngineConfig::default())?,
            };
            let began = Instant::now();
            black_box(bundled(&engine, name)?);
            samples.push(began.elapsed().as_nanos() as f64 / 1e3);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let columns = POLICIES.iter().flat_map(|name| [(*name, Unit::Microseconds), ("to kept in memory", Unit::Ratio)]);
    let mut table = Table::new("Loading a component: SHA-256, compiling or finding it compiled, describe", columns);
    let baseline = contestants[0].samples.clone();
    for Load { from, samples } in contestants {
        let name = match from {
            From::Memory(_) => "compiled before, kept in memory",
            From::Folder(_) => "compiled before, from the cache folder (a restart)",
            From::Nothing => "compiled anew",
        };
        let figures = samples.into_iter().zip(&baseline).flat_map(|(samples, baseline)| {
            let ratio = samples.ratio(baseline);
            [samples, ratio]
        });
        table.row(name, figures.collect());
    }
    Ok(table)
}
