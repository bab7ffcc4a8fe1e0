//! What plugins may take, from what is written.

use std::time::Duration;

use super::{LimitsFile, file::PluginsFile};
use crate::plugin::{CompileLimits, Limits};

impl PluginsFile {
    /// What all instances of the node may hold together, in bytes, if that was written.
    pub(super) fn total_memory(&self) -> Option<usize> {
        self.total_memory_mib.map(mib)
    }

    /// What compiling may take.
    pub(super) fn compile(&self) -> CompileLimits {
        let default = CompileLimits::default();
        CompileLimits {
            cached: self.compiled_mib.map_or(default.cached, mib),
            deadline: self.compile_deadline_s.map_or(default.deadline, Duration::from_secs),
            memory: self.compile_memory_mib.map_or(default.memory, mib),
            ..default
        }
    }
}

impl LimitsFile {
    /// These limits, and those of `base` where nothing was written.
    pub(super) fn over(&self, base: &Limits) -> Limits {
        let count = |value: Option<u64>, base| value.map_or(base, |value| value as usize);
        let few = |value: Option<u64>, base| value.map_or(base, |value| value as u32);
        let millis = |value: Option<u64>, base| value.map_or(base, Duration::from_millis);
        Limits {
            pick_deadline: millis(self.pick_deadline_ms, base.pick_deadline),
            build_deadline: millis(self.build_deadline_ms, base.build_deadline),
            key_scheme_deadline: millis(self.key_scheme_deadline_ms, base.key_scheme_deadline),
            memory: self.memory_mib.map_or(base.memory, mib),
            table_elements: count(self.table_elements, base.table_elements),
            component_size: self.component_mib.map_or(base.component_size, mib),
            plan_len: count(self.plan_entries, base.plan_len),
            transfer: self.transfer_mib.map_or(base.transfer, mib),
            pick_transfer: self.pick_transfer_kib.map_or(base.pick_transfer, |kib| (kib as usize) << 10),
            pick_share: few(self.pick_share_percent, base.pick_share),
            log_messages: few(self.log_messages, base.log_messages),
            log_message_len: count(self.log_message_bytes, base.log_message_len),
            quarantine_failures: count(self.quarantine_failures, base.quarantine_failures),
            quarantine_window: self.quarantine_window_s.map_or(base.quarantine_window, Duration::from_secs),
        }
    }
}

fn mib(mib: u64) -> usize {
    (mib as usize) << 20
}
