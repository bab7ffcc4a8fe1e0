//! Turns what SetPolicy was sent into a candidate for a swap, off the async threads.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::proto::set_policy_request::Source;
use crate::{
    balancer::Candidate,
    plugin::{Engine, Grants, Kind, Limits, LoadError},
};

/// The longest configuration, in bytes: it is kept in the history with each version.
const CONFIG_LEN: usize = 1 << 20;

/// Room in a message for what is not the component: configuration and names.
pub(super) const BESIDE_COMPONENT: usize = 2 << 20;

/// How much of a free text of the history is kept, in characters.
const TEXT_LEN: usize = 200;

/// How many components may be compiled at once: it takes all cores for a while, and calls run beside it.
const AT_ONCE: usize = 2;

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
    pub(super) async fn load(
        &self,
        source: Source,
        config: String,
        allow: Grants,
        by: &str,
        origin: &str,
        limits: Limits,
    ) -> Result<Candidate, Status> {
        if config.len() > CONFIG_LEN {
            return Err(Status::invalid_argument(format!(
                "the configuration has {} bytes, over the limit of {CONFIG_LEN}",
                config.len()
            )));
        }
        let by = short(by);
        // `bundled` says where the bytes come from in the history; nobody else may call theirs that.
        let origin = match short(origin) {
            empty if empty.is_empty() || empty == "bundled" => "the sent component".to_owned(),
            named => named,
        };
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|closed| Status::internal(format!("plugins cannot be loaded any more: {closed}")))?;
        let engine = self.engine.clone();
        let load = move || {
            let plugin = match source {
                Source::Bundled(name) => engine.load_bundled_with(Kind::Policy, &name, limits),
                Source::Component(bytes) => engine.load_with(&bytes, &origin, limits, allow),
            }?;
            Ok(Candidate::new(plugin.into_policy(&config)?, by))
        };
        let loaded = tokio::task::spawn_blocking(load)
            .await
            .map_err(|panic| Status::internal(format!("loading the plugin failed: {panic}")))?;
        loaded.map_err(|error| refused(&error))
    }
}

/// The status that `proto/waymark/v1/node.proto` promises for each fault.
fn refused(error: &LoadError) -> Status {
    let code = match error {
        LoadError::NotWasm { .. }
        | LoadError::CoreModule { .. }
        | LoadError::TooLarge { .. }
        | LoadError::Invalid { .. }
        | LoadError::OtherWorld { .. }
        | LoadError::UnsupportedVersion { .. }
        | LoadError::NotGranted { .. }
        | LoadError::Mismatch { .. }
        | LoadError::WrongKind { .. }
        | LoadError::BadConfig { .. }
        | LoadError::NoSuchBundled { .. } => Code::InvalidArgument,
        LoadError::Failed { .. } | LoadError::BadDescription { .. } => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// A free text as the history keeps it: short, and nothing in it that moves a terminal's cursor.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_LEN).collect()
}
