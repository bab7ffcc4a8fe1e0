//! Which clients may do what, and what instances hear of them, from what is written.

use super::{
    ConfigError,
    file::{ClientsFile, EndpointsFile},
};
use crate::dataplane::{ClientRule, Forwarding};

/// Where the authorities of callers are named.
pub(super) const CLIENT_AUTHORITIES: &str = "tls.client-ca-file";

/// Clients by name. `checked`: whether clients show certificates at all, which they do if
/// `authorities` is set.
pub(super) fn rules(
    setting: &str,
    names: &[String],
    checked: bool,
    authorities: &str,
) -> Result<Vec<ClientRule>, ConfigError> {
    let rule = |name: &String| {
        let rule: ClientRule =
            name.parse().map_err(|problem| ConfigError::value(setting, format!("{name:?} {problem}")))?;
        if rule.is_of_certificates() && !checked {
            let why = format!(
                "{name:?}: clients show no certificates: name the authorities that issue them in {authorities}"
            );
            return Err(ConfigError::value(setting, why));
        }
        Ok(rule)
    };
    names.iter().map(rule).collect()
}

impl ClientsFile {
    /// Who may call services that have no list of their own.
    pub(super) fn rules(&self, checked: bool) -> Result<Option<Vec<ClientRule>>, ConfigError> {
        self.allow.as_ref().map(|names| rules("clients.allow", names, checked, CLIENT_AUTHORITIES)).transpose()
    }
}

impl EndpointsFile {
    /// What instances hear of clients.
    pub(super) fn forwarding(&self, clients: &ClientsFile) -> Forwarding {
        Forwarding {
            certificate: self.forward_client_cert,
            address: self.forward_client_address,
            trusted: clients.trust_forwarded,
        }
    }
}
