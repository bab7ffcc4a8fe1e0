//! From a [`View`] to lines of text. No terminal here: what is drawn is a pure function of what is
//! known.

use std::{fmt::Write as _, time::Duration};

use super::{
    shares::percent,
    view::{InstanceStatus, Row, View},
};

/// How a line is to stand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it comes.
    Plain,
    /// A heading.
    Bold,
    /// Less important.
    Dim,
    /// Something is out of order.
    Bad,
}

/// A line that fits the width asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its text, without control characters.
    pub(super) text: String,
    /// How it stands out.
    pub(super) style: Style,
}

/// Columns beside the bar, which takes the rest of the line, without the last one.
const FIXED: usize = 33 + 32;

/// The last column, which is left out where the terminal is narrow.
const IN_FLIGHT: usize = 11;

/// A terminal narrower than this is narrow.
const NARROW: usize = 95;

/// A full bar is this share, or the largest one if that is more. Nearly all shares of the demo are
/// under it, so bars can be compared from one policy to the next.
const FULL: f64 = 0.5;

/// The live part of the screen.
pub(super) fn render(view: &View, width: usize) -> Vec<Line> {
    let mut lines = vec![heading(view, width)];
    let is_narrow = width < NARROW;
    let fixed = if is_narrow { FIXED } else { FIXED + IN_FLIGHT };
    let bar = width.saturating_sub(fixed).clamp(6, 60);
    let mut columns = format!(
        "     {:<16} {:>4} {:>6}  {:bar$} {:>8} {:>11} {:>8}",
        "instance", "zone", "weight", "", "share", "expected", "calls"
    );
    if !is_narrow {
        columns.push_str("  in flight");
    }
    lines.push(Line { text: columns, style: Style::Dim });
    let full = view.rows.iter().map(|row| row.share).fold(FULL, f64::max);
    lines.extend(view.rows.iter().map(|row| instance(row, bar, full, is_narrow)));
    lines.push(Line {
        text: format!(
            "{:.0} calls/s · {} calls · {} failed{} · registry revision {} · generation {}",
            view.per_second,
            view.calls,
            view.failed,
            cut_off(view),
            view.revision,
            view.generation
        ),
        style: if view.failed > 0 { Style::Bad } else { Style::Bold },
    });
    lines.extend(
        view.events.iter().map(|(at, text)| Line { text: format!("{} {text}", seconds(*at)), style: Style::Dim }),
    );
    for line in &mut lines {
        line.text = cut(&line.text, width);
    }
    lines
}

fn heading(view: &View, width: usize) -> Line {
    let policy = &view.policy;
    let sha = policy.sha256.get(..12).unwrap_or(&policy.sha256);
    let name = if policy.name.is_empty() { "no policy yet" } else { &policy.name };
    let text = format!("── policy {name} · {} · sha256 {sha} · {} ", policy.plan, policy.origin);
    let rest = width.saturating_sub(text.chars().count());
    Line { text: text + &"─".repeat(rest), style: Style::Bold }
}

fn instance(row: &Row, bar: usize, full: f64, is_narrow: bool) -> Line {
    let known = &row.known;
    let (drawn, style) = match row.place {
        InstanceStatus::Usable => {
            (draw(row.share / full, row.expected.map(|expected| expected.share() / full), bar), Style::Plain)
        }
        InstanceStatus::Skipped(status) => (word(&format!("{status}: skipped"), bar), Style::Bad),
        InstanceStatus::Unregistered if known.killed => (word("killed, key gone", bar), Style::Dim),
        InstanceStatus::Unregistered => (word("not registered", bar), Style::Dim),
    };
    let mut text = format!(
        " {:<3} {:<16} {:>4} {:>6}  {drawn} {:>8} {:>11} {:>8}",
        known.label(),
        known.address,
        known.member.zone,
        known.member.weight,
        percent(row.share),
        row.expected.map_or_else(|| "-".to_owned(), super::shares::Expected::text),
        row.calls,
    );
    if !is_narrow {
        // Writing to a string does not fail.
        let _ = write!(text, "{:>IN_FLIGHT$}", row.in_flight);
    }
    Line { text, style }
}

/// A bar of this many columns, with a mark where it should end.
fn draw(part: f64, mark: Option<f64>, columns: usize) -> String {
    let filled = (part.clamp(0.0, 1.0) * columns as f64).round() as usize;
    let mark = mark.map(|mark| ((mark.clamp(0.0, 1.0) * columns as f64).round() as usize).clamp(1, columns) - 1);
    let column = |n: usize| match n {
        n if mark == Some(n) => '┃',
        n if n < filled => '█',
        _ => '·',
    };
    (0..columns).map(column).collect()
}

fn word(text: &str, columns: usize) -> String {
    format!("{:columns$}", cut(text, columns))
}

fn cut_off(view: &View) -> String {
    if view.cut_off > 0 { format!(" · {} cut off by the kill", view.cut_off) } else { String::new() }
}

/// One line for where there is no terminal: the shares, in the order of the instances.
pub(super) fn plain(view: &View) -> String {
    let share = |row: &Row| match row.place {
        InstanceStatus::Usable => format!("{} {}", row.known.label(), percent(row.share)),
        InstanceStatus::Skipped(status) => format!("{} {status}", row.known.label()),
        InstanceStatus::Unregistered => format!("{} gone", row.known.label()),
    };
    let shares: Vec<String> = view.rows.iter().map(share).collect();
    format!(
        "{} ({}): {} | {:.0} calls/s, {} failed{}",
        view.policy.name,
        view.policy.plan,
        shares.join(", "),
        view.per_second,
        view.failed,
        cut_off(view)
    )
}

/// A time since the beginning, for the left edge.
pub(super) fn seconds(at: Duration) -> String {
    format!("{:5.1} s", at.as_secs_f64())
}

/// The first `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// Breaks a text into lines of at most `width` characters, at spaces. A line break in it stays one.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balancer::EndpointStatus,
        cli::demo::{
            shares::{Expected, Member},
            view::{Known, PolicyLine},
        },
    };

    fn row(number: usize, share: f64, expected: f64, place: InstanceStatus) -> Row {
        Row {
            known: Known {
                number,
                address: format!("192.0.2.{number}:80"),
                member: Member { zone: "a".into(), weight: 3, slow: false },
                killed: place == InstanceStatus::Unregistered,
            },
            place,
            calls: (share * 1000.0) as u64,
            share,
            expected: (place == InstanceStatus::Usable).then_some(Expected::About(expected)),
            in_flight: 1,
        }
    }

    fn view() -> View {
        let mut view = View {
            policy: PolicyLine {
                name: "weighted".into(),
                sha256: "0123456789abcdef".into(),
                plan: "rotation".into(),
                origin: "bundled".into(),
            },
            rows: vec![
                row(1, 0.25, 0.25, InstanceStatus::Usable),
                row(2, 0.0, 0.0, InstanceStatus::Skipped(EndpointStatus::BackingOff)),
                row(3, 0.0, 0.0, InstanceStatus::Unregistered),
            ],
            per_second: 612.4,
            calls: 4210,
            failed: 0,
            revision: 42,
            generation: 7,
            ..View::default()
        };
        view.event(Duration::from_millis(12_340), "weighted is live".into());
        view
    }

    #[test]
    fn the_screen_says_who_answers_under_which_policy() {
        let lines: Vec<String> = render(&view(), 100).into_iter().map(|line| line.text).collect();
        assert!(
            lines[0].starts_with("── policy weighted · rotation · sha256 0123456789ab · bundled ──"),
            "{}",
            lines[0]
        );
        assert_eq!(
            lines[2],
            " #1  192.0.2.1:80        a      3  ███████████┃············   25.0 %      25.0 %      250          1"
        );
        assert!(lines[3].contains("backing-off: skipped"), "{}", lines[3]);
        assert!(lines[4].contains("killed, key gone"), "{}", lines[4]);
        assert_eq!(lines[5], "612 calls/s · 4210 calls · 0 failed · registry revision 42 · generation 7");
        assert_eq!(lines[6], " 12.3 s weighted is live");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [10, 40, 80, 100, 250] {
            for line in render(&view(), width) {
                assert!(line.text.chars().count() <= width, "{width}: {}", line.text);
            }
        }
    }

    #[test]
    fn a_failed_call_stands_out() {
        let mut view = view();
        view.failed = 1;
        assert!(render(&view, 100).iter().any(|line| line.style == Style::Bad && line.text.contains("1 failed")));
    }

    #[test]
    fn the_mark_shows_where_the_bar_should_end() {
        assert_eq!(draw(0.5, Some(0.5), 8), "███┃····");
        assert_eq!(draw(0.25, Some(1.0), 8), "██·····┃");
        assert_eq!(draw(1.0, None, 4), "████");
    }

    #[test]
    fn without_a_terminal_the_shares_take_one_line() {
        assert_eq!(plain(&view()), "weighted (rotation): #1 25.0 %, #2 backing-off, #3 gone | 612 calls/s, 0 failed");
    }

    #[test]
    fn text_is_wrapped_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a b\n\nmuchtoolong c", 3), ["a b", "", "muchtoolong", "c"]);
    }
}
