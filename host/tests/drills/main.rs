//! Fault drills: real etcd processes are killed, stopped, cut off, wiped and put back under
//! continuous calls.
//!
//! ```text
//!   callers ──▶ node ──▶ instances          etcd: one member or three
//!                 │          │                 ▲
//!                 └──────────┴─── (relay) ─────┘      each with a registry client of its own
//! ```
//!
//! In each drill an instance joins and another leaves while the fault lasts, so that the view has
//! something to get right. One row a drill: the calls; those lost, though a live endpoint could
//! have served them; those that an instance answered which was out of the registry; how long after
//! etcd answered a plain client again the node's view was etcd's with every live instance in it;
//! how long until nobody else was in it; and how many steps the node's view took, each held against
//! what etcd had at that revision (`belief`).
//!
//! ```text
//! cargo test --test drills [-- NAME ...] [--long] [--json] [--one-by-one]
//! ```
//!
//! The etcd is the one named by `WAYMARK_TEST_ETCD`, else the `etcd` on the `PATH`;
//! `REQUIRE_ETCD=1` makes its absence a failure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test that prints what it finds")]

mod belief;
mod calls;
mod etcd;
mod history;
mod members;
mod network;
mod paused;
mod record;
#[path = "../it/relay.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod relay;
mod table;
mod world;

use std::{process::ExitCode, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use table::{Row, Scale};
use tracing_subscriber::{filter::Targets, fmt::layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// So many at once. The figures do not suffer from two, and do from more.
const AT_ONCE: usize = 2;

type Run = fn(Scale) -> BoxFuture<'static, Result<Row, String>>;

macro_rules! drills {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), |scale| $module::$name(scale).boxed())),*]
    };
}

/// The longest first, so that the others run beside them.
const DRILLS: &[(&str, Run)] = drills![
    members::all_members_are_down,
    members::a_member_is_killed_and_restarted,
    members::the_leader_of_three_is_killed,
    members::one_of_three_members_hangs,
    members::the_only_member_hangs_past_the_ttl,
    network::the_network_swallows_everything,
    network::the_network_resets_every_connection,
    network::etcd_is_slow,
    history::history_is_compacted_while_the_node_is_away,
    history::the_data_is_wiped,
    history::the_data_goes_back,
    history::leases_are_revoked_by_somebody,
    paused::a_register_process_is_stopped_past_its_ttl,
    paused::a_node_process_is_stopped_past_the_ttl,
];

#[derive(Debug, Default)]
struct Arguments {
    long: bool,
    json: bool,
    one_by_one: bool,
    list: bool,
    /// Only drills whose names contain one of these.
    filters: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--long" => found.long = true,
            "--json" => found.json = true,
            "--one-by-one" => found.one_by_one = true,
            "--list" => found.list = true,
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
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("drills: {error}");
            return ExitCode::from(2);
        }
    };
    let wanted = |name: &str| arguments.filters.is_empty() || arguments.filters.iter().any(|f| name.contains(&**f));
    let drills = DRILLS.iter().filter(|(name, _)| wanted(name)).collect::<Vec<_>>();
    if arguments.list {
        for (name, _) in &drills {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if drills.is_empty() {
        return ExitCode::SUCCESS;
    }
    if let Err(why) = etcd::program() {
        let required = std::env::var_os("REQUIRE_ETCD").is_some_and(|value| value == "1");
        eprintln!("{} all fault drills: {why}", if required { "REQUIRE_ETCD=1 is not met for" } else { "SKIPPED" });
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    logging();
    let scale = Scale { outage: Duration::from_secs(if arguments.long { 180 } else { 30 }) };
    let begun = std::time::Instant::now();
    let runs = drills.iter().map(|(name, run)| async move {
        let result = tokio::spawn(run(scale)).await;
        (*name, result.unwrap_or_else(|panic| Err(panic.to_string())))
    });
    let mut runs = futures::stream::iter(runs).buffered(if arguments.one_by_one { 1 } else { AT_ONCE });
    let mut rows = Vec::new();
    while let Some((name, result)) = runs.next().await {
        if arguments.json {
            println!(
                "{}",
                result
                    .as_ref()
                    .map_or_else(|why| serde_json::json!({"drill": name, "faults": [why]}), |row| row.json(name))
            );
        } else if let Err(why) = &result {
            eprintln!("drills: {name} FAILED: {why}");
        } else if let Ok(row) = &result {
            row.faults().iter().for_each(|fault| eprintln!("drills: {name} FAILED: {fault}"));
        }
        rows.push((name, result));
    }
    if !arguments.json {
        println!("{}", table::table(&rows));
        println!("drills: {} in {:.0} s", rows.len(), begun.elapsed().as_secs_f32());
    }
    let failed = rows.iter().any(|(_, result)| result.as_ref().map_or(true, |row| !row.faults().is_empty()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What Waymark says meanwhile, if `WAYMARK_LOG` asks for it.
fn logging() {
    if let Ok(filter) = std::env::var("WAYMARK_LOG") {
        let filter: Targets = filter.parse().expect("WAYMARK_LOG has levels and targets, as --log takes them");
        tracing_subscriber::registry().with(layer().with_writer(std::io::stderr)).with(filter).init();
    }
}
