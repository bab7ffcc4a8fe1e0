//! What is logged, and how: lines for people or JSON, on standard error, so that standard output
//! stays what a program reads.
//!
//! Fields hold words of plugins, registries and callers, and names that they chose. A line stays
//! one line, and short, whatever they are.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
};

use tracing::field::Field;
use tracing_subscriber::{
    field::MakeExt as _,
    filter::Targets,
    fmt::{
        self as lines,
        format::{FmtSpan, Writer, debug_fn},
    },
    layer::{Layer as _, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use super::output;
use crate::text;

/// How much of one field is logged, in bytes.
const FIELD: usize = 4096;

/// Logs from now on: what `filter` says, else `default`.
pub(super) fn init(filter: Option<&str>, default: &str, json: bool) {
    let filter = filter.unwrap_or(default);
    let filter: Targets = filter.parse().unwrap_or_else(|error| {
        output::say(format_args!("warning: --log {filter:?} is not a filter ({error}); using {default:?}"));
        default.parse().expect("the default is a filter")
    });
    let layer = if json {
        lines::layer().with_writer(Json::default).json().with_span_events(FmtSpan::NONE).boxed()
    } else {
        let colours = io::stderr().is_terminal() && !output::no_colour();
        let fields = debug_fn(write_field).delimited(" ");
        lines::layer().with_writer(|| Unread(io::stderr())).with_ansi(colours).fmt_fields(fields).boxed()
    };
    // A second call in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
}

fn write_field(to: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let shown = text::shown(Debugged(value), FIELD);
    match field.name() {
        "message" => write!(to, "{shown}"),
        name if to.has_ansi_escapes() => write!(to, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{shown}"),
        name => write!(to, "{name}={shown}"),
    }
}

struct Debugged<'a>(&'a dyn fmt::Debug);

impl fmt::Display for Debugged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes where perhaps nobody reads: then it is as if it had been written. A log that cannot be
/// written would otherwise be complained of, on the same standard error, by a print that panics.
struct Unread<W>(W);

impl<W: Write> Write for Unread<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write_all(bytes).map_or(bytes.len(), |()| bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Standard error for JSON: each write is a whole line of it.
#[derive(Default)]
struct Json(Vec<u8>);

impl Write for Json {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.0);
        Unread(io::stderr().lock()).write_all(text::json(&String::from_utf8_lossy(&line)).as_bytes())
    }
}

impl Drop for Json {
    fn drop(&mut self) {
        // As with any log: there is nobody to tell.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_field_of_others_neither_moves_the_cursor_nor_makes_lines_nor_fills_the_disk() {
        let kept = Kept::default();
        let to = kept.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone())
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .finish();
        tracing::subscriber::with_default(log, || {
            let _span = tracing::info_span!("watch", service = %"a\u{202e}b").entered();
            let words = "\u{1b}[2Jx\ny";
            tracing::warn!(key = %words, text = words, "refused: {}", "z\u{9b}\n".repeat(1 << 20));
        });
        let line = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.trim_end().chars().all(text::prints), "{line:?}");
        assert!(line.contains("watch{service=a\\u{202e}b}") && line.contains("key=\\u{1b}[2Jx\\ny"), "{line}");
        assert!(line.contains("… (4194313 bytes)") && line.len() < 2 * FIELD, "{}", line.len());
    }
}
