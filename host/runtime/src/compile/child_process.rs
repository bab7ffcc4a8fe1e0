//! Compiling in a process of its own: the parent's half, and the child's.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wasmtime::{Cache, component::Component};

use super::{
    Abandon, CompileError, CompileLimits, Event, await_end,
    disk_cache::DiskCache,
    queue::Permit,
    settings::{cache, settings},
};
use crate::deadline::lower_priority;

/// The first argument of the process that compiles.
pub const COMMAND: &str = "compile-component";

/// How the process ends when the component is at fault: what it says is then for people.
const INVALID: u8 = 3;

/// The most of what it says that is listened to, in bytes.
const SAID: u64 = 16 << 10;

/// Has a component compiled; what was made lies in the folder then.
pub(super) fn compile(
    program: &Path,
    folder: &DiskCache,
    bytes: &[u8],
    limits: &CompileLimits,
    until: Instant,
    abandon: &Abandon,
    permit: &Permit,
) -> Result<(), CompileError> {
    let began = Instant::now();
    let host = |error: io::Error| CompileError::Host(format!("the process that compiles cannot be started: {error}"));
    let mut child = Command::new(program)
        .arg(COMMAND)
        .arg(folder.code())
        .arg(limits.memory.to_string())
        .arg(limits.deadline.as_secs().max(1).to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(host)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut child = Running(child);
    let (sender, events) = mpsc::channel();
    abandon.tell(&sender);
    let said = thread::scope(|scope| {
        let talk = move || {
            // It may end before it has read all, and says then why.
            let _ = stdin.map(|mut stdin| stdin.write_all(bytes));
            let mut said = Vec::new();
            let _ = stderr.map(|stderr| stderr.take(SAID).read_to_end(&mut said));
            let _ = sender.send(Event::Done(Ok(None))); // Its caller may have been answered.
            String::from_utf8_lossy(&said).into_owned()
        };
        let talks = thread::Builder::new().name("plugin-compile".into()).spawn_scoped(scope, talk).map_err(host)?;
        let ended = await_end(&events, until, || permit.step_aside());
        let used = processor_time(&child.0);
        if !matches!(ended, Some(Ok(_))) {
            child.kill();
        }
        let said = talks.join().map_err(|_| CompileError::Host("the thread that listens to it panicked".into()))?;
        match ended {
            Some(ended) => ended.map(|_| said),
            // Had it been its own fault, it would have used up its processor time.
            None => Err(CompileError::Host(format!(
                "after {} s it is not done, of which it ran for {} s: the machine is too busy",
                began.elapsed().as_secs(),
                used.map_or("?".into(), |used| used.to_string()),
            ))),
        }
    })?;
    let status =
        child.0.wait().map_err(|error| CompileError::Host(format!("the process that compiled is lost: {error}")))?;
    let said = said.trim();
    match (status.code(), status_signal(status)) {
        (Some(0), _) => Ok(()),
        (Some(_), _) if said.contains("Cannot allocate memory") => Err(too_large(limits)),
        (Some(code), _) if code == i32::from(INVALID) => Err(CompileError::Invalid(said.to_owned())),
        (Some(code), _) => Err(CompileError::Host(format!("the process that compiles ended with {code}: {said}"))),
        (None, Some(signal)) if signal == Signal::XCPU.as_raw() => Err(CompileError::Costly(format!(
            "takes more than {} s of processor time to compile",
            limits.deadline.as_secs()
        ))),
        (None, Some(signal)) if signal == Signal::KILL.as_raw() => Err(CompileError::Costly(format!(
            "was ended by the system while it was compiled, after {} s",
            began.elapsed().as_secs()
        ))),
        // An allocation that fails ends a Rust program by SIGABRT.
        (None, Some(signal)) if signal == Signal::ABORT.as_raw() => Err(too_large(limits)),
        (None, signal) => {
            Err(CompileError::Costly(format!("ended its compiler by signal {}", signal.unwrap_or_default())))
        }
    }
}

/// How long a process has run, in seconds (proc(5): clock ticks, of which there are 100 a second on
/// Linux).
fn processor_time(child: &Child) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // The name before that may have spaces and parentheses in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) / 100)
}

fn too_large(limits: &CompileLimits) -> CompileError {
    CompileError::Costly(format!("takes more than {} MiB of memory to compile", limits.memory >> 20))
}

fn status_signal(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// A process that does not outlive whoever waits for it.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The whole of the process that compiles: `FOLDER MEMORY SECONDS`, and the component on standard
/// input.
///
/// It limits itself before it reads a byte, ends with its parent, and exits with 0 once the folder
/// has what it made.
pub fn compile_for_parent(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (folder, memory, seconds) = (arguments.next(), number(arguments.next()), number(arguments.next()));
    let (Some(folder), Some(memory), Some(seconds)) = (folder, memory, seconds) else {
        return fail(ExitCode::from(2), "usage: FOLDER MEMORY SECONDS");
    };
    if let Err(error) = confine(memory, seconds) {
        return fail(ExitCode::FAILURE, &format!("it cannot be limited: {error}"));
    }
    let mut bytes = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut bytes) {
        return fail(ExitCode::FAILURE, &format!("the component cannot be read: {error}"));
    }
    let engine = cache(Path::new(&folder)).and_then(|cache| {
        let engine = wasmtime::Engine::new(&settings(Some(cache.clone()))).map_err(|error| format!("{error:#}"))?;
        Ok((engine, cache))
    });
    let (engine, cache) = match engine {
        Ok(engine) => engine,
        Err(error) => return fail(ExitCode::FAILURE, &error),
    };
    if let Err(error) = Component::from_binary(&engine, &bytes) {
        return fail(ExitCode::from(INVALID), &format!("{error:#}"));
    }
    // The parent must find it there: else it would compile it once more, and cannot be stopped.
    match Component::from_binary(&engine, &bytes) {
        Ok(_) if found(&cache) => ExitCode::SUCCESS,
        _ => fail(ExitCode::FAILURE, &format!("what was compiled cannot be kept in {folder}: is the disk full?")),
    }
}

fn found(cache: &Cache) -> bool {
    cache.cache_hits() > 0
}

fn number(text: Option<String>) -> Option<u64> {
    text?.parse().ok()
}

fn confine(memory: u64, seconds: u64) -> io::Result<()> {
    let most = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    // It ends with its parent, at the latest when it is told so or its time is up.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(Resource::Data, most(memory))?;
    // Reserved is not used; but without any bound a fault could map without end.
    setrlimit(Resource::As, most(memory.saturating_mul(2).saturating_add(4 << 30)))?;
    // At the first limit it is told so by SIGXCPU, which ends it and says why.
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds.saturating_add(1)) })?;
    setrlimit(Resource::Core, most(0))?;
    lower_priority();
    Ok(())
}

fn fail(code: ExitCode, reason: &str) -> ExitCode {
    // What is said is read to its end before the process is waited for. A parent that has gone
    // reads nothing.
    let mut parent = io::stderr().lock();
    let _ = writeln!(parent, "{reason}").and_then(|()| parent.flush());
    code
}
