//! Comparing what two servers said, step by step.

use std::{fmt::Write, path::PathBuf};

use waymark_node::embedded::Options;

use super::{
    PATIENCE,
    accepted::{ACCEPTED, Accepted},
    etcd36,
    fixture::{Registry, program},
    like_etcd, of_embedded,
    run::{Said, run, version},
    script::Step,
};

/// A step that was answered differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) step: usize,
    pub(crate) rule: String,
    /// Lines that only the first said.
    pub(crate) ours: Vec<String>,
    /// Lines that only the second said.
    pub(crate) theirs: Vec<String>,
}

/// All of them.
pub(crate) fn differences(ours: &[Said], theirs: &[Said]) -> Vec<Difference> {
    assert_eq!(ours.len(), theirs.len(), "the same script");
    let lacking = |from: &Said, other: &Said| -> Vec<String> {
        let mut rest = other.lines.clone();
        let mut lacks = from.lines.clone();
        lacks.retain(|line| match rest.iter().position(|other| other == line) {
            Some(at) => {
                rest.remove(at);
                false
            }
            None => true,
        });
        lacks
    };
    let pairs = ours.iter().zip(theirs).enumerate().filter(|(_, (ours, theirs))| ours.lines != theirs.lines);
    pairs
        .map(|(step, (a, b))| {
            let (mut ours, mut theirs) = (lacking(a, b), lacking(b, a));
            if ours.is_empty() && theirs.is_empty() {
                // The same lines in another order.
                (ours, theirs) = (a.lines.clone(), b.lines.clone());
            }
            Difference { step, rule: a.rule.clone(), ours, theirs }
        })
        .collect()
}

fn report(differences: &[Difference], theirs: &str) -> String {
    const SHOWN: usize = 20;
    let mut text = format!("{} steps are answered differently by {theirs}:\n", differences.len());
    for difference in differences.iter().take(SHOWN) {
        let _ = writeln!(text, "step {:04}, {}", difference.step, difference.rule);
        for (whose, lines) in [("ours  ", &difference.ours), ("theirs", &difference.theirs)] {
            for line in lines {
                let _ = writeln!(text, "  {whose} {line}");
            }
        }
    }
    text
}

/// Whether this entry is about a server of this version.
fn concerns(accepted: &Accepted, version: &str) -> bool {
    accepted.of.iter().any(|of| version.starts_with(of) && version[of.len()..].starts_with('.'))
}

/// A line with `+` in place of `+123`: revisions depend on where in the script a step is, and the
/// table must not.
fn without_places(line: &str) -> String {
    let mut after_plus = false;
    line.chars()
        .filter(|c| {
            let digit = after_plus && c.is_ascii_digit();
            after_plus = *c == '+' || digit;
            !digit
        })
        .collect()
}

/// Compares with one etcd. Entries of the table that did not come up are an error too: they are out
/// of date.
async fn with(program: PathBuf, steps: &[Step]) -> Result<(), String> {
    let etcd = Registry::etcd_of(&program).await;
    let version = version(&etcd.url).await?;
    let ours = of_embedded(steps, like_etcd()).await?;
    let theirs = run(&etcd.url, steps, PATIENCE, |_, _| {}).await?;
    let table: Vec<_> = ACCEPTED.iter().filter(|accepted| concerns(accepted, &version)).collect();
    let mut used = vec![false; table.len()];
    let mut found = differences(&ours, &theirs);
    let all = found.len();
    found.retain(|difference| {
        let text = |lines: &[String]| lines.iter().map(|line| without_places(line)).collect::<Vec<_>>();
        let (ours, theirs) = (text(&difference.ours), text(&difference.theirs));
        let entry = table.iter().position(|accepted| {
            accepted.rule == difference.rule && accepted.ours == ours && accepted.theirs == theirs
        });
        if let Some(entry) = entry {
            used[entry] = true;
        }
        entry.is_none()
    });
    if !found.is_empty() {
        return Err(report(&found, &format!("etcd {version} ({})", program.display())));
    }
    if let Some(entry) =
        table.iter().zip(&used).find(|(entry, used)| !**used && !entry.fixed_later).map(|found| found.0)
    {
        return Err(format!("etcd {version} no longer differs in: {}, {:?}", entry.rule, entry.theirs));
    }
    let lines: usize = ours.iter().map(|said| said.lines.len()).sum();
    println!("probe: {} calls, {lines} lines equal to etcd {version}, but for {all} accepted differences", steps.len());
    for (accepted, _) in table.iter().zip(used).filter(|(_, used)| *used) {
        println!("probe:   {}: {}", accepted.rule, accepted.reason);
    }
    Ok(())
}

/// The etcds that the environment names, or the one that is installed.
pub(crate) async fn with_etcds(steps: &[Step]) -> Result<(), String> {
    let named = std::env::var_os("WAYMARK_PROBE_ETCD");
    let programs: Vec<_> = match &named {
        Some(named) => std::env::split_paths(named).collect(),
        None => program("WAYMARK_TEST_ETCD", "etcd").into_iter().collect(),
    };
    if programs.is_empty() {
        eprintln!("SKIPPED the probe on real etcd: neither WAYMARK_TEST_ETCD nor `etcd` on the PATH");
    }
    for program in programs {
        Box::pin(with(program, steps)).await?;
    }
    Ok(())
}

/// An etcd 3.6 of our own building, where that is asked for.
pub(crate) async fn with_etcd36(steps: &[Step]) -> Result<(), String> {
    match etcd36::program()? {
        Some(program) => Box::pin(with(program, steps)).await,
        None => Ok(()),
    }
}

/// The embedded registry begins at the time in microseconds unless told otherwise, an etcd at 1.
pub(crate) async fn with_other_start(steps: &[Step]) -> Result<(), String> {
    let low = of_embedded(steps, like_etcd()).await?;
    let high = of_embedded(steps, Options { start_revision: None, ..like_etcd() }).await?;
    let found = differences(&low, &high);
    if found.is_empty() { Ok(()) } else { Err(report(&found, "one that starts at the time")) }
}
