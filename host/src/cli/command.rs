//! The COMMAND of `waymark register`: a process that is asked to end when the one that registers it
//! ends, whatever ended that.
//!
//! A server whose registration nobody refreshes would go on, seen by nobody. The system tells a
//! process of its parent's end if the process has asked for it (prctl(2), `PR_SET_PDEATHSIG`), and
//! what it has asked for stays when it becomes another program. So this program is started once
//! more, asks, and becomes COMMAND.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, ExitCode, Stdio},
};

use rustix::{
    fs::{Access, access},
    process::{Pid, Signal, getppid},
};
use tokio::process::{Child, Command};

use super::output::{self, CommandError};

/// The first argument of a process that is to become COMMAND: `PARENT PROGRAM ARGUMENTS…` follow.
pub(super) const BECOME: &str = "become-command";

/// What shells exit with where a program cannot be run, and where there is none.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Starts COMMAND. It must be called on a thread that lives as long as the process.
///
/// # Errors
///
/// There is no such program, or it cannot be run.
pub(super) fn start(program: &str, arguments: &[String]) -> Result<Child, CommandError> {
    let cannot = |error: io::Error| CommandError::failed(format!("cannot start {program:?}: {error}"));
    find(program).map_err(cannot)?;
    let mut command = Command::new(own_program().map_err(cannot)?);
    command.arg(BECOME).arg(process::id().to_string()).arg(program).args(arguments);
    command.stdin(Stdio::inherit()).kill_on_drop(true).spawn().map_err(cannot)
}

/// The file that runs here, also when another one has taken its place.
fn own_program() -> io::Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    if link.exists() { Ok(link.to_owned()) } else { env::current_exe() }
}

/// Looks a program up as the system does.
fn find(program: &str) -> io::Result<()> {
    let runs = |path: &Path| match path.metadata()? {
        it if it.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        _ => Ok(access(path, Access::EXEC_OK)?),
    };
    if program.contains('/') {
        return runs(Path::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut found = Err(io::Error::from(io::ErrorKind::NotFound));
    for folder in env::split_paths(&path) {
        match runs(&folder.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found = Err(error),
        }
    }
    found
}

/// The whole of the process that becomes COMMAND. It returns only where that does not work.
pub(super) fn become_it(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = arguments.next().and_then(|id| Pid::from_raw(id.to_str()?.parse().ok()?));
    let (Some(parent), Some(program)) = (parent, arguments.next()) else {
        output::say("usage: PARENT PROGRAM [ARGUMENT]...");
        return ExitCode::from(2);
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        output::say(format_args!("warning: the command is not told when its registration ends: {error}"));
    }
    // It may have ended before that.
    if getppid() != Some(parent) {
        return ExitCode::FAILURE;
    }
    let error = process::Command::new(&program).args(arguments).exec();
    output::say(format_args!("error: cannot start {}: {error}", name(&program)));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
}

fn name(program: &OsStr) -> String {
    format!("{:?}", program.to_string_lossy())
}
