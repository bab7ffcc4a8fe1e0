//! Texts that are addresses themselves, in all forms that the system's resolver takes: beside the
//! usual ones also `127.1`, `0x7f000001` and `2130706433` (`inet_aton`). No name of DNS ends in a
//! number, so none is taken for one that is not.

use std::net::{IpAddr, Ipv4Addr};

/// The address that a host is, if it is one.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.parse().ok().or_else(|| inet_aton(host).map(IpAddr::V4))
}

/// One to four numbers; the last one fills what is left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 0xff) {
        return None;
    }
    let left = 32 - 8 * first.len();
    if u64::from(*last) >= 1 << left {
        return None;
    }
    let high = first.iter().enumerate().fold(0, |high, (at, part)| high | part << (24 - 8 * at));
    Some((high | last).into())
}

/// As C writes numbers.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_takes_for_an_address_is_one() {
        for (text, ip) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("127.1", "127.0.0.1"),
            ("10.1.258", "10.1.1.2"),
            ("0x7f000001", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("0", "0.0.0.0"),
        ] {
            assert_eq!(address(text).map(|ip| ip.to_string()).as_deref(), Some(ip), "{text}");
        }
        for text in
            ["", ".", "1.2.3.4.5", "256.1", "1.2.3.256", "4294967296", "host", "1.2.3.", "+1", "08", "0x", "1e3"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
