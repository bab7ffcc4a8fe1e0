//! TLS with clients and with endpoints: certificates in, byte streams out.
//!
//! What is made from certificates is replaced whole while connections are made
//! ([`ServerTls::replace`], [`ClientTls::replace`]): a handshake uses what was there when it began,
//! and bad certificates leave the good ones where they are. Both sides speak HTTP/2 or nothing:
//! ALPN `h2` is asked for and has to be agreed on (RFC 9113, section 3.2; gRPC requires the same).

use std::{collections::HashMap, fmt, io, sync::Arc};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        crypto::CryptoProvider,
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName,
            pem::{self, PemObject as _},
        },
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
};
use waymark_core::model::ServiceName;

use super::socket::Socket;

/// HTTP/2's name in ALPN.
const H2: &[u8] = b"h2";

/// HTTP/1.1's.
const H1: &[u8] = b"http/1.1";

/// Which of the texts of [`Pem`] an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Our certificate with its chain.
    Certificate,
    /// Its key.
    Key,
    /// The authorities to trust.
    Authorities,
}

/// Why certificates cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text is no PEM.
    #[error("is not PEM")]
    Pem {
        /// Which text.
        part: Part,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The text has none of what is wanted.
    #[error("has no {wanted} in it")]
    Missing {
        /// Which text.
        part: Part,
        /// What is wanted.
        wanted: &'static str,
    },
    /// What is in the text cannot be used.
    #[error("cannot be used")]
    Unusable {
        /// Which text.
        part: Part,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The certificate is none of X.509.
    #[error("has no X.509 certificate in it")]
    NotX509(#[source] webpki::Error),
    /// The authorities cannot be used to check clients.
    #[error("cannot be used to check clients")]
    Verifier(#[source] VerifierBuilderError),
    /// No certificate could be for this name.
    #[error("{0:?} is neither a host name nor an IP address")]
    ServerName(String),
    /// No authority was named and the system has none.
    #[error("no certificate authority is named, and the system has none: {0}")]
    NoAuthorities(String),
    /// The cryptography does not do what it should.
    #[error("TLS cannot be used on this machine")]
    Provider(#[source] rustls::Error),
}

impl TlsError {
    /// Which text the error is about, if about one.
    pub fn part(&self) -> Option<Part> {
        match self {
            Self::Pem { part, .. } | Self::Missing { part, .. } | Self::Unusable { part, .. } => Some(*part),
            Self::NotX509(_) => Some(Part::Certificate),
            Self::Verifier(_) => Some(Part::Authorities),
            Self::ServerName(_) | Self::NoAuthorities(_) | Self::Provider(_) => None,
        }
    }
}

/// Certificates and keys as PEM texts.
#[derive(Clone, Default)]
pub struct Pem {
    /// Our certificate with its chain, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The authorities that the other side's certificate has to come from.
    pub authorities: Option<Vec<u8>>,
}

/// TLS with clients. Cheap to clone; clones are replaced together.
#[derive(Clone)]
pub struct ServerTls {
    current: Arc<ArcSwap<ServerConfig>>,
    serves: Serves,
}

/// What is behind a listener with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// Calls: HTTP/2, and a certificate from everybody if any authority is named.
    Calls,
    /// The node's API: HTTP/1 too, for browsers and probes; who has a certificate shows it, and
    /// others may do less.
    Api,
}

/// TLS with endpoints. Cheap to clone; clones are replaced together.
#[derive(Clone)]
pub struct ClientTls {
    current: Arc<ArcSwap<ClientConfig>>,
    /// The name that certificates have to be for, instead of the endpoint's host.
    name: Option<ServerName<'static>>,
}

/// How the endpoints of each service are reached.
#[derive(Debug, Clone, Default)]
pub struct EndpointTls {
    /// Services for which nothing else is said; none is cleartext.
    pub default: Option<ClientTls>,
    /// Services with settings of their own.
    pub services: HashMap<ServiceName, Option<ClientTls>>,
}

impl EndpointTls {
    /// TLS with the endpoints of a service, if they speak it.
    pub(crate) fn of(&self, service: &ServiceName) -> Option<&ClientTls> {
        self.services.get(service).unwrap_or(&self.default).as_ref()
    }
}

/// Why a handshake with a peer failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peers did not agree, or one does not trust the other.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// What came is no TLS.
    #[error("it does not speak TLS")]
    NotTls(#[source] io::Error),
    /// It speaks TLS, and not HTTP/2 within it.
    #[error("it did not agree on HTTP/2 (ALPN h2)")]
    NoH2,
    /// There is no name to check the certificate by.
    #[error("{0:?} is no name that a certificate could be for")]
    Name(String),
}

impl HandshakeError {
    fn of(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(inner, Some(rustls::Error::InvalidMessage(_))) { Self::NotTls(error) } else { Self::Tls(error) }
    }
}

impl ServerTls {
    /// Makes it from these texts. Clients need a certificate of `authorities` if there are any.
    pub fn new(pem: &Pem) -> Result<Self, TlsError> {
        Self::serving(Serves::Calls, pem)
    }

    /// The same for the node's API: it speaks HTTP/1 too, and clients without a certificate get in.
    pub fn of_api(pem: &Pem) -> Result<Self, TlsError> {
        Self::serving(Serves::Api, pem)
    }

    fn serving(serves: Serves, pem: &Pem) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(ArcSwap::from(server_config(pem, serves)?)), serves })
    }

    /// Puts others in their place, for connections to come. On an error nothing changes.
    pub fn replace(&self, pem: &Pem) -> Result<(), TlsError> {
        self.current.store(server_config(pem, self.serves)?);
        Ok(())
    }

    /// Shakes hands with a client. The stream speaks HTTP/2 if the flag says so; otherwise the
    /// client is to be told.
    pub async fn accept(&self, socket: Socket) -> Result<(Socket, bool), HandshakeError> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = acceptor.accept(socket).await.map_err(HandshakeError::of)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok((Socket::Tls(Box::new(TlsStream::Server(stream))), h2))
    }
}

impl ClientTls {
    /// Makes it from these texts; without authorities the system's are trusted. `name`: what
    /// certificates have to be for, instead of the endpoint's host.
    pub fn new(pem: &Pem, name: Option<&str>) -> Result<Self, TlsError> {
        let parse =
            |name: &str| ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()));
        let name = name.map(parse).transpose()?;
        Ok(Self { current: Arc::new(ArcSwap::from(client_config(pem)?)), name })
    }

    /// Puts others in their place, for connections to come. On an error nothing changes.
    pub fn replace(&self, pem: &Pem) -> Result<(), TlsError> {
        self.current.store(client_config(pem)?);
        Ok(())
    }

    /// Shakes hands with a server at this host.
    pub async fn connect(&self, host: &str, socket: Socket) -> Result<Socket, HandshakeError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError::Name(host.to_owned()))?,
        };
        let connector = TlsConnector::from(self.current.load_full());
        let stream = connector.connect(name, socket).await.map_err(HandshakeError::of)?;
        if stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(HandshakeError::NoH2);
        }
        Ok(Socket::Tls(Box::new(TlsStream::Client(stream))))
    }
}

/// Keys stay out of logs.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Keys stay out of logs.
impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(pem: &Pem, serves: Serves) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Provider)?;
    let builder = match &pem.authorities {
        Some(authorities) => {
            let roots = Arc::new(roots(authorities)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match serves {
                Serves::Calls => verifier,
                Serves::Api => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
        }
        None => builder.with_no_client_auth(),
    };
    let Some(identity) = &pem.identity else {
        return Err(TlsError::Missing { part: Part::Certificate, wanted: "certificate" });
    };
    let (chain, key) = identity_of(identity)?;
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = match serves {
        Serves::Calls => vec![H2.to_vec()],
        Serves::Api => vec![H2.to_vec(), H1.to_vec()],
    };
    Ok(Arc::new(config))
}

fn client_config(pem: &Pem) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Provider)?;
    let roots = match &pem.authorities {
        Some(authorities) => roots(authorities)?,
        None => system_roots()?,
    };
    let builder = builder.with_root_certificates(roots);
    let mut config = match &pem.identity {
        Some(identity) => {
            let (chain, key) = identity_of(identity)?;
            builder.with_client_auth_cert(chain, key).map_err(unusable)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// A certificate that is broken and a key that is another's are both found when the two are put
/// together.
fn unusable(source: rustls::Error) -> TlsError {
    let part = match source {
        rustls::Error::InvalidCertificate(_) => Part::Certificate,
        _ => Part::Key,
    };
    TlsError::Unusable { part, source }
}

fn identity_of(
    (chain, key): &(Vec<u8>, Vec<u8>),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = match PrivateKeyDer::from_pem_slice(key) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => return Err(TlsError::Missing { part: Part::Key, wanted: "private key" }),
        Err(source) => return Err(TlsError::Pem { part: Part::Key, source }),
    };
    Ok((certificates(chain, Part::Certificate)?, key))
}

fn certificates(text: &[u8], part: Part) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|source| TlsError::Pem { part, source })?;
    if certificates.is_empty() {
        return Err(TlsError::Missing { part, wanted: "certificate" });
    }
    Ok(certificates)
}

fn roots(text: &[u8]) -> Result<RootCertStore, TlsError> {
    let part = Part::Authorities;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text, part)? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { part, source })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have certificates that rustls does not take; the others are as good.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "it names no place for them".to_owned(), ToString::to_string);
        return Err(TlsError::NoAuthorities(why));
    }
    Ok(roots)
}
