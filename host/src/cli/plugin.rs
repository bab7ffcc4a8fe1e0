//! `waymark plugin`: look into a component, or try it out.

mod check;
mod inspect;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output::{self, Failure};
use crate::{
    app,
    config::PluginRef,
    plugin::{Engine, EngineConfig, Grants, Plugin},
};

/// Flags of `waymark plugin`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a component is, what it asks for and what it would get.
    #[command(after_help = "\
Examples:
  waymark plugin inspect round_robin
  waymark plugin inspect ./my_policy.wasm --json
  waymark plugin inspect ./python_policy.wasm --allow wasi,clocks

Exits with 1 when the component would be refused; what it asks for is printed all the same.")]
    Inspect(InspectArgs),
    /// Run the conformance kit over a component; exits with 1 when something that is required does not hold.
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

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Inspect(args) => inspect::run(&args.plugin, args.allow.allow, args.json).await,
        Command::Check(args) => check::run(args).await,
        Command::List { json } => list(json).await,
    }
}

async fn list(as_json: bool) -> Result<ExitCode, Failure> {
    let engine = Engine::new(EngineConfig { cache_dir: app::default_plugin_cache(), ..EngineConfig::default() })
        .map_err(|error| Failure::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let mut plugins = Vec::new();
    for bundled in crate::plugin::bundled::ALL {
        let reference = PluginRef::Bundled(bundled.name.into());
        plugins.push(app::load_plugin(&engine, Some(bundled.kind), &reference, Grants::NONE).await?);
    }
    if as_json {
        output::print_json(&json!(plugins.iter().map(inspect::plugin_json).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["kind", "name", "what it does"]);
    for plugin in &plugins {
        table.add_row([plugin.kind.as_str(), &plugin.description.name, &plugin.description.summary]);
    }
    output::print_line(format_args!("{table}"));
    Ok(ExitCode::SUCCESS)
}
