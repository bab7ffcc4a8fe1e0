//! What the kit found: lines for what was checked, bars for shares, figures for cost.

use serde::Serialize;

use super::{
    Claim, Options,
    time_limit::{self, TimeLimit},
};
use crate::plugin::{LoadError, Plugin};

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was required, and it holds.
    Ok,
    /// It is not required of this plugin; the detail says how it is.
    Observed,
    /// It was required, and it does not hold.
    Failed,
    /// It could not be tried, because of what failed before, or does not apply.
    Skipped,
    /// It was not tried to its end: the time for the whole run was up.
    Cut,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Which part of the kit it belongs to.
    pub section: &'static str,
    /// What was checked.
    pub check: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// In figures, or why not.
    pub detail: String,
}

/// Shares that are better looked at than read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bars {
    /// Shares of what, and where.
    pub title: String,
    /// A bar each.
    pub bars: Vec<Bar>,
}

/// One share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// Whose.
    pub label: String,
    /// What it would be by weight, 0 to 1.
    pub by_weight: f64,
    /// What it is, 0 to 1.
    pub got: f64,
}

/// What one call costs, in processor time. Printed, never required: it depends on the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// The call.
    pub call: &'static str,
    /// For how many endpoints.
    pub endpoints: usize,
    /// How often it was measured.
    pub samples: usize,
    /// How long it took.
    pub nanoseconds: Spread,
    /// The most linear memory an instance had meanwhile, in bytes; 0 when it was not measured.
    pub memory: usize,
}

/// The median of some samples, with their quartiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// A quarter of the samples is below.
    pub lower: f64,
    /// The median.
    pub median: f64,
    /// A quarter of the samples is above.
    pub upper: f64,
}

impl Spread {
    /// Of these samples; zeros when there are none.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: usize| samples.get((samples.len().saturating_sub(1)) * part / 4).copied().unwrap_or_default();
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

/// Everything the kit found out about one plugin.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The plugin's name; where it came from when it could not be loaded.
    pub plugin: String,
    /// Its version; empty when it could not be loaded.
    pub version: String,
    /// `policy` or `key scheme`; empty when it could not be loaded.
    pub kind: &'static str,
    /// SHA-256 of its bytes, hex; empty when it could not be loaded.
    pub sha256: String,
    /// The configuration it was tried with.
    pub config: String,
    /// The zone the node was told to stand in.
    pub zone: String,
    /// The seed of the run.
    pub seed: u64,
    /// Whether it was a quick run.
    pub quick: bool,
    /// What was required beyond the interface.
    pub claims: Vec<Claim>,
    /// What was checked, in order.
    pub lines: Vec<Line>,
    /// Shares.
    pub shares: Vec<Bars>,
    /// What calls cost.
    pub cost: Vec<Cost>,
    /// Until when the run may go on.
    #[serde(skip)]
    pub(super) limit: TimeLimit,
}

impl Report {
    pub(super) fn new(plugin: &Plugin, options: &Options) -> Self {
        let about = &plugin.description;
        Self {
            version: about.version.clone(),
            kind: plugin.kind.as_str(),
            sha256: plugin.sha256.clone(),
            ..Self::empty(&about.name, options)
        }
    }

    pub(super) fn empty(plugin: &str, options: &Options) -> Self {
        Self {
            plugin: plugin.into(),
            version: String::new(),
            kind: "",
            sha256: String::new(),
            config: options.config.clone(),
            zone: options.zone.clone(),
            seed: options.seed,
            quick: options.quick,
            claims: options.claims.clone(),
            lines: Vec::new(),
            shares: Vec::new(),
            cost: Vec::new(),
            limit: TimeLimit::new(options.until),
        }
    }

    /// The report on a file that is no plugin of this host: one line, the check that it fails.
    pub fn not_loaded(origin: &str, error: &LoadError, options: &Options) -> Self {
        let check = match error {
            LoadError::NotWasm { .. } | LoadError::CoreModule { .. } | LoadError::Invalid { .. } => "a valid component",
            LoadError::TooLarge { .. } => "size",
            LoadError::OtherWorld { .. } | LoadError::Mismatch { .. } | LoadError::WrongKind { .. } => "world",
            LoadError::UnsupportedVersion { .. } => "interface version",
            LoadError::NotGranted { .. } => "imports",
            _ => "description",
        };
        let mut report = Self::empty(origin, options);
        report.note("component", check, Outcome::Failed, error.to_string());
        report
    }

    /// Whether nothing failed, and nothing was left out for want of time.
    pub fn passed(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.count(Outcome::Cut) == 0
    }

    /// The parts that were not tried to their end, in order.
    pub fn cut(&self) -> Vec<&'static str> {
        let mut parts: Vec<_> =
            self.lines.iter().filter(|line| line.outcome == Outcome::Cut).map(|line| line.section).collect();
        parts.dedup();
        parts
    }

    /// How many checks ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }

    pub(super) fn note(
        &mut self,
        section: &'static str,
        check: &'static str,
        outcome: Outcome,
        detail: impl Into<String>,
    ) {
        // What was stopped ended with an error, which is none of the plugin.
        if outcome == Outcome::Failed && self.limit.has_cut() {
            return self.lines.push(Line { section, check, outcome: Outcome::Cut, detail: time_limit::REASON.into() });
        }
        self.lines.push(Line { section, check, outcome, detail: detail.into() });
    }

    pub(super) fn require(
        &mut self,
        section: &'static str,
        check: &'static str,
        result: Result<String, String>,
    ) -> bool {
        let passed = result.is_ok();
        let (outcome, detail) = match result {
            Ok(detail) => (Outcome::Ok, detail),
            Err(detail) => (Outcome::Failed, detail),
        };
        self.note(section, check, outcome, detail);
        passed
    }
}
