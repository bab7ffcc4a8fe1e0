//! Which services callers may bring about by naming them, and how many.

use super::{ConfigError, Discovery, file::DiscoveryFile};
use crate::balancer::{Discoverable, Pattern};

impl DiscoveryFile {
    pub(super) fn to_discovery(&self) -> Result<Discovery, ConfigError> {
        let default = Discovery::default();
        let discoverable = match (self.discover, &self.allow) {
            (Some(false), Some(_)) => {
                return Err(ConfigError::value(
                    "discovery.allow",
                    "goes without discovery.discover = false, give one of them",
                ));
            }
            (Some(false), None) => Discoverable::Nothing,
            (_, None) => Discoverable::All,
            (_, Some(allow)) => {
                let patterns = allow
                    .iter()
                    .map(|text| Pattern::parse(text).map_err(|error| ConfigError::value("discovery.allow", error)));
                Discoverable::Listed(patterns.collect::<Result<_, _>>()?)
            }
        };
        Ok(Discovery {
            discoverable,
            max_services: self.max_services.map_or(default.max_services, |most| most as usize),
            max_empty: self.max_empty.map_or(default.max_empty, |most| most as usize),
        })
    }
}
