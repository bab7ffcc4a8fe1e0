//! Certificates in files: loaded at the start, and loaded again when the files change.
//!
//! A certificate and its key are two files, and whoever renews them writes one after the other.
//! Until both fit, and for good if they never do, the old ones are used (`file_watch` waits, then
//! says so). One that does not hold now is refused too while the old one does: whoever renews
//! certificates may put back an old file, or have another clock. One that will hold later is taken
//! then. At the start there is nothing better than what the files have, so an expired one is used,
//! and said loudly.

use std::{path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};
use waymark_dataplane::{ClientTls, EndpointTls, Metrics, Part, Pem, ServerTls, TlsError, Validity, unix_now};
use waymark_runtime as plugin;

use crate::{
    config::{ClientConfig, Ports, TlsFiles, Transport},
    expiry,
    file_watch::{FileContents, Reload, ReloadError, known_by, watch_files},
};

/// How long one that will hold later waits at most until it is looked at again: clocks are set.
const LOOK_AGAIN: u64 = 3600;

/// The most bytes of a file that are read, 4 MiB: the authorities of a whole system are a few
/// hundred KiB.
const LIMIT: usize = 4 << 20;

/// Why a node does not start with its certificates.
#[derive(Debug, Error)]
#[non_exhaustive]
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
    /// Of the node's API.
    pub(super) admin: Option<ServerTls>,
    pub(super) endpoints: EndpointTls,
    followed: Vec<Followed>,
}

/// Where changed certificates go.
type Replace = Box<dyn Fn(&Pem) -> Result<(), TlsError> + Send + Sync>;

struct Followed {
    setting: String,
    files: TlsFiles,
    handled: String,
    /// Of our own certificate, if we have one there.
    validity: Option<Validity>,
    replace: Replace,
}

impl Certificates {
    /// Loads all that the configuration names.
    pub(super) fn load(config: &ClientConfig, ports: &Ports, api: Option<&TlsFiles>) -> Result<Self, CertificateError> {
        let mut all = Self::default();
        if let Some(files) = &ports.tls {
            let (pem, handled) = read(files, "tls")?;
            let tls = ServerTls::new(&pem).map_err(|error| unusable("tls", files, &error))?;
            all.server = Some(tls.clone());
            let validity = Validity::of(&pem).map_err(|error| unusable("tls", files, &error))?;
            all.follow("tls".into(), files, handled, validity, Box::new(move |pem| tls.replace(pem)));
        }
        if let Some(files) = api {
            let (pem, handled) = read(files, "admin.tls")?;
            let tls = ServerTls::of_api(&pem).map_err(|error| unusable("admin.tls", files, &error))?;
            all.admin = Some(tls.clone());
            let validity = Validity::of(&pem).map_err(|error| unusable("admin.tls", files, &error))?;
            all.follow("admin.tls".into(), files, handled, validity, Box::new(move |pem| tls.replace(pem)));
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
        let validity = Validity::of(&pem).map_err(|error| unusable(&setting, files, &error))?;
        self.follow(setting, files, handled, validity, Box::new(move |pem| replaced.replace(pem)));
        Ok(Some(tls))
    }

    fn follow(
        &mut self,
        setting: String,
        files: &TlsFiles,
        handled: String,
        validity: Option<Validity>,
        replace: Replace,
    ) {
        if !paths(files).is_empty() {
            self.followed.push(Followed { setting, files: files.clone(), handled, validity, replace });
        }
    }

    /// Follows all files from here on, in tasks of this set.
    pub(super) fn spawn(self, metrics: &Metrics, into: &mut JoinSet<()>) {
        for Followed { setting, files, handled, validity, replace } in self.followed {
            let paths = paths(&files);
            let setting: Arc<str> = setting.into();
            let in_use = validity.map(watch::Sender::new);
            if let Some(in_use) = &in_use {
                into.spawn(expiry::watch(Arc::clone(&setting), in_use.subscribe(), metrics.clone()));
            }
            let subject = CertificateFiles { setting, files, in_use, replace, metrics: metrics.clone() };
            into.spawn(watch_files(subject, paths, handled));
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
    in_use: Option<watch::Sender<Validity>>,
    replace: Replace,
    metrics: Metrics,
}

impl CertificateFiles {
    /// That this one does not hold now, while the one in use does.
    fn check(&self, validity: Option<Validity>, path: &std::path::Path) -> Result<(), ReloadError> {
        let (Some(new), Some(in_use)) = (validity, &self.in_use) else { return Ok(()) };
        let now = unix_now();
        if new.holds(now) || !in_use.borrow().holds(now) {
            return Ok(());
        }
        let wait = u64::try_from(new.not_before - now).ok().filter(|wait| *wait > 0);
        let again_in = wait.map(|wait| Duration::from_secs(wait.min(LOOK_AGAIN)));
        Err(ReloadError { again_in, ..ReloadError::new(path, new.at(now)) })
    }
}

impl Reload for CertificateFiles {
    fn limit(&self) -> usize {
        LIMIT
    }

    async fn take(&self, files: Vec<FileContents>) -> Result<(), ReloadError> {
        if let Some(large) = files.iter().find(|whole| whole.sha256.is_none()) {
            return Err(ReloadError::new(&large.path, format!("has {} bytes, over {LIMIT}", large.size)));
        }
        let first = files.first().map(|whole| whole.path.clone()).unwrap_or_default();
        let pem = pem(&self.files, files.into_iter().map(|whole| whole.bytes));
        let refused = |error: TlsError| {
            let path = blamed(&self.files, &error).unwrap_or_else(|| first.clone());
            ReloadError { may_be_half: true, ..ReloadError::new(&path, reason(&error)) }
        };
        let validity = Validity::of(&pem).map_err(refused)?;
        self.check(validity, &first)?;
        (self.replace)(&pem).map_err(refused)?;
        if let (Some(validity), Some(in_use)) = (validity, &self.in_use) {
            in_use.send_replace(validity);
        }
        self.metrics.certificates_changed(true);
        info!(setting = &*self.setting, "certificates changed; new connections use them");
        Ok(())
    }

    async fn refuse(&self, refusal: ReloadError) {
        self.metrics.certificates_changed(false);
        let file = refusal.path.display();
        let reason = refusal.reason;
        warn!(setting = &*self.setting, %file, reason, "certificates changed and are refused; the old ones stay");
    }
}
