//! One call as one line of the access log.

use std::{
    io::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use waymark_core::{model::Address, traffic::Code};

use super::AccessFormat;

/// What there is to say of a call.
pub(super) struct Line {
    pub(super) at: SystemTime,
    pub(super) peer: Option<IpAddr>,
    pub(super) service: Box<str>,
    pub(super) path: Box<str>,
    pub(super) endpoint: Option<Address>,
    pub(super) code: Code,
    pub(super) attempts: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration: Duration,
    pub(super) reason: Option<&'static str>,
}

/// The same in JSON.
#[derive(Serialize)]
struct Json<'a> {
    time: String,
    peer: Option<IpAddr>,
    service: &'a str,
    path: &'a str,
    endpoint: Option<String>,
    code: &'static str,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    reason: Option<&'static str>,
}

impl Line {
    /// Appends it, with its end of line.
    pub(super) fn write(&self, format: AccessFormat, into: &mut Vec<u8>) {
        match format {
            AccessFormat::Json => self.write_json(into),
            AccessFormat::Text => self.write_text(into),
        }
        into.push(b'\n');
    }

    fn write_json(&self, into: &mut Vec<u8>) {
        let json = Json {
            time: self.time(),
            peer: self.peer,
            service: &self.service,
            path: &self.path,
            endpoint: self.endpoint.as_ref().map(ToString::to_string),
            code: self.code.as_str(),
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_ms: self.duration_ms(),
            reason: self.reason,
        };
        serde_json::to_writer(into, &json).expect("texts and numbers are JSON, and a Vec takes them");
    }

    fn write_text(&self, into: &mut Vec<u8>) {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        // Writing to a Vec does not fail.
        let _ = write!(
            into,
            "{} peer={} service={} path={} endpoint={} code={} attempts={} bytes_in={} bytes_out={} duration_ms={:.3} \
             reason={}",
            self.time(),
            or_none(self.peer.map(|peer| peer.to_string())),
            word(&self.service),
            word(&self.path),
            or_none(self.endpoint.as_ref().map(|endpoint| word(&endpoint.to_string()))),
            self.code.as_str(),
            self.attempts,
            self.bytes_in,
            self.bytes_out,
            self.duration_ms(),
            self.reason.unwrap_or("-"),
        );
    }

    /// When it arrived, to the millisecond, as RFC 3339 has it in UTC.
    fn time(&self) -> String {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = Duration::from_millis(since.as_millis() as u64);
        prost_types::Timestamp::from(UNIX_EPOCH + millis).to_string()
    }

    fn duration_ms(&self) -> f64 {
        self.duration.as_micros() as f64 / 1e3
    }
}

/// A value that reads as one: callers choose names and paths, and may not write lines or fields of
/// their own.
fn word(text: &str) -> String {
    let plain = |c: char| waymark_core::text::prints(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn line() -> Line {
        Line {
            at: UNIX_EPOCH + Duration::new(1_764_181_377, 123_999_999),
            peer: Some([192, 0, 2, 7].into()),
            service: "ayang/server1".into(),
            path: "/greeter.Greeter/SayHello".into(),
            endpoint: Some("192.0.2.1:80".parse().unwrap()),
            code: Code::Ok,
            attempts: 2,
            bytes_in: 12,
            bytes_out: 34,
            duration: Duration::from_micros(1_234),
            reason: None,
        }
    }

    fn shown(line: &Line, format: AccessFormat) -> String {
        let mut text = Vec::new();
        line.write(format, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_call_is_one_line_of_json() {
        assert_eq!(
            shown(&line(), AccessFormat::Json),
            concat!(
                r#"{"time":"2025-11-26T18:22:57.123Z","peer":"192.0.2.7","service":"ayang/server1","#,
                r#""path":"/greeter.Greeter/SayHello","endpoint":"192.0.2.1:80","code":"OK","attempts":2,"#,
                r#""bytes_in":12,"bytes_out":34,"duration_ms":1.234,"reason":null}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_call_is_one_line_of_text() {
        let failed = Line {
            peer: None,
            endpoint: None,
            code: Code::Unavailable,
            attempts: 0,
            reason: Some("no-endpoints"),
            ..line()
        };
        assert_eq!(
            shown(&failed, AccessFormat::Text),
            "2025-11-26T18:22:57.123Z peer=- service=ayang/server1 path=/greeter.Greeter/SayHello endpoint=- \
             code=UNAVAILABLE attempts=0 bytes_in=12 bytes_out=34 duration_ms=1.234 reason=no-endpoints\n"
        );
    }

    #[test]
    fn what_a_caller_chose_writes_no_lines_and_no_fields() {
        for hostile in ["", "a b", "a\nb", "a code=OK", "\"", "\u{85}", "\u{2028}"] {
            let line = Line { service: hostile.into(), path: hostile.into(), ..line() };
            let text = shown(&line, AccessFormat::Text);
            assert!(text.contains(&format!(" service={hostile:?} path={hostile:?} endpoint=")), "{text}");
            let json = shown(&line, AccessFormat::Json);
            for shown in [text, json] {
                assert_eq!(shown.lines().count(), 1, "{shown}");
            }
        }
    }
}
