//! A weight as people write it, as the whole number that the host takes.
//!
//! Without floating point: the component would be half as large again for reading one.

/// What a text says of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Just that.
    Exact(u32),
    /// Something else, of which this is the nearest that can be had: never 0, which would mean
    /// "send it nothing".
    Near(u32),
}

/// Reads a decimal number as JSON has it, also with zeros or a plus sign in front, and with white
/// space around; none for anything else, and for what is under 0.
pub(crate) fn read(text: &str) -> Option<Weight> {
    let trimmed = text.trim();
    let (negative, number) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().next().is_none() || !digits().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    if digits().all(|digit| digit == b'0') {
        return Some(if trimmed == text { Weight::Exact(0) } else { Weight::Near(0) });
    }
    if negative {
        return None;
    }
    // How many of the digits stand before the point, once the exponent has moved it.
    let point = i64::try_from(whole.len()).ok()?.saturating_add(exponent);
    let (mut value, mut rest, mut half) = (0_u64, false, false);
    let mut at = 0_i64;
    for digit in digits() {
        if at < point {
            value = push(value, digit - b'0');
        } else {
            rest |= digit != b'0';
            half |= at == point && point >= 0 && digit >= b'5';
        }
        at += 1;
    }
    // No more than 20 zeros: past that any digit is over the limit, and none stays none.
    for _ in 0..point.saturating_sub(at).clamp(0, 20) {
        value = push(value, 0);
    }
    value = value.saturating_add(u64::from(half)).max(1);
    let exact = !rest && trimmed == text;
    Some(match u32::try_from(value) {
        Ok(weight) if exact => Weight::Exact(weight),
        Ok(weight) => Weight::Near(weight),
        Err(_) => Weight::Near(u32::MAX),
    })
}

fn push(value: u64, digit: u8) -> u64 {
    value.saturating_mul(10).saturating_add(u64::from(digit))
}

/// An exponent; one that is beyond all bounds is as good as a thousand digits.
fn read_exponent(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| sign * digits.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for (text, weight) in [
            ("0", 0),
            ("3", 3),
            ("+3", 3),
            ("007", 7),
            ("3.000", 3),
            ("0.3e1", 3),
            ("300e-2", 3),
            (".5e1", 5),
            ("5.", 5),
            ("4294967295.0", u32::MAX),
            ("0e999999999999999999999", 0),
        ] {
            assert_eq!(read(text), Some(Weight::Exact(weight)), "{text}");
        }
        for (text, weight) in [
            ("0.4", 1),
            ("0.5", 1),
            ("1.49", 1),
            ("1.5", 2),
            ("1e-999999999999999999999", 1),
            ("0.05e1", 1),
            ("4294967295.5", u32::MAX),
            ("1e999999999999999999999", u32::MAX),
            ("99999999999999999999999", u32::MAX),
            ("\t3 ", 3),
        ] {
            assert_eq!(read(text), Some(Weight::Near(weight)), "{text}");
        }
        for text in [
            "", " ", "-", "+", ".", "e5", "1e", "1e+", "--1", "+-1", "1.2.3", "0x1", "NaN", "inf", "1_000", "-1",
            "-1e-9", "٣",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_floating_point(mantissa in 0_u32..100_000_000, exponent in -9_i32..9) {
            let text = format!("{mantissa}e{exponent}");
            let real: f64 = text.parse().unwrap_or(f64::NAN);
            let (weight, exact) = match read(&text) {
                Some(Weight::Exact(weight)) => (f64::from(weight), true),
                Some(Weight::Near(weight)) => (f64::from(weight), false),
                None => return Err(TestCaseError::fail(text)),
            };
            let nearest = if real == 0.0 { 0.0 } else { real.clamp(1.0, f64::from(u32::MAX)) };
            prop_assert!((weight - nearest).abs() <= 0.5, "{text}: {weight}");
            prop_assert_eq!(exact, (weight - real) == 0.0, "{}", text);
        }

        #[test]
        fn no_text_breaks_it(text in "[-+.eE0-9 x]{0,24}") {
            _ = read(&text);
        }
    }
}
