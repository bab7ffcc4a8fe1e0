//! How connections are used, from what is written: each value with its range.

use std::time::Duration;

use super::{
    ConfigError,
    file::{ClientsFile, EndpointsFile},
};
use crate::dataplane::{ConnectOptions, InboundOptions};

/// A year: what is longer is a mistake, and "never" is written otherwise.
const LONGEST_S: u64 = 366 * 86_400;

fn within(setting: &str, value: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ConfigError::value(setting, format!("{value} is not within {least} to {most}")))
        }
        value => Ok(value),
    }
}

fn seconds(setting: &str, value: Option<u64>, least: u64) -> Result<Option<Duration>, ConfigError> {
    Ok(within(setting, value, least, LONGEST_S)?.map(Duration::from_secs))
}

impl ClientsFile {
    /// Connections from clients, without their certificates.
    pub(super) fn to_options(&self) -> Result<InboundOptions, ConfigError> {
        let default = InboundOptions::default();
        let max_connections = within("clients.max-connections", self.max_connections, 1, u64::from(u32::MAX))?;
        let max_streams = within("clients.max-streams", self.max_streams, 1, u64::from(u32::MAX >> 1))?;
        if self.max_age_grace_s.is_some() && self.max_age_s.is_none() {
            return Err(ConfigError::value("clients.max-age-grace-s", "goes with clients.max-age-s, give both"));
        }
        Ok(InboundOptions {
            max_connections: max_connections.map(|most| most as usize),
            max_concurrent_streams: max_streams.map_or(default.max_concurrent_streams, |streams| streams as u32),
            max_age: seconds("clients.max-age-s", self.max_age_s, 1)?,
            max_age_grace: seconds("clients.max-age-grace-s", self.max_age_grace_s, 0)?,
            idle_timeout: seconds("clients.idle-timeout-s", self.idle_timeout_s, 1)?,
            ..default
        })
    }
}

impl EndpointsFile {
    /// Connections to endpoints.
    pub(super) fn to_options(&self) -> Result<ConnectOptions, ConfigError> {
        let default = ConnectOptions::default();
        let max_connections = within("endpoints.max-connections", self.max_connections, 1, 100)?;
        let idle_timeout = seconds("endpoints.idle-timeout-s", self.idle_timeout_s, 0)?;
        Ok(ConnectOptions {
            max_connections: max_connections.map_or(default.max_connections, |most| most as usize),
            idle_timeout: idle_timeout.or(default.idle_timeout).filter(|timeout| !timeout.is_zero()),
            ..default
        })
    }
}
