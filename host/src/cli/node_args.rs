//! The flags that say which node is asked, and who asks: the same for every command.

use std::{env, fs, path::PathBuf};

use super::output::CommandError;
use crate::admin::{ClientError, Credentials, NodeClient};

/// Which node is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Node")]
pub(super) struct NodeArgs {
    /// The address of the node's API: HOST:PORT, https://HOST:PORT or unix:/PATH.
    #[arg(long, env = "WAYMARK_NODE", default_value = NodeClient::DEFAULT_ADDRESS, value_name = "ADDRESS")]
    pub(super) node: String,
    #[command(flatten)]
    pub(super) credentials: CredentialArgs,
}

/// Who asks, and what the node has to prove.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Node")]
pub(super) struct CredentialArgs {
    /// A file with the token that the node knows us by.
    #[arg(long, env = "WAYMARK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificate authorities to trust for the node, PEM [default: the system's].
    #[arg(long, env = "WAYMARK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Our certificate for the node, PEM.
    #[arg(long, env = "WAYMARK_CERT_FILE", value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "WAYMARK_KEY_FILE", value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The name that the node's certificate must be for [default: the host of its address].
    #[arg(long, env = "WAYMARK_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
}

impl NodeArgs {
    /// A client of the node.
    pub(super) async fn connect(&self) -> Result<NodeClient, CommandError> {
        self.credentials.connect(&self.node).await
    }
}

impl CredentialArgs {
    /// A client of the node at this address.
    pub(super) async fn connect(&self, node: &str) -> Result<NodeClient, CommandError> {
        let credentials = self.read()?;
        let connected = NodeClient::connect_as(node, &credentials).await;
        connected.map_err(|error| match error {
            // The flag is the whole difference, and the error of the handshake does not say so.
            ClientError::Unreachable { address, reason } if reason.contains("UnknownIssuer") => {
                CommandError::unreachable(format!(
                    "{address} has a certificate of an authority that is not trusted here; name it with --ca-file"
                ))
            }
            error => error.into(),
        })
    }

    fn read(&self) -> Result<Credentials, CommandError> {
        let read = |flag: &str, path: &PathBuf| {
            fs::read(path)
                .map_err(|error| CommandError::usage(format!("{flag}: cannot read {}: {error}", path.display())))
        };
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some((read("--cert-file", cert)?, read("--key-file", key)?)),
            _ => None,
        };
        let token = self.token_file.as_ref().map(|path| token(&read("--token-file", path)?, path)).transpose()?;
        Ok(Credentials {
            token,
            authorities: self.ca_file.as_ref().map(|path| read("--ca-file", path)).transpose()?,
            identity,
            server_name: self.server_name.clone(),
        })
    }
}

/// The one token of a file; with a name before it, as the node's own file has it, without the name.
fn token(text: &[u8], path: &std::path::Path) -> Result<String, CommandError> {
    let bad = |problem: &str| CommandError::usage(format!("--token-file: {} {problem}", path.display()));
    let text = std::str::from_utf8(text).map_err(|_| bad("is not a text"))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next().ok_or_else(|| bad("has no token in it"))?;
    if lines.next().is_some() {
        return Err(bad("has more than one token in it; it is to hold the one that is ours"));
    }
    Ok(line.split_once(':').map_or(line, |(_, token)| token).trim().to_owned())
}

/// The user's name, where nothing else says who asks.
pub(super) fn user() -> String {
    let named = |variable| env::var(variable).ok().filter(|name| !name.is_empty());
    named("USER").or_else(|| named("LOGNAME")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_has_one_token_with_or_without_a_name() {
        let path = std::path::Path::new("t");
        for text in ["0123456789abcdef\n", "# mine\n\nanna: 0123456789abcdef"] {
            assert_eq!(token(text.as_bytes(), path).unwrap(), "0123456789abcdef");
        }
        for text in ["", "# none", "a:0123456789abcdef\nb:0123456789abcdef"] {
            assert!(token(text.as_bytes(), path).is_err(), "{text}");
        }
    }
}
