//! Where the story is told: a live terminal, plain lines, or nowhere.
//!
//! A live terminal shows the story as lasting text, and below it the picture of the moment, drawn
//! again ten times a second. Nothing is switched over (no alternate screen, no raw mode), so that
//! the story stays to be read and Ctrl-C stays Ctrl-C; the one thing to put back is the cursor, and
//! dropping [`Out`] does that.

use std::io::{self, IsTerminal as _, Write};

use crossterm::{
    QueueableCommand as _, cursor,
    style::{Attribute, Color, ResetColor, SetAttribute, SetForegroundColor},
    terminal::{self, Clear, ClearType},
};

use super::screen::{Line, Style, wrap};
use crate::{cli::output, text};

/// Whoever's words are in it: it prints, and is no longer than a screen.
fn printed(words: &str) -> String {
    text::lines(words, text::SCREEN)
}

/// The widest text that is pleasant to read.
const WIDEST: usize = 110;

/// Where output goes.
pub(super) struct Out {
    kind: Kind,
    /// The width of each line of the picture that is on the screen now, in characters.
    drawn: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Live,
    Plain,
    Quiet,
}

impl Out {
    /// A live view if standard output is a terminal and nobody asked for less.
    pub(super) fn choose(plain: bool, quiet: bool) -> Self {
        let kind = match (quiet, plain) {
            (true, _) => Kind::Quiet,
            (false, false) if io::stdout().is_terminal() && terminal::size().is_ok() => Kind::Live,
            (false, _) => Kind::Plain,
        };
        let mut out = Self { kind, drawn: Vec::new() };
        if kind == Kind::Live {
            out.write(|to, _| to.queue(cursor::Hide).map(|_| ()));
        }
        out
    }

    /// Whether the picture of the moment is shown.
    pub(super) fn is_live(&self) -> bool {
        self.kind == Kind::Live
    }

    /// A lasting text, in lines of a pleasant length.
    pub(super) fn say(&mut self, text: &str) {
        self.last(&wrap(&printed(text), width().min(WIDEST)), Style::Plain);
    }

    /// A lasting text, as it is.
    pub(super) fn print(&mut self, text: &str) {
        self.last(&[printed(text)], Style::Plain);
    }

    /// A lasting text with colours of its own.
    pub(super) fn report(&mut self, text: &str) {
        self.last(&[text.to_owned()], Style::Plain);
    }

    /// A lasting text that begins a part of the story.
    pub(super) fn head(&mut self, text: &str) {
        self.last(&[String::new()], Style::Plain);
        self.last(&wrap(&printed(text), width().min(WIDEST)), Style::Bold);
    }

    fn last(&mut self, lines: &[String], style: Style) {
        if self.kind == Kind::Quiet {
            return;
        }
        self.write(|to, drawn| {
            erase(to, drawn)?;
            lines.iter().try_for_each(|line| write_line(to, line, style))
        });
    }

    /// The picture of the moment; in a terminal only.
    pub(super) fn picture(&mut self, lines: &[Line]) {
        if self.kind != Kind::Live {
            return;
        }
        // One row is left for the cursor: a picture as high as the terminal would scroll with every
        // drawing.
        let rows = terminal::size().map_or(24, |(_, rows)| usize::from(rows)).saturating_sub(1);
        self.write(|to, drawn| {
            erase(to, drawn)?;
            for line in lines.iter().take(rows) {
                write_line(to, &printed(&line.text), line.style)?;
                drawn.push(line.text.chars().count());
            }
            Ok(())
        });
    }

    /// Takes the picture away; the story stays.
    pub(super) fn clear(&mut self) {
        if self.kind == Kind::Live {
            self.write(|to, drawn| erase(to, drawn));
        }
    }

    /// Writes as one piece. Where standard output is gone there is nobody left to tell, and the
    /// demo's exit code still counts.
    fn write(&mut self, what: impl FnOnce(&mut dyn Write, &mut Vec<usize>) -> io::Result<()>) {
        let mut buffer = Vec::new();
        if what(&mut buffer, &mut self.drawn).is_ok() {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(&buffer).and_then(|()| stdout.flush());
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if self.kind == Kind::Live {
            self.write(|to, drawn| {
                erase(to, drawn)?;
                to.queue(ResetColor)?.queue(cursor::Show).map(|_| ())
            });
        }
    }
}

/// Columns of the terminal, less one: a line that fills the last column wraps in some terminals.
/// Where there is none, what is pleasant to read.
pub(super) fn width() -> usize {
    match terminal::size() {
        Ok((columns, _)) if io::stdout().is_terminal() => usize::from(columns).saturating_sub(1).max(20),
        _ => WIDEST,
    }
}

/// Goes back over the picture and removes it. Lines that a narrowed terminal has wrapped since take
/// several rows.
fn erase(to: &mut dyn Write, drawn: &mut Vec<usize>) -> io::Result<()> {
    let columns = width() + 1;
    let rows: usize = drawn.drain(..).map(|width| width.max(1).div_ceil(columns)).sum();
    if rows > 0 {
        let rows = u16::try_from(rows).unwrap_or(u16::MAX);
        to.queue(cursor::MoveToPreviousLine(rows))?.queue(Clear(ClearType::FromCursorDown))?;
    }
    Ok(())
}

fn write_line(to: &mut dyn Write, text: &str, style: Style) -> io::Result<()> {
    let colourful = output::colours();
    if colourful {
        match style {
            Style::Plain => {}
            Style::Bold => {
                to.queue(SetAttribute(Attribute::Bold))?;
            }
            Style::Dim => {
                to.queue(SetAttribute(Attribute::Dim))?;
            }
            Style::Bad => {
                to.queue(SetForegroundColor(Color::Red))?;
            }
        }
    }
    to.write_all(text.as_bytes())?;
    if colourful && style != Style::Plain {
        to.queue(SetAttribute(Attribute::Reset))?.queue(ResetColor)?;
    }
    to.write_all(b"\n")
}
