//! What an attack did, and whether that is as it must be.

use std::time::Duration;

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::{Value, json};

use super::{
    arena::{Bounds, Verdict},
    bystander::Calls,
};

/// What one attack did.
#[derive(Debug)]
pub(crate) struct Row {
    /// The bystander's calls before it.
    pub(crate) control: Calls,
    /// And while it lasted.
    pub(crate) calls: Calls,
    /// Of these, how many were lost that the attacked instance already had, where the attack is on
    /// an instance of the bystander's own: nobody else may answer them. They are shown, and are not
    /// in [`Calls::lost`].
    pub(crate) had: usize,
    /// By how much the node's peak of resident memory grew, in bytes.
    pub(crate) grown: u64,
    pub(crate) bounds: Bounds,
    pub(crate) verdict: Verdict,
    /// What else was wrong.
    pub(crate) faults: Vec<String>,
}

impl Row {
    /// p99 beside the control's.
    fn ratio(&self) -> f64 {
        self.calls.quantile(0.99).as_secs_f64() / self.control.quantile(0.99).as_secs_f64().max(1e-6)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        for (calls, when) in [(&self.control, "before the attack: the machine is too busy"), (&self.calls, "")] {
            if let Some(first) = calls.lost.first() {
                faults.push(format!(
                    "{} of the bystander's {} calls were lost {when}; the first: {first}",
                    calls.lost.len(),
                    calls.took.len()
                ));
            }
        }
        if self.calls.took.is_empty() {
            faults.push("the bystander made no call".to_owned());
        }
        if self.grown > self.bounds.memory {
            faults.push(format!("the node grew by {} MiB, over {} MiB", self.grown >> 20, self.bounds.memory >> 20));
        }
        faults
    }
}

/// What is not as it must be.
pub(crate) fn faults(result: &Result<Row, String>) -> Vec<String> {
    result.as_ref().map_or_else(|why| vec![why.clone()], Row::faults)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One result as programs read it.
pub(crate) fn json(name: &str, result: &Result<Row, String>) -> Value {
    let mut value = match result {
        Ok(row) => json!({
            "calls": row.calls.took.len(),
            "lost": row.calls.lost.len(),
            "lost_with_the_instance": row.had,
            "p50_ms": ms(row.calls.quantile(0.5)),
            "p99_ms": ms(row.calls.quantile(0.99)),
            "control_p50_ms": ms(row.control.quantile(0.5)),
            "control_p99_ms": ms(row.control.quantile(0.99)),
            "grown_bytes": row.grown,
            "bound_bytes": row.bounds.memory,
            "verdict": row.verdict.word,
            "verdict_after_ms": row.verdict.after.map(ms),
        }),
        Err(_) => json!({}),
    };
    value["attack"] = name.into();
    value["faults"] = faults(result).into();
    value
}

/// The rows as people read them.
pub(crate) fn table(rows: &[(&str, Result<Row, String>)]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["attack", "calls", "lost", "p50", "p99", "to control", "grew by", "bound", "verdict", ""]);
    for (name, result) in rows {
        let name = name.replace('_', " ");
        let state = if faults(result).is_empty() { "ok" } else { "FAILED" };
        let Ok(row) = result else {
            table.add_row([name.as_str(), "", "", "", "", "", "", "", "", state]);
            continue;
        };
        let verdict = match row.verdict.after {
            Some(after) => format!("{}, {:.2} s", row.verdict.word, after.as_secs_f64()),
            None => row.verdict.word.clone(),
        };
        table.add_row([
            name,
            row.calls.took.len().to_string(),
            match row.had {
                0 => row.calls.lost.len().to_string(),
                had => format!("{} + {had} it had", row.calls.lost.len()),
            },
            format!("{:.1} ms", ms(row.calls.quantile(0.5))),
            format!("{:.1} ms", ms(row.calls.quantile(0.99))),
            format!("{:.1} x", row.ratio()),
            format!("{} MiB", row.grown >> 20),
            format!("{} MiB", row.bounds.memory >> 20),
            verdict,
            state.to_owned(),
        ]);
    }
    table
}
