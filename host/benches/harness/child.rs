//! The processes of this benchmark and how they talk: a line asked on standard input, a line
//! answered on standard output.
//!
//! A child ends when its standard input does, so that none outlives the benchmark however that
//! ends.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _, stdin},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use super::process_cpu;

/// A started role.
pub(crate) struct Child {
    role: String,
    process: std::process::Child,
    /// None once nothing more is asked.
    asked: Option<ChildStdin>,
    answered: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program with these arguments, and returns what it says when it is ready.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<(Self, String)> {
        Self::start_under(&[], args)
    }

    /// As [`Child::start`], by another program that takes it and its arguments after its own.
    pub(crate) fn start_under(wrapper: &[String], args: &[&str]) -> anyhow::Result<(Self, String)> {
        let role = args.first().copied().unwrap_or_default().to_owned();
        let this = env::current_exe()?;
        let mut command = match wrapper.split_first() {
            None => Command::new(this),
            Some((program, own)) => {
                let mut command = Command::new(program);
                command.args(own).arg(this);
                command
            }
        };
        let mut process = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {role} process"))?;
        let asked = process.stdin.take();
        let answered = BufReader::new(process.stdout.take().context("a piped standard output")?);
        let mut child = Self { role, process, asked, answered };
        let ready = child.read()?;
        Ok((child, ready))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it come to its own end, which dropping it does not.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop(self.asked.take());
        let status = self.process.wait()?;
        anyhow::ensure!(status.success(), "the {} process ended with {status}", self.role);
        Ok(())
    }

    /// Asks for one thing and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        let asked = self.asked.as_mut().context("it was ended")?;
        writeln!(asked, "{line}").with_context(|| format!("the {} process does not listen", self.role))?;
        self.read()
    }

    /// The processor time that the process has used.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        Ok(Duration::from_nanos(self.ask("cpu")?.parse()?))
    }

    fn read(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answered.read_line(&mut line)?;
        anyhow::ensure!(line.ends_with('\n'), "the {} process ended: its own words are above", self.role);
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended, and it has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other end: says that it is ready, and answers until nobody asks any more.
#[allow(clippy::print_stdout, reason = "how the processes talk")]
pub(crate) fn serve(ready: &str, mut answer: impl FnMut(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
    println!("{ready}");
    for line in stdin().lines() {
        let answer = match line?.as_str() {
            "cpu" => process_cpu().as_nanos().to_string(),
            line => answer(line)?,
        };
        println!("{answer}");
    }
    Ok(())
}
