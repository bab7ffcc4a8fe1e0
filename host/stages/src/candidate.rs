//! The one way from a plugin's bytes to a policy that a service can be given.
//!
//! ```text
//!   a name, a file, bytes ──▶ loaded, under limits and with grants ──▶ configured ──▶ tried for nobody ──▶ Candidate
//! ```
//!
//! The configuration, a file that changed and the node's API all come this way, and each says in
//! its own words why there is no candidate.

use std::sync::Arc;

use thiserror::Error;
use waymark_balancer::Candidate;
use waymark_core::{
    model::ServiceName,
    policy::{BuildError, Scope},
};
use waymark_runtime::{Abandon, Engine, Grants, Kind, Limits};

use crate::load::{PluginError, Source};

/// The policy that is wanted, and what it may take.
pub struct Wanted {
    /// Where its component comes from.
    pub source: Source,
    /// Its configuration, a JSON object.
    pub config: String,
    /// What its instances may take.
    pub limits: Limits,
    /// What it is given beyond its world. A bundled one needs nothing and gets nothing.
    pub grants: Grants,
    /// Who wants it, for the history.
    pub by: String,
    /// The zone to try it in before it is given to anybody: a policy is asked for a plan for no
    /// endpoints, and that is when it refuses its configuration. None where it is given to a
    /// service at once, whose own endpoints are the trial.
    pub trial: Option<Arc<str>>,
    /// Ends compiling when nobody waits for it any more.
    pub abandon: Abandon,
}

/// Why there is no candidate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CandidateError {
    /// Its component cannot be read, loaded or configured.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// It does not even plan for a service without endpoints: it refuses its configuration, or
    /// fails.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Trying it panicked, which is a fault of the host.
    #[error("building it failed inside the host: {0}")]
    Host(String),
}

/// Loads a policy, configures it and tries it, all of it off the async threads. Nothing is swapped
/// yet.
///
/// # Errors
///
/// It cannot be loaded, or does not pass its trial; what runs goes on running.
pub async fn load(engine: &Engine, wanted: Wanted) -> Result<Candidate, CandidateError> {
    let Wanted { source, config, limits, grants, by, trial, abandon } = wanted;
    let (engine, plugin) = (engine.clone(), source.to_string());
    let load = move || {
        let loaded = source.load(&engine, Some(Kind::Policy), limits, grants, &abandon)?;
        Ok(Candidate::new(loaded.into_policy(&config)?, by))
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    let candidate = loaded.unwrap_or_else(|panic| Err(PluginError::Host { plugin, reason: panic.to_string() }))?;
    if let Some(zone) = trial {
        try_for_nobody(&candidate, zone).await?;
    }
    Ok(candidate)
}

/// Builds it for a service without endpoints.
async fn try_for_nobody(candidate: &Candidate, zone: Arc<str>) -> Result<(), CandidateError> {
    let service = ServiceName::new("configuration").expect("a plain name");
    let (policy, scope) = (Arc::clone(&candidate.policy), Scope { service, zone });
    let tried = tokio::task::spawn_blocking(move || policy.build(&scope, &[]).map(drop)).await;
    Ok(tried.map_err(|panic| CandidateError::Host(panic.to_string()))??)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_runtime::{EngineConfig, LoadError, bundled};

    use super::*;

    const CONFIG: &str = r#"{"size": 3, "seed": "node-1"}"#;

    fn engine() -> Engine {
        Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap()
    }

    fn wanted(engine: &Engine, source: Source, config: &str) -> Wanted {
        Wanted {
            source,
            config: config.into(),
            limits: engine.limits().clone(),
            grants: Grants::NONE,
            by: "a test".into(),
            trial: Some("zone-a".into()),
            abandon: Abandon::default(),
        }
    }

    fn bytes_of(name: &str) -> Source {
        let bundled = bundled::of(Kind::Policy).find(|bundled| bundled.name == name).unwrap();
        Source::Bytes { bytes: bundled.bytes.to_vec().into(), origin: "sent".into() }
    }

    #[tokio::test]
    async fn a_name_a_file_and_bytes_come_to_the_same_policy() {
        let (engine, folder) = (engine(), tempfile::tempdir().unwrap());
        let path = folder.path().join("own.wasm");
        std::fs::write(&path, bundled::of(Kind::Policy).find(|one| one.name == "subset").unwrap().bytes).unwrap();
        let (named, file) = (Source::Bundled("subset".into()), Source::File(path.clone()));
        let mut found = Vec::new();
        for source in [named, file, bytes_of("subset")] {
            found.push(load(&engine, wanted(&engine, source, CONFIG)).await.unwrap().info);
        }
        assert!(found.iter().all(|info| &*info.name == "subset" && info.sha256 == found[0].sha256), "{found:?}");
        assert!(found.iter().all(|info| info.by == "a test" && info.config == CONFIG), "{found:?}");
        let origins: Vec<_> = found.iter().map(|info| info.origin.as_str()).collect();
        assert_eq!(origins, ["bundled", &path.display().to_string(), "sent"]);
    }

    #[tokio::test]
    async fn it_comes_under_its_own_limits_and_what_it_refuses_is_said_as_such() {
        let engine = engine();
        let small = Limits { component_size: 10, ..Limits::default() };
        let small = Wanted { limits: small, ..wanted(&engine, bytes_of("random"), "{}") };
        let error = load(&engine, small).await.map(drop).unwrap_err();
        let too_large = |error: &CandidateError| {
            matches!(error, CandidateError::Plugin(PluginError::Load(LoadError::TooLarge { limit: 10, .. })))
        };
        assert!(too_large(&error), "{error}");
        // Only a trial tells what the policy itself thinks of its configuration.
        let odd = |trial| Wanted { trial, ..wanted(&engine, bytes_of("subset"), r#"{"size": "three"}"#) };
        let refused = load(&engine, odd(Some("".into()))).await.map(drop).unwrap_err();
        assert!(matches!(refused, CandidateError::Build(BuildError::Refused { .. })), "{refused}");
        assert!(load(&engine, odd(None)).await.is_ok());
    }
}
