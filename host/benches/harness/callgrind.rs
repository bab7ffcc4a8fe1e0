//! Counting user instructions with valgrind's callgrind: exact where times are not, however busy
//! the machine is.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

/// Whether there is valgrind.
pub(crate) fn is_there() -> bool {
    let here = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    here.is_ok_and(|status| status.success())
}

/// The program and its arguments that come before what is counted. The counts are left in `out`.
pub(crate) fn wrapper(out: &Path) -> Vec<String> {
    let [program, tool, quiet] = ["valgrind", "--tool=callgrind", "--quiet"].map(str::to_owned);
    vec![program, tool, quiet, format!("--callgrind-out-file={}", out.display())]
}

/// The instructions that were counted into this file.
pub(crate) fn total(out: &Path) -> anyhow::Result<f64> {
    let text = fs::read_to_string(out).context("valgrind left no counts")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(total.context("valgrind counted nothing")?.trim().parse()?)
}
