//! The node's API: where it is reached, and who may do what there.

use std::{net::SocketAddr, path::PathBuf};

use super::{ConfigError, TlsFiles, clients::rules, file::AdminSetting, parse};
use crate::dataplane::ClientRule;

/// Who may do what at the node's API, and which ways there are to it beside its port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlConfig {
    /// A Unix socket. Default: none.
    pub unix: Option<PathBuf>,
    /// A port for probes. Default: none.
    pub probe: Option<SocketAddr>,
    /// A file with tokens. It is followed. Default: none.
    pub token_file: Option<PathBuf>,
    /// Clients whose certificates may change something.
    pub clients: Vec<ClientRule>,
    /// Further users whose processes may, over the Unix socket.
    pub uids: Vec<u32>,
    /// Names by which the node is called.
    pub hosts: Vec<String>,
    /// Nobody changes anything without a proof of who he is.
    pub require_auth: bool,
    /// Nor sees more than probes do.
    pub protect_reads: bool,
    /// Start although everybody who reaches an address beyond this machine may change something.
    pub insecure: bool,
    /// TLS on the port. Default: none.
    pub tls: Option<TlsFiles>,
}

impl ControlConfig {
    /// Whether whoever reaches the port at `admin` could change policies, from beyond this machine,
    /// and nobody has said that this is meant.
    pub fn is_open_to_others(&self, admin: SocketAddr) -> bool {
        let named = self.token_file.is_some() || !self.clients.is_empty() || !self.uids.is_empty();
        let asks = self.require_auth || named;
        !(asks || self.insecure || admin.ip().to_canonical().is_loopback())
    }
}

impl AdminSetting {
    /// Where the port is, and the rest.
    pub(super) fn into_config(self, default: SocketAddr) -> Result<(SocketAddr, ControlConfig), ConfigError> {
        let file = match self {
            Self::Address(text) => return Ok((parse("admin", &text)?, ControlConfig::default())),
            Self::Table(file) => *file,
        };
        let checked = file.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        let clients = rules("admin.allow-clients", &file.allow_clients, checked, "admin.tls.client-ca-file")?;
        if let Some(rule) = clients.iter().find(|rule| !rule.is_of_certificates()) {
            return Err(ConfigError::value("admin.allow-clients", format!("{rule}: users stand in admin.allow-uids")));
        }
        if checked && clients.is_empty() {
            let why = "names authorities whose certificates nobody's rights depend on: say in admin.allow-clients which of them may change \
                       policies, [\"*\"] for all";
            return Err(ConfigError::value("admin.tls.client-ca-file", why));
        }
        if !file.allow_uids.is_empty() && file.unix.is_none() {
            return Err(ConfigError::value(
                "admin.allow-uids",
                "goes with admin.unix: users are known on a Unix socket alone",
            ));
        }
        let wrong = |host: &&String| host.trim_start_matches('.').is_empty() || host.contains(['/', ':', '*', ' ']);
        if let Some(host) = file.allowed_hosts.iter().find(wrong) {
            let why = "is no host name without a port, for example \"node.example\", or \".example\" for all below it";
            return Err(ConfigError::value("admin.allowed-hosts", format!("{host:?} {why}")));
        }
        let control = ControlConfig {
            unix: file.unix,
            probe: file.probe.map(|text| parse("admin.probe", &text)).transpose()?,
            token_file: file.token_file,
            clients,
            uids: file.allow_uids,
            hosts: file.allowed_hosts,
            require_auth: file.require_auth,
            protect_reads: file.protect_reads,
            insecure: file.insecure,
            tls: file.tls.map(|tls| tls.into_files("admin.tls")).transpose()?,
        };
        Ok((file.listen.map_or(Ok(default), |text| parse("admin.listen", &text))?, control))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::{super::parse_file, *};
    use crate::config::NodeConfig;

    fn node(text: &str) -> Result<NodeConfig, ConfigError> {
        parse_file("waymark.toml".as_ref(), text)?.into_node()
    }

    #[test]
    fn the_api_is_an_address_or_a_table() {
        let plain = node("admin = \"127.0.0.1:9\"").unwrap();
        assert_eq!((plain.admin.port(), plain.control), (9, ControlConfig::default()));
        let table = node(
            "[admin]\nlisten = \"0.0.0.0:9\"\nunix = \"/run/a.sock\"\nprobe = \"0.0.0.0:10\"\ntoken-file = \"tokens\"\nallow-uids = [7]
             allowed-hosts = [\"node.example\", \".svc\"]\nallow-clients = [\"CN:anna\"]
             tls = { cert-file = \"c\", key-file = \"k\", client-ca-file = \"ca\" }",
        )
        .unwrap();
        assert_eq!((table.admin.port(), table.control.probe.unwrap().port()), (9, 10));
        assert_eq!(table.control.clients, ["CN:anna".parse().unwrap()]);
        assert!(!table.control.is_open_to_others(table.admin));
    }

    #[test]
    fn a_port_that_is_open_to_others_is_one_that_asks_for_nothing() {
        for (text, open) in [
            ("admin = \"0.0.0.0:9\"", true),
            ("admin = \"[::]:9\"", true),
            ("admin = \"192.0.2.1:9\"", true),
            ("admin = \"127.0.0.2:9\"", false),
            ("admin = \"[::1]:9\"", false),
            ("[admin]\nlisten = \"0.0.0.0:9\"\nrequire-auth = true", false),
            ("[admin]\nlisten = \"0.0.0.0:9\"\ntoken-file = \"t\"", false),
            ("[admin]\nlisten = \"0.0.0.0:9\"\ninsecure = true", false),
            ("[admin]\nlisten = \"0.0.0.0:9\"\nprotect-reads = true", true),
            ("[admin]\nprobe = \"0.0.0.0:9\"", false),
        ] {
            let node = node(text).unwrap();
            assert_eq!(node.control.is_open_to_others(node.admin), open, "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (text, said) in [
            ("admin = 7", "an address (admin ="),
            ("[admin]\nlissten = \"x\"", "did you mean `listen`"),
            ("[admin]\nlisten = \"x\"", "admin.listen"),
            ("[admin]\nprobe = \"x\"", "admin.probe"),
            ("[admin]\nallow-clients = [\"CN:a\"]", "admin.tls.client-ca-file"),
            ("[admin]\nallow-clients = [\"uid:7\"]", "admin.allow-uids"),
            ("[admin]\nallow-uids = [7]", "admin.unix"),
            ("[admin]\nallowed-hosts = [\"node:7001\"]", "admin.allowed-hosts"),
            ("[admin.tls]\nkey-file = \"k\"", "admin.tls.key-file"),
            ("[admin.tls]\nkey-file = \"k\"\ncert-file = \"c\"\nclient-ca-file = \"ca\"", "admin.allow-clients"),
        ] {
            let error = node(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
