//! What a pick costs, what a plan costs to build, and what a swap costs: native code beside each
//! way a component can balance.
//!
//! ```text
//!   cargo bench --bench pick                     the figures, in about three minutes
//!   cargo bench --bench pick -- picks            only these
//!   cargo bench --bench pick -- --quick          whether it still works
//!   cargo bench --bench pick --profile dist      as the node is shipped
//! ```

mod builds;
#[path = "../harness/mod.rs"]
mod harness;
mod instructions;
mod loads;
mod memory;
mod picks;
mod swaps;

use clap::Parser as _;
use waymark_node::plugin::{Engine, EngineConfig};

use self::{
    harness::{Options, report::Report},
    instructions::Counted,
    picks::Way,
};

/// Pick, build and swap: what each costs, natively and by a component.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Measure only these.
    #[arg(value_enum, value_name = "WHAT")]
    only: Vec<What>,
    #[command(flatten)]
    counted: Counted,
}

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Picks,
    Instructions,
    Builds,
    Loads,
    Swaps,
    Memory,
}

fn main() -> anyhow::Result<()> {
    let Args { options, only, counted } = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if runtime.block_on(counted.run())? {
        return Ok(());
    }
    let wanted = |what| only.is_empty() || only.contains(&what);
    let engine = Engine::new(EngineConfig::default())?;
    let mut report = Report::new("pick");
    report.note("each figure: median (lower quartile..upper quartile) over rounds in which the contestants take turns");
    report.note("picks and builds in processor time, loads and swaps in real time; ratios are taken within each round");
    // First, while nothing else has used memory.
    if wanted(What::Memory) {
        report.table(memory::measure(&runtime, &engine, &options)?);
    }
    if wanted(What::Picks) {
        report.table(picks::measure(runtime.block_on(Way::all(None))?, &options));
    }
    // Compiling under valgrind takes minutes where this program is not optimised: a quick run
    // counts only when asked by name.
    if wanted(What::Instructions) && !(options.quick && only.is_empty()) {
        let names: Vec<_> = runtime.block_on(Way::all(None))?.into_iter().map(|way| way.name).collect();
        match instructions::count(&names, &options)? {
            Some(table) => report.table(table),
            None => report.note("SKIPPED: valgrind is not installed, so instructions are not counted"),
        }
    }
    if wanted(What::Builds) {
        report.table(builds::measure(&engine, &options)?);
    }
    if wanted(What::Loads) {
        report.table(loads::measure(&options)?);
    }
    if wanted(What::Swaps) {
        report.table(swaps::measure(&runtime, &engine, &options)?);
        report.table(swaps::quarantine(&runtime, &options)?);
    }
    report.print(options.json);
    Ok(())
}
