//! Isolation: what one takes, nobody else pays. Somebody takes all that a node lets it take, while
//! a bystander calls another service.
//!
//! ```text
//!   bystander ──200 calls/s──▶ node (a process of its own) ──▶ three instances
//!                               ▲  ▲  ▲
//!      a caller's crowd ────────┘  │  └──────── what stands in the registry
//!                             a greedy plugin
//! ```
//!
//! First the bystander calls undisturbed, which is the control, then the same with the attack. One
//! row an attack: the bystander's calls; those lost, of which there may be none; its median and p99
//! beside the control's; by how much the node's peak of resident memory grew, and how much it may;
//! and what the node had to say of it, after what time.
//!
//! ```text
//! cargo test --test isolation [-- NAME ...] [--seconds N] [--json] [--list]
//! ```
//!
//! An attack fails for a lost call, for memory over its bound, and for a verdict that did not come.
//! Times are printed and never fail: on a quiet machine p99 is wanted within twice the control's.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test that prints what it finds")]

mod arena;
mod bystander;
mod callers;
mod control;
#[path = "../it/dataplane/frames.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile clients")]
mod frames;
mod nobody;
mod plugins_memory;
mod plugins_time;
#[path = "../it/dataplane/process.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile clients")]
mod process;
mod registry;
mod restarts;
#[path = "../it/dataplane/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the data plane")]
mod support;
mod table;

use std::{process::ExitCode, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};

use self::table::Row;

/// How long an attack lasts that has no end of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) length: Duration,
}

type Run = fn(Scale) -> BoxFuture<'static, Result<Row, String>>;

macro_rules! attacks {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), |scale| $module::$name(scale).boxed())),*]
    };
}

/// One after the other: two at once would attack each other's bystanders.
const ATTACKS: &[(&str, Run)] = attacks![
    nobody::nobody_attacks,
    plugins_time::picks_that_end_just_in_time,
    plugins_time::picks_of_a_millisecond,
    plugins_time::picks_that_fill_memory,
    plugins_time::picks_that_talk_at_length,
    plugins_time::builds_of_eight_services_at_once,
    restarts::a_node_takes_over,
    restarts::a_node_restarts_under_a_service_manager,
    restarts::an_instance_hangs,
    restarts::an_instance_hangs_whose_calls_may_be_repeated,
    plugins_memory::greedy_plugins,
    plugins_memory::greedy_tables,
    plugins_memory::made_up_names_with_a_greedy_policy,
    plugins_memory::compile_bombs,
    plugins_memory::ten_thousand_services,
    callers::made_up_names_one_by_one,
    callers::made_up_names_at_once,
    callers::held_calls,
    callers::deadlines_while_the_node_stands_still,
    callers::small_frames,
    callers::a_circle_of_nodes,
    control::idle_control_connections,
    control::refused_control_requests,
    registry::entries_that_loop,
    registry::entries_that_are_crowds,
    registry::endpoints_of_the_node,
];

#[derive(Debug, Default)]
struct Arguments {
    seconds: Option<f64>,
    json: bool,
    list: bool,
    /// Only attacks whose names contain one of these.
    filters: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--json" => found.json = true,
            "--list" => found.list = true,
            "--seconds" => {
                let seconds = given.next().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0.0);
                found.seconds = Some(seconds.ok_or("--seconds takes a number over 0")?);
            }
            // `cargo test` gives all its targets the same options, of which the others mean nothing
            // here.
            "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => {
                given.next().ok_or(format!("{argument} needs a value"))?;
            }
            option if option.starts_with('-') => {}
            filter => found.filters.push(filter.replace(' ', "_")),
        }
    }
    Ok(found)
}

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|first| first == restarts::INSTANCE) {
        restarts::instance().await;
    }
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("isolation: {error}");
            return ExitCode::from(2);
        }
    };
    let wanted = |name: &str| arguments.filters.is_empty() || arguments.filters.iter().any(|f| name.contains(&**f));
    let attacks = ATTACKS.iter().filter(|(name, _)| wanted(name)).collect::<Vec<_>>();
    if arguments.list {
        for (name, _) in &attacks {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let scale = Scale { length: Duration::from_secs_f64(arguments.seconds.unwrap_or(3.0)) };
    let begun = std::time::Instant::now();
    let mut rows = Vec::new();
    for (name, run) in attacks {
        // A panic of one must not hide what the others find.
        let result = tokio::spawn(run(scale)).await.unwrap_or_else(|panic| Err(panic.to_string()));
        if arguments.json {
            println!("{}", table::json(name, &result));
        } else {
            eprintln!("isolation: {name} {}", if table::faults(&result).is_empty() { "ok" } else { "FAILED" });
            for fault in table::faults(&result) {
                eprintln!("isolation: {name}: {fault}");
            }
        }
        rows.push((*name, result));
    }
    if !arguments.json {
        println!("{}", table::table(&rows));
        println!("isolation: {} in {:.0} s", rows.len(), begun.elapsed().as_secs_f32());
    }
    let failed = rows.iter().any(|(_, result)| !table::faults(result).is_empty());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
