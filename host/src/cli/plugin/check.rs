//! `waymark plugin check`: the conformance kit's report, for people and as JSON.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{AllowArgs, time_limit::TimeLimit, trial_engine};
use crate::{
    cli::output::{self, Cell, CommandError, Table, Tone, toned},
    config::PluginRef,
    conformance::{self, Bars, Claim, Cost, Options, Outcome, Report, bundled_claims},
    plugin::{Grants, LoadError, Plugin},
    stages::{
        StartError,
        load::{self, PluginError},
    },
};

/// Flags of `waymark plugin check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A bundled plugin's name, or a .wasm file.
    plugin: String,
    /// Its configuration, a JSON object.
    #[arg(long, alias = "key-scheme-config", alias = "policy-config", default_value = "{}", value_name = "JSON")]
    config: String,
    #[command(flatten)]
    allow: AllowArgs,
    /// What to require beyond the interface (`declines`: not to require that it sends plain
    /// requests anywhere); may be given more than once. A bundled policy has its claims already.
    #[arg(long = "claim", value_name = "weights|zone|stable|declines")]
    claims: Vec<Claim>,
    /// The zone the node is told to stand in.
    #[arg(long, default_value = "zone-a")]
    zone: String,
    /// Where everything made up comes from: the same seed gives the same run.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Fewer tries: seconds instead of up to minutes.
    #[arg(long)]
    quick: bool,
    /// How long all of it may take. What is not tried by then is said, and the check is not passed.
    #[arg(long, default_value = "120", value_name = "SECONDS")]
    time_limit: TimeLimit,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the report. Exits with 1 when something that was required does not hold.
pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    let Ok(reference) = args.plugin.parse::<PluginRef>();
    let mut claims = args.claims;
    if let PluginRef::Bundled(name) = &reference {
        let more = bundled_claims(name).unwrap_or_default().iter().filter(|claim| !claims.contains(claim));
        claims.extend(more.copied().collect::<Vec<_>>());
    }
    let limit = args.time_limit.begin();
    let options = Options {
        config: args.config,
        zone: args.zone,
        seed: args.seed,
        quick: args.quick,
        claims,
        until: Some(limit.until),
    };
    let report = match limit.bounded("compiling the component", load(&reference, args.allow.allow)).await? {
        Ok((plugin, again)) => {
            let options = options.clone();
            let progress = Progress { shown: io::stderr().is_terminal() };
            let run = move || conformance::check(&plugin, &again, &options, &|what| progress.show(what));
            tokio::task::spawn_blocking(run).await.map_err(|panic| CommandError::failed(panic.to_string()))??
        }
        // What is no plugin of this host is what the kit is there to say. A file that is not there
        // is not.
        Err(PluginError::Load(error)) if !matches!(error, LoadError::NoSuchBundled { .. }) => {
            Report::not_loaded(&args.plugin, &error, &options)
        }
        Err(error) => return Err(StartError::from(error).into()),
    };
    if args.json {
        output::print_json(&to_json(&report));
    } else {
        print(&report);
        if !report.cut().is_empty() {
            output::print_line(format_args!("{}", limit.said(&report.cut().join(", "))));
        }
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The plugin, and the same once more in an engine of its own.
async fn load(reference: &PluginRef, allow: Grants) -> Result<(Plugin, Plugin), PluginError> {
    let first = load::load_plugin(&trial_engine(reference)?, None, reference, allow).await?;
    Ok((first, load::load_plugin(&trial_engine(reference)?, None, reference, allow).await?))
}

/// What is tried now, on one line of a terminal that the report then takes.
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&self, what: &str) {
        if self.shown {
            let mut terminal = io::stderr().lock();
            // A terminal that has gone is no reason to stop.
            let _ = write!(terminal, "\r\u{1b}[Kchecking: {what} ...").and_then(|()| terminal.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K"); // As above.
        }
    }
}

fn to_json(report: &Report) -> Value {
    let mut value = json!(report);
    value["passed"] = json!(report.passed());
    value["failed"] = json!(report.count(Outcome::Failed));
    value["cut"] = json!(report.cut());
    value
}

fn print(report: &Report) {
    let mut table = output::table(["", "part", "check", "result"]);
    let mut part = "";
    for line in &report.lines {
        let (word, tone) = match line.outcome {
            Outcome::Ok => ("ok", Some(Tone::Good)),
            Outcome::Observed => ("observed", None),
            Outcome::Failed => ("FAILED", Some(Tone::Bad)),
            Outcome::Skipped => ("skipped", Some(Tone::Dim)),
            Outcome::Cut => ("CUT", Some(Tone::Bad)),
        };
        let word = tone.map_or_else(|| Cell::new(word), |tone| toned(word, tone));
        let section = if line.section == part { "" } else { line.section };
        part = line.section;
        table.add_row([word, section.into(), line.check.into(), Cell::new(&line.detail)]);
    }
    output::print_table(&table);
    for bars in &report.shares {
        output::print_line("");
        output::print_table(&draw(bars));
    }
    if !report.cost.is_empty() {
        output::print_line("");
        output::print_table(&costs(&report.cost));
    }
    output::print_line(format_args!("\n{}", verdict(report)));
}

fn verdict(report: &Report) -> String {
    let failed = report.count(Outcome::Failed);
    let what = if report.kind.is_empty() { "no plugin of this host" } else { report.kind };
    let mut text = format!("{what} {}: ", output::name(&report.plugin));
    // Writing into a String does not fail.
    let _ = match failed {
        0 if !report.passed() => write!(text, "NOT FINISHED"),
        0 => write!(text, "passed"),
        failed => write!(text, "FAILED {failed} of {} checks", report.lines.len()),
    };
    let _ = write!(text, ", {} ok, {} observed", report.count(Outcome::Ok), report.count(Outcome::Observed));
    if !report.claims.is_empty() {
        let claims: Vec<_> = report.claims.iter().map(|claim| claim.as_str()).collect();
        let _ = write!(text, "; claims {}", claims.join(", "));
    }
    let _ = write!(text, "; seed {}{}", report.seed, if report.quick { ", quick" } else { "" });
    text
}

/// Shares as bars. A whole bar is the largest share, so that small ones can be told apart.
fn draw(bars: &Bars) -> Table {
    let mut table = output::table([bars.title.as_str(), "by weight", "got", ""]);
    let largest = bars.bars.iter().map(|bar| bar.got.max(bar.by_weight)).fold(f64::MIN_POSITIVE, f64::max);
    for bar in &bars.bars {
        let drawn = output::share_bar(bar.got, bar.by_weight, largest);
        table.add_row([output::name(&bar.label), percent(bar.by_weight), percent(bar.got), drawn]);
    }
    table.right(&[1, 2]);
    table
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn costs(costs: &[Cost]) -> Table {
    let mut table = output::table(["processor time", "endpoints", "median", "quartiles", "samples", "instance"]);
    for cost in costs {
        let spread = cost.nanoseconds;
        let memory = if cost.memory == 0 { String::new() } else { format!("{} KiB", cost.memory >> 10) };
        table.add_row([
            cost.call.to_owned(),
            cost.endpoints.to_string(),
            time(spread.median),
            format!("{} .. {}", time(spread.lower), time(spread.upper)),
            cost.samples.to_string(),
            memory,
        ]);
    }
    table.right(&[1, 2, 3, 4, 5]);
    table
}

/// Nanoseconds as people read them.
pub(super) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Bar, Line, Spread};

    fn report(outcome: Outcome) -> Report {
        let error = LoadError::CoreModule { origin: "x.wasm".into() };
        let mut report = Report::not_loaded("x.wasm", &error, &Options::default());
        report.lines = vec![Line { section: "plans", check: "no endpoint", outcome, detail: "in figures".into() }];
        report
    }

    #[test]
    fn a_verdict_counts_what_failed_and_names_the_seed() {
        let failed = verdict(&report(Outcome::Failed));
        assert!(failed.contains("x.wasm: FAILED 1 of 1 checks") && failed.ends_with("seed 1"), "{failed}");
        let passed = verdict(&report(Outcome::Observed));
        assert!(passed.contains("x.wasm: passed, 0 ok, 1 observed"), "{passed}");
        assert_eq!(to_json(&report(Outcome::Failed))["passed"], json!(false));
    }

    #[test]
    fn figures_stand_under_each_other_and_bars_are_to_scale() {
        let bar = |label: &str, got| Bar { label: label.into(), by_weight: got, got };
        let drawn = draw(&Bars { title: "shares".into(), bars: vec![bar("a", 0.05), bar("b", 0.1), bar("c", 0.0)] })
            .to_string();
        let bars: Vec<_> = drawn.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [0, 15, 30, 0], "{drawn}");
        let cost = |median| {
            let nanoseconds = Spread { lower: 1.0, median, upper: 2e7 };
            Cost { call: "build", endpoints: 10, samples: 20, nanoseconds, memory: 1 << 20 }
        };
        let figures = costs(&[cost(7.0), cost(12_345_678.0)]).to_string();
        let ends: Vec<_> = figures.lines().skip(1).map(|line| line.find("1 ns ..").unwrap_or_default()).collect();
        assert!(ends[0] > 0 && figures.contains("12.3 ms") && figures.contains("1024 KiB"), "{figures}");
    }
}
