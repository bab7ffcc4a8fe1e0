//! `waymark plugin`: look into a component, or try it out.

mod check;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::output::{self, Failure};
use crate::{
    app,
    config::PluginRef,
    plugin::{Engine, EngineConfig, Plugin, SUPPORTED_INTERFACES},
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
  waymark plugin inspect ./my_policy.wasm --json")]
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
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Inspect(args) => {
            let plugin = load(&args.plugin).await?;
            if args.json {
                output::print_json(&to_json(&plugin));
            } else {
                print(&plugin);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(args) => check::run(args).await,
        Command::List { json } => list(json).await,
    }
}

async fn load(name: &str) -> Result<Plugin, Failure> {
    // No cache on disk: what is printed includes how long it takes to compile.
    let engine = Engine::new(EngineConfig::default())
        .map_err(|error| Failure::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let Ok(reference) = name.parse::<PluginRef>();
    Ok(app::load_plugin(&engine, None, &reference).await?)
}

async fn list(as_json: bool) -> Result<ExitCode, Failure> {
    let engine = Engine::new(EngineConfig { cache_dir: app::default_plugin_cache(), ..EngineConfig::default() })
        .map_err(|error| Failure::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let mut plugins = Vec::new();
    for bundled in crate::plugin::bundled::ALL {
        let reference = PluginRef::Bundled(bundled.name.into());
        plugins.push(app::load_plugin(&engine, Some(bundled.kind), &reference).await?);
    }
    if as_json {
        output::print_json(&json!(plugins.iter().map(to_json).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["kind", "name", "what it does"]);
    for plugin in &plugins {
        table.add_row([plugin.kind.as_str(), &plugin.description.name, &plugin.description.summary]);
    }
    output::print_line(format_args!("{table}"));
    Ok(ExitCode::SUCCESS)
}

fn print(plugin: &Plugin) {
    let about = &plugin.description;
    let mut table = output::table(["", ""]);
    table.add_row(["name", &about.name]);
    table.add_row(["version", &about.version]);
    table.add_row(["kind", plugin.kind.as_str()]);
    table.add_row(["what it does", &about.summary]);
    if !about.warning.is_empty() {
        table.add_row(["WARNING", &about.warning]);
    }
    table.add_row(["world", plugin.kind.world()]);
    table.add_row(["asks for", &if plugin.imports.is_empty() { "nothing".into() } else { plugin.imports.join("\n") }]);
    table.add_row(["gets", "what it asks for: nothing of it reaches files, network, environment or clocks"]);
    table.add_row(["from", &plugin.origin]);
    table.add_row(["size", &format!("{} bytes", plugin.size)]);
    table.add_row(["sha256", &plugin.sha256]);
    table.add_row(["load time", &format!("{:.1?}", plugin.load_time)]);
    table.add_row(["host supports", &format!("waymark:plugin@{}", SUPPORTED_INTERFACES.join(", "))]);
    output::print_line(format_args!("{table}"));
    if about.fields.is_empty() {
        output::print_line(format_args!("It takes no configuration."));
        return;
    }
    let mut table = output::table(["config field", "default", "meaning"]);
    for field in &about.fields {
        let default = if field.default.is_empty() { "(must be given)" } else { &field.default };
        table.add_row([&field.name, default, &field.doc]);
    }
    output::print_line(format_args!("{table}"));
}

fn to_json(plugin: &Plugin) -> serde_json::Value {
    let about = &plugin.description;
    let fields: Vec<_> = about
        .fields
        .iter()
        .map(|field| json!({ "name": field.name, "default": field.default, "doc": field.doc }))
        .collect();
    json!({
        "name": about.name,
        "version": about.version,
        "kind": plugin.kind.as_str(),
        "summary": about.summary,
        "warning": about.warning,
        "config": fields,
        "world": plugin.kind.world(),
        "imports": plugin.imports,
        "exports": plugin.exports,
        "origin": plugin.origin,
        "size": plugin.size,
        "sha256": plugin.sha256,
        "load_seconds": plugin.load_time.as_secs_f64(),
        "supported_interfaces": SUPPORTED_INTERFACES,
    })
}
