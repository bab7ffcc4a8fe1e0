//! The differential probe: one long script of calls, and what a server answers, one normalised line
//! a message. The embedded registry must say what a real etcd says.
//!
//! ```text
//!   edges  random ──▶ script ──▶ run ──▶ lines       the embedded registry ─┐
//!                                 │                                         ├─ compared line by line, but for `accepted`
//!                           wire, say, storm         a real etcd ───────────┘
//!                                                    the embedded registry behind `faulty`: must differ
//! ```
//!
//! By hand, against any empty server (it deletes everything):
//!
//! ```text
//! cargo test --test probe -- --endpoint http://127.0.0.1:2379 [--seed N] [--calls N]
//! ```
//!
//! As a test it compares the embedded registry with
//! - the etcd named by `WAYMARK_TEST_ETCD`, else the `etcd` on the `PATH`. `REQUIRE_ETCD=1` makes
//!   its absence a failure. `WAYMARK_PROBE_ETCD` names several, separated as in `PATH`;
//! - an etcd 3.6, which is built with Go when `WAYMARK_PROBE_ETCD36=1` or `REQUIRE_GO=1` asks for
//!   it: that takes minutes of processor time the first time. `REQUIRE_GO=1` makes the absence of
//!   Go a failure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test that prints what it finds")]

mod accepted;
mod compare;
mod edges;
mod etcd36;
mod faults;
mod faulty;
#[path = "../it/embedded/fixture.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "shared with the tests of the embedded registry")]
mod fixture;
mod random;
mod run;
mod say;
mod script;
mod storm;
mod stream;
mod wire;

use std::{process::ExitCode, time::Duration};

use run::{Said, run};
use script::{Action, Script, Step};
use waymark_node::embedded::Options;

/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(15);
const SEED: u64 = 1;
const RANDOM_CALLS: usize = 400;

/// What is checked when nothing else is asked for.
const CHECKS: [&str; 4] = [
    "the_embedded_registry_says_what_etcd_says",
    "the_embedded_registry_says_what_etcd_3_6_says",
    "where_the_revisions_start_makes_no_difference",
    "every_planted_fault_is_caught",
];

#[derive(Debug)]
struct Arguments {
    endpoint: Option<String>,
    seed: u64,
    calls: usize,
    list: bool,
    /// Only checks whose names contain one of these.
    filters: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments { endpoint: None, seed: SEED, calls: RANDOM_CALLS, list: false, filters: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            "--endpoint" => found.endpoint = Some(value()?),
            "--seed" => found.seed = number(value()?)?,
            "--calls" => found.calls = number(value()?)? as usize,
            "--list" => found.list = true,
            // `cargo test` gives all its targets the same options, of which the others mean nothing
            // here.
            "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => drop(value()?),
            option if option.starts_with('-') => {}
            filter => found.filters.push(filter.to_owned()),
        }
    }
    Ok(found)
}

/// The whole script. A write and a compaction come first: they make servers equal that begin
/// differently.
fn script(seed: u64, calls: usize) -> Vec<Step> {
    let mut script = Script::default();
    script.rule("the beginning").act(Action::Sync).act(script::compact(script::NOW));
    edges::add(&mut script);
    random::add(&mut script, seed, calls);
    script.steps
}

fn print(number: usize, said: &Said) {
    for line in &said.lines {
        println!("{number:04} {}: {line}", said.rule);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("probe: {error}");
            return ExitCode::from(2);
        }
    };
    let steps = script(arguments.seed, arguments.calls);
    if let Some(endpoint) = &arguments.endpoint {
        return match Box::pin(run(endpoint, &steps, PATIENCE, print)).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("probe: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let wanted = |name: &&str| arguments.filters.is_empty() || arguments.filters.iter().any(|f| name.contains(&**f));
    let mut failed = 0;
    for name in CHECKS.iter().copied().filter(|name| wanted(name)) {
        if arguments.list {
            println!("{name}: test");
            continue;
        }
        let begun = std::time::Instant::now();
        match check(name, &steps).await {
            Ok(()) => println!("probe: {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f32()),
            Err(why) => {
                failed += 1;
                println!("probe: {name} ... FAILED ({:.1} s)\n{why}", begun.elapsed().as_secs_f32());
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn check(name: &str, steps: &[Step]) -> Result<(), String> {
    match name {
        "the_embedded_registry_says_what_etcd_says" => Box::pin(compare::with_etcds(steps)).await,
        "the_embedded_registry_says_what_etcd_3_6_says" => Box::pin(compare::with_etcd36(steps)).await,
        "where_the_revisions_start_makes_no_difference" => Box::pin(compare::with_other_start(steps)).await,
        "every_planted_fault_is_caught" => Box::pin(faults::all_are_caught()).await,
        other => Err(format!("there is no check {other}")),
    }
}

/// What the embedded registry says.
async fn of_embedded(steps: &[Step], options: Options) -> Result<Vec<Said>, String> {
    let registry = fixture::Registry::embedded_with(options).await;
    run(&registry.url, steps, PATIENCE, |_, _| {}).await
}

/// An embedded registry that begins where a fresh etcd does, and speaks unasked as seldom.
fn like_etcd() -> Options {
    Options { start_revision: Some(1), progress_interval: Duration::from_mins(10), ..Options::default() }
}
