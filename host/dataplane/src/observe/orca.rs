//! What servers say of their load at the end of a call: ORCA reports in the trailer
//! `endpoint-load-metrics-bin` (gRFC A51).
//!
//! A report says something of the server and nothing of the call: one that cannot be read is passed
//! over, and callers get the trailer as it came. A call whose trailers have none pays for one
//! look-up; a report without names is read without an allocation.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName};
use prost::Message as _;
use waymark_balancer::CallGuard;
use waymark_core::policy::LoadReport;

#[allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated code; the proto has the documentation")]
mod proto {
    include!("generated/xds.data.orca.v3.rs");
}

const LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// With padding or without, as gRPC says of binary headers.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The most metrics of its own that are kept of a server, and the longest name of one in bytes: a
/// report is kept for each endpoint.
const MOST_METRICS: usize = 32;
const LONGEST_NAME: usize = 64;

/// Keeps the report in the trailers of this call's answer, if there is one.
pub(crate) fn read(trailers: &HeaderMap, call: &CallGuard) {
    if let Some(value) = trailers.get(LOAD_METRICS)
        && let Some((report, named)) = decode(value.as_bytes())
    {
        call.reported(&report, named);
    }
}

/// Reads these bytes as the trailer's value, and as the report that is encoded in one; in a word.
/// For fuzzing.
///
/// # Panics
///
/// What is kept of them is not as it is promised to policies.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) -> String {
    let read = |value: &[u8]| {
        let Some((report, named)) = decode(value) else { return "no report".to_owned() };
        let LoadReport { cpu_utilization, memory_utilization, application_utilization, rps, eps, age: _ } = report;
        let figures = [cpu_utilization, memory_utilization, application_utilization, rps, eps];
        assert!(figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0), "{report:?}");
        assert!(named.len() <= MOST_METRICS, "{} metrics", named.len());
        assert!(named.iter().all(|(name, value)| name.len() <= LONGEST_NAME && value.is_finite()), "{named:?}");
        format!("{:?}, {} of its own", figures.map(|figure| figure > 0.0), named.len())
    };
    format!("{}; {}", read(bytes), read(BASE64.encode(bytes).as_bytes()))
}

/// The figures, and the metrics by name.
fn decode(value: &[u8]) -> Option<(LoadReport, BTreeMap<String, f64>)> {
    // Five doubles with their tags are 45 bytes.
    let mut few = [0; 192];
    let report = if base64::decoded_len_estimate(value.len()) <= few.len() {
        let len = BASE64.decode_slice(value, &mut few).ok()?;
        proto::OrcaLoadReport::decode(&few[..len])
    } else {
        proto::OrcaLoadReport::decode(&*BASE64.decode(value).ok()?)
    };
    let mut report = report.ok()?;
    report.named_metrics.retain(|name, value| name.len() <= LONGEST_NAME && value.is_finite());
    while report.named_metrics.len() > MOST_METRICS {
        report.named_metrics.pop_last();
    }
    // What is negative, infinite or no number is as good as not said.
    let number = |value: f64| if value.is_finite() && value > 0.0 { value } else { 0.0 };
    let figures = LoadReport {
        cpu_utilization: number(report.cpu_utilization),
        memory_utilization: number(report.mem_utilization),
        application_utilization: number(report.application_utilization),
        rps: number(report.rps_fractional),
        eps: number(report.eps),
        ..LoadReport::default()
    };
    Some((figures, report.named_metrics))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_report_is_read_and_what_makes_no_sense_is_left_out() {
        let named = (0..100).map(|n| (format!("m{n}"), f64::from(n)));
        let named = named.chain([("x".repeat(65), 1.0), ("a".to_owned(), f64::INFINITY)]);
        let sent = proto::OrcaLoadReport {
            cpu_utilization: 1.25,
            mem_utilization: f64::NAN,
            application_utilization: 0.5,
            rps_fractional: 1000.5,
            eps: -1.0,
            named_metrics: named.collect(),
        };
        let (read, named) = decode(BASE64.encode(sent.encode_to_vec()).as_bytes()).unwrap();
        let expected =
            LoadReport { cpu_utilization: 1.25, application_utilization: 0.5, rps: 1000.5, ..LoadReport::default() };
        assert_eq!(read, expected);
        assert!(named.len() == MOST_METRICS && named.contains_key("m0") && !named.contains_key("a"));
        assert!(named.keys().all(|name| name.len() <= LONGEST_NAME));
    }

    #[test]
    fn a_report_is_read_with_padding_and_without() {
        // Field 9, 0.5; and the same after a field 3 of 7, and a pair in field 4, which nobody
        // reads.
        for value in ["SQAAAAAAAOA/", "GAciDAoBYREAAAAAAADwP0kAAAAAAADgPw", "GAciDAoBYREAAAAAAADwP0kAAAAAAADgPw=="] {
            let (read, named) = decode(value.as_bytes()).unwrap();
            assert_eq!(read, LoadReport { application_utilization: 0.5, ..LoadReport::default() });
            assert!(named.is_empty());
        }
    }

    #[test]
    fn what_is_no_report_is_none() {
        // No base64; and base64 of no message.
        for value in ["%", "/////w"] {
            assert_eq!(decode(value.as_bytes()), None, "{value}");
        }
    }
}
