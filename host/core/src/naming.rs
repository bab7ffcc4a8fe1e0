//! The role of a key scheme: what a service's keys and values in etcd look like.
//!
//! There is no native key scheme; `plugin` implements this trait for components. The registry talks
//! to the trait alone.

use thiserror::Error;

use crate::{
    model::{Address, Endpoint, LeaseId, ServiceName, Ttl},
    text::{NAME, WORDS, shown},
};

/// One key of etcd with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key; etcd allows any bytes, key schemes use text.
    pub key: String,
    /// The value's bytes.
    pub value: Vec<u8>,
}

/// What an entry registers. An address that does not parse is the entry's fault, and is reported
/// like one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The instances this entry registers; none for a marker key.
    pub endpoints: Vec<Endpoint>,
    /// What the scheme warns of although it reads the entry, such as a weight that cannot be taken
    /// as it stands: each once, and few.
    pub warnings: Vec<String>,
}

/// Why a key scheme gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NamingError {
    /// The scheme cannot name such a service, or cannot hold such an instance. Do not retry: change
    /// the input.
    #[error("key scheme {scheme} refuses {subject}: {reason}", subject = shown(.subject, WORDS), reason = shown(.reason, WORDS))]
    Refused {
        /// The scheme's name.
        scheme: String,
        /// What it was asked about.
        subject: String,
        /// Its own words.
        reason: String,
    },
    /// The entry was not written by this scheme. Skip it, count it, log it once.
    #[error("key scheme {scheme} cannot read the entry \"{key}\": {reason}", key = shown(.key, NAME), reason = shown(.reason, WORDS))]
    Unreadable {
        /// The scheme's name.
        scheme: String,
        /// The entry's key.
        key: String,
        /// Why.
        reason: String,
    },
    /// The plugin itself failed (trap, deadline, bad answer). The next call gets a fresh instance.
    #[error("key scheme {scheme} failed in {call}: {reason}", reason = shown(.reason, WORDS))]
    Failed {
        /// The scheme's name.
        scheme: String,
        /// The function called.
        call: &'static str,
        /// What happened.
        reason: String,
        /// Whether it was its time that was over: a further try would take as long.
        overran: bool,
    },
}

/// A layout of keys and values. Calls may block for the plugin's deadline: make them off the hot
/// path.
pub trait KeyScheme: Send + Sync + 'static {
    /// The scheme's name, for messages.
    fn name(&self) -> &str;

    /// What whoever chooses this scheme ought to know first, if anything.
    fn warning(&self) -> Option<&str> {
        None
    }

    /// The prefixes to read and watch. They are not empty, and no other service's keys lie under
    /// them (unless the scheme warns of just that).
    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError>;

    /// What to write for one instance, every key under one of the service's prefixes.
    fn encode(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
        lease: LeaseId,
        ttl: Ttl,
    ) -> Result<Vec<Entry>, NamingError>;

    /// What one entry says.
    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError>;
}

/// Whether this address can be registered: a wildcard tells no client where to go.
pub fn check_advertised(address: &Address) -> Result<(), String> {
    if address.is_unspecified() {
        return Err(format!(
            "{address} is a wildcard that no client can dial; pass the address clients should use (--advertise, WAYMARK_ADVERTISE)"
        ));
    }
    Ok(())
}
