//! How each subject is started, and where it is reached.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::Signal;

use super::{configs, harness::child::Child, programs::Program, subjects::Subject, waymark::Node};

/// How a proxy is started.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) instances: &'a [SocketAddr],
    /// The registry that they are in.
    pub(crate) registry: &'a str,
    /// The program that Waymark's nodes are.
    pub(crate) waymark: &'a Path,
    /// How many threads, or processes with nginx, move bytes.
    pub(crate) workers: usize,
    /// Its files are put here.
    pub(crate) folder: &'a Path,
    /// A program that runs it, with that program's own arguments.
    pub(crate) wrapper: &'a [String],
}

/// A proxy that runs; for [`Subject::Direct`] nothing does.
pub(crate) struct Proxy {
    pub(crate) subject: Subject,
    /// Where clients connect to, in turn.
    pub(crate) to: Vec<SocketAddr>,
    process: Process,
}

enum Process {
    None,
    Ours(Child),
    Waymark(Node),
    Theirs(Program),
}

impl Proxy {
    pub(crate) fn start(subject: Subject, setting: Setting<'_>) -> anyhow::Result<Self> {
        let workers = setting.workers.to_string();
        let (to, process) = match subject {
            Subject::Direct => (setting.instances.to_owned(), Process::None),
            Subject::Bare => ours(&["bare"], setting)?,
            Subject::BareMulti => ours(&["bare", "--multi", &workers], setting)?,
            Subject::H2Only => ours(&["h2-only"], setting)?,
            Subject::OwnHttp2 => ours(&["own-http2"], setting)?,
            Subject::Plan | Subject::EachRequest => {
                let node = Node::start(setting)?;
                (vec![node.proxy], Process::Waymark(node))
            }
            Subject::Haproxy | Subject::Nginx | Subject::Nghttpx | Subject::Pingora | Subject::Envoy => {
                let (address, theirs) = theirs(subject, setting).with_context(|| subject.title())?;
                (vec![address], Process::Theirs(theirs))
            }
        };
        Ok(Self { subject, to, process })
    }

    /// Its process, if there is one.
    pub(crate) fn id(&self) -> Option<u32> {
        match &self.process {
            Process::None => None,
            Process::Ours(child) => Some(child.id()),
            Process::Waymark(node) => Some(node.id()),
            Process::Theirs(program) => Some(program.id()),
        }
    }

    /// Waymark's node, if it is one.
    pub(crate) fn node(&self) -> Option<&Node> {
        if let Process::Waymark(node) = &self.process { Some(node) } else { None }
    }

    /// Lets it come to its own end.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        match self.process {
            Process::None => Ok(()),
            Process::Ours(child) => child.end(),
            Process::Waymark(node) => node.end(),
            Process::Theirs(mut program) => program.end(Signal::TERM),
        }
    }
}

/// This program in another role.
fn ours(role: &[&str], setting: Setting<'_>) -> anyhow::Result<(Vec<SocketAddr>, Process)> {
    let instances: Vec<String> = setting.instances.iter().map(SocketAddr::to_string).collect();
    let args: Vec<&str> = role.iter().copied().chain(instances.iter().map(String::as_str)).collect();
    let (child, address) = Child::start_under(setting.wrapper, &args)?;
    Ok((vec![address.parse()?], Process::Ours(child)))
}

/// Starts a program that is not ours, and waits until it takes connections.
fn theirs(subject: Subject, setting: Setting<'_>) -> anyhow::Result<(SocketAddr, Program)> {
    // It is bound again at once; in between nobody else is given the port.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let program = subject.program().context("a program")?;
    let log = setting.folder.join(format!("{program}.log"));
    let to_log = || fs::File::options().create(true).append(true).open(&log);
    let mut command = Program::command(setting.wrapper, program.as_ref());
    configs::arguments(&mut command, subject, setting, address)?;
    command.stdin(Stdio::null()).stdout(to_log()?).stderr(to_log()?);
    let mut program = Program::start(&mut command)?;
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        let said = || fs::read_to_string(&log).unwrap_or_default();
        if let Some(status) = program.ended()? {
            anyhow::bail!("it ended with {status}: {}", said());
        }
        anyhow::ensure!(began.elapsed() < Duration::from_mins(2), "it takes no connections: {}", said());
        thread::sleep(Duration::from_millis(20));
    }
    Ok((address, program))
}
