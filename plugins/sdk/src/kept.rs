//! The message of a decision, kept until the host has read it.
//!
//! A component may free what it answered in a call of its own that comes after the answer. For a
//! pick the host would pay for that call every time, though hardly any decision has a message. So
//! the bindings export no such call for `pick` (the builder sees to that), and a message lives
//! until the next one.

use crate::prelude::*;

/// Keeps a message where it is, and frees the one before.
#[cfg(target_arch = "wasm32")]
pub(crate) fn keep(message: Box<[u8]>) {
    static KEPT: crate::slot::Slot<Box<[u8]>> = crate::slot::Slot::new();
    KEPT.set(Some(message));
}

/// Only a component is asked for picks by the bindings that call this.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn keep(message: Box<[u8]>) {
    core::mem::forget(message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Slot;

    #[test]
    fn a_message_stays_where_it_was_until_the_next_one() {
        let slot = Slot::new();
        let first = Box::<[u8]>::from(*b"no endpoint is in that zone");
        let at = first.as_ptr();
        slot.set(Some(first));
        let kept = || slot.with(|kept| kept.as_ref().map(|kept| (kept.as_ptr(), kept.to_vec())));
        assert_eq!(kept(), Some((at, b"no endpoint is in that zone".to_vec())));
        slot.set(Some(Box::from(*b"else")));
        assert_eq!(kept().map(|(_, kept)| kept), Some(b"else".to_vec()));
    }
}
