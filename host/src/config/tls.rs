//! Where certificates are: which files, and for which side of the node.

use std::path::PathBuf;

use super::{
    ConfigError, TlsFiles, Transport,
    file::{EndpointTlsFile, TlsFile},
};

impl TlsFile {
    /// `table`: where it was written, for the message.
    pub(super) fn into_files(self, table: &str) -> Result<TlsFiles, ConfigError> {
        let identity = pair(self.cert_file, self.key_file, table)?;
        if identity.is_none() {
            return Err(ConfigError::value(
                format!("{table}.cert-file"),
                "is missing: a server needs a certificate and its key-file",
            ));
        }
        Ok(TlsFiles { identity, authorities: self.client_ca_file, server_name: None })
    }
}

impl EndpointTlsFile {
    /// `table`: where it was written, for the message.
    pub(super) fn into_transport(self, table: &str) -> Result<Transport, ConfigError> {
        if self.enabled == Some(false) {
            return Ok(Transport::Cleartext);
        }
        let identity = pair(self.cert_file, self.key_file, table)?;
        Ok(Transport::Tls(TlsFiles { identity, authorities: self.ca_file, server_name: self.server_name }))
    }
}

fn pair(cert: Option<PathBuf>, key: Option<PathBuf>, table: &str) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::value(format!("{table}.cert-file"), "goes with key-file, give both")),
        (None, Some(_)) => Err(ConfigError::value(format!("{table}.key-file"), "goes with cert-file, give both")),
    }
}
