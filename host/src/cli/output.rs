//! What all commands share of their output: tables for people, JSON for programs, and the failure that becomes an exit code.
//!
//! Colours are for terminals: none when standard output is something else, or `NO_COLOR` is set (<https://no-color.org>).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

use std::{
    env,
    error::Error,
    fmt,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    process::{self, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Row, Table, presets};
use serde::Serialize;

use crate::{admin::ClientError, app::AppError, config::ConfigError, model::Endpoint, registry::RegistryError};

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

/// Why a command ends without having done what it was asked to. It prints as the text after `error: `.
#[derive(Debug)]
pub(super) struct Failure {
    kind: ExitKind,
    message: String,
}

impl Failure {
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a node or a plugin says shall not move the cursor.
        f.write_str(&plain(&self.message))
    }
}

/// Any error becomes a failure with all its causes in one line. [`kind_of`] knows the errors that are not just "failed".
impl<E: Error + 'static> From<E> for Failure {
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
    match error.downcast_ref::<AppError>() {
        Some(AppError::Plugin(_) | AppError::Policy { .. }) => return (ExitKind::Usage, ""),
        Some(AppError::Registry(error)) => return kind_of(error),
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

/// Writes a line to standard output. When its reader has gone (`| head`), the process ends, quietly and as a failure, like other
/// commands do.
pub(super) fn print_line(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to standard output: {error}");
        }
        process::exit(ExitKind::Failed as i32);
    }
}

/// Prints JSON, indented.
pub(super) fn print_json<T: Serialize + ?Sized>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print_line(text),
        // Only maps with keys that are no texts get here, and we print none.
        Err(error) => eprintln!("error: cannot write this as JSON: {error}"),
    }
}

/// Whether standard output gets colours.
pub(super) fn colours() -> bool {
    // An empty NO_COLOR counts as unset, as its definition says.
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stdout().is_terminal()
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

/// A cell in a tone.
pub(super) fn toned(text: impl AsRef<str>, tone: Tone) -> Cell {
    let cell = Cell::new(plain(text.as_ref()));
    if !colours() {
        return cell;
    }
    match tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
    }
}

/// An empty table with this header. It fits itself to the terminal's width.
pub(super) fn table<T: Into<Row>>(header: T) -> Table {
    let mut table = Table::new();
    // Columns apart by spaces alone: readable, and easy to cut apart with other tools.
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut header: Row = header.into();
    if colours() {
        header = header
            .cell_iter()
            .map(|cell| Cell::new(cell.content()).add_attribute(Attribute::Bold))
            .collect::<Vec<_>>()
            .into();
    }
    table.set_header(header);
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
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
        let metadata: Vec<_> = endpoint.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let zone = if endpoint.locality.zone.is_empty() { "-" } else { &endpoint.locality.zone };
        let mut row = vec![plain(endpoint.address.as_str()), plain(zone), endpoint.weight.to_string()];
        row.extend(with_ids.then(|| plain(endpoint.id.as_str())));
        row.extend(with_metadata.then(|| plain(&metadata.join(" "))));
        table.add_row(row);
    }
    table
}

/// A share as a bar, up to thirty wide for `largest`, and a mark where it would end by weight if that is further on.
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

/// Other people's text on our terminal: without what moves the cursor or changes colours.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
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

/// How long ago a moment was that a node told, in milliseconds of Unix time. A clock ahead of ours reads as now.
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
        let failure = Failure::from(Outer(io::Error::other("disk\u{1b}[2J gone")));
        assert_eq!(failure.to_string(), "cannot read the file: disk\u{fffd}[2J gone");
        assert_eq!(failure.kind(), ExitKind::Failed);
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
            assert_eq!(Failure::from(error.clone()).kind(), kind, "{error}");
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
