//! What is said of a service's calls, from what is written: each number with its range.

use std::time::Duration;

use super::{ConfigError, TrafficFile};
use crate::traffic::Traffic;

/// A day: a longer time is a mistake in the unit.
const LONGEST_MS: u64 = 86_400_000;

impl TrafficFile {
    /// What is written, and what `base` says where nothing is. `table` is for the message: where it was written.
    pub(super) fn over(&self, base: &Traffic, table: &str) -> Result<Traffic, ConfigError> {
        let mut traffic = base.clone();
        let limits = &mut traffic.limits;
        let count = |setting: &str, value, least| number(table, setting, value, least, 1_000_000).map(as_count);
        limits.max_in_flight = count("max-in-flight", self.max_in_flight, 1)?.or(limits.max_in_flight);
        let per_endpoint = count("max-in-flight-per-endpoint", self.max_in_flight_per_endpoint, 1)?;
        limits.max_in_flight_per_endpoint = per_endpoint.or(limits.max_in_flight_per_endpoint);
        limits.max_pending = count("max-pending", self.max_pending, 0)?.unwrap_or(limits.max_pending);
        let method = traffic.methods.default_mut();
        let timeout = number(table, "timeout-ms", self.timeout_ms, 1, LONGEST_MS)?;
        method.timeout = timeout.map(Duration::from_millis).or(method.timeout);
        method.wait_for_ready = self.wait_for_ready.unwrap_or(method.wait_for_ready);
        Ok(traffic)
    }
}

fn as_count(value: Option<u64>) -> Option<u32> {
    value.map(|value| value as u32)
}

fn number(table: &str, setting: &str, value: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ConfigError::value(format!("{table}.{setting}"), format!("{value} is not within {least} to {most}")))
        }
        value => Ok(value),
    }
}
