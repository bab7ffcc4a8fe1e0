//! `waymark plugin inspect`: what a component is, what it asks for and what it would get, also of
//! one that is refused.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::output::{self, CommandError},
    Engine, EngineConfig, Grants, Plugin, PluginRef,
    check::time,
    time_limit::TimeLimit,
};
use crate::conformance::{self, Cost, fitness};
use crate::plugin::{Access, Grant, Inspection, Kind, MemoryLimits, SUPPORTED_INTERFACES, bundled};

pub(super) async fn run(
    name: &str,
    allow: Grants,
    config: String,
    limit: TimeLimit,
    as_json: bool,
) -> Result<ExitCode, CommandError> {
    let limit = limit.begin();
    let (inspection, took) = limit.bounded("compiling the component", inspect(name, allow)).await??;
    let code = if inspection.loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let cost = match &inspection.loaded {
        Ok(plugin) if plugin.kind == Kind::Policy => {
            let plugin = plugin.clone();
            let measure = move || conformance::cost(&plugin, &config, Some(limit.until));
            let measured = tokio::task::spawn_blocking(measure).await;
            Some(measured.map_err(|panic| CommandError::failed(panic.to_string()))?)
        }
        _ => None,
    };
    if as_json {
        let mut value = to_json(&inspection, took);
        if let Some(cost) = &cost {
            value["cost"] = cost_json(cost);
        }
        output::print_json(&value);
    } else {
        print(&inspection, took);
        if let Some(cost) = &cost {
            print_cost(cost);
        }
    }
    Ok(code)
}

/// What was measured of a policy, with why not more was, or why nothing was.
type Measured = Result<(Vec<Cost>, Option<String>), String>;

fn of<'a>(cost: &'a [Cost], call: &str) -> Option<&'a Cost> {
    cost.iter().find(|cost| cost.call == call)
}

fn print_cost(cost: &Measured) {
    let (cost, left_out) = match cost {
        Ok((cost, left_out)) => (cost, left_out),
        Err(reason) => return output::print_line(format_args!("What it costs could not be measured: {reason}")),
    };
    let pick = of(cost, "pick").map(|pick| pick.nanoseconds.median);
    let mut table = output::table(["cost, 10 endpoints", ""]);
    if let Some(build) = of(cost, "build") {
        table.add_row(["memory of an instance", &kib(build.memory as u64)]);
        table.add_row(["a build, with its instances", &time(build.nanoseconds.median)]);
    }
    if let Some(reason) = left_out {
        table.add_row(["a pick", &format!("not measured: {reason}")]);
    } else {
        table.add_row(["a pick", &pick.map_or_else(|| "nothing".into(), time)]);
        table.add_row(["on the path of requests", fitness(pick)]);
    }
    output::print_table(&table);
}

fn cost_json(cost: &Measured) -> Value {
    match cost {
        Err(reason) => json!({ "not_measured": reason }),
        Ok((cost, left_out)) => {
            let pick = of(cost, "pick").map(|pick| pick.nanoseconds.median);
            let build = of(cost, "build");
            json!({
                "not_measured": left_out,
                "memory": build.map(|build| build.memory),
                "build_ns": build.map(|build| build.nanoseconds.median),
                "pick_ns": pick,
                "fitness": left_out.is_none().then(|| fitness(pick)),
            })
        }
    }
}

/// What there is to say of a component, and how long it took to get it ready.
async fn inspect(name: &str, allow: Grants) -> Result<(Inspection, Duration), CommandError> {
    // No cache on disk: what is printed includes how long it takes to compile.
    let engine = Engine::new(EngineConfig { compile: crate::cli::compiling(), ..EngineConfig::default() })
        .map_err(|error| CommandError::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let Ok(reference) = name.parse::<PluginRef>();
    let (bytes, origin) = match &reference {
        PluginRef::Bundled(name) => {
            let Some(found) = bundled::ALL.iter().find(|bundled| bundled.name == *name) else {
                let names = bundled::ALL.iter().map(|bundled| bundled.name).collect::<Vec<_>>().join(", ");
                return Err(CommandError::failed(format!(
                    "there is no bundled plugin called {name:?}; there are: {names}. A file has a `/` in it or ends with .wasm"
                )));
            };
            (found.bytes.to_vec(), bundled::ORIGIN.to_owned())
        }
        PluginRef::File(path) => (read(path)?, path.display().to_string()),
    };
    // The plugin's own load time is of a component that the look into it has compiled.
    let timed = move || {
        let began = Instant::now();
        engine.inspect(&bytes, &origin, allow).map(|inspection| (inspection, began.elapsed()))
    };
    let inspected =
        tokio::task::spawn_blocking(timed).await.map_err(|panic| CommandError::failed(panic.to_string()))?;
    inspected.map_err(|error| CommandError::failed(error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(path)
        .map_err(|error| CommandError::failed(format!("cannot read the plugin {}: {error}", path.display())))
}

/// What an import comes to, in words.
fn access(access: Access, grants: Grants) -> String {
    match access {
        Access::World => "given".into(),
        Access::Allowed(grant) => format!("given, by --allow {}", grant.as_str()),
        Access::Needs(grant) if access_links(grants) => {
            format!("linked, and fails when called; given only with --allow {}", grant.as_str())
        }
        Access::Needs(grant) => format!("given only with --allow {}", grant.as_str()),
        Access::Refused => "refused".into(),
    }
}

/// With WASI, its clocks and random numbers are there to be linked.
fn access_links(grants: Grants) -> bool {
    grants.has(Grant::Wasi)
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

fn memory(limits: &MemoryLimits) -> String {
    let most = limits.maximum.map_or_else(|| "no maximum of its own".into(), |most| format!("at most {}", kib(most)));
    format!("{} at the start, {most}", kib(limits.initial))
}

fn print(inspection: &Inspection, took: Duration) {
    let loaded = inspection.loaded.as_ref();
    let mut table = output::table(["", ""]);
    if let Ok(plugin) = loaded {
        let about = &plugin.description;
        table.add_row(["name", &about.name]);
        table.add_row(["version", &about.version]);
        table.add_row(["what it does", &about.summary]);
        if !about.warning.is_empty() {
            table.add_row(["WARNING", &about.warning]);
        }
    }
    table.add_row(["kind", inspection.kind.map_or("no plugin of this host", |kind| kind.as_str())]);
    if let Some(world) = &inspection.world {
        table.add_row(["world", world]);
    }
    table.add_row(["host supports", &format!("waymark:plugin@{}", SUPPORTED_INTERFACES.join(", "))]);
    table.add_row(["exports", &lines(&inspection.exports)]);
    table.add_row(["memory", &lines(&inspection.memories.iter().map(memory).collect::<Vec<_>>())]);
    table.add_row(["from", &output::name(&inspection.origin)]);
    table.add_row(["size", &format!("{} bytes", inspection.size)]);
    table.add_row(["sha256", &inspection.sha256]);
    if loaded.is_ok() {
        table.add_row(["load time", &format!("{took:.1?}, compiled anew")]);
    }
    output::print_table(&table);
    if inspection.imports.is_empty() {
        output::print_line(format_args!("It asks for nothing."));
    } else {
        let mut table = output::table(["it asks for", "and gets"]);
        for import in inspection.imports.iter().take(SHOWN) {
            table.add_row([output::name(&import.name), access(import.access, inspection.grants)]);
        }
        output::print_table(&table);
        if let Some(more) = inspection.imports.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            output::print_line(format_args!("and {more} more: see --json"));
        }
    }
    match loaded {
        Ok(plugin) => print_fields(plugin),
        Err(error) => output::print_line(format_args!("It would be refused: {error}")),
    }
}

/// So many imports and exports are shown; all are in the JSON.
const SHOWN: usize = 100;

fn lines(texts: &[String]) -> String {
    let mut shown: Vec<_> = texts.iter().take(SHOWN).map(|text| output::name(text)).collect();
    if let Some(more) = texts.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more: see --json"));
    }
    if shown.is_empty() { "none".into() } else { shown.join("\n") }
}

fn print_fields(plugin: &Plugin) {
    let fields = &plugin.description.fields;
    if fields.is_empty() {
        output::print_line(format_args!("It takes no configuration."));
        return;
    }
    let mut table = output::table(["config field", "default", "meaning"]);
    for field in fields {
        let default = if field.default.is_empty() { "(must be given)" } else { &field.default };
        table.add_row([field.name.as_str(), default, field.doc.as_str()]);
    }
    output::print_table(&table);
}

fn to_json(inspection: &Inspection, took: Duration) -> Value {
    let mut value = match &inspection.loaded {
        Ok(plugin) => plugin_json(plugin),
        Err(error) => json!({
            "kind": inspection.kind.map(Kind::as_str),
            "world": inspection.world,
            "exports": inspection.exports,
            "origin": inspection.origin,
            "size": inspection.size,
            "sha256": inspection.sha256,
            "supported_interfaces": SUPPORTED_INTERFACES,
            "refused": error.to_string(),
        }),
    };
    if inspection.loaded.is_ok() {
        value["load_seconds"] = took.as_secs_f64().into();
    }
    let imports = inspection.imports.iter().map(|import| {
        let (access, allow) = match import.access {
            Access::World => ("given", None),
            Access::Allowed(grant) => ("allowed", Some(grant)),
            Access::Needs(grant) => ("needs", Some(grant)),
            Access::Refused => ("refused", None),
        };
        json!({ "name": import.name, "access": access, "allow": allow.map(Grant::as_str) })
    });
    value["asks_for"] = imports.collect();
    let memory = |memory: &MemoryLimits| json!({ "initial": memory.initial, "maximum": memory.maximum });
    value["memories"] = inspection.memories.iter().map(memory).collect();
    value["allow"] = inspection.grants.names().map(Value::from).collect();
    value
}

/// A plugin that was loaded.
pub(super) fn plugin_json(plugin: &Plugin) -> Value {
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
        "world": plugin.world(),
        "imports": plugin.imports,
        "exports": plugin.exports,
        "origin": plugin.origin,
        "size": plugin.size,
        "sha256": plugin.sha256,
        "load_seconds": plugin.load_time.as_secs_f64(),
        "supported_interfaces": SUPPORTED_INTERFACES,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn the_load_time_is_that_of_the_whole_and_not_of_what_was_compiled_before() {
        let (inspection, took) = inspect("round_robin", Grants::NONE).await.unwrap();
        assert!(took > inspection.loaded.as_ref().unwrap().load_time);
        assert_eq!(to_json(&inspection, Duration::from_secs(3))["load_seconds"], json!(3.0));
    }
}
