//! A small JSON reader that allocates nothing it need not.
//!
//! A text is checked once, in a loop rather than by recursion (a plugin's stack is small), and from
//! then on a value is a slice of that text, taken apart one level at a time. That keeps the reader
//! to a few kilobytes of Wasm, and a value can always give back the text it was written as. It
//! reads what RFC 8259 allows. Like Go's `encoding/json`, it replaces a surrogate that has no other
//! half by U+FFFD instead of refusing the text.

use crate::prelude::*;

use alloc::borrow::Cow;
use core::fmt;

/// One JSON value: a slice of a text that has been checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Json<'a> {
    text: &'a str,
}

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson {
    /// The byte at which it stops being JSON.
    pub at: usize,
    expected: &'static str,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.at)
    }
}

impl core::error::Error for NotJson {}

impl<'a> Json<'a> {
    /// Check a whole text.
    pub fn parse(text: &'a str) -> Result<Self, NotJson> {
        let mut scan = Scan { text, at: 0 };
        let value = scan.value()?;
        scan.space();
        if scan.at < text.len() {
            return Err(scan.expected("the end"));
        }
        Ok(value)
    }

    /// The value as it was written, without the space around it.
    pub fn as_written(&self) -> &'a str {
        self.text
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        self.text == "null"
    }

    /// A boolean's value; none for anything else.
    pub fn boolean(&self) -> Option<bool> {
        match self.text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The value of a number that is written in digits alone and fits; none for anything else.
    pub fn integer(&self) -> Option<u64> {
        self.text.parse().ok()
    }

    /// A number's value; none for anything else, and for a number too large to be finite.
    pub fn number(&self) -> Option<f64> {
        let is_number = matches!(self.text.as_bytes().first(), Some(b'-' | b'0'..=b'9'));
        is_number.then(|| self.text.parse().ok()).flatten().filter(|n: &f64| n.is_finite())
    }

    /// A string's value; none for anything else.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        Some(unescape(self.text.strip_prefix('"')?.strip_suffix('"')?))
    }

    /// A list's items in order; none for anything else.
    pub fn items(&self) -> Option<impl Iterator<Item = Json<'a>> + use<'a>> {
        let mut scan = self.inside('[')?;
        Some(core::iter::from_fn(move || {
            scan.skip_comma();
            scan.value().ok()
        }))
    }

    /// An object's entries in the order they are written; none for anything else. A name may come
    /// more than once.
    pub fn entries(&self) -> Option<impl Iterator<Item = (Cow<'a, str>, Json<'a>)> + use<'a>> {
        let mut scan = self.inside('{')?;
        Some(core::iter::from_fn(move || {
            scan.skip_comma();
            Some((scan.name().ok()?, scan.value().ok()?))
        }))
    }

    fn inside(&self, open: char) -> Option<Scan<'a>> {
        let text = self.text.strip_prefix(open)?;
        Some(Scan { text, at: 0 })
    }
}

/// As it was written.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// A place in a text. Everything it steps over has been checked.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The text between two places that the scan has been at. Both are next to ASCII characters, so
    /// none is ever cut; to index instead would link the code that complains of a cut character,
    /// larger than this whole reader.
    fn since(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> NotJson {
        NotJson { at: self.at, expected }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn skip_comma(&mut self) {
        self.space();
        self.take(b',');
        self.space();
    }

    /// One value with all that is in it. `open` holds the closing bracket of everything that was
    /// opened and not yet closed.
    fn value(&mut self) -> Result<Json<'a>, NotJson> {
        self.space();
        let start = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    self.space();
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        if close == b'}' {
                            self.name()?;
                        }
                        open.push(close);
                        continue;
                    }
                }
                Some(b'"') => _ = self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => self.word()?,
            }
            // A value has ended: so may what it stands in, and what that stands in.
            loop {
                let Some(&close) = open.last() else {
                    return Ok(Json { text: self.since(start, self.at) });
                };
                self.space();
                if self.take(b',') {
                    if close == b'}' {
                        self.space();
                        self.name()?;
                    }
                    break;
                }
                if !self.take(close) {
                    return Err(self.expected(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" }));
                }
                open.pop();
            }
        }
    }

    /// A name and the colon after it.
    fn name(&mut self) -> Result<Cow<'a, str>, NotJson> {
        let name = self.string()?;
        self.space();
        if self.take(b':') { Ok(unescape(name)) } else { Err(self.expected("`:`")) }
    }

    /// A string; answers what stands between the quotes.
    fn string(&mut self) -> Result<&'a str, NotJson> {
        if !self.take(b'"') {
            return Err(self.expected("a string"));
        }
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(self.since(start, self.at - 1));
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                                    return Err(self.expected("four hexadecimal digits"));
                                }
                                self.at += 1;
                            }
                        }
                        _ => return Err(self.expected("an escape")),
                    }
                }
                Some(0x20..) => self.at += 1,
                Some(_) => return Err(self.expected("no control character")),
                None => return Err(self.expected("`\"`")),
            }
        }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn word(&mut self) -> Result<(), NotJson> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let found = ["null", "true", "false"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        self.at += found.ok_or_else(|| self.expected("a value"))?.len();
        Ok(())
    }
}

/// What a checked string's inside stands for.
fn unescape(inside: &str) -> Cow<'_, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (escaped, length) = match escape.as_bytes().first() {
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => escaped_char(escape),
            Some(&other) => (char::from(other), 1),
            None => break,
        };
        text.push(escaped);
        rest = escape.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character of an escape that begins with `u`, and the escape's length without its first
/// backslash.
fn escaped_char(escape: &str) -> (char, usize) {
    let unit = |from: usize| escape.get(from..from + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let first = unit(1).unwrap_or_default();
    if let 0xD800..0xDC00 = first
        && escape.get(5..7) == Some("\\u")
        && let Some(second @ 0xDC00..0xE000) = unit(7)
    {
        let joined = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return (char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn as_serde(json: Json<'_>) -> Value {
        if let Some(entries) = json.entries() {
            Value::Object(entries.map(|(name, value)| (name.into_owned(), as_serde(value))).collect())
        } else if let Some(items) = json.items() {
            Value::Array(items.map(as_serde).collect())
        } else if let Some(text) = json.text() {
            Value::String(text.into_owned())
        } else if let Some(boolean) = json.boolean() {
            Value::Bool(boolean)
        } else if json.is_null() {
            Value::Null
        } else {
            serde_json::from_str(json.as_written()).unwrap()
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_another_writer_wrote(value in values(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(as_serde(Json::parse(&text.unwrap()).unwrap()), value);
        }

        #[test]
        fn it_accepts_and_refuses_the_same_texts_as_another_reader(text in r#"[\[\]{}:,"\\0-9eE+.\- ntrufalsb/]{0,12}"#) {
            let ours = Json::parse(&text);
            match serde_json::from_str::<Value>(&text) {
                Ok(_) => prop_assert!(ours.is_ok(), "{text}: {ours:?}"),
                // Two things that the other reader adds to the grammar: numbers are finite,
                // surrogates come in pairs.
                Err(error) if error.to_string().contains("out of range") || error.to_string().contains("surrogate") => {}
                Err(_) => prop_assert!(ours.is_err(), "{text}"),
            }
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, message) in [
            ("", "expected a value at byte 0"),
            ("{\"a\" 1}", "expected `:` at byte 5"),
            ("[1 2]", "expected `,` or `]` at byte 3"),
            ("{\"a\":1,}", "expected a string at byte 7"),
            ("01", "expected the end at byte 1"),
            ("1.", "expected a digit at byte 2"),
            ("\"\\x\"", "expected an escape at byte 2"),
            ("\"\\u12g4\"", "expected four hexadecimal digits at byte 5"),
            ("\"a\nb\"", "expected no control character at byte 2"),
            ("\"a", "expected `\"` at byte 2"),
        ] {
            assert_eq!(Json::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn surrogates_are_joined_and_lone_ones_replaced() {
        let text = |json: &'static str| Json::parse(json).unwrap().text().unwrap();
        assert_eq!(text(r#""\ud83d\ude00""#), "\u{1F600}");
        assert_eq!(text(r#""\ud83dx""#), "\u{FFFD}x");
        assert_eq!(text(r#""\ud83d\u0041""#), "\u{FFFD}A");
        assert_eq!(text(r#""\ude00\ud83d""#), "\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(Json::parse(&deep).unwrap().as_written().len(), 400_000);
    }

    #[test]
    fn a_value_gives_back_its_text() {
        let json = Json::parse(r#" { "a" : [ 1 , {"b": null} ] , "c":1.50 } "#).unwrap();
        let entries: Vec<_> = json.entries().unwrap().map(|(_, value)| value.as_written()).collect();
        assert_eq!(entries, [r#"[ 1 , {"b": null} ]"#, "1.50"]);
    }
}
