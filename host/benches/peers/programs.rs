//! Programs that are not this one, as processes that are asked to end.

use std::process::{Child, Command, ExitStatus};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// One that runs, or has ended by itself.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let process = command.spawn();
        Ok(Self(process.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    /// A command that runs `program` by the wrapper, which comes with its own arguments.
    pub(crate) fn command(wrapper: &[String], program: &std::ffi::OsStr) -> Command {
        match wrapper.split_first() {
            None => Command::new(program),
            Some((first, own)) => {
                let mut command = Command::new(first);
                command.args(own).arg(program);
                command
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its pipes.
    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.0
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Asks it to end, and waits until it has. Asked and not killed: nginx would leave its workers
    /// behind, and valgrind its counts.
    pub(crate) fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended()?.is_none() {
            kill_process(Pid::from_child(&self.0), signal)?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended, and it has nothing to lose.
        let _ = self.end(Signal::TERM);
    }
}
