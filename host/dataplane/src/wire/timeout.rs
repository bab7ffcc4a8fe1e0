//! `grpc-timeout`: a call's deadline on the wire.
//!
//! `TimeoutValue TimeoutUnit`: at most eight digits and one of H, M, S, m, u, n (gRPC's
//! PROTOCOL-HTTP2.md, "Requests").

use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What is left of a call's time, from its header; none when the header is not what the
/// specification asks for.
pub(crate) fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The header for what is left, in the finest unit that eight digits hold; rounded down, so that a
/// hop never adds time.
pub(crate) fn format(left: Duration) -> HeaderValue {
    const LIMIT: u128 = 100_000_000;
    let (number, unit) = [
        (left.as_nanos(), b'n'),
        (left.as_micros(), b'u'),
        (left.as_millis(), b'm'),
        (u128::from(left.as_secs()), b'S'),
        (u128::from(left.as_secs() / 60), b'M'),
        (u128::from(left.as_secs() / 3600).min(LIMIT - 1), b'H'),
    ]
    .into_iter()
    .find(|(number, _)| *number < LIMIT)
    .expect("hours were cut to eight digits");
    let mut text = [0; 9];
    text[8] = unit;
    let (mut at, mut number) = (8, number as u32);
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[at..]).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit_of_the_specification_is_read() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("99999999n", 99_999_999),
            ("0S", 0),
        ] {
            assert_eq!(parse(&HeaderValue::from_static(text)).unwrap().as_nanos(), nanos, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_timeout_is_refused() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "100000000n", "1 S"] {
            assert_eq!(parse(&HeaderValue::from_str(text).unwrap()), None, "{text:?}");
        }
    }

    #[test]
    fn a_timeout_past_all_bounds_is_the_longest_there_is() {
        assert_eq!(format(Duration::MAX), "99999999H");
        assert_eq!(format(Duration::ZERO), "0n");
        assert_eq!(format(Duration::from_millis(250)), "250000u");
    }

    proptest! {
        #[test]
        fn a_hop_never_adds_time_and_loses_less_than_one_part_in_a_million(nanos in 0u64..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let read = parse(&format(left)).unwrap();
            prop_assert!(read <= left);
            // Eight digits in the unit chosen; minutes and hours are up to 3600 times coarser than
            // seconds.
            prop_assert!(left.saturating_sub(read) <= left / 27_000 + Duration::from_nanos(1));
        }
    }
}
