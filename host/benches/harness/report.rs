//! Tables for people (in Markdown, to be pasted) and one JSON document for programs.

use std::{env, fmt::Write as _, fs, thread};

use comfy_table::{CellAlignment, Table as TextTable, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value, json};

use super::Samples;

/// What a figure counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
    KiB,
    /// How many.
    Count,
    PerSecond,
    /// Processor time over real time.
    Cores,
    /// Times the baseline of the same round.
    Ratio,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::KiB => "KiB",
            Self::Count => "count",
            Self::PerSecond => "1/s",
            Self::Cores => "cores",
            Self::Ratio => "ratio",
        }
    }

    /// Three digits that count.
    fn show(value: f64) -> String {
        let digits = match value.abs() {
            v if v >= 100.0 => 0,
            v if v >= 10.0 => 1,
            _ => 2,
        };
        format!("{value:.digits$}")
    }
}

/// The rows of one comparison.
pub(crate) struct Table {
    title: String,
    columns: Vec<(String, Unit)>,
    rows: Vec<(String, Vec<Samples>)>,
}

impl Table {
    pub(crate) fn new<'a>(title: impl Into<String>, columns: impl IntoIterator<Item = (&'a str, Unit)>) -> Self {
        let columns = columns.into_iter().map(|(name, unit)| (name.to_owned(), unit)).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// A row with a figure for each column; without samples its cell has a dash.
    pub(crate) fn row(&mut self, name: impl Into<String>, figures: Vec<Samples>) {
        self.rows.push((name.into(), figures));
    }

    fn text(&self) -> String {
        let mut table = TextTable::new();
        table.load_preset(ASCII_MARKDOWN);
        let columns = self.columns.iter().map(|(name, unit)| match unit {
            Unit::Ratio => format!("{name} [x]"),
            unit => format!("{name} [{}]", unit.name()),
        });
        table.set_header(std::iter::once(String::new()).chain(columns));
        for (name, figures) in &self.rows {
            let cells = figures.iter().map(|samples| match samples.summary() {
                None => "-".into(),
                Some(s) => {
                    let [low, median, high] = [s.lower_quartile, s.median, s.upper_quartile].map(Unit::show);
                    // A baseline's ratio to itself, or a single round, has no spread to show.
                    if low == high { median } else { format!("{median} ({low}..{high})") }
                }
            });
            table.add_row(std::iter::once(name.clone()).chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n\n{table}\n", self.title)
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, figures)| {
            let figures = figures.iter().zip(&self.columns).filter_map(|(samples, (column, unit))| {
                let mut figure = serde_json::to_value(samples.summary()?).expect("numbers are JSON");
                figure["unit"] = unit.name().into();
                Some((column.clone(), figure))
            });
            json!({ "name": name, "figures": figures.collect::<Map<_, _>>() })
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

/// All that a benchmark has to say.
pub(crate) struct Report {
    benchmark: &'static str,
    machine: Machine,
    notes: Vec<String>,
    tables: Vec<Table>,
}

impl Report {
    pub(crate) fn new(benchmark: &'static str) -> Self {
        Self { benchmark, machine: Machine::look(), notes: Vec::new(), tables: Vec::new() }
    }

    /// How the figures were taken.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    #[allow(clippy::print_stdout, reason = "what a benchmark is for")]
    pub(crate) fn print(&self, json: bool) {
        if json {
            let tables: Vec<_> = self.tables.iter().map(Table::json).collect();
            let report = json!({
                "benchmark": self.benchmark,
                "machine": self.machine.json(),
                "notes": self.notes,
                "tables": tables,
            });
            println!("{report:#}");
            return;
        }
        let mut text = format!("{}: {}\n", self.benchmark, self.machine.text());
        for note in &self.notes {
            let _ = writeln!(text, "- {note}"); // Writing into a String does not fail.
        }
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.text()); // As above.
        }
        println!("{text}");
    }
}

/// What it ran on, as far as that can be told.
struct Machine {
    cores: usize,
    processor: String,
    load: String,
    profile: String,
}

impl Machine {
    fn look() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // target/PROFILE/deps/NAME-HASH
        let profile = env::current_exe().ok().and_then(|exe| {
            let deps = exe.parent()?;
            let folder = deps.ends_with("deps").then_some(deps.parent()?.file_name()?)?;
            Some(format!(", build profile {}", folder.to_string_lossy()))
        });
        Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: processor.map_or("unknown processor", |(_, name)| name).to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            profile: profile.unwrap_or_default(),
        }
    }

    fn text(&self) -> String {
        let Self { cores, processor, load, profile } = self;
        let load = if load.is_empty() { String::new() } else { format!(", load average {load} before the run") };
        let debug = if cfg!(debug_assertions) { " (NOT OPTIMISED: the figures mean nothing)" } else { "" };
        format!("{cores} cores ({processor}){load}{profile}{debug}")
    }

    fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "load_average": self.load,
            "profile": self.profile.rsplit(' ').next().unwrap_or_default(),
            "optimised": !cfg!(debug_assertions),
        })
    }
}
