//! A value that the whole component shares.

use core::cell::RefCell;

/// What a `static` of a component holds. It is for the export macros; everything else takes what it
/// needs as an argument.
#[doc(hidden)]
pub struct Slot<T>(RefCell<Option<T>>);

// SAFETY: a component is one instance that one thread is in at a time: the host sees to that, and
// without the proposal for threads (`atomics`) there is no second thread that could share the
// memory.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
#[allow(unsafe_code, reason = "see above")]
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it is for statics")]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Puts a value there, and drops the one before.
    pub fn set(&self, value: Option<T>) {
        self.0.replace(value);
    }

    /// What `f` makes of the value.
    pub fn with<R>(&self, f: impl FnOnce(&mut Option<T>) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}
