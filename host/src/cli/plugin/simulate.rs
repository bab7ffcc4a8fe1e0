//! `waymark plugin simulate`: a policy driven offline, shown as bars, a table, a drawing or JSON.

mod endpoints;
mod svg;

use std::{
    fmt::Write as _,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::json;

use super::{
    AllowArgs,
    check::{percent, time},
    time_limit::TimeLimit,
    trial_engine,
};
use crate::{
    cli::{
        node_args::CredentialArgs,
        output::{self, CommandError},
    },
    config::PluginRef,
    conformance::{self, Bar, EndpointShare, Simulated, Simulation},
    model::ServiceName,
    plugin::Kind,
    stages::{StartError, load},
};

/// Flags of `waymark plugin simulate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A bundled policy's name, or a .wasm file.
    plugin: String,
    /// Its configuration, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    #[command(flatten)]
    allow: AllowArgs,
    /// The endpoints, from a JSON file; left out, ten are made up.
    #[arg(long, value_name = "FILE", conflicts_with = "from_node")]
    endpoints: Option<PathBuf>,
    /// The endpoints of a running node's service; nothing is changed there.
    #[arg(long, value_name = "ADDRESS", requires = "service")]
    from_node: Option<String>,
    /// The service, for --from-node.
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// The zone that the node is told to stand in; zone-a for made-up endpoints, else none.
    #[arg(long)]
    zone: Option<String>,
    /// How many picks.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    picks: u64,
    /// Where everything random comes from: the same seed gives the same picks.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How long all of it may take; what was picked by then is shown.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    time_limit: TimeLimit,
    /// Draw the shares into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    let limit = args.time_limit.begin();
    let simulation = Simulation { until: Some(limit.until), ..simulation(&args).await? };
    let Ok(reference) = args.plugin.parse::<PluginRef>();
    let engine = trial_engine(&reference)?;
    let plugin = load::load_plugin(&engine, Some(Kind::Policy), &reference, args.allow.allow);
    let plugin = limit.bounded("compiling the component", plugin).await?.map_err(StartError::from)?;
    let shown = io::stderr().is_terminal();
    let all = args.picks;
    let work = move || {
        let told = conformance::simulate(&plugin, &simulation, &|done| {
            if shown {
                let mut terminal = io::stderr().lock();
                // A terminal that has gone is no reason to stop.
                let _ =
                    write!(terminal, "\r\u{1b}[Ksimulating: {} %", done * 100 / all).and_then(|()| terminal.flush());
            }
        });
        if shown {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K"); // As above.
        }
        told
    };
    let found = tokio::task::spawn_blocking(work).await.map_err(|panic| CommandError::failed(panic.to_string()))?;
    let found = found.map_err(CommandError::failed)?;
    if let Some(path) = &args.svg {
        fs::write(path, svg::draw(&found))
            .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    if args.json {
        output::print_json(&json!(found));
    } else {
        output::print_report(&text(&found));
        if let Some(cut) = found.cut {
            output::print_line(format_args!("{}", limit.said(cut)));
        }
    }
    Ok(if found.cut.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn simulation(args: &Args) -> Result<Simulation, CommandError> {
    let mut simulation = Simulation::made_up();
    if let Some(path) = &args.endpoints {
        let read = fs::read_to_string(path).map_err(|error| error.to_string());
        let parsed = read.and_then(|text| endpoints::parse(&text));
        (simulation.endpoints, simulation.loads) =
            parsed.map_err(|reason| CommandError::usage(format!("cannot use {}: {reason}", path.display())))?;
        simulation.zone = String::new();
    }
    if let (Some(node), Some(service)) = (&args.from_node, &args.service) {
        (simulation.endpoints, simulation.loads) = endpoints::of_node(node, &args.credentials, service).await?;
        simulation.zone = String::new();
    }
    if let Some(service) = &args.service {
        simulation.service = service.clone();
    }
    simulation.zone = args.zone.clone().unwrap_or(simulation.zone);
    Ok(Simulation { config: args.config.clone(), picks: args.picks, seed: args.seed, ..simulation })
}

/// So many endpoints are shown; the others are in the JSON.
const SHOWN: usize = 40;

fn text(found: &Simulated) -> String {
    let mut text = format!(
        "{} {}: {} of {} endpoints, {}; seed {}, picks {}\n",
        found.plugin,
        found.version,
        found.plan,
        found.endpoints.len(),
        if found.zone.is_empty() {
            "a node that was told no zone".into()
        } else {
            format!("a node in {}", output::name(&found.zone))
        },
        found.seed,
        found.digest,
    );
    let mut table = output::table(["endpoint", "zone", "weight", "by weight", "got", "picks", ""]);
    let bar = |by_weight, got| output::share_bar(got, by_weight, largest(&found.endpoints));
    for endpoint in found.endpoints.iter().take(SHOWN) {
        table.add_row([
            output::name(&endpoint.id),
            output::name(zone(&endpoint.zone)),
            endpoint.weight.to_string(),
            percent(endpoint.by_weight),
            percent(endpoint.got),
            endpoint.picks.to_string(),
            bar(endpoint.by_weight, endpoint.got),
        ]);
    }
    table.right(&[2, 3, 4, 5]);
    // Writing into a String does not fail.
    let _ = writeln!(text, "\n{table}");
    if let Some(more) = found.endpoints.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more: see --json");
    }
    if found.zones.len() > 1 {
        let _ = writeln!(text, "\n{}", zones(&found.zones));
    }
    let _ = write!(text, "\n{}", figures(found));
    text
}

fn largest(endpoints: &[EndpointShare]) -> f64 {
    endpoints.iter().map(|endpoint| endpoint.got.max(endpoint.by_weight)).fold(f64::MIN_POSITIVE, f64::max)
}

fn zone(zone: &str) -> &str {
    if zone.is_empty() { "-" } else { zone }
}

fn zones(zones: &[Bar]) -> String {
    let mut table = output::table(["zone", "by weight", "got", ""]);
    let largest = zones.iter().map(|bar| bar.got.max(bar.by_weight)).fold(f64::MIN_POSITIVE, f64::max);
    for bar in zones {
        table.add_row([
            output::name(zone(&bar.label)),
            percent(bar.by_weight),
            percent(bar.got),
            output::share_bar(bar.got, bar.by_weight, largest),
        ]);
    }
    table.right(&[1, 2]);
    table.to_string()
}

fn figures(found: &Simulated) -> String {
    let mut lines = Vec::new();
    if let Some(cost) = found.cost {
        let at = |ns: u64| time(ns as f64);
        lines.push(format!(
            "a pick takes {} (p50), {} (p99), of {} timed",
            at(cost.p50_ns),
            at(cost.p99_ns),
            cost.samples
        ));
    }
    if found.unanswered > 0 {
        lines.push(format!("{} of {} picks went to nobody", found.unanswered, found.picks));
    }
    if found.stood_in > 0 {
        lines.push(format!("the policy FAILED {} picks, and the host stood in for it", found.stood_in));
    }
    match &found.keys {
        None => lines.push("it does not go by a key: nothing to say of keys that move".into()),
        Some(keys) => {
            lines.push(format!(
                "of {} keys, when {} leaves: its own {} move, and {} of the others",
                keys.keys,
                output::name(&keys.leaving),
                percent(keys.leaving_own),
                percent(keys.leaving_others)
            ));
            lines.push(format!(
                "when one joins: it takes {}, and {} of the others move",
                percent(keys.joining_own),
                percent(keys.joining_others)
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Simulated {
        let endpoint = |id: &str, weight, by_weight, got| EndpointShare {
            id: id.into(),
            address: "192.0.2.1:80".into(),
            zone: String::new(),
            weight,
            by_weight,
            got,
            picks: 50,
        };
        Simulated {
            plugin: "spread".into(),
            version: "0.1.0".into(),
            sha256: String::new(),
            config: "{}".into(),
            zone: "a".into(),
            seed: 3,
            plan: "rotation",
            picks: 100,
            wanted: 100,
            cut: None,
            unanswered: 5,
            stood_in: 2,
            digest: "00ff".into(),
            endpoints: vec![endpoint("one\u{1b}[2J", 1, 0.25, 0.5), endpoint("two", 3, 0.75, 0.45)],
            zones: Vec::new(),
            cost: Some(conformance::PickCost { p50_ns: 41, p99_ns: 2_300, samples: 100 }),
            keys: None,
        }
    }

    #[test]
    fn shares_stand_beside_weights_and_nothing_moves_the_cursor() {
        let text = text(&found());
        for expected in
            ["seed 3, picks 00ff", "25.0 %", "50.0 %", "41 ns (p50), 2.3 µs (p99)", "5 of 100 picks", "FAILED 2"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(!text.contains('\u{1b}') && text.contains("a node in a"), "{text}");
    }

    #[test]
    fn a_drawing_has_a_bar_each_and_no_markup_of_others() {
        let mut found = found();
        found.endpoints[0].id = "<one & only>".into();
        let svg = svg::draw(&found);
        assert_eq!(svg.matches("class=\"got\"").count(), 2 + 1, "one each, and the legend's: {svg}");
        assert!(svg.contains("&lt;one &amp; only&gt;") && !svg.contains("<one"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
