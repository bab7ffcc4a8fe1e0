//! What all commands share of their output: tables for people, JSON for programs, and the failure
//! that becomes an exit code.
//!
//! Nobody has to read it. A command whose output is what it is for ends when its reader has gone;
//! one that runs for something else (a node, a registration) goes on, and so does every command
//! without a standard error.
//!
//! Colours are for terminals: none when standard output is something else, or `NO_COLOR` is set
//! (<https://no-color.org>).

use std::{
    env,
    error::Error,
    fmt::{self, Write as _},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    process::{self, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, presets};
use serde::Serialize;

use crate::{
    admin::ClientError, app::AppError, config::ConfigError, model::Endpoint, registry::RegistryError,
    stages::StartError, text,
};

/// What kind of failure it was: the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitKind {
    /// It was tried and did not work.
    Failed = 1,
    /// The command line, a file it names or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// The node refused; what ran goes on running.
    Refused = 3,
    /// The node or the registry cannot be reached.
    Unreachable = 4,
}

/// Why a command ends without having done what it was asked to. It prints as the text after
/// `error: `.
#[derive(Debug)]
pub(super) struct CommandError {
    kind: ExitKind,
    message: String,
}

impl CommandError {
    /// A failure of this kind.
    pub(super) fn new(kind: ExitKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// It was tried and did not work.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitKind::Failed, message)
    }

    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitKind::Usage, message)
    }

    /// The node or the registry cannot be reached.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(ExitKind::Unreachable, message)
    }

    /// The exit code for the process.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// The kind of failure.
    #[cfg(test)]
    pub(super) fn kind(&self) -> ExitKind {
        self.kind
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A node, a plugin or etcd may have said it.
        f.write_str(&text::lines(&self.message, text::SCREEN))
    }
}

/// Any error becomes a failure with all its causes in one line. [`kind_of`] knows the errors that
/// are not just "failed".
impl<E: Error + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries print their cause themselves.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        let (kind, hint) = kind_of(&error);
        message.push_str(hint);
        Self::new(kind, message)
    }
}

/// Which exit code an error has, and what a person can do about it.
fn kind_of(error: &(dyn Error + 'static)) -> (ExitKind, &'static str) {
    if error.is::<ConfigError>() {
        return (ExitKind::Usage, "");
    }
    if let Some(AppError::Stages(error)) = error.downcast_ref::<AppError>() {
        return kind_of(error);
    }
    match error.downcast_ref::<StartError>() {
        Some(StartError::Plugin(_) | StartError::Policy { .. }) => return (ExitKind::Usage, ""),
        Some(StartError::Registry(error)) => return kind_of(error),
        _ => {}
    }
    if error.downcast_ref::<RegistryError>().is_some_and(RegistryError::is_transient) {
        return (ExitKind::Unreachable, "");
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Address { .. }) => (ExitKind::Usage, ""),
        Some(ClientError::Unreachable { .. }) => {
            (ExitKind::Unreachable, ". Is `waymark node` running? Say where with --node HOST:PORT or WAYMARK_NODE")
        }
        Some(ClientError::NotANode { .. }) => (
            ExitKind::Failed,
            ". A node's API is on a port of its own (--node HOST:PORT or WAYMARK_NODE), beside the one that calls go to",
        ),
        Some(ClientError::Refused { .. }) => (ExitKind::Refused, ""),
        Some(ClientError::Failed { .. }) | None => (ExitKind::Failed, ""),
    }
}

/// How much of one text is printed, in bytes: far more than a person reads, and little enough for a
/// terminal. JSON has everything.
const PRINTED: usize = 1 << 20;

/// Writes a line, or several, to standard output, whoever's words are in it. When its reader has
/// gone (`| head`), the process ends, quietly and as a failure, like other commands do.
pub(super) fn print_line(line: impl fmt::Display) {
    write_out(text::lines(&line.to_string(), PRINTED));
}

/// Writes a line to standard output for a command that goes on whether or not somebody reads it.
pub(super) fn announce(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", text::lines(&line.to_string(), text::SCREEN)).and_then(|()| out.flush());
}

/// Writes a table to standard output, with its colours.
pub(super) fn print_table(table: &Table) {
    write_out(table.trim_fmt());
}

/// Writes a text that tables stand in, whose other words are known to print.
pub(super) fn print_report(text: &str) {
    write_out(text);
}

/// Writes a line to standard error, whoever's words are in it. Where nobody reads that, there is
/// nobody to tell.
pub(super) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{}", text::lines(&line.to_string(), text::SCREEN));
}

fn write_out(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            say(format_args!("error: cannot write to standard output: {error}"));
        }
        process::exit(ExitKind::Failed as i32);
    }
}

/// Prints JSON on one line.
pub(super) fn print_json_line(value: &serde_json::Value) {
    write_out(text::json(&value.to_string()));
}

/// Prints JSON, indented. Nothing of it is left out, and what does not print is escaped as JSON has
/// it.
pub(super) fn print_json<T: Serialize + ?Sized>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => write_out(text::json(&text)),
        // Only maps with keys that are no texts get here, and we print none.
        Err(error) => say(format_args!("error: cannot write this as JSON: {error}")),
    }
}

/// Whether standard output gets colours.
pub(super) fn colours() -> bool {
    !no_colour() && io::stdout().is_terminal()
}

/// Whether nobody wants colours. An empty `NO_COLOR` counts as unset, as its definition says.
pub(super) fn no_colour() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// What a cell says about its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Somebody should look.
    Bad,
    /// Of less interest.
    Dim,
}

/// A cell of a table: whoever's words it has, it prints, and is short.
pub(super) struct Cell(comfy_table::Cell);

impl Cell {
    /// A cell with this text. Line breaks stay within it.
    pub(super) fn new(text: impl fmt::Display) -> Self {
        Self(comfy_table::Cell::new(text::lines(&text.to_string(), text::WORDS)))
    }

    /// The same at the right end of its column: for figures.
    pub(super) fn right(self) -> Self {
        Self(self.0.set_alignment(CellAlignment::Right))
    }
}

impl<T: fmt::Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// A cell in a tone.
pub(super) fn toned(text: impl fmt::Display, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    if !colours() {
        return cell;
    }
    Cell(match tone {
        Tone::Good => cell.0.fg(Color::Green),
        Tone::Bad => cell.0.fg(Color::Red),
        Tone::Dim => cell.0.add_attribute(Attribute::Dim),
    })
}

/// A table whose cells print. It fits itself to the terminal's width.
pub(super) struct Table(comfy_table::Table);

impl Table {
    /// Adds a row.
    pub(super) fn add_row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) {
        self.0.add_row(cells.into_iter().map(|cell| cell.into().0));
    }

    /// Has these columns stand at their right ends.
    pub(super) fn right(&mut self, columns: &[usize]) {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    /// Without the spaces at the ends of its lines.
    pub(super) fn trim_fmt(&self) -> String {
        self.0.trim_fmt()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An empty table with this header.
pub(super) fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = comfy_table::Table::new();
    // Columns apart by spaces alone: readable, and easy to cut apart with other tools.
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let bold = colours();
    let header = header.into_iter().map(|cell| match cell.into().0 {
        cell if bold => cell.add_attribute(Attribute::Bold),
        cell => cell,
    });
    table.set_header(header.collect::<Vec<_>>());
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    Table(table)
}

/// The endpoints of a service, as they are registered.
pub(super) fn endpoints_table(endpoints: &[Endpoint]) -> Table {
    let with_ids = endpoints.iter().any(|endpoint| endpoint.id.as_str() != endpoint.address.as_str());
    let with_metadata = endpoints.iter().any(|endpoint| !endpoint.metadata.is_empty());
    let mut header = vec!["ADDRESS", "ZONE", "WEIGHT"];
    header.extend(with_ids.then_some("INSTANCE"));
    header.extend(with_metadata.then_some("METADATA"));
    let mut table = table(header);
    for endpoint in endpoints {
        let zone = if endpoint.locality.zone.is_empty() { "-" } else { &endpoint.locality.zone };
        let mut row = vec![name(endpoint.address.as_str()), name(zone), endpoint.weight.to_string()];
        row.extend(with_ids.then(|| name(endpoint.id.as_str())));
        row.extend(with_metadata.then(|| metadata(endpoint)));
        table.add_row(row);
    }
    table
}

/// A share as a bar, up to thirty wide for `largest`, and a mark where it would end by weight if
/// that is further on.
pub(super) fn share_bar(got: f64, by_weight: f64, largest: f64) -> String {
    const WIDTH: f64 = 30.0;
    // Between 0 and WIDTH.
    let length = |share: f64| (share / largest * WIDTH).round() as usize;
    let (bar, due) = (length(got), length(by_weight));
    let mut text = "█".repeat(bar);
    if due > bar {
        text.push_str(&" ".repeat(due - bar - 1));
        text.push('▏');
    }
    text
}

/// A name, an id or an address of others, on one line.
pub(super) fn name(text: &str) -> String {
    text::printable(text, text::NAME)
}

/// An endpoint's metadata on one line, each value short.
pub(super) fn metadata(endpoint: &Endpoint) -> String {
    let mut shown = String::new();
    for (n, (key, value)) in endpoint.metadata.iter().enumerate() {
        // Writing into a String does not fail.
        if shown.len() > text::WORDS {
            let _ = write!(shown, " and {} more", endpoint.metadata.len() - n);
            break;
        }
        let space = if n == 0 { "" } else { " " };
        let _ = write!(shown, "{space}{}={}", text::shown(key, text::NAME), text::shown(value, text::NAME));
    }
    shown
}

/// A span of time in at most two units: `350 ms`, `12 s`, `2 min 5 s`, `3 h 20 min`, `4 d 1 h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |high: u64, high_unit: &str, low: u64, low_unit: &str| match low {
        0 => format!("{high} {high_unit}"),
        low => format!("{high} {high_unit} {low} {low_unit}"),
    };
    match seconds {
        0 if span.as_millis() > 0 => format!("{} ms", span.as_millis()),
        0 => format!("{} µs", span.as_micros()),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long ago a moment was that a node told, in milliseconds of Unix time. A clock ahead of ours
/// reads as now.
pub(super) fn ago(unix_ms: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    match SystemTime::now().duration_since(at).unwrap_or_default() {
        age if age < Duration::from_secs(1) => "just now".into(),
        age => format!("{} ago", span(age)),
    }
}

/// The time of day in UTC, `14:03:07Z`, for lines that follow each other.
pub(super) fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn spans_have_at_most_two_units() {
        for (millis, text) in [
            (0, "0 µs"),
            (350, "350 ms"),
            (12_900, "12 s"),
            (125_000, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (349_200_000, "4 d 1 h"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_clock_is_utc_of_the_day() {
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(86_400 + 3_723)), "01:02:03Z");
    }

    #[test]
    fn a_failure_prints_every_cause_once_and_no_control_characters() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the file")]
        struct Outer(#[source] io::Error);
        let failure = CommandError::from(Outer(io::Error::other("disk\u{1b}[2J gone")));
        assert_eq!(failure.to_string(), "cannot read the file: disk\\u{1b}[2J gone");
        assert_eq!(failure.kind(), ExitKind::Failed);
    }

    #[test]
    fn an_error_of_megabytes_is_a_screen_of_text() {
        let failure = CommandError::failed(format!("refused: {}", "\u{1b}[2J".repeat(2 << 20)));
        assert!(failure.to_string().len() < 2 * text::SCREEN);
        assert!(failure.to_string().ends_with("… (8388617 bytes)"), "it says how long it was");
    }

    #[test]
    fn a_table_of_names_without_end_is_short_and_prints() {
        let endpoint = Endpoint {
            id: crate::model::InstanceId::new("\u{1b}]0;x\u{7}".repeat(1 << 20)),
            locality: crate::model::Locality::zone("z\u{202e}".repeat(1 << 20)),
            metadata: (0..10_000).map(|n| (n.to_string(), "v\n".repeat(100))).collect(),
            ..Endpoint::at("192.0.2.1:80".parse().unwrap())
        };
        let shown = endpoints_table(&[endpoint]).to_string();
        assert!(shown.len() < 100_000, "{}", shown.len());
        assert!(shown.chars().all(|c| c == '\n' || text::prints(c)), "{shown:?}");
    }

    #[test]
    fn each_kind_of_client_error_has_its_exit_code() {
        let address = || "192.0.2.1:7001".to_owned();
        let reason = || "because".to_owned();
        for (error, kind) in [
            (ClientError::Address { address: address(), problem: reason() }, ExitKind::Usage),
            (ClientError::Unreachable { address: address(), reason: reason() }, ExitKind::Unreachable),
            (ClientError::NotANode { address: address(), reason: reason() }, ExitKind::Failed),
            (ClientError::Refused { reason: reason() }, ExitKind::Refused),
            (ClientError::Failed { address: address(), reason: reason() }, ExitKind::Failed),
        ] {
            assert_eq!(CommandError::from(error.clone()).kind(), kind, "{error}");
        }
    }

    #[test]
    fn an_endpoints_table_has_only_the_columns_that_say_something() {
        let endpoint = Endpoint::at("192.0.2.1:80".parse().unwrap());
        let text = endpoints_table(std::slice::from_ref(&endpoint)).to_string();
        assert!(text.contains("192.0.2.1:80") && !text.contains("INSTANCE") && !text.contains("METADATA"), "{text}");
        let named = Endpoint { metadata: vec![("version".into(), "2".into())].into(), ..endpoint };
        assert!(endpoints_table(&[named]).to_string().contains("version=2"));
    }
}
