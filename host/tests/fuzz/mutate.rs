//! Inputs made of other inputs.

/// No input is longer: what fails at this length fails at a shorter one, and long ones are slow.
const LONGEST: usize = 1 << 16;

/// Numbers at which something often breaks.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX];

/// Words that a random byte would hardly ever come to.
const WORDS: [&[u8]; 16] = [
    b"\"\\u0000\"",
    b"\\ud800",
    b"[[[[[[[[",
    b"{\"\":{\"\":",
    b"1e999",
    b"-0",
    b"99999999999999999999",
    b"null",
    b"true",
    b"\n\n",
    b"= {}",
    b"[[",
    b"unix:/",
    b"[::]:1",
    b"\xff\xfe",
    b"\xf0\x9f\xa7\xad",
];

/// Changes an input in a few places, often with parts of another one.
pub(crate) fn mutate(random: &mut fastrand::Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut made = input.to_vec();
    for _ in 0..1 << random.u32(..4) {
        once(random, &mut made, other);
    }
    made.truncate(LONGEST);
    made
}

fn once(random: &mut fastrand::Rng, made: &mut Vec<u8>, other: &[u8]) {
    let at = random.usize(..=made.len());
    match random.u32(..10) {
        0 => replace(made, at, &[random.u8(..)]),
        1 => insert(made, at, &[random.u8(..)]),
        2 if at < made.len() => made[at] ^= 1 << random.u32(..8),
        3 => {
            let to = (at + random.usize(1..=64)).min(made.len());
            made.drain(at..to);
        }
        4 => {
            let part = part(random, made).to_vec();
            for _ in 0..random.usize(1..4) {
                insert(made, at, &part);
            }
        }
        5 => {
            let part = part(random, other);
            if random.bool() { insert(made, at, part) } else { replace(made, at, part) }
        }
        6 => {
            let edge = EDGES[random.usize(..EDGES.len())].to_be_bytes();
            let bytes = &edge[8 - (1 << random.u32(..4))..];
            if random.bool() { insert(made, at, bytes) } else { replace(made, at, bytes) }
        }
        7 => insert(made, at, WORDS[random.usize(..WORDS.len())]),
        8 if at < made.len() => made[at] = made[at].wrapping_add(random.u8(..5)).wrapping_sub(2),
        // A number in letters.
        _ => {
            let digits = EDGES[random.usize(..EDGES.len())].to_string();
            match made.iter().position(u8::is_ascii_digit) {
                Some(first) if random.bool() => {
                    let end =
                        made[first..].iter().position(|byte| !byte.is_ascii_digit()).map_or(made.len(), |n| first + n);
                    made.splice(first..end, digits.into_bytes());
                }
                _ => insert(made, at, digits.as_bytes()),
            }
        }
    }
}

fn part<'a>(random: &mut fastrand::Rng, of: &'a [u8]) -> &'a [u8] {
    let from = random.usize(..=of.len());
    &of[from..(from + random.usize(..=128)).min(of.len())]
}

fn insert(made: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    made.splice(at..at, bytes.iter().copied());
}

fn replace(made: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(made.len());
    made.splice(at..end, bytes.iter().copied());
}
