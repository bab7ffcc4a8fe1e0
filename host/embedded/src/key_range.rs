//! A range of keys in etcd's notation, with its two special cases resolved once.

use std::ops::Bound;

use bytes::Bytes;

/// The form of a range that `BTreeMap::range` takes.
pub(super) type Bounds<'s> = (Bound<&'s [u8]>, Bound<&'s [u8]>);

/// Which keys a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyRange {
    /// Exactly this key.
    Key(Bytes),
    /// From `start` (inclusive) to `end` (exclusive). Empty when `end` is not after `start`.
    Range { start: Bytes, end: Bytes },
    /// Every key at or after this one.
    From(Bytes),
}

impl KeyRange {
    /// Reads etcd's pair: an empty end is one key, an end of one zero byte is "every key from here
    /// on".
    pub(super) fn new(key: &[u8], range_end: &[u8]) -> Self {
        let start = Bytes::copy_from_slice(key);
        match range_end {
            [] => Self::Key(start),
            [0] => Self::From(start),
            end => Self::Range { start, end: Bytes::copy_from_slice(end) },
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Range { start, end } => &start[..] <= key && key < &end[..],
            Self::From(start) => &start[..] <= key,
        }
    }

    /// Whether no key can lie in it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Range { start, end } if end <= start)
    }

    /// Bounds for a `BTreeMap`, or none when the range is empty (an inverted pair of bounds would
    /// panic there).
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        if self.is_empty() {
            return None;
        }
        Some(match self {
            Self::Key(only) => (Bound::Included(&only[..]), Bound::Included(&only[..])),
            Self::Range { start, end } => (Bound::Included(&start[..]), Bound::Excluded(&end[..])),
            Self::From(start) => (Bound::Included(&start[..]), Bound::Unbounded),
        })
    }

    /// The prefix this range stands for, when it is exactly "all keys with this prefix".
    pub(super) fn prefix(&self) -> Option<&Bytes> {
        match self {
            Self::Range { start, end } if after_prefix(start).as_deref() == Some(&end[..]) => Some(start),
            _ => None,
        }
    }
}

/// The first key after all keys with `prefix`: its last byte that can be raised is raised, what
/// follows is cut. None when no byte can be raised.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverted_range_is_empty_and_has_no_bounds() {
        let range = KeyRange::new(b"b", b"a");
        assert!(range.is_empty());
        assert!(range.bounds().is_none());
        assert!(!range.contains(b"a") && !range.contains(b"b"));
        assert!(KeyRange::new(b"b", b"b").is_empty());
    }

    #[test]
    fn an_end_of_one_zero_byte_means_every_key_from_here_on() {
        let range = KeyRange::new(b"b", b"\0");
        assert!(range.contains(b"b") && range.contains(b"\xff\xff") && !range.contains(b"a"));
    }

    #[test]
    fn a_prefix_range_is_recognised_even_after_the_highest_byte() {
        assert_eq!(KeyRange::new(b"a/", b"a0").prefix().map(|p| &p[..]), Some(&b"a/"[..]));
        assert_eq!(KeyRange::new(b"a\xff", b"b").prefix().map(|p| &p[..]), Some(&b"a\xff"[..]));
        assert_eq!(KeyRange::new(b"a", b"c").prefix(), None);
        assert_eq!(KeyRange::new(b"\xff", b"\0").prefix(), None);
    }
}
