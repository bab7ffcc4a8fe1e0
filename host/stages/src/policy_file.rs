//! Follows a policy that is a file: a change of the file becomes a new version of the policy, whole
//! or not at all.
//!
//! When the file is read is `file_watch`'s business. What was set by hand stays until the bytes of
//! the file change.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};
use waymark_balancer::{Candidate, PolicyInfo, Services};
use waymark_core::model::ServiceName;
use waymark_runtime::{Abandon, Engine, Limits, LoadError};

use crate::{
    candidate::{self, CandidateError, Wanted},
    config::{PluginChoice, PluginRef},
    file_watch::{FileContents, Reload, ReloadError},
    load::{PluginError, Source},
};

/// Who set a version, in the history.
const BY: &str = "file changed";

/// A policy of the configuration, as its file has it now. Services that come later begin with it.
pub(super) struct ConfiguredPolicy {
    choice: PluginChoice,
    limits: Limits,
    candidate: Mutex<Candidate>,
}

impl ConfiguredPolicy {
    pub(super) fn new(choice: PluginChoice, limits: Limits, candidate: Candidate) -> Arc<Self> {
        Arc::new(Self { choice, limits, candidate: Mutex::new(candidate) })
    }

    pub(super) fn candidate(&self) -> Candidate {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, candidate: Candidate) {
        *self.candidate.lock().unwrap_or_else(PoisonError::into_inner) = candidate;
    }

    /// The file that is to be followed, if it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.choice.plugin {
            PluginRef::File(path) => Some(path),
            PluginRef::Bundled(_) => None,
        }
    }
}

/// Whether a component may be one that is still being written.
fn may_be_half(error: &CandidateError) -> bool {
    let CandidateError::Plugin(PluginError::Load(error)) = error else { return false };
    matches!(error, LoadError::Invalid { .. } | LoadError::NotWasm { .. } | LoadError::OtherWorld { .. })
}

/// Follows one file for the services that have it as their policy.
pub(super) struct PolicyFile {
    pub(super) engine: Engine,
    pub(super) services: Services,
    pub(super) configured: Arc<ConfiguredPolicy>,
    /// Whether a service has its policy from here.
    pub(super) concerns: Box<dyn Fn(&ServiceName) -> bool + Send + Sync>,
    pub(super) zone: Arc<str>,
}

impl Reload for PolicyFile {
    fn limit(&self) -> usize {
        self.configured.limits.component_size
    }

    async fn take(&self, files: Vec<FileContents>) -> Result<(), ReloadError> {
        for whole in files {
            let path = whole.path.clone();
            let sha256 = whole.sha256.clone().unwrap_or_default();
            match self.load(whole).await {
                Ok(candidate) => self.swap(&path, candidate).await,
                Err(error) => {
                    return Err(ReloadError {
                        sha256,
                        may_be_half: may_be_half(&error),
                        ..ReloadError::new(&path, error)
                    });
                }
            }
        }
        Ok(())
    }

    /// Says it in the log and in the history of each service that would have had it.
    async fn refuse(&self, refusal: ReloadError) {
        let ReloadError { path, sha256, reason, .. } = refusal;
        warn!(file = %path.display(), reason, "the file of a policy changed and is refused; what runs goes on running");
        let PluginChoice { config, allow, .. } = &self.configured.choice;
        let info = PolicyInfo::not_loaded(path.display().to_string(), sha256, config.clone(), *allow, BY);
        for handle in self.services.list() {
            if (self.concerns)(handle.name()) {
                // A service that has ended meanwhile needs no history.
                let _ = handle.refuse(info.clone(), reason.clone()).await;
            }
        }
    }
}

impl PolicyFile {
    async fn load(&self, whole: FileContents) -> Result<Candidate, CandidateError> {
        let (origin, limit) = (whole.path.display().to_string(), self.limit());
        if whole.sha256.is_none() {
            return Err(PluginError::Load(LoadError::TooLarge { origin, size: whole.size as usize, limit }).into());
        }
        let PluginChoice { config, allow, .. } = self.configured.choice.clone();
        let wanted = Wanted {
            source: Source::Bytes { bytes: whole.bytes.into(), origin },
            config,
            limits: self.configured.limits.clone(),
            grants: allow,
            by: BY.into(),
            trial: Some(Arc::clone(&self.zone)),
            abandon: Abandon::default(),
        };
        candidate::load(&self.engine, wanted).await
    }

    /// Gives it to each service that has its policy from here. A service that refuses keeps what it
    /// has and says so in its history.
    async fn swap(&self, path: &Path, candidate: Candidate) {
        // First what services begin with, then those that have begun: none is missed.
        self.configured.replace(candidate.clone());
        let file = path.display();
        info!(%file, policy = &*candidate.info.name, sha256 = candidate.info.sha256, "the file of a policy changed");
        for handle in self.services.list() {
            if !(self.concerns)(handle.name()) {
                continue;
            }
            if let Err(error) = handle.set_policy(candidate.clone()).await {
                warn!(%file, %error, "the changed file is not taken over");
            }
        }
    }
}
