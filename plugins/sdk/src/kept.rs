//! The message of a decision, kept until the host has read it.
//!
//! A component may free what it answered in a call of its own that comes after the answer. For a pick the host would pay for that
//! call every time, though hardly any decision has a message. So the bindings export no such call for `pick` (the builder sees to
//! that), and a message lives until the next one.

use core::cell::RefCell;

std::thread_local! {
    static KEPT: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// Keeps a message where it is, and frees the one before.
pub(crate) fn keep(message: Box<[u8]>) {
    KEPT.set(Some(message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_where_it_was_until_the_next_one() {
        let first = Box::<[u8]>::from(*b"no endpoint is in that zone");
        let at = first.as_ptr();
        keep(first);
        let kept = || KEPT.with_borrow(|kept| kept.as_ref().map(|kept| (kept.as_ptr(), kept.to_vec())));
        assert_eq!(kept(), Some((at, b"no endpoint is in that zone".to_vec())));
        keep(Box::from(*b"else"));
        assert_eq!(kept().map(|(_, kept)| kept), Some(b"else".to_vec()));
    }
}
