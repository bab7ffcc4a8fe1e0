//! What plugins may take, from what is written: each limit with its range, so that a value without meaning is refused by the
//! setting's name.

use std::time::Duration;

use super::{ConfigError, LimitsFile};
use crate::plugin::Limits;

impl LimitsFile {
    /// These limits, and those of `base` where nothing was written. `table` is for the message: where it was written.
    pub(super) fn over(&self, base: &Limits, table: &str) -> Result<Limits, ConfigError> {
        let mut limits = base.clone();
        let read = |setting: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                let reason = format!("{value} is not within {least} to {most}");
                Err(ConfigError::value(format!("{table}.{setting}"), reason))
            }
            value => Ok(value),
        };
        // A pick runs on a thread that serves requests: more than a second would stop them all.
        if let Some(value) = read("pick-deadline-ms", self.pick_deadline_ms, 1, 1000)? {
            limits.pick_deadline = Duration::from_millis(value);
        }
        if let Some(value) = read("build-deadline-ms", self.build_deadline_ms, 1, 600_000)? {
            limits.build_deadline = Duration::from_millis(value);
        }
        // The address space of WebAssembly is 4 GiB.
        if let Some(value) = read("memory-mib", self.memory_mib, 1, 4096)? {
            limits.memory = (value as usize) << 20;
        }
        if let Some(value) = read("table-elements", self.table_elements, 1, 10_000_000)? {
            limits.table_elements = value as usize;
        }
        if let Some(value) = read("component-mib", self.component_mib, 1, 1024)? {
            limits.component_size = (value as usize) << 20;
        }
        if let Some(value) = read("plan-entries", self.plan_entries, 1, 1 << 28)? {
            limits.plan_len = value as usize;
        }
        if let Some(value) = read("transfer-mib", self.transfer_mib, 1, 2048)? {
            limits.transfer = (value as usize) << 20;
        }
        if let Some(value) = read("log-messages", self.log_messages, 0, 1_000_000)? {
            limits.log_messages = value as u32;
        }
        if let Some(value) = read("log-message-bytes", self.log_message_bytes, 16, 1 << 20)? {
            limits.log_message_len = value as usize;
        }
        if let Some(value) = read("quarantine-failures", self.quarantine_failures, 1, 1_000_000)? {
            limits.quarantine_failures = value as usize;
        }
        if let Some(value) = read("quarantine-window-s", self.quarantine_window_s, 1, 86_400)? {
            limits.quarantine_window = Duration::from_secs(value);
        }
        Ok(limits)
    }
}
