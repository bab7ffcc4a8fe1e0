//! Why a call into a plugin failed.

use std::time::Duration;

use wasmtime::{Store, Trap};
use waymark_core::text;

use super::host::HostState;
use crate::memory::HANDLES;

/// Why a call into a plugin failed.
pub(crate) enum CallFailure {
    Deadline,
    /// It handed over more than so many bytes at once.
    HandedOver(usize),
    Trap(String),
}

impl CallFailure {
    pub(crate) fn of(store: &mut Store<HostState>, error: &wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline,
            Some(trap) => match store.data_mut().memory.refused.take() {
                Some(refused) => Self::Trap(format!("{trap}, after {refused}")),
                None => Self::Trap(trap.to_string()),
            },
            None => match error.root_cause().to_string() {
                // These have no types with names for others.
                cause if cause.contains("fuel allocated for hostcalls") => Self::HandedOver(store.hostcall_fuel()),
                cause if cause.contains("store handle limit exceeded") => {
                    Self::Trap(format!("it holds {HANDLES} handles, the most that it may"))
                }
                cause => Self::Trap(text::printable(&cause, text::WORDS)),
            },
        }
    }

    pub(crate) fn describe(&self, deadline: Duration) -> String {
        match self {
            Self::Deadline => format!("it was not done after {} ms", deadline.as_millis()),
            Self::HandedOver(most) => format!("it handed over more than {} KiB at once", most >> 10),
            Self::Trap(reason) => reason.clone(),
        }
    }
}
