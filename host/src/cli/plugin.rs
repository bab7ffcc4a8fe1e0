//! `waymark plugin`: make a component, look into one, try one out.

mod check;
mod inspect;
mod project;
mod simulate;
mod time_limit;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output::{self, CommandError};
use crate::{
    config::PluginRef,
    plugin::{Engine, EngineConfig, Grants, Limits, Plugin},
    stages::load::{self, PluginError},
};

/// Flags of `waymark plugin`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lay out a project: a plugin that works, in the language of your choice, with what it takes
    /// to build and to test it.
    #[command(after_help = "\
Examples:
  waymark plugin new my_policy --lang go
  waymark plugin new my_policy --lang rust --per-request
  waymark plugin new my_keys --kind key-scheme --lang python

What it writes is plugins/README.md's examples; the README.md in the new folder says where to begin.")]
    New(project::NewArgs),
    /// Build the project in a folder: NAME.wasm. Says what is missing, and how to get it.
    Build(project::BuildArgs),
    /// Make a component of a core module: the last step of a build.sh.
    #[command(after_help = "\
Example:
  waymark plugin component core.wasm my_policy.wasm

A module that imports WASI preview 1 gets one with nothing behind it, inside the component: no files, no arguments, a clock that counts
its questions, the same random numbers in every instance. Exports may have the plain names of the interface's functions (describe, build,
pick): not every compiler can write waymark:plugin/balancer@0.1.1#build.")]
    Component(project::ComponentArgs),
    /// Drive a policy offline with the host's own code: who gets how much, what a pick costs, which
    /// keys move.
    #[command(after_help = "\
Examples:
  waymark plugin simulate ./my_policy.wasm
  waymark plugin simulate ./my_policy.wasm --config '{\"zone_factor\": 2}' --zone zone-b --picks 1000000
  waymark plugin simulate maglev --endpoints endpoints.json --svg shares.svg
  waymark plugin simulate ./my_policy.wasm --from-node 127.0.0.1:7001 --service ayang/server1

FILE is a JSON array of {\"id\", \"address\", \"zone\", \"weight\", \"metadata\", \"load\"}, of which only the address must be there, or what
`waymark resolve --json` prints; the load is what an instance said of itself, {\"application_utilization\": 0.7, \"named\": {\"queue\": 3}}. The same seed
gives the same picks.")]
    Simulate(simulate::Args),
    /// Print what a component is, what it asks for and what it would get.
    #[command(after_help = "\
Examples:
  waymark plugin inspect round_robin
  waymark plugin inspect ./my_policy.wasm --json
  waymark plugin inspect ./python_policy.wasm --allow wasi,clocks

What a policy costs is measured with ten made-up endpoints. Exits with 1 when the component would be refused; what it asks for is printed all
the same.")]
    Inspect(InspectArgs),
    /// Run the conformance kit over a component; exits with 1 when something that is required does
    /// not hold.
    #[command(after_help = "\
Examples:
  waymark plugin check ./my_policy.wasm
  waymark plugin check ./my_policy.wasm --claim weights --claim zone
  waymark plugin check zone_aware --config '{\"min_endpoints\": 2}' --quick --json

plugins/README.md says what is required of every plugin, and what only of one that claims it.")]
    Check(check::Args),
    /// List the bundled components.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A bundled plugin's name, or a .wasm file.
    plugin: String,
    #[command(flatten)]
    allow: AllowArgs,
    /// The configuration that its cost is measured with, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    /// How long all of it may take; what is not known by then is said.
    #[arg(long, default_value = "30", value_name = "SECONDS")]
    time_limit: time_limit::TimeLimit,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What it is given beyond its world.
#[derive(Debug, clap::Args)]
struct AllowArgs {
    /// What it is given beyond its world: wasi (with nothing behind it), clocks, random.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "WHAT,..")]
    allow: Grants,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    match args.command {
        Command::Inspect(args) => {
            inspect::run(&args.plugin, args.allow.allow, args.config, args.time_limit, args.json).await
        }
        Command::Check(args) => check::run(args).await,
        Command::New(args) => project::new(&args),
        // A build is what the whole process is for.
        Command::Build(args) => tokio::task::block_in_place(|| project::build(&args)),
        Command::Component(args) => project::component(&args),
        Command::Simulate(args) => simulate::run(args).await,
        Command::List { json } => list(json).await,
    }
}

/// An engine to try a plugin out in, of its own.
fn trial_engine(plugin: &PluginRef) -> Result<Engine, PluginError> {
    let mut limits = Limits::default();
    if cfg!(debug_assertions) {
        // An unoptimised host needs 30 times as long to hand over 10,000 endpoints, which is no
        // fault of the plugin.
        limits.build_deadline *= 5;
        limits.key_scheme_deadline *= 5;
        limits.pick_deadline *= 10;
    }
    // Where nodes keep theirs: a component of many megabytes is compiled once, not at every trial.
    let (cache_dir, compile) = (load::default_plugin_cache(), super::compiling());
    Engine::new(EngineConfig { cache_dir, limits, compile, ..EngineConfig::default() })
        .map_err(|error| PluginError::Host { plugin: plugin.to_string(), reason: format!("{error:#}") })
}

async fn list(as_json: bool) -> Result<ExitCode, CommandError> {
    let engine = Engine::new(EngineConfig { cache_dir: load::default_plugin_cache(), ..EngineConfig::default() })
        .map_err(|error| CommandError::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let mut plugins = Vec::new();
    for bundled in crate::plugin::bundled::ALL {
        let reference = PluginRef::Bundled(bundled.name.into());
        plugins.push(load::load_plugin(&engine, Some(bundled.kind), &reference, Grants::NONE).await?);
    }
    if as_json {
        output::print_json(&json!(plugins.iter().map(inspect::plugin_json).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["kind", "name", "what it does"]);
    for plugin in &plugins {
        table.add_row([plugin.kind.as_str(), &plugin.description.name, &plugin.description.summary]);
    }
    output::print_table(&table);
    Ok(ExitCode::SUCCESS)
}
