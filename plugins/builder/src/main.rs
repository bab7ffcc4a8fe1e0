//! Builds the bundled plugins from source, and checks that what is committed is what the source
//! gives.
//!
//! ```text
//!   wit/0.1.1 ──bindings──▶ plugins/sdk/src/generated        (committed)
//!                                     │
//!   plugins/policies, key-schemes ──build──▶ plugins/dist    (committed, with SHA256SUMS)
//!   plugins/test-guests ────────────build──▶ plugins/dist/test
//! ```
//!
//! This is a tool of those who change a bundled plugin; the node neither needs it nor links it. It
//! leaves to cargo and to `wit-component` everything they can do: its own work is to call them so
//! that the bytes depend on nothing but the source and the standard library.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod bindings;
mod dist;
mod guests;
mod toolchain;
mod workspace;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// What is committed differs from what the source gives.
const DIFFERS: u8 = 1;
/// There is no standard library for the guests' target, so nothing could be built.
const NO_TARGET: u8 = 3;
/// Something differs, and so does the standard library: the comparison proves nothing.
const OTHER_TOOLCHAIN: u8 = 4;

/// Build the bundled plugins, or check what is committed of them.
#[derive(Parser)]
#[command(after_help = "Exit codes: 0 done or equal; 1 failed or different; 2 wrong usage; 3 the target \
    wasm32-unknown-unknown is not installed; 4 different, but built with another standard library")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build every component into plugins/dist.
    Build,
    /// Build every component into a temporary folder and compare it with plugins/dist, byte by
    /// byte.
    Check,
    /// Make a component of a module that cargo built for wasm32-unknown-unknown: the last step of a
    /// plugin that lives outside of this repository.
    Component {
        /// The module, which cargo writes to target/wasm32-unknown-unknown/release.
        module: PathBuf,
        /// Where the component goes.
        component: PathBuf,
    },
    /// Generate the SDK's bindings from the WIT.
    Bindings {
        /// Write nothing; fail when what is committed differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(DIFFERS)
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Component { module, component } => wrap(module, component),
        Command::Bindings { check: false } => {
            bindings::write(&Workspace::find()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bindings { check: true } => {
            let stale = bindings::stale(&Workspace::find()?)?;
            for path in &stale {
                eprintln!("{} is not what wit/ gives; run `bindings`", path.display());
            }
            Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
        }
        Command::Build => build(&Workspace::find()?),
        Command::Check => check(&Workspace::find()?),
    }
}

fn wrap(module: &Path, component: &Path) -> Result<ExitCode> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let bytes =
        guests::encode(bytes, None).with_context(|| format!("cannot make a component of {}", module.display()))?;
    fs::write(component, &bytes).with_context(|| format!("cannot write {}", component.display()))?;
    println!("wrote {}, {} bytes", component.display(), bytes.len());
    Ok(ExitCode::SUCCESS)
}

fn build(workspace: &Workspace) -> Result<ExitCode> {
    if !target_is_there()? {
        return Ok(ExitCode::from(NO_TARGET));
    }
    let components = guests::build(workspace)?;
    let toolchain = toolchain::describe()?;
    dist::write(&workspace.dist(), &components, &toolchain)?;
    print!("{}", dist::table(&components));
    Ok(ExitCode::SUCCESS)
}

fn check(workspace: &Workspace) -> Result<ExitCode> {
    if !target_is_there()? {
        return Ok(ExitCode::from(NO_TARGET));
    }
    let components = guests::build(workspace)?;
    let rebuilt = tempfile::tempdir()?;
    let toolchain = toolchain::describe()?;
    dist::write(rebuilt.path(), &components, &toolchain)?;
    let differences = dist::compare(&workspace.dist(), rebuilt.path())?;
    if differences.is_empty() {
        println!("plugins/dist is what the source gives: {} components, the same bytes", components.len());
        return Ok(ExitCode::SUCCESS);
    }
    for difference in &differences {
        eprintln!("plugins/dist/{difference}");
    }
    let committed = dist::toolchain(&workspace.dist())?;
    if committed != toolchain {
        eprintln!("The standard library differs too, so this proves nothing. Committed: {committed}here: {toolchain}");
        return Ok(ExitCode::from(OTHER_TOOLCHAIN));
    }
    eprintln!("Run `cargo run --bin waymark-plugins-builder -- build` and commit the result.");
    Ok(ExitCode::from(DIFFERS))
}

/// Whether guests can be built here; says so loudly where they cannot, because a check that is
/// skipped in silence looks like one that passed.
fn target_is_there() -> Result<bool> {
    let there = toolchain::target_is_there()?;
    if !there {
        eprintln!("NOT DONE: this rustc has no standard library for {}.", toolchain::TARGET);
        eprintln!("Install it with `rustup target add {}` and run this again.", toolchain::TARGET);
    }
    Ok(there)
}
