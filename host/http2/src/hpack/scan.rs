//! One pass over a field's bytes: its hash, and whether they may be in a field.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// An odd number with its bits well mixed: the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bytes of a token in lower case (RFC 9110, section 5.6.2; RFC 9113, section 8.2.1).
const TOKEN: [bool; 256] = tokens();

const fn tokens() -> [bool; 256] {
    let mut table = [false; 256];
    let marks = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
}

const fn has(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero & HIGHS
}

const fn forbidden(word: u64) -> u64 {
    has(word, 0) | has(word, b'\r') | has(word, b'\n')
}

const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MIX);
    product ^ product >> 29
}

/// The last 1 to 8 bytes as a word without a zero that is not in them.
fn tail(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
    } else {
        let byte = |at: usize| u64::from(bytes[at]);
        byte(0) | byte(bytes.len() / 2) << 8 | byte(bytes.len() - 1) << 16 | 0x2020_2020_2000_0000
    }
}

/// The hash of these bytes, and whether they are a field's value as RFC 9113, section 8.2.1 has it:
/// no NUL, CR or LF, and no space or tab at either end.
pub(super) fn value(seed: u32, bytes: &[u8]) -> (u32, bool) {
    let (&[first, ..], &[.., last]) = (bytes, bytes) else {
        return (seed, true);
    };
    let mut hash = mix(u64::from(seed), bytes.len() as u64);
    let mut bad = 0;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        bad |= forbidden(word);
        hash = mix(hash, word);
        rest = after;
    }
    if !rest.is_empty() {
        let word = bytes.last_chunk::<8>().map_or_else(|| tail(bytes), |last| u64::from_le_bytes(*last));
        bad |= forbidden(word);
        hash = mix(hash, word);
    }
    let blank = |byte| byte == b' ' || byte == b'\t';
    ((hash ^ hash >> 32) as u32, bad == 0 && !blank(first) && !blank(last))
}

/// Whether these bytes are the name of a field that is no pseudo-header.
pub(super) fn is_name(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[byte as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_words_see_what_the_bytes_are(bytes in proptest::collection::vec(0_u8..48, 0..40)) {
            let bad = bytes.iter().any(|byte| [0, 10, 13].contains(byte));
            let blank = |byte: Option<&u8>| byte.is_some_and(|byte| [9, 32].contains(byte));
            let valid = !bad && !blank(bytes.first()) && !blank(bytes.last());
            prop_assert_eq!(value(1, &bytes).1, valid);
        }
    }

    #[test]
    fn raw_bytes_are_values_and_capitals_no_names() {
        assert!(value(0, "Grüße \u{1}\u{7f}%2F".as_bytes()).1);
        assert!(value(0, b"").1);
        assert!(is_name(b"waymark-service"));
        for name in [&b""[..], b"Te", b"a b", b":path", b"a\0", b"\xff"] {
            assert!(!is_name(name), "{name:?}");
        }
        assert_ne!(value(0, b"a").0, value(1, b"a").0);
        assert_ne!(value(0, b"aaaaaaaa").0, value(0, b"aaaaaaab").0);
    }
}
