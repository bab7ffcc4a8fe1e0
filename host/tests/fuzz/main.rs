//! Fuzzing in the gate: every target of `host/fuzz` for a while, over its seeds, with what they
//! grow into.
//!
//! ```text
//! cargo test --test fuzz [-- NAME ...] [--seconds 60] [--jobs 2] [--seed N] [--input FILE]
//! ```
//!
//! Each target runs in a process of its own, which is watched: an input that panics (on any
//! thread), takes ten seconds or makes the process take 2 GiB is a failure, kept below
//! `target/fuzz/NAME/` and named in the output; `NAME --input FILE` runs it alone. Inputs are
//! mutated seeds. An input that gets an answer which none had before (`targets::Target`) is mutated
//! further: no coverage is measured, for which this compiler would have to build everything anew.
//! `cargo fuzz` does that, from the same seeds, where there is a nightly compiler:
//!
//! ```text
//! cd host && cargo +nightly fuzz run NAME /tmp/found fuzz/corpus/NAME
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test that prints what it finds")]

mod mutate;
mod run;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate of its own for `cargo fuzz`")]
mod targets;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where seeds are: a folder a target, a file a seed.
fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    seconds: u64,
    jobs: usize,
    seed: u64,
    /// This input alone.
    input: Option<PathBuf>,
    /// This process is the one that runs the target.
    child: bool,
    list: bool,
    names: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut found = Arguments {
        seconds: 60,
        jobs: 2,
        seed: now.as_nanos() as u64,
        input: None,
        child: false,
        list: false,
        names: Vec::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        let mut number = || value()?.parse::<u64>().map_err(|error| format!("{argument}: {error}"));
        match argument.as_str() {
            "--seconds" => found.seconds = number()?,
            "--jobs" => found.jobs = number()?.max(1) as usize,
            "--seed" => found.seed = number()?,
            "--input" => found.input = Some(value()?.into()),
            "--child" => found.child = true,
            "--list" => found.list = true,
            // `cargo test` gives all its targets the same options, of which the others mean nothing
            // here.
            "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => drop(value()?),
            option if option.starts_with('-') => {}
            name => found.names.push(name.to_owned()),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("fuzz: {error}");
            return ExitCode::from(2);
        }
    };
    if arguments.child && arguments.names == [run::PLANTED.0] {
        return run::here(run::PLANTED, &arguments);
    }
    let wanted = |name: &&'static str| arguments.names.is_empty() || arguments.names.iter().any(|it| it == name);
    let names: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).filter(wanted).collect();
    if arguments.list {
        for name in &names {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.names.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!("fuzz: there is no target {unknown}");
        return ExitCode::from(2);
    }
    if arguments.child || arguments.input.is_some() {
        let Some(target) = targets::TARGETS.iter().find(|(name, _)| arguments.names.iter().any(|it| it == name)) else {
            eprintln!("fuzz: --input is for a target: NAME --input FILE");
            return ExitCode::from(2);
        };
        return run::here(*target, &arguments);
    }
    run::all(&names, &arguments)
}
