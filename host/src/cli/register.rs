//! `waymark register`: an instance, or any process, in the registry for as long as it runs.
//!
//! ```text
//!   start COMMAND ──▶ wait until it accepts connections ──▶ register ──▶ keep registered
//!        │ exits                 │ exits                                   │ exits │ signal
//!        ▼                       ▼                                         ▼       ▼
//!      its exit code ◀──────────────────────────────────────── deregister, pass the signal on, wait
//! ```

use std::{
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{output::Failure, registry::RegistryArgs};
use crate::{
    model::{Address, Endpoint, InstanceId, Locality, ServiceName, Ttl},
    registry::{Registration, RegistrationConfig, RegistrationState},
};

/// Flags of `waymark register`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark register ayang/server1 --advertise 127.0.0.1:8080 -- ./server --port 8080
  waymark register ayang/server1 --advertise 10.0.0.5:8080 --zone a --weight 3 --meta version=2
      registers something that runs already, until it is stopped with Ctrl-C

With a COMMAND, the instance is registered once the address accepts connections. SIGTERM and SIGINT deregister it first and are
then passed on; the exit code is the command's (128 + the signal's number when a signal ended it).")]
pub(super) struct Args {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// Where clients reach the instance, host:port. A wildcard such as 0.0.0.0 is refused.
    #[arg(long, env = "WAYMARK_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Address,
    /// The instance's name within the service; its address when left out.
    #[arg(long, env = "WAYMARK_INSTANCE_ID", value_name = "ID")]
    id: Option<String>,
    /// The zone it stands in.
    #[arg(long, env = "WAYMARK_ZONE", value_name = "ZONE", default_value = "")]
    zone: String,
    /// Its share relative to the others; 0 for "send it nothing".
    #[arg(long, env = "WAYMARK_WEIGHT", value_name = "N", default_value_t = 1)]
    weight: u32,
    /// Something else to register with it; may be given several times.
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// How long the entry outlives this process at most, seconds.
    #[arg(long, env = "WAYMARK_TTL", value_name = "SECONDS", default_value_t = 10)]
    ttl: i64,
    /// Register at once, without waiting until the address accepts connections.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The process to run, with its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let config = args.registration()?;
    let (registry, scheme) = args.registry.connect().await?;
    // Refused before anything is started: what cannot be registered must not run unseen.
    let mut signals = Signals::new()?;
    let mut child = args.spawn()?;
    if let (Some(child), false) = (&mut child, args.no_wait) {
        match wait_ready(child, &args.advertise, &mut signals).await? {
            Ready::Yes => {}
            Ready::Exited(status) => return Ok(exit_code(status)),
            Ready::Signalled(signal) => return end(child, signal).await,
        }
    }
    let mut registration = match registry.register(config, scheme).await {
        Ok(registration) => registration,
        Err(error) => {
            if let Some(child) = &mut child {
                end(child, Signal::TERM).await?;
            }
            return Err(error.into());
        }
    };
    loop {
        tokio::select! {
            state = registration.changed() => say(&args, &state?),
            status = exited(child.as_mut()) => {
                deregister(registration).await;
                return Ok(exit_code(status?));
            }
            signal = signals.next() => {
                deregister(registration).await;
                return match &mut child {
                    Some(child) => end(child, signal).await,
                    None => Ok(ExitCode::SUCCESS),
                };
            }
        }
    }
}

impl Args {
    fn registration(&self) -> Result<RegistrationConfig, Failure> {
        let mut metadata = self.metadata.clone();
        metadata.sort();
        if let Some(twice) = metadata.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Failure::usage(format!("--meta {} is given twice", twice[0].0)));
        }
        let endpoint = Endpoint {
            id: InstanceId::new(self.id.as_deref().unwrap_or(self.advertise.as_str())),
            address: self.advertise.clone(),
            locality: Locality::zone(&self.zone),
            weight: self.weight,
            metadata: metadata.into(),
        };
        let ttl = Ttl::from_secs(self.ttl).map_err(|error| Failure::usage(format!("--ttl: {error}")))?;
        Ok(RegistrationConfig { ttl, ..RegistrationConfig::new(self.service.clone(), endpoint) })
    }

    fn spawn(&self) -> Result<Option<Child>, Failure> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::inherit()).kill_on_drop(true);
        let child = command.spawn();
        child.map(Some).map_err(|error| Failure::failed(format!("cannot start {program:?}: {error}")))
    }
}

fn say(args: &Args, state: &RegistrationState) {
    match state {
        RegistrationState::Registered { lease, ttl, .. } => {
            eprintln!("registered {} as {} (lease {lease}, TTL {} s)", args.advertise, args.service, ttl.as_secs());
        }
        RegistrationState::Lost { reason, .. } => {
            eprintln!("registration of {} is being restored: {reason}", args.advertise);
        }
        RegistrationState::Registering | RegistrationState::Paused | RegistrationState::Ended => {}
    }
}

enum Ready {
    Yes,
    Exited(ExitStatus),
    Signalled(Signal),
}

/// How often a command that does not listen yet is tried.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Waits until the address accepts a connection, for as long as the command runs; says so when it takes long.
async fn wait_ready(child: &mut Child, address: &Address, signals: &mut Signals) -> Result<Ready, Failure> {
    let began = Instant::now();
    let mut said = false;
    let accepts = async {
        loop {
            if timeout(Duration::from_secs(1), TcpStream::connect(address.as_str()))
                .await
                .is_ok_and(|done| done.is_ok())
            {
                return;
            }
            if !said && began.elapsed() > Duration::from_secs(5) {
                said = true;
                eprintln!("still waiting for {address} to accept connections (--no-wait registers at once)");
            }
            sleep(TRY_EVERY).await;
        }
    };
    tokio::select! {
        () = accepts => Ok(Ready::Yes),
        status = child.wait() => Ok(Ready::Exited(status.map_err(|error| lost(&error))?)),
        signal = signals.next() => Ok(Ready::Signalled(signal)),
    }
}

async fn exited(child: Option<&mut Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.wait().await.map_err(|error| lost(&error)),
        None => std::future::pending().await,
    }
}

fn lost(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot tell whether the command still runs: {error}"))
}

async fn deregister(registration: Registration) {
    match registration.deregister().await {
        Ok(()) => eprintln!("deregistered"),
        Err(error) => eprintln!("warning: not deregistered, the entry goes away when its lease ends: {error}"),
    }
}

/// Passes a signal on and waits for the command's end, as long as it takes.
async fn end(child: &mut Child, signal: Signal) -> Result<ExitCode, Failure> {
    // A Ctrl-C in a terminal has reached the command by itself, and some programs take a second one for "at once".
    let has_it = signal == Signal::INT && std::io::stdin().is_terminal();
    if let (false, Some(pid)) = (has_it, child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
        && let Err(error) = kill_process(pid, signal)
    {
        eprintln!("warning: cannot pass the signal on: {error}");
    }
    child.wait().await.map(exit_code).map_err(|error| lost(&error))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::TERM,
            _ = self.int.recv() => Signal::INT,
            _ = self.hup.recv() => Signal::HUP,
        }
    }
}
