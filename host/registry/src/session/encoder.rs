//! What stands in etcd for an instance, by its key scheme.

use std::{collections::HashSet, sync::Arc};

use waymark_core::{
    model::{Endpoint, LeaseId, Ttl},
    naming::{Entry, KeyScheme},
};

use crate::{
    error::RegistryError,
    etcd::{Kv, MAX_OPS},
    registration::RegistrationConfig,
};

/// What a session needs to encode its entries, and to refuse those that no reader would find.
pub(crate) struct Encoder {
    pub(crate) config: RegistrationConfig,
    pub(crate) scheme: Arc<dyn KeyScheme>,
    pub(crate) prefixes: Arc<[String]>,
}

impl Encoder {
    /// What to write under this lease. The key scheme may block, so this runs on a thread where
    /// that harms nobody.
    pub(crate) async fn encode(&self, lease: LeaseId, ttl: Ttl) -> Result<Vec<Entry>, RegistryError> {
        let (scheme, config) = (Arc::clone(&self.scheme), self.config.clone());
        let encoding =
            tokio::task::spawn_blocking(move || scheme.encode(&config.service, &config.endpoint, lease, ttl));
        let entries = match encoding.await {
            Ok(entries) => entries.map_err(RegistryError::Naming)?,
            Err(_) => return Err(self.refuse("it panicked")),
        };
        self.check(&entries)?;
        Ok(entries)
    }

    /// What an entry that somebody else has written says of this instance, and nothing where it is
    /// not of this instance alone.
    pub(crate) async fn decode(&self, kv: &Kv) -> Option<Endpoint> {
        let (scheme, service) = (Arc::clone(&self.scheme), self.config.service.clone());
        let entry = Entry { key: String::from_utf8(kv.key.clone()).ok()?, value: kv.value.clone() };
        let decoded = tokio::task::spawn_blocking(move || scheme.decode(&service, &entry)).await.ok()?.ok()?;
        let ours = &self.config.endpoint;
        match decoded.endpoints.as_slice() {
            [one] if one.address == ours.address => Some(Endpoint { id: ours.id.clone(), ..one.clone() }),
            _ => None,
        }
    }

    fn check(&self, entries: &[Entry]) -> Result<(), RegistryError> {
        if entries.is_empty() {
            return Err(self.refuse("there are none"));
        }
        if entries.len() > MAX_OPS {
            return Err(self.refuse(&format!("they are {}, and a transaction holds {MAX_OPS}", entries.len())));
        }
        let mut seen = HashSet::new();
        for Entry { key, .. } in entries {
            if !self.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                return Err(RegistryError::KeyOutsidePrefixes {
                    scheme: self.scheme.name().to_owned(),
                    service: self.config.service.clone(),
                    key: key.clone(),
                    prefixes: self.prefixes.to_vec(),
                });
            }
            if !seen.insert(key) {
                return Err(self.refuse(&format!("the key {key:?} is there twice")));
            }
        }
        Ok(())
    }

    fn refuse(&self, problem: &str) -> RegistryError {
        RegistryError::Entries {
            scheme: self.scheme.name().to_owned(),
            service: self.config.service.clone(),
            problem: problem.to_owned(),
        }
    }
}
