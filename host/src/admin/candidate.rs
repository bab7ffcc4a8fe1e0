//! Turns what SetPolicy was sent into a candidate for a swap.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::proto::set_policy_request::Source;
use crate::{
    balancer::{Candidate, PolicyInfo},
    plugin::{self, Abandon, Engine, Grants, Limits, LoadError, bundled},
    stages::{
        candidate::{self, CandidateError},
        load::{self, PluginError},
    },
    text,
};

/// The longest configuration, in bytes: it is kept in the history with each version.
const CONFIG_LEN: usize = 1 << 20;

/// Room in a message for what is not the component: configuration and names.
pub(super) const BESIDE_COMPONENT: usize = 2 << 20;

/// How much of a free text of the history is kept, in bytes.
const TEXT_LEN: usize = 200;

/// How many components may be in hand at once: each is some MiB. How many of them are compiled at
/// once is the engine's business.
const AT_ONCE: usize = 16;

/// What SetPolicy was sent.
pub(super) struct Wanted {
    pub(super) source: Source,
    pub(super) config: String,
    pub(super) allow: Grants,
    pub(super) by: String,
    pub(super) origin: String,
}

/// Why there is no candidate.
pub(super) struct NotLoaded {
    /// For who asked.
    pub(super) status: Status,
    /// For the history, where it is the plugin's own fault.
    pub(super) refused: Option<Box<(PolicyInfo, String)>>,
}

impl NotLoaded {
    fn of_host(status: Status) -> Self {
        Self { status, refused: None }
    }
}

/// Loads candidates. Cheap to clone.
#[derive(Clone)]
pub(super) struct Candidates {
    engine: Engine,
    permits: Arc<Semaphore>,
}

impl Candidates {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Loads a policy under these limits. Nothing is swapped yet.
    pub(super) async fn load(&self, wanted: Wanted, limits: Limits) -> Result<Candidate, NotLoaded> {
        let Wanted { source, config, allow, by, origin } = wanted;
        if config.len() > CONFIG_LEN {
            return Err(NotLoaded::of_host(Status::invalid_argument(format!(
                "the configuration has {} bytes, over the limit of {CONFIG_LEN}",
                config.len()
            ))));
        }
        let by = short(&by);
        let origin = match (&source, short(&origin)) {
            (Source::Bundled(_), _) => bundled::ORIGIN.to_owned(),
            // Nobody else may call theirs that.
            (_, named) if named.is_empty() || named == bundled::ORIGIN => "the sent component".to_owned(),
            (_, named) => named,
        };
        let closed = |closed| Status::internal(format!("plugins cannot be loaded any more: {closed}"));
        // What is bundled waits for nobody's component.
        let _permit = match source {
            Source::Bundled(_) => None,
            Source::Component(_) => {
                Some(self.permits.acquire().await.map_err(|error| NotLoaded::of_host(closed(error)))?)
            }
        };
        let source = match source {
            Source::Bundled(name) => load::Source::Bundled(name),
            Source::Component(bytes) => load::Source::Bytes { bytes: bytes.into(), origin: origin.clone() },
        };
        // Who asked may go while it is compiled: then this future is dropped, and compiling ends.
        let abandon = Abandon::default();
        let _abandons = abandon.on_drop();
        let wanted = candidate::Wanted {
            source: source.clone(),
            config: config.clone(),
            limits,
            grants: allow,
            by: by.clone(),
            trial: None,
            abandon: abandon.clone(),
        };
        let error = match candidate::load(&self.engine, wanted).await {
            Ok(candidate) => return Ok(candidate),
            Err(CandidateError::Plugin(PluginError::Load(error))) => error,
            Err(CandidateError::Plugin(PluginError::Host { reason, .. })) => {
                return Err(NotLoaded::of_host(Status::internal(format!("loading the plugin failed: {reason}"))));
            }
            Err(error) => return Err(NotLoaded::of_host(Status::internal(error.to_string()))),
        };
        let not_loaded = |sha256| PolicyInfo::not_loaded(origin, sha256, config, allow, by);
        let info = match source {
            load::Source::Bundled(name) => PolicyInfo { name: short(&name).into(), ..not_loaded(String::new()) },
            load::Source::File(_) => not_loaded(String::new()),
            load::Source::Bytes { bytes, .. } => {
                // Megabytes, so not on a thread that serves others; what panics there has no
                // digest.
                let digest = tokio::task::spawn_blocking(move || plugin::digest(&bytes)).await;
                not_loaded(digest.unwrap_or_default())
            }
        };
        Err(NotLoaded { status: refused(&error), refused: Some(Box::new((info, error.to_string()))) })
    }
}

/// The status that `proto/waymark/v1/node.proto` promises for each fault.
fn refused(error: &LoadError) -> Status {
    let code = match error {
        LoadError::NotWasm { .. }
        | LoadError::CoreModule { .. }
        | LoadError::TooLarge { .. }
        | LoadError::Invalid { .. }
        | LoadError::TooCostly { .. }
        | LoadError::OtherWorld { .. }
        | LoadError::UnsupportedVersion { .. }
        | LoadError::NotGranted { .. }
        | LoadError::Mismatch { .. }
        | LoadError::WrongKind { .. }
        | LoadError::BadConfig { .. }
        | LoadError::NoSuchBundled { .. } => Code::InvalidArgument,
        LoadError::Failed { .. } | LoadError::BadDescription { .. } => Code::FailedPrecondition,
        LoadError::NotCompiled { .. } => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// A free text as the history keeps it.
pub(super) fn short(text: &str) -> String {
    text::printable(text, TEXT_LEN)
}
