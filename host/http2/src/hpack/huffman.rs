//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: of two symbols the one with the shorter code comes first, and of two
//! equally long ones the one with the smaller number. So the lengths say all, and the tables are
//! computed from them when the crate is compiled.
//!
//! Decoding looks up [`LOOKUP`] bits at a time and gets up to two symbols for them: every symbol
//! common in headers has a code of 5 to 8 bits. Longer codes are found by their length.

/// How many bits one look-up takes.
const LOOKUP: u32 = 12;
const EOS: usize = 256;
const LONGEST: usize = 30;

/// The lengths of the codes, in bits, by symbol; the last one is that of "end of string".
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// The symbols in the order of their codes, and where each length begins: its first code, the place
/// of its first symbol, and how many there are.
struct Canonical {
    symbols: [u16; 257],
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    count: [u16; LONGEST + 1],
    codes: [u32; 257],
}

static CANONICAL: Canonical = canonical();
static PAIRS: [u32; 1 << LOOKUP] = pairs();

const fn canonical() -> Canonical {
    let mut table = Canonical {
        symbols: [0; 257],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        codes: [0; 257],
    };
    let (mut code, mut place, mut length) = (0_u32, 0_usize, 1_usize);
    while length <= LONGEST {
        code <<= 1;
        table.first[length] = code;
        table.place[length] = place as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                table.symbols[place] = symbol as u16;
                table.codes[symbol] = code;
                table.count[length] += 1;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    table
}

/// By the next [`LOOKUP`] bits: the first symbol in bits 0 to 7, the second in 8 to 15, the length
/// of the first code in 16 to 19, of both in 20 to 23, and how many symbols there are in 24 and 25.
#[allow(clippy::large_stack_arrays, reason = "it runs in the compiler only")]
const fn pairs() -> [u32; 1 << LOOKUP] {
    let codes = canonical().codes;
    let mut single = [(0_u8, 0_u8); 1 << LOOKUP];
    let mut symbol = 0;
    while symbol < EOS {
        let length = LENGTHS[symbol] as u32;
        if length <= LOOKUP {
            let spare = LOOKUP - length;
            let base = (codes[symbol] << spare) as usize;
            let mut low = 0;
            while low < 1 << spare {
                single[base + low] = (symbol as u8, length as u8);
                low += 1;
            }
        }
        symbol += 1;
    }
    let mut table = [0_u32; 1 << LOOKUP];
    let mut bits = 0;
    while bits < table.len() {
        let (first, length) = (single[bits].0 as u32, single[bits].1 as u32);
        if length > 0 {
            let (second, more) = single[(bits << length) & ((1 << LOOKUP) - 1)];
            let (second, more) = (second as u32, more as u32);
            table[bits] = if more > 0 && length + more <= LOOKUP {
                first | second << 8 | length << 16 | (length + more) << 20 | 2 << 24
            } else {
                first | length << 16 | length << 20 | 1 << 24
            };
        }
        bits += 1;
    }
    table
}

/// What is no Huffman code: a symbol cut short, padding of more than seven bits or with a zero in
/// it, or "end of string" itself (RFC 7541, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoCode;

/// Decodes `wire` to the end of `out`. `out` is as before where it fails.
pub(crate) fn decode(wire: &[u8], out: &mut Vec<u8>) -> Result<(), NoCode> {
    let start = out.len();
    // The shortest code has five bits. Two to spare for the second symbol of a pair.
    out.resize(start + wire.len() * 8 / 5 + 2, 0);
    let decoded = decode_into(wire, &mut out[start..]);
    out.truncate(start + decoded.unwrap_or(0));
    decoded.map(drop)
}

fn decode_into(mut wire: &[u8], out: &mut [u8]) -> Result<usize, NoCode> {
    // The next bits of the string, from the highest bit on, and how many of them there are.
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut at = 0;
    loop {
        if have < 32 {
            if let Some((four, rest)) = wire.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - have);
                have += 32;
                wire = rest;
            } else {
                for &byte in wire {
                    bits |= u64::from(byte) << (56 - have);
                    have += 8;
                }
                wire = &[];
                if have < LONGEST as u32 {
                    break;
                }
            }
        }
        let entry = PAIRS[(bits >> (64 - LOOKUP)) as usize];
        let used = if entry == 0 {
            let (symbol, length) = long(bits, have)?;
            out[at] = symbol;
            at += 1;
            length
        } else {
            out[at] = entry as u8;
            out[at + 1] = (entry >> 8) as u8;
            at += (entry >> 24) as usize;
            entry >> 20 & 15
        };
        bits <<= used;
        have -= used;
    }
    // The end: what is missing reads as the padding would.
    loop {
        let padded = bits | u64::MAX.checked_shr(have).unwrap_or(0);
        let entry = PAIRS[(padded >> (64 - LOOKUP)) as usize];
        let length = entry >> 16 & 15;
        let used = if entry != 0 && length <= have {
            out[at] = entry as u8;
            length
        } else if have < 8 && padded == u64::MAX {
            return Ok(at);
        } else {
            let (symbol, length) = long(padded, have)?;
            out[at] = symbol;
            length
        };
        at += 1;
        bits <<= used;
        have -= used;
    }
}

/// The symbol with a code longer than a look-up, and the length of it.
fn long(bits: u64, have: u32) -> Result<(u8, u32), NoCode> {
    for length in LOOKUP as usize + 1..=(have as usize).min(LONGEST) {
        let past = ((bits >> (64 - length)) as u32).wrapping_sub(CANONICAL.first[length]);
        if past < u32::from(CANONICAL.count[length]) {
            let symbol = CANONICAL.symbols[CANONICAL.place[length] as usize + past as usize];
            return u8::try_from(symbol).map(|symbol| (symbol, length as u32)).map_err(|_| NoCode);
        }
    }
    Err(NoCode)
}

/// How many bytes `plain` has when encoded.
pub(crate) fn encoded_len(plain: &[u8]) -> usize {
    plain.iter().map(|&byte| LENGTHS[byte as usize] as usize).sum::<usize>().div_ceil(8)
}

/// Encodes `plain` to the end of `out`.
pub(crate) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0_u32);
    for &byte in plain {
        let length = u32::from(LENGTHS[byte as usize]);
        bits = bits << length | u64::from(CANONICAL.codes[byte as usize]);
        have += length;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        out.push((bits << (8 - have)) as u8 | 0xff >> have);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_code_is_that_of_the_appendix() {
        assert_eq!(CANONICAL.codes[0], 0x1ff8);
        assert_eq!(CANONICAL.codes[b'0' as usize], 0);
        assert_eq!(CANONICAL.codes[b'~' as usize], 0x1ffd);
        assert_eq!(CANONICAL.codes[255], 0x03ff_ffee);
        assert_eq!(CANONICAL.codes[EOS], 0x3fff_ffff);
    }

    #[test]
    fn the_examples_of_the_appendix_decode() {
        let mut out = Vec::new();
        let wire = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        decode(&wire, &mut out).expect("an example of the RFC");
        assert_eq!(out, b"www.example.com");
        let mut again = Vec::new();
        encode(&out, &mut again);
        assert_eq!(again, wire);
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let mut out = vec![7];
        // Eight bits of padding, a zero in the padding, "end of string".
        for wire in [&[0xff][..], &[0x1f, 0xff], &[0x18], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(wire, &mut out), Err(NoCode), "{wire:?}");
            assert_eq!(out, [7]);
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(plain: Vec<u8>) {
            let mut wire = Vec::new();
            encode(&plain, &mut wire);
            prop_assert_eq!(wire.len(), encoded_len(&plain));
            let mut out = Vec::new();
            prop_assert_eq!(decode(&wire, &mut out), Ok(()));
            prop_assert_eq!(out, plain);
        }

        #[test]
        fn any_bytes_end(wire: Vec<u8>) {
            let _ = decode(&wire, &mut Vec::new());
        }
    }
}
