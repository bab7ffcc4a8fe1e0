//! The way to a node's API: TCP, TLS or a Unix socket, and what proves who we are.

use std::{fmt, io, path::PathBuf, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint as Target},
};

use super::{ClientError, innermost};
use crate::{
    dataplane::{ClientTls, Pem, Socket},
    model::{Address, ModelError},
};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A node that answers neither a call nor a ping for this long is gone. Calls have no deadline of
/// their own: compiling a large component takes as long as it takes.
const PING_EVERY: Duration = Duration::from_secs(10);

/// What proves to a node who we are, and to us that it is the node. Default: nothing.
#[derive(Clone, Default)]
pub struct Credentials {
    /// A token that the node knows.
    pub token: Option<String>,
    /// The authorities that its certificate has to come from, PEM. None: the system's. With this
    /// the node is spoken to in TLS.
    pub authorities: Option<Vec<u8>>,
    /// Our certificate and its key, PEM. With this the node is spoken to in TLS.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// What its certificate has to be for, instead of the host that is dialed.
    pub server_name: Option<String>,
}

/// Secrets stay out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("token", &self.token.is_some()).finish_non_exhaustive()
    }
}

/// Shows the token with each call.
#[derive(Debug, Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Where a node is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NodeAddress {
    Tcp { authority: String, tls: bool },
    Unix(PathBuf),
}

fn place(address: &str, credentials: &Credentials) -> Result<NodeAddress, ClientError> {
    let bad = |problem: String| ClientError::Address { address: address.chars().take(200).collect(), problem };
    let text = address.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        // As gRPC has it: unix:/PATH and unix:///PATH.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(bad("the path of a Unix socket begins with a slash: unix:/run/waymark/admin.sock".into()));
        }
        return Ok(NodeAddress::Unix(path.into()));
    }
    let wants_tls = credentials.authorities.is_some() || credentials.identity.is_some();
    let (text, tls) = match text.split_once("://") {
        Some(("http", _)) if wants_tls => {
            return Err(bad("certificates go with https://".into()));
        }
        Some(("http", rest)) => (rest, false),
        Some(("https", rest)) => (rest, true),
        Some(_) => return Err(bad("its scheme is neither http nor https nor unix".into())),
        None => (text, wants_tls),
    };
    let authority = text.trim_end_matches('/').to_owned();
    authority.parse::<Address>().map_err(|error| match error {
        ModelError::Address { problem, .. } => bad(format!("it {problem}")),
        other => bad(other.to_string()),
    })?;
    Ok(NodeAddress::Tcp { authority, tls })
}

/// A channel to a node, what shows the token, and the node's address for messages.
pub(super) async fn connect(
    address: &str,
    credentials: &Credentials,
) -> Result<(Channel, Bearer, String), ClientError> {
    let bad = |problem: String| ClientError::Address { address: address.chars().take(200).collect(), problem };
    let place = place(address, credentials)?;
    let bearer = credentials.token.as_deref().map(|token| format!("Bearer {token}").parse::<MetadataValue<Ascii>>());
    let mut bearer =
        bearer.transpose().map_err(|_| bad("the token for it has characters that cannot be sent".into()))?;
    if let Some(bearer) = &mut bearer {
        bearer.set_sensitive(true);
    }
    // A socket's peer has no name of its own.
    let (authority, scheme, shown) = match &place {
        NodeAddress::Tcp { authority, tls } => {
            (authority.as_str(), if *tls { "https" } else { "http" }, authority.clone())
        }
        NodeAddress::Unix(path) => ("localhost", "http", format!("unix:{}", path.display())),
    };
    let tls = match &place {
        NodeAddress::Tcp { tls: true, .. } => {
            let pem = Pem { identity: credentials.identity.clone(), authorities: credentials.authorities.clone() };
            let tls = ClientTls::new(&pem, credentials.server_name.as_deref());
            Some(tls.map_err(|error| bad(format!("the certificates for it {}", chained(&error))))?)
        }
        NodeAddress::Tcp { tls: false, .. } | NodeAddress::Unix(_) => None,
    };
    let origin = format!("{scheme}://{authority}").parse::<Uri>().map_err(|error| bad(error.to_string()))?;
    // The connector sees to TLS: tonic shall take what it gives as it is.
    let target = Target::from_shared(format!("http://{authority}")).map_err(|error| bad(error.to_string()))?;
    let target = target
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .user_agent(concat!("waymark/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| bad(error.to_string()))?;
    let connector = tower::service_fn(move |_: Uri| dial(place.clone(), tls.clone()));
    let channel = target.connect_with_connector(connector).await;
    let channel =
        channel.map_err(|error| ClientError::Unreachable { address: shown.clone(), reason: innermost(&error) })?;
    Ok((channel, Bearer(bearer), shown))
}

async fn dial(place: NodeAddress, tls: Option<ClientTls>) -> io::Result<TokioIo<Socket>> {
    let socket = match &place {
        NodeAddress::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        NodeAddress::Tcp { authority, .. } => {
            let stream = TcpStream::connect(authority.as_str()).await?;
            stream.set_nodelay(true)?;
            Socket::Tcp(stream)
        }
    };
    let (Some(tls), NodeAddress::Tcp { authority, .. }) = (tls, &place) else { return Ok(TokioIo::new(socket)) };
    let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let shaken = tls.connect(host, socket).await.map_err(|error| io::Error::other(chained(&error)))?;
    Ok(TokioIo::new(shaken))
}

/// An error with its causes, as one line.
fn chained(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_node_is_named_by_host_and_port_a_url_or_a_socket() {
        let plain = Credentials::default();
        let certified = Credentials { authorities: Some(Vec::new()), ..Credentials::default() };
        let tcp = |authority: &str, tls| NodeAddress::Tcp { authority: authority.into(), tls };
        for (address, expected) in [
            ("127.0.0.1:7001", tcp("127.0.0.1:7001", false)),
            (" http://node:7001/ ", tcp("node:7001", false)),
            ("https://node.example:7001", tcp("node.example:7001", true)),
            ("unix:/run/a.sock", NodeAddress::Unix("/run/a.sock".into())),
            ("unix:///run/a.sock", NodeAddress::Unix("/run/a.sock".into())),
        ] {
            assert_eq!(place(address, &plain).unwrap(), expected);
        }
        assert_eq!(place("node:7001", &certified).unwrap(), tcp("node:7001", true));
        let error = place("http://node:7001", &certified).unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
        for bad in ["nonsense", "ftp://node:1", "unix:relative", "127.0.0.1:0", ""] {
            assert!(matches!(place(bad, &plain), Err(ClientError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials { token: Some("secret".into()), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
