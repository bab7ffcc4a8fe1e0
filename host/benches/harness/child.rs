//! The processes of this benchmark and how they talk: a line asked on standard input, a line answered on standard output.
//!
//! A child ends when its standard input does, so that none outlives the benchmark however that ends.

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
    asked: ChildStdin,
    answered: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program with these arguments, and returns what it says when it is ready.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<(Self, String)> {
        let role = args.first().copied().unwrap_or_default().to_owned();
        let mut process = Command::new(env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {role} process"))?;
        let asked = process.stdin.take().context("a piped standard input")?;
        let answered = BufReader::new(process.stdout.take().context("a piped standard output")?);
        let mut child = Self { role, process, asked, answered };
        let ready = child.read()?;
        Ok((child, ready))
    }

    /// Asks for one thing and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.asked, "{line}").with_context(|| format!("the {} process does not listen", self.role))?;
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
