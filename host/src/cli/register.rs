//! `waymark register`: an instance, or any process, in the registry for as long as it runs.
//!
//! ```text
//!   start COMMAND ──▶ register while its check passes ──┐ HUP, USR1, USR2, ALRM: passed on
//!      │                 │ exits      │ TERM, INT, QUIT  └─▶ (stay)
//!      │ etcd is down:   ▼            ▼
//!      │ later         deregister, pass the signal on (and those that follow), wait
//!      └─▶ (stay)        ▼
//!                  its exit code
//! ```

use std::{
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    pin::{Pin, pin},
    process::{ExitCode, ExitStatus},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, time::sleep};

use super::{
    command,
    output::{self, CommandError, ExitKind},
    registry::RegistryArgs,
    settings::{Followed, Settings},
    signals::{Signals, Wish},
};
use crate::{
    health::{Check, CheckConfig},
    model::{Address, Endpoint, InstanceId, Locality, ModelError, ServiceName, Ttl},
    naming::KeyScheme,
    registry::{Registration, RegistrationConfig, RegistrationState, Registry, RegistryError},
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

It runs whether or not the registry does: COMMAND is started while the registry is down, and registered when it is there. It ends before
COMMAND is started if the registry answers and refuses it.

Its weight is changed, and it is drained, by the file of --settings, or by whoever writes its entry in the registry: what says the same
address otherwise counts from then on. An entry that was deleted, or says something else, is put back.

SIGTERM, SIGINT and SIGQUIT deregister the instance first and are then passed on; other signals are passed on alone, and mean nothing
without a COMMAND. The exit code is the command's (128 + the signal's number when a signal ended it). Should this program itself be killed,
COMMAND gets SIGTERM.")]
pub(super) struct Args {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// Where clients reach the instance. Without a host, or with a wildcard such as 0.0.0.0, it is
    /// the address by which this machine reaches the registry. A Unix socket (unix:/PATH) is for
    /// clients of the same machine.
    #[arg(long, env = "WAYMARK_ADVERTISE", value_name = "[HOST]:PORT|unix:/PATH", value_parser = advertise)]
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
    /// 1 to 31622400; etcd raises what is under its own minimum, 2 s by default.
    #[arg(long, env = "WAYMARK_TTL", value_name = "SECONDS", default_value_t = 10, allow_negative_numbers = true)]
    ttl: i64,
    /// How to tell whether it is fit to serve: tcp, http:/PATH, grpc, grpc:SERVICE or none
    /// [default: tcp with a COMMAND, else none].
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
    /// A file that is followed while this runs: `weight = 3` registers it with that weight,
    /// `drain = true` takes it out of the registry while COMMAND goes on, and what it leaves out is
    /// as the flags say. It need not be there yet.
    #[arg(long, env = "WAYMARK_REGISTER_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,
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

/// What was given of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Advertise {
    /// All of it.
    Whole(Address),
    /// The port; the host is this machine's.
    Port(u16),
}

fn advertise(text: &str) -> Result<Advertise, String> {
    if let Some(port) = text.strip_prefix(':') {
        // Any host will do to see whether the port is one.
        let address: Address =
            format!("localhost:{port}").parse().map_err(|_| format!("{text:?} has no port from 1 to 65535"))?;
        return Ok(Advertise::Port(address.port()));
    }
    let address: Address = text.parse().map_err(|error: ModelError| error.to_string())?;
    Ok(if address.is_unspecified() { Advertise::Port(address.port()) } else { Advertise::Whole(address) })
}

/// How long the registry has to answer before COMMAND is started without it.
const FIRST_CONTACT: Duration = Duration::from_secs(1);

/// The pause before the next try to find out what to advertise, or to register anew.
const AGAIN: Duration = Duration::from_secs(1);

/// How often a registration is begun that fails, but not for good.
const TRIES: u32 = 5;

/// How long an instance may take to be fit before it is said that it is not.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    // First of all, so that no signal ends it half-way.
    let mut signals = Signals::new()?;
    let claim = args.claim()?;
    let mut followed = Followed::new(args.settings.as_deref())?;
    let mut now = *followed.settings.borrow_and_update();
    let work = tokio::select! {
        work = prepare(claim, &args.registry) => Arc::new(work?),
        heard = signals.end() => return Ok(ExitCode::from(heard.exit_code())),
    };
    let mut child = args.command.split_first().map(|(program, rest)| command::start(program, rest)).transpose()?;
    let mut beginning: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(begin(Arc::clone(&work), Duration::ZERO));
    if now.drain {
        output::say("not registered: it is drained, as its settings say");
    }
    let mut registration: Option<Registration> = None;
    let mut tale = Tale::default();
    let mut patience = pin!(sleep(PATIENCE));
    loop {
        tokio::select! {
            begun = &mut beginning, if registration.is_none() && !now.drain => match begun {
                Ok(begun) => {
                    begun.set_weight(now.weight.unwrap_or(work.claim.weight));
                    registration = Some(begun);
                }
                Err(error) => return Err(give_up(error, child.as_mut(), &mut signals).await),
            },
            state = changed(registration.as_mut()) => match state {
                Ok(RegistrationState::Refused { reason, again: false }) if !tale.registered => {
                    let refused = CommandError::new(ExitKind::Refused, format!("cannot register {}: {reason}", work.claim.subject()));
                    return Err(give_up(refused, child.as_mut(), &mut signals).await);
                }
                Ok(state) => tale.tell(&work.claim, &state, patience.is_elapsed()),
                Err(_) => {
                    output::say("warning: the registration has ended by itself; registering again");
                    registration = None;
                    beginning = Box::pin(begin(Arc::clone(&work), AGAIN));
                }
            },
            // Without a file there is nothing to wait for.
            Ok(()) = followed.settings.changed() => {
                let former = std::mem::replace(&mut now, *followed.settings.borrow_and_update());
                if let Some(registration) = &registration {
                    apply(former, now, &work.claim, registration).await;
                }
            }
            () = &mut patience, if !tale.said && !now.drain => {
                tale.tell(&work.claim, &registration.as_ref().map_or(RegistrationState::Registering, Registration::state), true);
                tale.said = true;
            }
            status = exited(child.as_mut()) => {
                deregister(registration).await;
                return Ok(exit_code(status?));
            }
            heard = signals.next() => match (&mut child, heard.wish) {
                (Some(child), Wish::Reopen | Wish::Nothing) => pass_on(child, heard.signal),
                (None, Wish::Reopen | Wish::Nothing) => heard.ignored(),
                (child, Wish::End) => {
                    deregister(registration).await;
                    return match child {
                        Some(child) => end(child, heard.signal, &mut signals).await,
                        None => Ok(ExitCode::SUCCESS),
                    };
                }
            }
        }
    }
}

/// Has a registration follow its settings.
async fn apply(former: Settings, now: Settings, claim: &Claim, registration: &Registration) {
    let weight = now.weight.unwrap_or(claim.weight);
    if former.weight.unwrap_or(claim.weight) != weight {
        registration.set_weight(weight);
        output::say(format_args!("the weight of {} is {weight} from now on", claim.subject()));
    }
    if now.drain && !former.drain {
        match registration.pause().await {
            Ok(()) => {
                output::say(format_args!("{} is drained: it is out of the registry, and goes on", claim.subject()));
            }
            Err(error) => output::say(format_args!(
                "warning: {} is not out of the registry before its lease ends: {error}",
                claim.subject()
            )),
        }
    } else if former.drain && !now.drain {
        registration.resume();
    }
}

/// What is to be registered, as it was given.
struct Claim {
    service: ServiceName,
    advertise: Advertise,
    id: Option<String>,
    zone: String,
    weight: u32,
    metadata: Arc<[(String, String)]>,
    ttl: Ttl,
    check: Option<CheckConfig>,
}

impl Claim {
    /// What to register, once the address is known.
    fn at(&self, address: Address) -> RegistrationConfig {
        let endpoint = Endpoint {
            id: self.id.as_deref().map_or_else(|| InstanceId::of(&address), InstanceId::new),
            address,
            locality: Locality::zone(&self.zone),
            weight: self.weight,
            metadata: Arc::clone(&self.metadata),
        };
        let (ttl, check) = (self.ttl, self.check.clone());
        RegistrationConfig { ttl, check, ..RegistrationConfig::new(self.service.clone(), endpoint) }
    }

    /// As people know it.
    fn subject(&self) -> String {
        match &self.advertise {
            Advertise::Whole(address) => address.to_string(),
            Advertise::Port(port) => format!("port {port}"),
        }
    }
}

/// All that registering takes.
struct Work {
    claim: Claim,
    registry: Registry,
    scheme: Arc<dyn KeyScheme>,
}

/// Finds out whether it can be registered, as far as that can be known before anything is started.
async fn prepare(claim: Claim, registry: &RegistryArgs) -> Result<Work, CommandError> {
    let (registry, scheme) = registry.open().await?;
    if registry.first_contact(FIRST_CONTACT).await?.is_some()
        && let Advertise::Port(_) = claim.advertise
    {
        here(&registry).await?;
    }
    Ok(Work { claim, registry, scheme })
}

/// The address by which others reach this machine.
async fn here(registry: &Registry) -> Result<std::net::IpAddr, CommandError> {
    let asked = registry.clone();
    let found = tokio::task::spawn_blocking(move || asked.routable_host()).await;
    let found = found.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
    found.map_err(|error| {
        let hint = "name it with --advertise-host";
        CommandError::usage(format!("cannot tell by which address others reach this machine ({error}); {hint}"))
    })
}

/// Registers after this time, once it can be told at which address.
async fn begin(work: Arc<Work>, after: Duration) -> Result<Registration, CommandError> {
    sleep(after).await;
    let address = match &work.claim.advertise {
        Advertise::Whole(address) => address.clone(),
        Advertise::Port(port) => {
            let mut said = false;
            let host = loop {
                match here(&work.registry).await {
                    Ok(host) => break host,
                    // The network, or whoever knows the registry's name, is not up yet.
                    Err(error) if !said => {
                        said = true;
                        output::say(format_args!("not registered yet: {error}"));
                    }
                    Err(_) => {}
                }
                sleep(AGAIN).await;
            };
            let only_here = if host.is_loopback() { ", which only this machine can reach" } else { "" };
            output::say(format_args!(
                "advertising {host}, the address by which this machine reaches the registry{only_here}"
            ));
            std::net::SocketAddr::new(host, *port).to_string().parse()?
        }
    };
    let config = work.claim.at(address);
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match work.registry.register(config.clone(), Arc::clone(&work.scheme)).await {
            Ok(registration) => return Ok(registration),
            // A key scheme that had no processor for a moment is no reason to end what serves.
            Err(error) if !error.is_for_good() && tries > 0 => {
                tracing::warn!(%error, "not registered yet; trying again");
                sleep(AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Args {
    /// Checks what was given, before anything is begun.
    fn claim(&self) -> Result<Claim, CommandError> {
        let mut metadata = self.metadata.clone();
        metadata.sort();
        if let Some(twice) = metadata.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(CommandError::usage(format!("--meta {} is given twice", twice[0].0)));
        }
        Ok(Claim {
            service: self.service.clone(),
            advertise: self.advertise()?,
            id: self.id.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            metadata: metadata.into(),
            ttl: Ttl::from_secs(self.ttl).map_err(|error| CommandError::usage(format!("--ttl: {error}")))?,
            check: self.check()?,
        })
    }

    /// The address as far as it was given.
    fn advertise(&self) -> Result<Advertise, CommandError> {
        let (given, port) = (self.advertise.clone(), |advertise: &Advertise| match advertise {
            Advertise::Whole(address) => address.port(),
            Advertise::Port(port) => *port,
        });
        let Some(host) = &self.advertise_host else { return Ok(given) };
        if matches!(&given, Advertise::Whole(address) if address.unix_path().is_some()) {
            return Err(CommandError::usage("--advertise-host: a Unix socket has no host"));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = port(&given);
        let text = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        let address: Address =
            text.parse().map_err(|error| CommandError::usage(format!("--advertise-host: {error}")))?;
        Ok(Advertise::Whole(address))
    }

    fn check(&self) -> Result<Option<CheckConfig>, CommandError> {
        let check = match self.check.as_deref() {
            Some("none") => return Ok(None),
            Some(check) => check.parse().map_err(|error| CommandError::usage(format!("--check: {error}, none")))?,
            None if self.no_wait || self.command.is_empty() => return Ok(None),
            None => Check::Tcp,
        };
        let seconds = |flag: &str, seconds: f64| match Duration::try_from_secs_f64(seconds) {
            Ok(time) if (Duration::from_millis(10)..=Duration::from_hours(1)).contains(&time) => Ok(time),
            _ => Err(CommandError::usage(format!("{flag}: {seconds} s is not within 0.01 s to an hour"))),
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
}

/// What was told of the registration so far.
#[derive(Default)]
struct Tale {
    /// Whether anything was said of how it stands.
    said: bool,
    /// Whether others have seen the instance.
    registered: bool,
}

impl Tale {
    /// Says how it stands. `over`: whether the time is over that it has to start.
    fn tell(&mut self, claim: &Claim, state: &RegistrationState, over: bool) {
        let (subject, service) = (claim.subject(), &claim.service);
        match state {
            RegistrationState::Registered { lease, ttl, .. } => {
                (self.said, self.registered) = (true, true);
                let asked = if *ttl == claim.ttl { "" } else { ", raised by the registry" };
                output::say(format_args!(
                    "registered {subject} as {service} (lease {lease}, TTL {} s{asked})",
                    ttl.as_secs()
                ));
            }
            RegistrationState::Lost { reason, .. } if self.registered => {
                output::say(format_args!("registration of {subject} is being restored: {reason}"));
            }
            RegistrationState::Lost { reason, .. } => {
                self.said = true;
                output::say(format_args!("{subject} is not registered yet: {reason}"));
            }
            RegistrationState::Refused { reason, again } => {
                self.said = true;
                let then = if *again {
                    "tried again every minute, in case that changes"
                } else {
                    "not tried again before it changes"
                };
                output::say(format_args!("registration of {subject} is refused: {reason}; {then}"));
            }
            // Not fit yet is no news while it starts.
            RegistrationState::Unfit { .. } if !over && !self.said => {}
            RegistrationState::Unfit { reason } => {
                output::say(format_args!(
                    "{subject} is not registered while it is not fit to serve (--check none registers it all the same): {reason}"
                ));
            }
            RegistrationState::Registering | RegistrationState::Paused | RegistrationState::Ended => {}
        }
    }
}

/// What cannot be registered must not run unseen: it is asked to end. Returns why.
async fn give_up(why: CommandError, child: Option<&mut Child>, signals: &mut Signals) -> CommandError {
    let Some(child) = child else { return why };
    output::say(format_args!("{why}: asking the command to end"));
    match end(child, Signal::TERM, signals).await {
        Ok(_) => why,
        Err(error) => error,
    }
}

/// Where the registration stands, when that changes.
async fn changed(registration: Option<&mut Registration>) -> Result<RegistrationState, RegistryError> {
    match registration {
        Some(registration) => registration.changed().await,
        None => std::future::pending().await,
    }
}

async fn exited(child: Option<&mut Child>) -> Result<ExitStatus, CommandError> {
    match child {
        Some(child) => child.wait().await.map_err(|error| lost(&error)),
        None => std::future::pending().await,
    }
}

fn lost(error: &std::io::Error) -> CommandError {
    CommandError::failed(format!("cannot tell whether the command still runs: {error}"))
}

async fn deregister(registration: Option<Registration>) {
    let Some(registration) = registration else { return };
    match registration.deregister().await {
        Ok(()) => output::say("deregistered"),
        Err(error) => {
            output::say(format_args!("warning: not deregistered, the entry goes away when its lease ends: {error}"));
        }
    }
}

/// Passes a signal on.
fn pass_on(child: &Child, signal: Signal) {
    // A Ctrl-C in a terminal has reached the command by itself, and some programs take a second one
    // for "at once".
    let has_it = matches!(signal, Signal::INT | Signal::QUIT) && std::io::stdin().is_terminal();
    if let (false, Some(pid)) = (has_it, child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
        && let Err(error) = kill_process(pid, signal)
    {
        output::say(format_args!("warning: cannot pass the signal on: {error}"));
    }
}

/// Passes a signal on, and any that follow, and waits for the command's end, as long as it takes.
async fn end(child: &mut Child, signal: Signal, signals: &mut Signals) -> Result<ExitCode, CommandError> {
    pass_on(child, signal);
    loop {
        tokio::select! {
            status = child.wait() => return status.map(exit_code).map_err(|error| lost(&error)),
            heard = signals.next() => pass_on(child, heard.signal),
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_host_may_be_left_out() {
        for whole in ["192.0.2.1:8080", "server.example:8080", "unix:/run/x.sock", "unix:///run/x.sock"] {
            assert_eq!(advertise(whole).unwrap(), Advertise::Whole(whole.parse().unwrap()));
        }
        for wildcard in [":8080", "0.0.0.0:8080", "[::]:8080"] {
            assert_eq!(advertise(wildcard).unwrap(), Advertise::Port(8080), "{wildcard}");
        }
        for wrong in ["", ":", ":0", ":http", "8080", "192.0.2.1", "unix:", "unix:x.sock"] {
            assert!(advertise(wrong).is_err(), "{wrong}");
        }
    }
}
