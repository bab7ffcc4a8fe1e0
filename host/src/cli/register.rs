//! `waymark register`: an instance, or any process, in the registry for as long as it runs.
//!
//! ```text
//!   start COMMAND ──▶ register while its check passes ──┐ HUP, USR1, USR2: passed on
//!                        │ exits      │ TERM, INT, QUIT  └─▶ (stay)
//!                        ▼            ▼
//!      its exit code ◀── deregister, pass the signal on (and those that follow), wait
//! ```

use std::{
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    pin::pin,
    process::{ExitCode, ExitStatus, Stdio},
    task::Poll,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::{output::Failure, registry::RegistryArgs};
use crate::{
    health::{Check, CheckConfig},
    model::{Address, Endpoint, InstanceId, Locality, ModelError, ServiceName, Ttl},
    registry::{Registration, RegistrationConfig, RegistrationState, Registry},
};

/// Flags of `waymark register`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark register ayang/server1 --advertise 127.0.0.1:8080 -- ./server --port 8080
  waymark register ayang/server1 --advertise 10.0.0.5:8080 --zone a --weight 3 --meta version=2
      registers something that runs already, until it is stopped with Ctrl-C

  waymark register ayang/server1 --advertise :8080 --check grpc -- ./server
      registers this machine's address while the server says that it is serving

The instance is registered while its check passes, and taken out when it fails. With a COMMAND that is, unless said otherwise, whether
the address accepts connections; without one nothing is checked.

SIGTERM, SIGINT and SIGQUIT deregister the instance first and are then passed on; other signals are passed on alone. The exit code is
the command's (128 + the signal's number when a signal ended it).")]
pub(super) struct Args {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// Where clients reach the instance. Without a host, or with a wildcard such as 0.0.0.0, it is the address by which this machine
    /// reaches the registry.
    #[arg(long, env = "WAYMARK_ADVERTISE", value_name = "[HOST]:PORT", value_parser = advertise)]
    advertise: Advertise,
    /// The host to advertise instead, such as a pod's IP address.
    #[arg(long, env = "WAYMARK_ADVERTISE_HOST", value_name = "HOST")]
    advertise_host: Option<String>,
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
    /// How to tell whether it is fit to serve: tcp, http:/PATH, grpc, grpc:SERVICE or none [default: tcp with a COMMAND, else none].
    #[arg(long, env = "WAYMARK_CHECK", value_name = "CHECK")]
    check: Option<String>,
    /// Where to check it [default: the advertised address].
    #[arg(long, env = "WAYMARK_CHECK_ADDRESS", value_name = "HOST:PORT")]
    check_address: Option<Address>,
    /// The pause between two checks, seconds.
    #[arg(long, env = "WAYMARK_CHECK_INTERVAL", value_name = "SECONDS", default_value_t = 2.0)]
    check_interval: f64,
    /// How long a check may take, seconds.
    #[arg(long, env = "WAYMARK_CHECK_TIMEOUT", value_name = "SECONDS", default_value_t = 1.0)]
    check_timeout: f64,
    /// So many checks passed in a row make it fit.
    #[arg(long, env = "WAYMARK_CHECK_RISE", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    check_rise: u32,
    /// So many checks failed in a row make it unfit.
    #[arg(long, env = "WAYMARK_CHECK_FALL", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    check_fall: u32,
    /// Register at once and whatever happens: the same as --check none.
    #[arg(long, conflicts_with = "check")]
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

/// A host, unless this machine's is meant, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Advertise {
    host: Option<String>,
    port: u16,
}

fn advertise(text: &str) -> Result<Advertise, String> {
    if let Some(port) = text.strip_prefix(':') {
        // Any host will do to see whether the port is one.
        let address: Address =
            format!("localhost:{port}").parse().map_err(|_| format!("{text:?} has no port from 1 to 65535"))?;
        return Ok(Advertise { host: None, port: address.port() });
    }
    let address: Address = text.parse().map_err(|error: ModelError| error.to_string())?;
    let host = (!address.is_unspecified()).then(|| address.host().to_owned());
    Ok(Advertise { host, port: address.port() })
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let (registry, scheme) = args.registry.connect().await?;
    let config = args.registration(&registry)?;
    let about = config.clone();
    // Refused before anything is started: what cannot be registered must not run unseen.
    let mut signals = Signals::new()?;
    let mut child = args.spawn()?;
    let mut registration = match registry.register(config, scheme).await {
        Ok(registration) => registration,
        Err(error) => {
            if let Some(child) = &mut child {
                end(child, Signal::TERM, &mut signals).await?;
            }
            return Err(error.into());
        }
    };
    let mut ended = false;
    let patience = sleep(PATIENCE);
    let mut patience = pin!(patience);
    let mut said_why = false;
    loop {
        tokio::select! {
            state = registration.changed(), if !ended => match state {
                Ok(state) => {
                    // Not fit yet is no news while it starts.
                    let starting = matches!(state, RegistrationState::Unfit { .. }) && !patience.is_elapsed() && !said_why;
                    said_why |= matches!(state, RegistrationState::Registered { .. });
                    if !starting {
                        say(&about, &state);
                    }
                }
                // The command is not to blame: it goes on, and is seen by nobody.
                Err(error) => {
                    ended = true;
                    eprintln!("warning: {error}");
                }
            },
            () = &mut patience, if !said_why => {
                said_why = true;
                say(&about, &registration.state());
            }
            status = exited(child.as_mut()) => {
                deregister(registration).await;
                return Ok(exit_code(status?));
            }
            signal = signals.next() => match &mut child {
                Some(child) if !ends(signal) => pass_on(child, signal),
                child => {
                    deregister(registration).await;
                    return match child {
                        Some(child) => end(child, signal, &mut signals).await,
                        None => Ok(ExitCode::SUCCESS),
                    };
                }
            }
        }
    }
}

/// How long an instance may take to be fit before it is said that it is not.
const PATIENCE: Duration = Duration::from_secs(5);

impl Args {
    fn registration(&self, registry: &Registry) -> Result<RegistrationConfig, Failure> {
        let mut metadata = self.metadata.clone();
        metadata.sort();
        if let Some(twice) = metadata.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Failure::usage(format!("--meta {} is given twice", twice[0].0)));
        }
        let address = self.address(registry)?;
        let endpoint = Endpoint {
            id: self.id.as_deref().map_or_else(|| InstanceId::of(&address), InstanceId::new),
            address,
            locality: Locality::zone(&self.zone),
            weight: self.weight,
            metadata: metadata.into(),
        };
        let ttl = Ttl::from_secs(self.ttl).map_err(|error| Failure::usage(format!("--ttl: {error}")))?;
        let check = self.check()?;
        Ok(RegistrationConfig { ttl, check, ..RegistrationConfig::new(self.service.clone(), endpoint) })
    }

    /// What is advertised: as it was given, or this machine's address.
    fn address(&self, registry: &Registry) -> Result<Address, Failure> {
        let port = self.advertise.port;
        let given = self.advertise_host.clone().or_else(|| self.advertise.host.clone());
        let host = if let Some(host) = given {
            host
        } else {
            let found = registry.routable_host().map_err(|error| {
                let hint = "name it with --advertise-host";
                Failure::usage(format!("cannot tell by which address others reach this machine ({error}); {hint}"))
            })?;
            let only_here = if found.is_loopback() { ", which only this machine can reach" } else { "" };
            eprintln!("advertising {found}, the address by which this machine reaches the registry{only_here}");
            found.to_string()
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let text = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        text.parse().map_err(|error| Failure::usage(format!("--advertise-host: {error}")))
    }

    fn check(&self) -> Result<Option<CheckConfig>, Failure> {
        let check = match self.check.as_deref() {
            Some("none") => return Ok(None),
            Some(check) => check.parse().map_err(|error| Failure::usage(format!("--check: {error}, none")))?,
            None if self.no_wait || self.command.is_empty() => return Ok(None),
            None => Check::Tcp,
        };
        let seconds = |flag: &str, seconds: f64| match Duration::try_from_secs_f64(seconds) {
            Ok(time) if (Duration::from_millis(10)..=Duration::from_hours(1)).contains(&time) => Ok(time),
            _ => Err(Failure::usage(format!("{flag}: {seconds} s is not within 0.01 s to an hour"))),
        };
        Ok(Some(CheckConfig {
            address: self.check_address.clone(),
            interval: seconds("--check-interval", self.check_interval)?,
            timeout: seconds("--check-timeout", self.check_timeout)?,
            rise: self.check_rise,
            fall: self.check_fall,
            ..CheckConfig::new(check)
        }))
    }

    fn spawn(&self) -> Result<Option<Child>, Failure> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::inherit()).kill_on_drop(true);
        let child = command.spawn();
        child.map(Some).map_err(|error| Failure::failed(format!("cannot start {program:?}: {error}")))
    }
}

fn say(about: &RegistrationConfig, state: &RegistrationState) {
    let (address, service) = (&about.endpoint.address, &about.service);
    match state {
        RegistrationState::Registered { lease, ttl, .. } => {
            eprintln!("registered {address} as {service} (lease {lease}, TTL {} s)", ttl.as_secs());
        }
        RegistrationState::Lost { reason, .. } => eprintln!("registration of {address} is being restored: {reason}"),
        RegistrationState::Unfit { reason } => {
            eprintln!(
                "{address} is not registered while it is not fit to serve (--check none registers it all the same): {reason}"
            );
        }
        RegistrationState::Registering | RegistrationState::Paused | RegistrationState::Ended => {}
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

/// Passes a signal on.
fn pass_on(child: &Child, signal: Signal) {
    // A Ctrl-C in a terminal has reached the command by itself, and some programs take a second one for "at once".
    let has_it = matches!(signal, Signal::INT | Signal::QUIT) && std::io::stdin().is_terminal();
    if let (false, Some(pid)) = (has_it, child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
        && let Err(error) = kill_process(pid, signal)
    {
        eprintln!("warning: cannot pass the signal on: {error}");
    }
}

/// Passes a signal on, and any that follow, and waits for the command's end, as long as it takes.
async fn end(child: &mut Child, signal: Signal, signals: &mut Signals) -> Result<ExitCode, Failure> {
    pass_on(child, signal);
    loop {
        tokio::select! {
            status = child.wait() => return status.map(exit_code).map_err(|error| lost(&error)),
            signal = signals.next() => pass_on(child, signal),
        }
    }
}

/// Whether this signal asks for an end. The others mean something to the command alone.
fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The signals that are passed on.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

struct Signals(Vec<(tokio::signal::unix::Signal, Signal)>);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = PASSED_ON.map(|(kind, number)| signal(kind).map(|signal| (signal, number)));
        let listening: Result<Vec<_>, _> = listen.into_iter().collect();
        listening.map(Self).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, number) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_host_may_be_left_out() {
        let given = |host: Option<&str>| Advertise { host: host.map(Into::into), port: 8080 };
        assert_eq!(advertise("192.0.2.1:8080").unwrap(), given(Some("192.0.2.1")));
        assert_eq!(advertise("server.example:8080").unwrap(), given(Some("server.example")));
        for wildcard in [":8080", "0.0.0.0:8080", "[::]:8080"] {
            assert_eq!(advertise(wildcard).unwrap(), given(None), "{wildcard}");
        }
        for wrong in ["", ":", ":0", ":http", "8080", "192.0.2.1"] {
            assert!(advertise(wrong).is_err(), "{wrong}");
        }
    }
}
