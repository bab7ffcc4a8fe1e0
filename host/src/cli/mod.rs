//! The command line: flags in, tables or JSON out, an exit code that means something.

mod command;
mod config;
mod demo;
mod etcd;
mod log;
mod lookup;
mod node;
mod node_args;
mod output;
mod plugin;
mod policy;
mod register;
mod registry;
mod settings;
mod signals;

use std::{io, num::NonZeroUsize, process::ExitCode, thread};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use futures::{FutureExt as _, future::LocalBoxFuture};
use tokio::runtime::{self, Runtime};

use self::output::CommandError;
use crate::{app::Inherited, plugin::CompileLimits};

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
    /// What to log, for example `info`, `debug`, `waymark_registry=debug`.
    #[arg(long, global = true, env = "WAYMARK_LOG", value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,
    /// Log as JSON, one object a line.
    #[arg(long, global = true, env = "WAYMARK_LOG_JSON", help_heading = "Logging")]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as the process starts")]
enum Command {
    /// See it work: a registry, five instances, a node, and policies swapped while calls run.
    Demo(demo::Args),
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
    /// Print and check settings: what there is, what a file says, what holds.
    Config(config::Args),
    /// Run the embedded registry alone: etcd's protocol, in memory, on loopback.
    Etcd(etcd::Args),
    /// One Greeter instance of the demo: serves, and registers itself.
    #[command(hide = true)]
    DemoServer(demo::server::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Before there is a log or a runtime: neither needs them.
    match std::env::args_os().nth(1) {
        Some(command) if command == crate::plugin::COMPILE_COMMAND => {
            // What is not a text is no argument of ours.
            let arguments = std::env::args_os().skip(2).filter_map(|argument| argument.into_string().ok());
            return crate::plugin::compile_for_parent(arguments);
        }
        Some(command) if command == command::BECOME => return command::become_it(std::env::args_os().skip(2)),
        _ => {}
    }
    let (cli, matches) = parse();
    let default = match cli.command {
        Command::Node(_) | Command::Register(_) | Command::Etcd(_) => "info",
        Command::Demo(_) => "error",
        _ => "warn",
    };
    log::init(cli.log.as_deref(), default, cli.log_json);
    // Before there is a second thread: it changes the environment.
    let inherited = match &cli.command {
        Command::Node(_) => Inherited::from_env(),
        _ => Ok(Inherited::default()),
    };
    let inherited = match inherited {
        Ok(inherited) => inherited,
        Err(error) => {
            output::say(format_args!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let job = match job(cli.command, inherited, &matches) {
        Ok(job) => job,
        Err(failure) => return failed(&failure),
    };
    let runtime = match runtime(job.workers) {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(format_args!("error: cannot start the async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(job.work);
    // Blocking threads that still compile something must not hold up the exit.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &CommandError) -> ExitCode {
    output::say(format_args!("error: {failure}"));
    failure.exit_code()
}

/// What a command does, and on how many threads.
struct Job<'a> {
    /// None: whatever the machine has.
    workers: Option<NonZeroUsize>,
    work: LocalBoxFuture<'a, Result<ExitCode, CommandError>>,
}

/// A runtime for a job. One worker is a thread that waits for nobody: on a runtime for several,
/// even if it has one, tasks and their wakes go through queues that others could take from.
fn runtime(workers: Option<NonZeroUsize>) -> io::Result<Runtime> {
    let mut builder = match workers.map(NonZeroUsize::get) {
        Some(1) => {
            crate::plugin::prepare_thread();
            runtime::Builder::new_current_thread()
        }
        Some(workers) => {
            let mut builder = runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
        None => runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().thread_name("waymark").on_thread_start(crate::plugin::prepare_thread).build()
}

/// What was given. Where it makes no sense the process ends, and says why.
fn parse() -> (Cli, ArgMatches) {
    let empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let mut command = without_variables(Cli::command(), &empty);
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    (cli, matches)
}

/// The command without these variables: one that is set to nothing counts as not set, as where
/// files and service managers list them all.
fn without_variables(command: clap::Command, which: &impl Fn(&std::ffi::OsStr) -> bool) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_env() {
        // There is no variable without a name.
        Some(name) if which(name) => argument.env("").hide_env(true),
        _ => argument,
    });
    command.mut_subcommands(|command| without_variables(command, which))
}

/// This program, for compiling plugins in a process of its own. The link goes to what runs, also
/// when the file was replaced meanwhile.
fn compiling() -> CompileLimits {
    let link = std::path::Path::new("/proc/self/exe");
    let program = if link.exists() { Some(link.to_owned()) } else { std::env::current_exe().ok() };
    CompileLimits { program, ..CompileLimits::default() }
}

/// What the command does, with the settings of a node read already: they say what it runs on.
fn job(command: Command, inherited: Inherited, matches: &ArgMatches) -> Result<Job<'_>, CommandError> {
    let work = match command {
        Command::Node(args) => {
            let config = args.into_config()?;
            let workers = config.workers.or_else(|| thread::available_parallelism().ok());
            return Ok(Job { workers, work: node::run(config, inherited).boxed_local() });
        }
        Command::Demo(args) => demo::run(args).boxed_local(),
        Command::Register(args) => register::run(args).boxed_local(),
        Command::Resolve(args) => lookup::resolve(args).boxed_local(),
        Command::Watch(args) => lookup::watch(args).boxed_local(),
        Command::Policy(args) => policy::run(args).boxed_local(),
        Command::Plugin(args) => plugin::run(args).boxed_local(),
        Command::Config(args) => async move {
            let matches = matches.subcommand_matches("config").expect("it was given");
            config::run(args, matches)
        }
        .boxed_local(),
        Command::Etcd(args) => etcd::run(args).boxed_local(),
        Command::DemoServer(args) => demo::server::run(args).boxed_local(),
    };
    Ok(Job { workers: None, work })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::num::NonZeroUsize;

    use clap::CommandFactory as _;
    use tokio::runtime::RuntimeFlavor;

    #[test]
    fn one_worker_is_one_thread_and_more_are_as_many() {
        let on = |workers| super::runtime(NonZeroUsize::new(workers)).unwrap();
        assert_eq!(on(1).handle().runtime_flavor(), RuntimeFlavor::CurrentThread);
        assert_eq!(on(3).metrics().num_workers(), 3);
        assert_eq!(super::runtime(None).unwrap().handle().runtime_flavor(), RuntimeFlavor::MultiThread);
    }

    #[test]
    fn every_flag_is_well_formed() {
        super::Cli::command().debug_assert();
        let bare = super::without_variables(super::Cli::command(), &|_| true);
        for command in bare.get_subcommands() {
            let set = command.get_arguments().filter_map(clap::Arg::get_env).find(|name| !name.is_empty());
            assert_eq!(set, None, "{}", command.get_name());
        }
        bare.debug_assert();
    }
}
