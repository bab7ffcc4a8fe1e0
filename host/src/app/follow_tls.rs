//! Certificates in files: loaded at the start, and loaded again when the files change.
//!
//! A certificate and its key are two files, and whoever renews them writes one after the other. Until both fit, and for good if they
//! never do, the old ones are used (`follow_file` waits, then says so).

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::follow_file::{Refusal, Subject, Whole, follow, known_by};
use crate::{
    config::{NodeConfig, TlsFiles, Transport},
    dataplane::{ClientTls, EndpointTls, Metrics, Part, Pem, ServerTls, TlsError},
    plugin,
};

/// The most bytes of a file that are read, 4 MiB: the authorities of a whole system are a few hundred KiB.
const LIMIT: usize = 4 << 20;

/// Why a node does not start with its certificates.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {path}: {source}")]
    Read {
        /// The setting's table.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the files hold cannot be used.
    #[error("{setting}: {reason}")]
    Unusable {
        /// The setting's table.
        setting: String,
        /// Which file, and why.
        reason: String,
    },
    /// No certificate could be for this name.
    #[error("{setting}.server-name: {name:?} is neither a host name nor an IP address")]
    ServerName {
        /// The setting's table.
        setting: String,
        /// The name.
        name: String,
    },
}

/// Everything that a node's connections need certificates for.
#[derive(Default)]
pub(super) struct Certificates {
    pub(super) server: Option<ServerTls>,
    pub(super) endpoints: EndpointTls,
    followed: Vec<Followed>,
}

/// Where changed certificates go.
type Replace = Box<dyn Fn(&Pem) -> Result<(), TlsError> + Send + Sync>;

struct Followed {
    setting: String,
    files: TlsFiles,
    handled: String,
    replace: Replace,
}

impl Certificates {
    /// Loads all that the configuration names.
    pub(super) fn load(config: &NodeConfig) -> Result<Self, CertificateError> {
        let mut all = Self::default();
        if let Some(files) = &config.tls {
            let (pem, handled) = read(files, "tls")?;
            let tls = ServerTls::new(&pem).map_err(|error| unusable("tls", files, &error))?;
            all.server = Some(tls.clone());
            all.follow("tls".into(), files, handled, Box::new(move |pem| tls.replace(pem)));
        }
        all.endpoints.default = all.transport(&config.endpoints, "endpoints.tls".into())?;
        for service in &config.services {
            if let Some(transport) = &service.transport {
                let tls = all.transport(transport, format!("service {}: tls", service.name))?;
                all.endpoints.services.insert(service.name.clone(), tls);
            }
        }
        Ok(all)
    }

    fn transport(&mut self, transport: &Transport, setting: String) -> Result<Option<ClientTls>, CertificateError> {
        let Transport::Tls(files) = transport else { return Ok(None) };
        let (pem, handled) = read(files, &setting)?;
        let tls = ClientTls::new(&pem, files.server_name.as_deref()).map_err(|error| match error {
            TlsError::ServerName(name) => CertificateError::ServerName { setting: setting.clone(), name },
            error => unusable(&setting, files, &error),
        })?;
        let replaced = tls.clone();
        self.follow(setting, files, handled, Box::new(move |pem| replaced.replace(pem)));
        Ok(Some(tls))
    }

    fn follow(&mut self, setting: String, files: &TlsFiles, handled: String, replace: Replace) {
        if !paths(files).is_empty() {
            self.followed.push(Followed { setting, files: files.clone(), handled, replace });
        }
    }

    /// Follows all files from here on, in tasks of this set.
    pub(super) fn spawn(self, metrics: &Metrics, into: &mut JoinSet<()>) {
        for Followed { setting, files, handled, replace } in self.followed {
            let paths = paths(&files);
            let subject = CertificateFiles { setting: setting.into(), files, replace, metrics: metrics.clone() };
            into.spawn(follow(subject, paths, handled));
        }
    }
}

/// The files in the order in which [`pem`] takes what they hold.
fn paths(files: &TlsFiles) -> Vec<PathBuf> {
    let identity = files.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
    identity.chain(&files.authorities).cloned().collect()
}

fn pem(files: &TlsFiles, contents: impl IntoIterator<Item = Vec<u8>>) -> Pem {
    let mut contents = contents.into_iter();
    let identity = files.identity.as_ref().and_then(|_| contents.next().zip(contents.next()));
    Pem { identity, authorities: files.authorities.as_ref().and_then(|_| contents.next()) }
}

fn read(files: &TlsFiles, setting: &str) -> Result<(Pem, String), CertificateError> {
    let contents = paths(files).into_iter().map(|path| {
        std::fs::read(&path).map_err(|source| CertificateError::Read { setting: setting.to_owned(), path, source })
    });
    let contents = contents.collect::<Result<Vec<_>, _>>()?;
    let handled = known_by(contents.iter().map(|bytes| plugin::digest(bytes)));
    Ok((pem(files, contents), handled))
}

/// The file that an error is about.
fn blamed(files: &TlsFiles, error: &TlsError) -> Option<PathBuf> {
    let identity = files.identity.as_ref();
    match error.part()? {
        Part::Certificate => identity.map(|(certificate, _)| certificate.clone()),
        Part::Key => identity.map(|(_, key)| key.clone()),
        Part::Authorities => files.authorities.clone(),
    }
}

/// The error with its causes, as one line.
fn reason(error: &TlsError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn unusable(setting: &str, files: &TlsFiles, error: &TlsError) -> CertificateError {
    let reason = match blamed(files, error) {
        Some(path) => format!("{} {}", path.display(), reason(error)),
        None => reason(error),
    };
    CertificateError::Unusable { setting: setting.to_owned(), reason }
}

struct CertificateFiles {
    setting: Arc<str>,
    files: TlsFiles,
    replace: Replace,
    metrics: Metrics,
}

impl Subject for CertificateFiles {
    fn limit(&self) -> usize {
        LIMIT
    }

    async fn take(&self, files: Vec<Whole>) -> Result<(), Refusal> {
        if let Some(large) = files.iter().find(|whole| whole.sha256.is_none()) {
            return Err(Refusal::new(&large.path, format!("has {} bytes, over {LIMIT}", large.size)));
        }
        let first = files.first().map(|whole| whole.path.clone()).unwrap_or_default();
        let pem = pem(&self.files, files.into_iter().map(|whole| whole.bytes));
        (self.replace)(&pem).map_err(|error| {
            let path = blamed(&self.files, &error).unwrap_or(first);
            Refusal { may_be_half: true, ..Refusal::new(&path, reason(&error)) }
        })?;
        self.metrics.certificates_changed(true);
        info!(setting = &*self.setting, "certificates changed; new connections use them");
        Ok(())
    }

    async fn refuse(&self, refusal: Refusal) {
        self.metrics.certificates_changed(false);
        let file = refusal.path.display();
        let reason = refusal.reason;
        warn!(setting = &*self.setting, %file, reason, "certificates changed and are refused; the old ones stay");
    }
}
