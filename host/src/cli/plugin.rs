//! `waymark plugin`: look into a component, or try it out.

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
    /// Load a component and try it out on made-up endpoints; exits with 1 when something is wrong.
    #[command(after_help = "\
Examples:
  waymark plugin check ./my_policy.wasm
  waymark plugin check zone_aware --config '{\"min_endpoints\": 2}'")]
    Check(CheckArgs),
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

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// A bundled plugin's name, or a .wasm file.
    plugin: String,
    /// Its configuration, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    #[command(flatten)]
    allow: AllowArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Inspect(args) => inspect::run(&args.plugin, args.allow.allow, args.json).await,
        Command::Check(args) => check(args).await,
        Command::List { json } => list(json).await,
    }
}

async fn load(name: &str, allow: Grants) -> Result<Plugin, Failure> {
    // No cache on disk: what is printed includes how long it takes to compile.
    let engine = Engine::new(EngineConfig::default())
        .map_err(|error| Failure::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let Ok(reference) = name.parse::<PluginRef>();
    Ok(app::load_plugin(&engine, None, &reference, allow).await?)
}

async fn check(args: CheckArgs) -> Result<ExitCode, Failure> {
    let plugin = load(&args.plugin, args.allow.allow).await?;
    let (name, kind) = (plugin.description.name.clone(), plugin.kind.as_str());
    let findings = tokio::task::spawn_blocking(move || plugin.check(&args.config))
        .await
        .map_err(|panic| Failure::failed(panic.to_string()))??;
    let wrong = findings.iter().filter(|finding| finding.outcome.is_err()).count();
    if args.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| {
                let (passed, detail) = match &finding.outcome {
                    Ok(detail) => (true, detail),
                    Err(detail) => (false, detail),
                };
                json!({ "check": finding.what, "passed": passed, "detail": detail })
            })
            .collect();
        output::print_json(&json!({ "plugin": name, "kind": kind, "passed": wrong == 0, "checks": findings }));
    } else {
        let mut table = output::table(["", "check", "result"]);
        for finding in &findings {
            match &finding.outcome {
                Ok(detail) => table.add_row(["ok", &finding.what, detail]),
                Err(detail) => table.add_row(["WRONG", &finding.what, detail]),
            };
        }
        output::print_line(format_args!("{table}"));
        let verdict = if wrong == 0 { "passed".into() } else { format!("{wrong} of {} checks failed", findings.len()) };
        output::print_line(format_args!("{kind} {name}: {verdict}"));
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
