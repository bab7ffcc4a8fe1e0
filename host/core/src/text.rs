//! Foreign text, made printable and short.
//!
//! Names, ids, addresses and messages come from plugins, from whoever writes to the registry, from
//! callers and from files, and end on terminals, in logs and on a page. There an escape sequence
//! rewrites the screen, a bidirectional control swaps what is read, a line break forges a line, two
//! names that differ by a character without width look the same, and ten megabytes hide all else.
//! So what is shown of others goes through here: whatever does not print is written as `\u{1b}`,
//! and what is too long ends in `… (10485760 bytes)`. The work is in proportion to what is shown,
//! not to what came.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

/// How much of a name, an id or an address is shown, in bytes: more than a readable one has.
pub const NAME: usize = 256;

/// How much of a message for people is shown, in bytes: some sentences.
pub const WORDS: usize = 1024;

/// How much of a text with several lines is shown, in bytes: a screen.
pub const SCREEN: usize = 8192;

/// How many marks that stand on the letter before them are shown in a row. Written languages use up
/// to three; stacks of them cover the lines around.
const MARKS: usize = 4;

/// One line that can be shown anywhere: what does not print is escaped, line breaks too (`\n`), and
/// after about `max` bytes it is cut, with the length of the whole.
pub fn printable(text: &str, max: usize) -> String {
    shown(text, max).to_string()
}

/// As [`printable`], for bytes that ought to be text: what is not UTF-8 is written as `\xff`.
pub fn printable_bytes(bytes: &[u8], max: usize) -> String {
    let mut line = Line::new(max);
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        // Writing to a String never fails.
        let fits = line.write(&mut out, chunk.valid(), false).unwrap_or(false)
            && chunk.invalid().iter().all(|byte| line.escape(&mut out, format_args!("\\x{byte:02x}")).unwrap_or(false));
        if !fits {
            let _ = cut(&mut out, bytes.len());
            break;
        }
    }
    out
}

/// As [`printable`], but line breaks stay: for our own texts of several lines in which others are
/// quoted. Only for the end of a way: what is quoted within one line has to be [`printable`].
pub fn lines(text: &str, max: usize) -> String {
    Shown { value: text, max, breaks: true }.to_string()
}

/// As [`printable`], of whatever can be displayed, where it is written anyway: nothing is
/// allocated.
pub fn shown<T: Display>(value: T, max: usize) -> Shown<T> {
    Shown { value, max, breaks: false }
}

/// JSON with every character that does not print written as `\u001b`: the same JSON to whoever
/// parses it. Outside its strings JSON has only characters that print, and line breaks.
pub fn json(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || prints(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if c == '\n' || prints(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String never fails.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.into()
}

/// Whether a character can be seen, and moves nothing but itself.
pub fn prints(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    if matches!(c,
        // Letters, signs and marks by their category, but nothing is to be seen of them.
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
    {
        return false;
    }
    !escaped(c) || is_mark(c)
}

/// Whether Rust's debug output escapes it: controls, formats, separators, private and unassigned
/// characters, and marks.
fn escaped(c: char) -> bool {
    c.escape_debug().nth(1).is_some()
}

/// Whether it is a mark that stands on the character before it. Debug output escapes those only
/// where nothing is before them.
fn is_mark(c: char) -> bool {
    let mut buffer = [b'a', 0, 0, 0, 0];
    let end = 1 + c.encode_utf8(&mut buffer[1..]).len();
    escaped(c) && std::str::from_utf8(&buffer[..end]).is_ok_and(|text| text.escape_debug().count() == 2)
}

/// Something that is shown printable and short; see [`shown`].
#[derive(Debug, Clone, Copy)]
pub struct Shown<T> {
    value: T,
    max: usize,
    breaks: bool,
}

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pipe = Pipe { out: f, line: Line::new(self.max), breaks: self.breaks, len: 0, fits: true };
        write!(pipe, "{}", self.value)?;
        let Pipe { len, fits, .. } = pipe;
        if fits { Ok(()) } else { cut(f, len) }
    }
}

/// Lets through what is to be shown, and counts the rest.
struct Pipe<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    line: Line,
    breaks: bool,
    len: usize,
    fits: bool,
}

impl Write for Pipe<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.len += text.len();
        if self.fits {
            self.fits = self.line.write(self.out, text, self.breaks)?;
        }
        Ok(())
    }
}

fn cut(out: &mut impl Write, len: usize) -> fmt::Result {
    write!(out, "… ({len} bytes)")
}

/// What may still be written, and what was written last.
struct Line {
    left: usize,
    /// How many marks stand on the last character; [`MARKS`] where there is none.
    marks: usize,
}

impl Line {
    fn new(max: usize) -> Self {
        Self { left: max, marks: MARKS }
    }

    /// Whether the whole of the text had room.
    fn write(&mut self, out: &mut impl Write, text: &str, breaks: bool) -> Result<bool, fmt::Error> {
        // Most is ASCII that prints: written in one piece.
        let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let n_plain = text.bytes().take(self.left.saturating_add(1)).take_while(|byte| plain(byte)).count();
        let (head, rest) = text.split_at(n_plain.min(self.left));
        out.write_str(head)?;
        self.left -= head.len();
        if !head.is_empty() {
            self.marks = 0;
        }
        for c in rest.chars() {
            let mark = !c.is_ascii() && is_mark(c);
            let fits = match c {
                '\n' if breaks => self.put(out, c)?,
                '\n' => self.escape(out, format_args!("\\n"))?,
                '\r' => self.escape(out, format_args!("\\r"))?,
                '\t' => self.escape(out, format_args!("\\t"))?,
                c if !prints(c) || (mark && self.marks >= MARKS) => {
                    self.escape(out, format_args!("{}", c.escape_unicode()))?
                }
                c => self.put(out, c)?,
            };
            if !fits {
                return Ok(false);
            }
            self.marks = match c {
                _ if mark => self.marks.saturating_add(1),
                '\n' => MARKS,
                _ => 0,
            };
        }
        Ok(true)
    }

    fn put(&mut self, out: &mut impl Write, c: char) -> Result<bool, fmt::Error> {
        if self.left < c.len_utf8() {
            return Ok(false);
        }
        self.left -= c.len_utf8();
        out.write_char(c)?;
        Ok(true)
    }

    fn escape(&mut self, out: &mut impl Write, escape: fmt::Arguments<'_>) -> Result<bool, fmt::Error> {
        let mut counted = Counted(0);
        counted.write_fmt(escape)?;
        if self.left < counted.0 {
            return Ok(false);
        }
        self.left -= counted.0;
        out.write_fmt(escape)?;
        Ok(true)
    }
}

struct Counted(usize);

impl Write for Counted {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_print_is_escaped() {
        for (text, shown) in [
            ("ayang/server1", "ayang/server1"),
            ("", ""),
            ("größe 東京 ✓", "größe 東京 ✓"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{7f}\0", "\\u{7f}\\u{0}"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            // Bidirectional controls, a zero-width space and joiner, a byte order mark, a soft
            // hyphen.
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("a\u{200b}b\u{200d}c\u{feff}d\u{ad}", "a\\u{200b}b\\u{200d}c\\u{feff}d\\u{ad}"),
            // Separators of lines and paragraphs, a space that is none, tags, fillers, a variation.
            ("\u{2028}\u{2029}\u{85}\u{a0}", "\\u{2028}\\u{2029}\\u{85}\\u{a0}"),
            ("\u{e0041}\u{3164}\u{2800}\u{fe0f}", "\\u{e0041}\\u{3164}\\u{2800}\\u{fe0f}"),
            ("e\u{301}", "e\u{301}"),
            ("\u{301}e", "\\u{301}e"),
        ] {
            assert_eq!(printable(text, 100), shown, "{text:?}");
        }
    }

    #[test]
    fn a_stack_of_marks_ends() {
        let stack = format!("e{}", "\u{301}".repeat(9));
        assert_eq!(printable(&stack, 1000), format!("e{}{}", "\u{301}".repeat(4), "\\u{301}".repeat(5)));
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character_with_the_length_of_the_whole() {
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcdef… (7 bytes)");
        assert_eq!(printable("ééé", 5), "éé… (6 bytes)");
        assert_eq!(printable("ab\u{1b}cd", 5), "ab… (5 bytes)");
        assert_eq!(printable(&"x".repeat(5 << 20), NAME).len(), NAME + "… (5242880 bytes)".len());
    }

    #[test]
    fn line_breaks_stay_only_where_they_are_ours() {
        assert_eq!(lines("a\nb\u{1b}\r\n", 100), "a\nb\\u{1b}\\r\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_as_bytes() {
        assert_eq!(printable_bytes(b"ab\xff\x1b\xc3\xa9", 100), "ab\\xff\\u{1b}é");
        assert_eq!(printable_bytes(&[0xff; 100], 8), "\\xff\\xff… (100 bytes)");
    }

    proptest! {
        #[test]
        fn nothing_shown_fails_to_print_or_is_long(text in any::<String>(), max in 0usize..64) {
            let shown = printable(&text, max);
            prop_assert!(shown.chars().all(prints), "{shown:?}");
            prop_assert!(shown.len() <= max + "… (18446744073709551615 bytes)".len());
        }

        #[test]
        fn json_stays_the_same_json(text in any::<String>()) {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let shown = super::json(&json);
            prop_assert!(shown.chars().all(|c| c == '\n' || prints(c)), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
        }
    }
}
