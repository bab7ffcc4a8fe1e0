//! The command line: flags in, tables or JSON out, an exit code that means something.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

// mod demo;
mod etcd;
mod lookup;
mod node;
mod output;
mod plugin;
mod policy;
mod register;
mod registry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use self::output::Failure;

/// Service discovery and load balancing over etcd, with policies and key layouts in WebAssembly.
#[derive(Debug, Parser)]
#[command(
    name = "waymark",
    version,
    after_help = "\
Begin here:
  waymark demo                              see everything once, on this machine
  waymark node                              a gRPC proxy with an embedded registry
  waymark node --registry http://192.0.2.1:2379
  waymark register ayang/server1 --advertise 127.0.0.1:8080 -- ./server
  waymark policy set ayang/server1 weighted

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 refused (the running policy is untouched);
4 cannot reach the node or the registry. `register -- COMMAND` exits as COMMAND did."
)]
struct Cli {
    /// What to log, for example `info`, `debug`, `waymark::registry=debug`.
    #[arg(long, global = true, env = "WAYMARK_LOG", value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,
    /// Log as JSON, one object a line.
    #[arg(long, global = true, env = "WAYMARK_LOG_JSON", help_heading = "Logging")]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // / See it work: a registry, five instances, a node, and policies swapped while calls run.
    // Demo(demo::Args),
    /// Run a node: a gRPC proxy that finds endpoints in the registry and balances calls over them.
    Node(node::Args),
    /// Register an instance, or any process, for as long as it runs.
    Register(register::Args),
    /// Print the endpoints of a service, as the registry has them now.
    Resolve(lookup::ResolveArgs),
    /// Print the endpoints of a service, and every change.
    Watch(lookup::WatchArgs),
    /// Read and change the policies of a running node.
    Policy(policy::Args),
    /// Look into a plugin, or check it.
    Plugin(plugin::Args),
    /// Run the embedded registry alone: etcd's protocol, in memory, on loopback.
    Etcd(etcd::Args),
    // / One Greeter instance of the demo: serves, and registers itself.
    // #[command(hide = true)]
    // DemoServer(demo::server::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(&cli);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("waymark")
        .on_thread_start(crate::plugin::prepare_thread)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(cli.command));
    // Blocking threads that still compile something must not hold up the exit.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        // Command::Demo(args) => demo::run(args).await,
        Command::Node(args) => node::run(args).await,
        Command::Register(args) => register::run(args).await,
        Command::Resolve(args) => lookup::resolve(args).await,
        Command::Watch(args) => lookup::watch(args).await,
        Command::Policy(args) => policy::run(args).await,
        Command::Plugin(args) => plugin::run(args).await,
        Command::Etcd(args) => etcd::run(args).await,
        // Command::DemoServer(args) => demo::server::run(args).await,
    }
}

/// Logs go to standard error, so that standard output stays what a program reads. Commands that print tables log warnings only.
fn init_log(cli: &Cli) {
    let default = match cli.command {
        Command::Node(_) | Command::Register(_) | Command::Etcd(_) => "info",
        // Command::Demo(_) => "error",
        _ => "warn",
    };
    let filter = cli.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("warning: --log {filter:?} is not a filter ({error}); using {default:?}");
        EnvFilter::new(default)
    });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call in one process (tests) keeps the first.
    let _ = if cli.log_json {
        log.json().with_span_events(FmtSpan::NONE).try_init().is_ok()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        log.with_ansi(colours).try_init().is_ok()
    };
}

/// Completes when the process is asked to end: SIGTERM, SIGINT or Ctrl-C.
async fn terminated() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_flag_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
