//! How connections are used, from what is written.

use std::time::Duration;

use super::{
    ConfigError,
    file::{ClientsFile, EndpointsFile, RegistryFile},
};
use crate::{
    address_filter::Allow,
    dataplane::{ConnectOptions, InboundOptions},
    registry::EntryLimits,
};

/// The largest headers, from KiB to bytes.
fn headers(value: Option<u64>, default: u32) -> u32 {
    value.map_or(default, |kib| (kib as u32) << 10)
}

/// A time that 0 turns off.
fn unless_zero(value: Option<Duration>, default: Option<Duration>) -> Option<Duration> {
    value.or(default).filter(|time| !time.is_zero())
}

impl ClientsFile {
    /// Connections from clients, without their certificates.
    pub(super) fn to_options(&self) -> Result<InboundOptions, ConfigError> {
        let default = InboundOptions::default();
        if self.max_age_grace_s.is_some() && self.max_age_s.is_none() {
            return Err(ConfigError::value("clients.max-age-grace-s", "goes with clients.max-age-s, give both"));
        }
        let seconds = |value: Option<u64>| value.map(Duration::from_secs);
        Ok(InboundOptions {
            max_connections: self.max_connections.map(|most| most as usize),
            max_concurrent_streams: self.max_streams.map_or(default.max_concurrent_streams, |most| most as u32),
            max_header_bytes: headers(self.max_header_kib, default.max_header_bytes),
            max_age: seconds(self.max_age_s),
            max_age_grace: seconds(self.max_age_grace_s),
            idle_timeout: seconds(self.idle_timeout_s),
            stream_idle_timeout: seconds(self.stream_idle_timeout_s),
            ..default
        })
    }
}

impl RegistryFile {
    /// What of entries is taken.
    pub(super) fn to_entry_limits(&self) -> EntryLimits {
        let default = EntryLimits::default();
        let read = |value: Option<u64>, default| value.map_or(default, |value| value as usize);
        EntryLimits {
            instances: read(self.instances_per_entry, default.instances),
            endpoints: read(self.endpoints_per_service, default.endpoints),
            metadata_pairs: read(self.metadata_pairs, default.metadata_pairs),
            metadata_bytes: read(self.metadata_bytes, default.metadata_bytes),
            text_bytes: read(self.text_bytes, default.text_bytes),
        }
    }
}

impl EndpointsFile {
    /// Which endpoints may be called, if that is said.
    pub(super) fn to_allow(&self) -> Result<Option<Allow>, ConfigError> {
        let Some(list) = &self.allow else { return Ok(None) };
        let list = list.iter().map(|text| text.parse().map_err(|error| ConfigError::value("endpoints.allow", error)));
        Ok(Some(Allow::new(list.collect::<Result<_, _>>()?)))
    }

    /// Connections to endpoints.
    pub(super) fn to_options(&self) -> ConnectOptions {
        let default = ConnectOptions::default();
        let seconds = |value: Option<u64>| value.map(Duration::from_secs);
        ConnectOptions {
            max_header_bytes: headers(self.max_header_kib, default.max_header_bytes),
            quiet: unless_zero(self.quiet_ms.map(Duration::from_millis), default.quiet),
            keep_alive_interval: seconds(self.keep_alive_interval_s).unwrap_or(default.keep_alive_interval),
            keep_alive_timeout: seconds(self.keep_alive_timeout_s).unwrap_or(default.keep_alive_timeout),
            max_connections: self.max_connections.map_or(default.max_connections, |most| most as usize),
            idle_timeout: unless_zero(seconds(self.idle_timeout_s), default.idle_timeout),
            ..default
        }
    }
}
